//! Tables made right for their targets, judged by sgdisk and sfdisk.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imager::extent::Extent;
use imager::read_at::ReadAt;
use imager::table::{self, Ids, PartitionTable, Patch, TableError, TableKind, adapt};

use crate::support::{output, run};
use crate::table::{disk, with_sectors};

const MIB: u64 = 1 << 20;

/// The captured disk of a test: its image and what was read of it.
struct Captured {
    dir: tempfile::TempDir,
    sector_size: u32,
    bytes: Vec<u8>,
    table: PartitionTable,
}

impl Captured {
    fn new(sector_size: u32, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bytes = fs::read(disk(dir.path(), 16, sector_size, script)).unwrap();
        let table = table::read(&bytes, Some(sector_size)).unwrap();
        Self { dir, sector_size, bytes, table }
    }

    fn adapt(&self, target_size: u64, ids: Ids) -> Result<Vec<Patch>, TableError> {
        adapt(&self.bytes, &self.table, target_size, ids)
    }

    /// The disk after a restore to a target of this size, and what is read of it.
    fn restored(&self, target_size: u64, ids: Ids) -> (PathBuf, PartitionTable) {
        let patches = self.adapt(target_size, ids).unwrap();
        let sector = u64::from(self.sector_size);
        for pair in patches.windows(2) {
            assert!(pair[0].offset + pair[0].bytes.len() as u64 <= pair[1].offset, "patches overlap or are unordered");
        }
        let target = self.dir.path().join("target.img");
        fs::write(&target, &self.bytes).unwrap();
        let file = fs::File::options().write(true).open(&target).unwrap();
        file.set_len(target_size).unwrap();
        for patch in patches {
            let len = patch.bytes.len() as u64;
            assert!(patch.offset.is_multiple_of(sector) && len.is_multiple_of(sector), "not whole sectors");
            file.write_all_at(&patch.bytes, patch.offset).unwrap();
        }
        assert_eq!(fs::metadata(&target).unwrap().len(), target_size, "a patch lies behind the end");
        let table = table::read(&fs::read(&target).unwrap(), Some(self.sector_size)).unwrap();
        (target, table)
    }
}

