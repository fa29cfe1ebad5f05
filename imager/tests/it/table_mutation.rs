//! Tables changed at random: whatever the bytes are, reading and adapting them end in a sane answer.

use std::{fs, io};

use imager::extent::Extent;
use imager::read_at::{ReadAt, Window, check_range};
use imager::table::{self, Ids, PartitionTable, Patch, TableKind};
use proptest::prelude::{Just, any};
use proptest::test_runner::{Config, TestRunner};

use crate::table::{BACKUP, BACKUP_ENTRIES, PRIMARY, PRIMARY_ENTRIES, disk, gpt_disk, logical_disk, seal};

#[test]
fn no_mutation_of_a_table_makes_reading_or_adapting_panic() {
    let hybrid = {
        let dir = tempfile::tempdir().unwrap();
        let script = "sgdisk -n 1:2048:+1M -n 2:0:+1M $DISK; sgdisk --hybrid 1 $DISK";
        fs::read(disk(dir.path(), 8, 512, script)).unwrap()
    };
    let disks = [gpt_disk(), hybrid, logical_disk()];
    let fields: Vec<usize> = {
        let records = (0..4).flat_map(|i| (i * (1 << 20)..).skip(440).take(72));
        let copies = [PRIMARY, PRIMARY_ENTRIES, BACKUP, BACKUP_ENTRIES];
        records.chain(copies.into_iter().flat_map(|at| (at..).take(92))).chain(0..32).collect()
    };
    let byte = proptest::prop_oneof![Just(0u8), Just(1), Just(5), Just(0x80), Just(0xEE), Just(0xFF), any::<u8>()];
    let change = (proptest::sample::select(fields.clone()), byte);
    let changes = proptest::collection::vec(change, 1..20);
    let mut runner = TestRunner::new(Config::with_cases(8_000));
    let scratch = std::cell::RefCell::new(disks.clone());
    let run = |(which, changes, sealed, cut): (usize, Vec<(usize, u8)>, bool, usize)| {
        let disk = &mut scratch.borrow_mut()[which];
        // As it was, but for what the case before changed.
        for &at in &fields {
            disk[at] = disks[which][at];
        }
        for &(at, byte) in &changes {
            disk[at] = byte;
        }
        if sealed && which < 2 {
            seal(disk);
        }
        let cut = Window::new(disk, 0, cut as u64);
        for (disk, sector_size) in [(disk as &dyn ReadAt, None), (disk, Some(512)), (disk, Some(4096)), (&cut, None)] {
            let table = table::read(disk, sector_size).unwrap();
            check_invariants(&table, disk.size());
            check_adapted(disk, &table);
        }
        Ok(())
    };
    runner.run(&(0..disks.len(), changes, any::<bool>(), 0..8usize << 20), run).unwrap();
}

fn check_invariants(table: &PartitionTable, size: u64) {
    assert!(table.partitions.is_sorted_by_key(|p| p.start));
    for partition in &table.partitions {
        assert!(partition.len > 0 && partition.start.checked_add(partition.len).is_some());
    }
    assert!(table.structures.iter().all(|e| e.end() <= size));
    assert_eq!(table.kind == TableKind::None, table.structures.is_empty());
}

/// A target gets no table that is not in order, whatever was captured.
fn check_adapted(disk: &dyn ReadAt, table: &PartitionTable) {
    let target_size = disk.size() + (1 << 20);
    if table.kind == TableKind::None {
        return;
    }
    if let Ok(patches) = table::adapt(disk, table, target_size, Ids::New) {
        let mut end = 0;
        for patch in &patches {
            assert!(patch.offset >= end, "patches overlap");
            end = patch.offset + patch.bytes.len() as u64;
            assert!(end <= target_size, "a patch lies behind the end");
        }
        let target = Patched { disk, patches, size: target_size };
        let adapted = table::read(&target, Some(table.sector_size)).unwrap();
        assert_eq!(adapted.kind, table.kind);
        assert_eq!(adapted.partitions.len(), table.partitions.len());
        let bad = |w: &&String| ["damaged", "differ", "grown"].iter().any(|word| w.contains(word));
        assert_eq!(adapted.warnings.iter().find(bad), None, "{:?}", table.kind);
    }
}

/// A larger disk with the bytes of another, and patches over them.
struct Patched<'a> {
    disk: &'a dyn ReadAt,
    patches: Vec<Patch>,
    size: u64,
}

impl ReadAt for Patched<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.size)?;
        let wanted = Extent::new(offset, buf.len() as u64);
        let place = |part: Extent, of: Extent| {
            let start = usize::try_from(part.start - of.start).unwrap();
            start..start + usize::try_from(part.len).unwrap()
        };
        buf.fill(0);
        let captured = wanted.intersection(Extent::new(0, self.disk.size()));
        if !captured.is_empty() {
            self.disk.read_at(captured.start, &mut buf[place(captured, wanted)])?;
        }
        for patch in &self.patches {
            let own = Extent::new(patch.offset, patch.bytes.len() as u64);
            let part = wanted.intersection(own);
            if !part.is_empty() {
                buf[place(part, wanted)].copy_from_slice(&patch.bytes[place(part, own)]);
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}