/// sgdisk and sfdisk find nothing wrong.
fn assert_in_order(image: &Path, sector_size: u32) {
    with_sectors(image, sector_size, |disk| {
        let verdict = run("sgdisk", [Path::new("--verify"), disk]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        let verdict = output("sfdisk", [Path::new("--verify"), disk]);
        let text = format!("{}{}", String::from_utf8_lossy(&verdict.stdout), String::from_utf8_lossy(&verdict.stderr));
        assert!(verdict.status.success() && text.contains("No errors detected"), "{text}");
        assert!(!text.contains("PMBR size mismatch") && !text.contains("corrupt"), "{text}");
    });
}

/// The same partitions in the same places, whatever their ids.
fn assert_same_partitions(a: &PartitionTable, b: &PartitionTable) {
    let strip = |table: &PartitionTable| {
        let mut partitions = table.partitions.clone();
        partitions.iter_mut().for_each(|p| p.id = None);
        partitions
    };
    assert_eq!(strip(a), strip(b));
}

const GPT: &str = "sgdisk -n 1:2048:+2M -c 1:boot -n 2:0:+4M -t 2:ef00 -A 2:set:2 -n 7:0:0 $DISK";
const GPT_4096: &str = "sgdisk -n 1:256:+2M -c 1:boot -n 2:0:+4M -n 7:0:0 $DISK";
const GPT_256: &str = "sgdisk -S 256 $DISK; sgdisk -j 64 $DISK; sgdisk -n 200:4096:+4M -n 3:0:+4M $DISK";

#[test]
fn a_table_in_order_stays_as_it_is_on_a_target_of_the_same_size() {
    for (sector_size, script) in [(512, GPT), (4096, GPT_4096), (512, GPT_256)] {
        let captured = Captured::new(sector_size, script);
        assert_eq!(captured.adapt(16 * MIB, Ids::Keep).unwrap(), []);
    }
}

#[test]
fn on_a_larger_target_the_backup_moves_to_the_end() {
    // One sector more, so that the old and the new backup overlap; a bit; and past the end of a sector.
    for (sector_size, script) in [(512, GPT), (4096, GPT_4096), (512, GPT_256)] {
        let captured = Captured::new(sector_size, script);
        for more in [u64::from(sector_size), 100 * 1024, 48 * MIB + 100 * u64::from(sector_size)] {
            let size = 16 * MIB + more;
            let (image, table) = captured.restored(size, Ids::Keep);
            assert_eq!(table.warnings, [""; 0]);
            assert_eq!(table.partitions, captured.table.partitions);
            assert_eq!((table.kind, &table.disk_id), (TableKind::Gpt, &captured.table.disk_id));
            let last = u64::from(sector_size);
            assert!(table.structures.contains(Extent::new(size - last, last)), "the backup is not at the end");
            assert_in_order(&image, sector_size);
            // All of the new room can be used.
            let image = image.to_str().unwrap();
            if sector_size == 512 && more > MIB {
                run("sgdisk", ["--new=0:0:0", image]);
                let used: u64 = table::read(&fs::read(image).unwrap(), None).unwrap().partitions.last().unwrap().len;
                assert!(used > 46 * MIB, "{used}");
            }
        }
        // And that much that is no whole sector changes nothing.
        assert_eq!(captured.adapt(16 * MIB + 100, Ids::Keep).unwrap(), []);
    }
}

#[test]
fn the_old_backup_is_wiped_only_where_no_partition_lies() {
    let captured = Captured::new(512, GPT);
    let (image, table) = captured.restored(32 * MIB, Ids::Keep);
    let bytes = fs::read(image).unwrap();
    let end_of_last = usize::try_from(table.partitions.last().unwrap().extent().end()).unwrap();
    assert!(end_of_last <= (16 << 20) - 33 * 512);
    assert!(bytes[end_of_last..bytes.len() - 33 * 512].iter().all(|&b| b == 0), "a stale copy is left");
    assert!(captured.bytes[(16 << 20) - 512..].starts_with(b"EFI PART"));

    // A table whose last partition reaches over its own backup, as a tool of ill repute may have made it.
    let mut over = captured;
    let last_lba: u64 = 16 * MIB / 512 - 1;
    for at in [1024, (16 << 20) - 33 * 512] {
        over.bytes[at + 6 * 128 + 40..at + 6 * 128 + 48].copy_from_slice(&last_lba.to_le_bytes());
    }
    crate::table::seal(&mut over.bytes);
    over.table = table::read(&over.bytes, None).unwrap();
    assert_eq!(over.table.partitions.last().unwrap().extent().end(), 16 * MIB);
    assert_eq!(over.adapt(16 * MIB, Ids::Keep).unwrap(), []);
    assert!(matches!(over.adapt(16 * MIB, Ids::New), Err(TableError::NoRoom { number: 7, .. })));
    let patches = over.adapt(32 * MIB, Ids::Keep).unwrap();
    let wiped = patches.iter().filter(|p| p.offset >= MIB && p.offset < 16 * MIB);
    assert_eq!(wiped.count(), 0, "a partition was wiped");
}

#[test]
fn a_damaged_copy_is_mended_from_the_good_one() {
    for (sector_size, script) in [(512, GPT), (4096, GPT_4096)] {
        let good = Captured::new(sector_size, script);
        let sector = usize::try_from(sector_size).unwrap();
        let end = good.bytes.len();
        for at in [sector, sector + 60, 2 * sector + 40, end - sector, end - sector + 40, end - 4 * sector] {
            let mut bytes = good.bytes.clone();
            bytes[at] ^= 0x10;
            let table = table::read(&bytes, Some(sector_size)).unwrap();
            assert_eq!(table.warnings.len(), 1, "{at}");
            let captured = Captured { dir: tempfile::tempdir().unwrap(), sector_size, bytes, table };
            for size in [16 * MIB, 20 * MIB] {
                let (image, table) = captured.restored(size, Ids::Keep);
                assert_eq!(table.warnings, [""; 0]);
                assert_eq!(table.partitions, good.table.partitions);
                assert_in_order(&image, sector_size);
                if size == 16 * MIB {
                    assert_eq!(fs::read(&image).unwrap(), good.bytes, "mended, but not what it was");
                }
            }
        }
    }
}

#[test]
fn a_backup_that_differs_or_is_not_at_the_end_is_put_in_order() {
    // The disk grew before it was captured: in order as it is; at the end when it grows again.
    let mut grown = Captured::new(512, GPT);
    grown.bytes.resize(24 << 20, 0);
    grown.table = table::read(&grown.bytes, None).unwrap();
    assert_eq!(grown.adapt(24 * MIB, Ids::Keep).unwrap(), []);
    let (image, table) = grown.restored(32 * MIB, Ids::Keep);
    assert_eq!(table.warnings, [""; 0]);
    assert_in_order(&image, 512);
    let bytes = fs::read(image).unwrap();
    assert!(bytes[(16 << 20) - 33 * 512..bytes.len() - 33 * 512].iter().all(|&b| b == 0), "a stale copy is left");

    let mut stale = Captured::new(512, GPT);
    stale.bytes[(16 << 20) - 33 * 512 + 56] ^= 1;
    crate::table::seal(&mut stale.bytes);
    stale.table = table::read(&stale.bytes, None).unwrap();
    assert_eq!(stale.table.warnings.len(), 1);
    let (image, table) = stale.restored(16 * MIB, Ids::Keep);
    assert_eq!((table.warnings.len(), &table.partitions), (0, &stale.table.partitions));
    assert_in_order(&image, 512);
}

#[test]
fn new_ids_are_new_and_nothing_else_changes() {
    for (sector_size, script) in [(512, GPT), (4096, GPT_4096), (512, GPT_256)] {
        let captured = Captured::new(sector_size, script);
        for size in [16 * MIB, 20 * MIB] {
            let (image, table) = captured.restored(size, Ids::New);
            assert_eq!(table.warnings, [""; 0]);
            assert_same_partitions(&table, &captured.table);
            let mut ids: Vec<_> = table.partitions.iter().chain(&captured.table.partitions).map(|p| &p.id).collect();
            ids.extend([&table.disk_id, &captured.table.disk_id]);
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count, "an id is not new");
            assert_in_order(&image, sector_size);
        }
    }
}

#[test]
fn a_hybrid_mbr_keeps_its_entries() {
    let captured = Captured::new(
        512,
        "sgdisk -n 1:2048:+2M -t 1:0700 -n 2:0:+4M $DISK; sgdisk --hybrid 1 $DISK; \
         printf '\\x01\\x02\\x03\\x04' | dd of=$DISK bs=1 seek=440 conv=notrunc",
    );
    let (image, table) = captured.restored(32 * MIB, Ids::Keep);
    let bytes = fs::read(&image).unwrap();
    assert_eq!(bytes[..512], captured.bytes[..512]);
    assert_eq!((table.kind, &table.partitions), (TableKind::HybridMbr, &captured.table.partitions));
    assert_eq!(table.warnings, captured.table.warnings);
    let verdict = run("sgdisk", [Path::new("--verify"), &image]);
    assert!(verdict.contains("No problems found"), "{verdict}");

    let (image, _) = captured.restored(32 * MIB, Ids::New);
    let bytes = fs::read(&image).unwrap();
    assert_ne!(bytes[440..444], captured.bytes[440..444]);
    assert_eq!((&bytes[..440], &bytes[444..512]), (&captured.bytes[..440], &captured.bytes[444..512]));
}

#[test]
fn an_mbr_changes_only_its_signature_and_only_for_new_ids() {
    let script = r"printf 'label: dos\nsize=2MiB,bootable\ntype=5\nsize=1MiB\nsize=2MiB\n' | sfdisk -q $DISK";
    let captured = Captured::new(512, script);
    assert_eq!(captured.adapt(32 * MIB, Ids::Keep).unwrap(), []);
    let (image, table) = captured.restored(32 * MIB, Ids::New);
    assert_same_partitions(&table, &captured.table);
    assert_ne!(table.disk_id, captured.table.disk_id);
    for partition in &table.partitions {
        let id = partition.id.as_ref().unwrap();
        assert!(id.starts_with(table.disk_id.as_ref().unwrap()), "{id}");
    }
    let bytes = fs::read(&image).unwrap();
    let (before, after) = (&captured.bytes, &bytes[..16 << 20]);
    let changed: Vec<usize> = (0..16 << 20).filter(|&i| before[i] != after[i]).collect();
    assert!(changed.iter().all(|at| (440..444).contains(at)), "{changed:?}");
    run("sfdisk", [Path::new("--verify"), &image]);
}

#[test]
fn what_cannot_be_made_right_is_refused_with_the_reason() {
    let captured = Captured::new(512, GPT);
    let refused = captured.adapt(15 * MIB, Ids::Keep).unwrap_err();
    assert!(matches!(refused, TableError::TooSmall { .. }), "{refused}");

    // Cut short: the last partition lies where the backup would have to be, or behind the end.
    let mut cut = Captured::new(512, GPT);
    cut.bytes.truncate(15 << 20);
    cut.table = table::read(&cut.bytes, None).unwrap();
    let refused = cut.adapt(15 * MIB, Ids::Keep).unwrap_err();
    assert!(matches!(refused, TableError::NoRoom { number: 7, .. }), "{refused}");
    assert!(cut.adapt(16 * MIB, Ids::Keep).is_ok());

    let mut cut = Captured::new(512, "sgdisk -n 1:2048:+2M $DISK");
    cut.bytes.truncate(15 << 20);
    cut.table = table::read(&cut.bytes, None).unwrap();
    let (image, table) = cut.restored(15 * MIB, Ids::Keep);
    assert_eq!(table.warnings, [""; 0]);
    assert_in_order(&image, 512);

    let mut lost = Captured::new(512, GPT);
    lost.bytes[512..].fill(0);
    assert!(matches!(lost.adapt(32 * MIB, Ids::Keep), Err(TableError::Unreadable)));
    assert!(lost.bytes.size() == 16 * MIB);
}
