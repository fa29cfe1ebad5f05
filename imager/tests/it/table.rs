//! Partition tables made by sfdisk and sgdisk, against what sfdisk and libblkid make of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use imager::extent::Extent;
use imager::read_at::ReadAt;
use imager::table::{self, PartitionTable, TableKind};
use serde_json::Value;

use crate::support::{Loop, output, run, sh, sparse_file};

const MIB: u64 = 1 << 20;

/// A disk image of `size_mib` MiB, made by a shell script that finds it in `$DISK`.
pub(crate) fn disk(dir: &Path, size_mib: u64, sector_size: u32, script: &str) -> PathBuf {
    let image = sparse_file(&dir.join("disk.img"), size_mib * MIB);
    with_sectors(&image, sector_size, |disk| {
        sh(&format!("export PATH=$PATH:/usr/sbin DISK={}\n{{ {script}\n}} >&2\nsync $DISK", disk.display()))
    });
    image
}

/// Gives tools a disk with sectors of this size: the image itself, or a loop device.
pub(crate) fn with_sectors<T>(image: &Path, sector_size: u32, then: impl FnOnce(&Path) -> T) -> T {
    if sector_size == 512 {
        return then(image);
    }
    then(&Loop::attach(image, &["--sector-size", &sector_size.to_string()]).0)
}

fn read(image: &Path, sector_size: Option<u32>) -> PartitionTable {
    table::read(&fs::read(image).unwrap(), sector_size).unwrap()
}

struct Layout {
    name: &'static str,
    sector_size: u32,
    kind: TableKind,
    script: &'static str,
}

const LAYOUTS: &[Layout] = &[
    Layout {
        name: "a GPT with names, attributes and a BIOS boot partition",
        sector_size: 512,
        kind: TableKind::Gpt,
        script: r#"sfdisk -q $DISK <<END
label: gpt
size=1MiB, type=21686148-6449-6E6F-744E-656564454649
size=8MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI System Partition"
size=16MiB, type=linux, name="Größe 🛟", attrs="LegacyBIOSBootable,GUID:60,63"
type=933AC7E1-2EB4-4F13-B844-0E14E2AEF915
END"#,
    },
    Layout {
        name: "a GPT on sectors of 4096 bytes",
        sector_size: 4096,
        kind: TableKind::Gpt,
        script: r"printf 'label: gpt\nsize=8MiB, type=uefi\nsize=16MiB, type=linux, name=root\n' | sfdisk -q $DISK",
    },
    Layout {
        name: "a GPT with holes, numbered against the order on the disk",
        sector_size: 512,
        kind: TableKind::Gpt,
        script: "sgdisk -n 12:2048:4095 -n 5:20480:40959 -n 1:8192:10239 -A 1:set:2 $DISK",
    },
    Layout {
        name: "a GPT with 256 entries that begin far from their header",
        sector_size: 512,
        kind: TableKind::Gpt,
        script: "sgdisk -S 256 $DISK; sgdisk -j 1024 $DISK; sgdisk -n 200:4096:+4M -n 3:0:+4M $DISK",
    },
    Layout { name: "a GPT without partitions", sector_size: 512, kind: TableKind::Gpt, script: "sgdisk -o $DISK" },
    Layout {
        name: "a hybrid MBR",
        sector_size: 512,
        kind: TableKind::HybridMbr,
        script: "sgdisk -n 1:2048:+8M -t 1:0700 -n 2:0:+8M -n 3:0:+4M $DISK; sgdisk --hybrid 1:3 $DISK",
    },
    Layout {
        name: "an MBR with a hole in its entries",
        sector_size: 512,
        kind: TableKind::Mbr,
        script: r#"sfdisk -q $DISK <<END
label: dos
${DISK}p1 : start=2048, size=8MiB, type=7, bootable
${DISK}p3 : start=40960, size=8MiB, type=82
END"#,
    },
    Layout {
        name: "an MBR with a dozen logical partitions",
        sector_size: 512,
        kind: TableKind::Mbr,
        script: r"{ printf 'label: dos\nsize=4MiB\ntype=f\n'; for i in {1..12}; do echo size=2MiB; done; } | sfdisk -q $DISK",
    },
    Layout {
        name: "an MBR on sectors of 4096 bytes, with an extended partition before a primary one",
        sector_size: 4096,
        kind: TableKind::Mbr,
        script: r#"sfdisk -q $DISK <<END
label: dos
${DISK}p1 : start=256, size=20MiB, type=5
${DISK}p2 : start=6400, size=16MiB, type=83, bootable
${DISK}p5 : start=512, size=4MiB, type=83
${DISK}p6 : start=2048, size=4MiB, type=8e
END"#,
    },
    Layout {
        name: "an MBR with an extended partition of type 0x85 whose chain runs back and forth",
        sector_size: 512,
        kind: TableKind::Mbr,
        script: r#"sfdisk -q $DISK <<END
label: dos
${DISK}p1 : start=2048, size=50MiB, type=85
${DISK}p5 : start=20480, size=4MiB, type=83
${DISK}p6 : start=61440, size=4MiB, type=83
${DISK}p7 : start=40960, size=4MiB, type=83
END
sfdisk -q --delete $DISK 6
echo start=6144,size=2MiB | sfdisk -q -a $DISK"#,
    },
    Layout {
        name: "an MBR with an extended partition that holds nothing",
        sector_size: 512,
        kind: TableKind::Mbr,
        script: r"printf 'label: dos\nsize=8MiB\nsize=8MiB,type=5\n' | sfdisk -q $DISK",
    },
];

#[test]
fn the_partitions_are_those_that_sfdisk_and_libblkid_see() {
    std::thread::scope(|scope| {
        for layout in LAYOUTS {
            scope.spawn(|| compare(layout));
        }
    });
}

fn compare(layout: &Layout) {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path(), 64, layout.sector_size, layout.script);
    let given = read(&image, Some(layout.sector_size));
    assert_eq!(given.kind, layout.kind, "{}", layout.name);
    if layout.kind == TableKind::HybridMbr {
        assert_eq!(given.warnings.len(), 2, "{:?}", given.warnings);
    } else {
        assert_eq!(given.warnings, [""; 0], "{}", layout.name);
    }
    if layout.kind == TableKind::Mbr {
        // Nothing in an MBR says how large its sectors are.
        assert_eq!(read(&image, None).sector_size, 512, "{}", layout.name);
    } else {
        assert_eq!(read(&image, None), given, "{}", layout.name);
    }
    with_sectors(&image, layout.sector_size, |disk| {
        compare_with_sfdisk(&given, disk, layout.name);
        compare_with_libblkid(&given, disk, layout.name);
    });
}

/// What `sfdisk -J` says: number, first byte, length, type, GUID, name, bootable.
fn compare_with_sfdisk(table: &PartitionTable, disk: &Path, layout: &str) {
    let json = run("sfdisk", ["-J", disk.to_str().unwrap()]);
    let json = &serde_json::from_str::<Value>(&json).unwrap()["partitiontable"];
    let sector = u64::from(table.sector_size);
    assert_eq!(json["sectorsize"].as_u64().unwrap(), sector);
    let id = json["id"].as_str().unwrap().to_lowercase();
    assert_eq!(table.disk_id.as_deref(), Some(id.trim_start_matches("0x")), "{layout}");
    let number_of = |node: &str| node.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u32>().unwrap();
    let mut expected: Vec<_> = json["partitions"].as_array().map_or(&[] as &[Value], Vec::as_slice).to_vec();
    expected.sort_by_key(|p| p["start"].as_u64());
    assert_eq!(table.partitions.len(), expected.len(), "{layout}");
    for (ours, theirs) in table.partitions.iter().zip(expected) {
        let number = number_of(theirs["node"].as_str().unwrap());
        let place = (theirs["start"].as_u64().unwrap() * sector, theirs["size"].as_u64().unwrap() * sector);
        assert_eq!((ours.number, ours.start, ours.len), (number, place.0, place.1), "{layout}");
        let type_id = theirs["type"].as_str().unwrap();
        if table.kind == TableKind::Mbr {
            assert_eq!(ours.type_id, format!("0x{type_id:0>2}"), "{layout}");
            assert_eq!(ours.bootable, theirs["bootable"].as_bool().unwrap_or(false), "{layout}");
        } else {
            assert_eq!(ours.type_id, type_id, "{layout}");
            assert_eq!(ours.name.as_deref(), theirs["name"].as_str(), "{layout}");
        }
    }
}

/// What libblkid says through partx: number, place in units of 512 bytes, UUID, flags.
fn compare_with_libblkid(table: &PartitionTable, disk: &Path, layout: &str) {
    let columns = "NR,START,SECTORS,UUID,FLAGS";
    let shown = output("partx", ["--pairs", "--output", columns, disk.to_str().unwrap()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(table.partitions.len(), shown.lines().count(), "{layout}");
    for partition in &table.partitions {
        let line = shown.lines().find(|l| l.starts_with(&format!("NR=\"{}\" ", partition.number))).unwrap();
        let number = |key: &str| value(line, key).parse::<u64>().unwrap();
        assert_eq!((number("START") * 512, number("SECTORS") * 512), (partition.start, partition.len), "{layout}");
        assert_eq!(partition.id.as_deref(), Some(value(line, "UUID")), "{layout}");
        let flags = u64::from_str_radix(value(line, "FLAGS").trim_start_matches("0x"), 16).unwrap();
        if table.kind == TableKind::Mbr {
            assert_eq!(u64::from(partition.bootable) * 0x80, flags, "{layout}");
        } else {
            assert_eq!(partition.attributes, flags, "{layout}");
            assert_eq!(partition.bootable, flags & 4 != 0, "{layout}");
        }
    }
}

/// The value of a column in a line of `NAME="value"` pairs.
fn value<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("{key}=\"")).unwrap();
    rest.split_once('"').unwrap().0
}

#[test]
fn the_structures_are_the_sectors_of_the_table_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path(), 64, 512, "sgdisk -n 1:2048:+8M $DISK");
    let table = read(&image, None);
    let end = 64 * MIB;
    assert_eq!(table.structures.as_slice(), [Extent::between(0, 34 * 512), Extent::between(end - 33 * 512, end)]);

    let image = disk(dir.path(), 64, 4096, "sgdisk -n 1:2048:+8M $DISK");
    let table = read(&image, None);
    assert_eq!(table.structures.as_slice(), [Extent::between(0, 6 * 4096), Extent::between(end - 5 * 4096, end)]);

    let logical = r"printf 'label: dos\nsize=4MiB\ntype=f\nsize=2MiB\nsize=2MiB\n' | sfdisk -q $DISK";
    let image = disk(dir.path(), 64, 512, logical);
    let ebr = |mib: u64| Extent::new(mib * MIB, 512);
    assert_eq!(read(&image, None).structures.as_slice(), [ebr(0), ebr(5), ebr(8)]);
}

/// A GPT disk of 8 MiB with two partitions, in memory.
pub(crate) fn gpt_disk() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let script = r"printf 'label: gpt\nsize=1MiB\nsize=2MiB,name=data\n' | sfdisk -q $DISK";
    fs::read(disk(dir.path(), 8, 512, script)).unwrap()
}

/// Reads, and expects these warnings (each given by its beginning).
fn expect(disk: &dyn ReadAt, kind: TableKind, warnings: &[&str]) -> PartitionTable {
    let table = table::read(disk, None).unwrap();
    assert_eq!(table.kind, kind, "{:?}", table.warnings);
    assert_eq!(table.warnings.len(), warnings.len(), "{:?}", table.warnings);
    for (found, expected) in table.warnings.iter().zip(warnings) {
        assert!(found.starts_with(expected), "{found:?} does not begin with {expected:?}");
    }
    table
}

/// Where the structures of [`gpt_disk`] lie.
pub(crate) const PRIMARY: usize = 512;
pub(crate) const PRIMARY_ENTRIES: usize = 1024;
pub(crate) const BACKUP: usize = (8 << 20) - 512;
pub(crate) const BACKUP_ENTRIES: usize = BACKUP - 32 * 512;

/// The partitions' first bytes, as sgdisk prints them of a disk that it finds damaged.
fn starts_by_sgdisk(disk: &[u8]) -> Vec<u64> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, disk).unwrap();
    let printed = output("sgdisk", [Path::new("--print"), file.path()]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    let (_, partitions) = printed.split_once("Number  Start (sector)").unwrap();
    let lines = partitions.lines().skip(1);
    lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 512).collect()
}

#[test]
fn one_damaged_copy_of_a_gpt_is_replaced_by_the_other() {
    let good = gpt_disk();
    let partitions = expect(&good, TableKind::Gpt, &[]).partitions;
    assert_eq!(partitions.len(), 2);
    let damages = [
        (PRIMARY, "the primary GPT is missing; the backup was used"),
        (PRIMARY + 60, "the primary GPT is damaged (the header's checksum is wrong); the backup was used"),
        (
            PRIMARY_ENTRIES + 40,
            "the primary GPT is damaged (the checksum of the entries is wrong); the backup was used",
        ),
        (BACKUP, "the backup GPT is missing; the primary was used"),
        (BACKUP + 24, "the backup GPT is damaged (the header's checksum is wrong); the primary was used"),
        (
            BACKUP_ENTRIES + 300,
            "the backup GPT is damaged (the checksum of the entries is wrong); the primary was used",
        ),
    ];
    for (at, warning) in damages {
        let mut disk = good.clone();
        disk[at] ^= 4;
        let table = expect(&disk, TableKind::Gpt, &[warning]);
        assert_eq!(table.partitions, partitions);
        assert_eq!(starts_by_sgdisk(&disk), partitions.iter().map(|p| p.start).collect::<Vec<_>>());
        let copy = if at < BACKUP_ENTRIES { PRIMARY } else { BACKUP };
        assert!(!table.structures.contains(Extent::new(copy as u64, 512)), "a damaged copy is no structure");
    }
}

#[test]
fn a_protective_mbr_without_a_gpt_is_no_table() {
    let mut disk = gpt_disk();
    disk[PRIMARY] ^= 1;
    disk[BACKUP + 70] ^= 1;
    let lost = "the primary GPT is missing, and the backup GPT is damaged (the header's checksum is wrong)";
    let table = expect(&disk, TableKind::None, &[lost, "there is a protective MBR, but no readable GPT"]);
    assert!(table.partitions.is_empty() && table.structures.is_empty());
}

#[test]
fn a_gpt_for_other_sectors_is_named_and_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path(), 8, 4096, "sgdisk -n 1:0:+1M $DISK");
    let table = read(&image, Some(512));
    assert_eq!(table.kind, TableKind::None);
    assert_eq!(table.warnings[2], "there is a GPT for sectors of 4096 bytes, but this disk's have 512");
    assert_eq!(read(&image, None).sector_size, 4096);
    // And with the primary header gone, too.
    let mut disk = fs::read(&image).unwrap();
    disk[4096] = 0;
    assert_eq!(expect(&disk, TableKind::Gpt, &["the primary GPT is missing"]).sector_size, 4096);
    assert!(table::read(&disk, Some(1000)).is_err());
}

#[test]
fn a_gpt_counts_only_behind_a_protective_mbr() {
    let mut disk = gpt_disk();
    let unprotected = "there is a GPT, but the MBR has no protective entry";
    disk[450] = 0x83;
    assert_eq!(expect(&disk, TableKind::Mbr, &[unprotected]).partitions.len(), 1);
    disk[446..462].fill(0);
    expect(&disk, TableKind::None, &[unprotected, "the MBR lists no partitions"]);
    disk[..512].fill(0);
    expect(&disk, TableKind::None, &[unprotected]);
}

#[test]
fn a_disk_that_grew_or_shrank_is_read_with_a_warning() {
    let mut grown = gpt_disk();
    let partitions = expect(&grown, TableKind::Gpt, &[]).partitions;
    grown.resize(16 << 20, 0);
    let elsewhere = "the backup GPT is at sector 16383, not in the disk's last sector 32767: the disk has grown";
    assert_eq!(expect(&grown, TableKind::Gpt, &[elsewhere]).partitions, partitions);
    grown[PRIMARY + 88] ^= 1;
    let damaged = "the primary GPT is damaged (the header's checksum is wrong)";
    assert_eq!(expect(&grown, TableKind::Gpt, &[damaged, elsewhere]).partitions, partitions);

    let mut cut = gpt_disk();
    let partitions = expect(&cut, TableKind::Gpt, &[]).partitions;
    cut.truncate(3 << 20);
    let short = "the GPT is for a disk of at least 16351 sectors, this one has 6144: it was cut short";
    let past = "partition 2 ends at byte 4194304, behind the end of the disk at 3145728";
    let table = expect(&cut, TableKind::Gpt, &["the backup GPT is missing", short, past]);
    assert_eq!(table.partitions, partitions);
}

/// Puts the right checksums into both headers of a GPT on sectors of 512 bytes in its usual place, and into
/// what they say of the entries.
pub(crate) fn seal(disk: &mut [u8]) {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let end = disk.len();
    for (header, entries) in [(PRIMARY, PRIMARY_ENTRIES), (end - 512, end - 33 * 512)] {
        let sum = crc.checksum(&disk[entries..entries + 128 * 128]);
        disk[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
        disk[header + 16..header + 20].fill(0);
        let sum = crc.checksum(&disk[header..header + 92]);
        disk[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn copies_that_differ_are_reported_and_the_primary_wins() {
    let mut disk = gpt_disk();
    let partitions = expect(&disk, TableKind::Gpt, &[]).partitions;
    disk[BACKUP_ENTRIES + 56] ^= 1;
    seal(&mut disk);
    let table = expect(&disk, TableKind::Gpt, &["the primary and the backup GPT differ; the primary was used"]);
    assert_eq!(table.partitions, partitions);
}

#[test]
fn overlapping_and_impossible_gpt_partitions_are_reported() {
    let set = |disk: &mut Vec<u8>, entry: usize, start: u64, last: u64| {
        for entries in [PRIMARY_ENTRIES, BACKUP_ENTRIES] {
            let at = entries + entry * 128;
            disk[at + 32..at + 40].copy_from_slice(&start.to_le_bytes());
            disk[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        }
        seal(disk);
    };
    let good = gpt_disk();
    let mut disk = good.clone();
    set(&mut disk, 1, 3000, 5000);
    assert_eq!(expect(&disk, TableKind::Gpt, &["partitions 1 and 2 overlap"]).partitions.len(), 2);
    for (start, last) in [(5000, 3000), (u64::MAX, u64::MAX), (5000, u64::MAX / 512)] {
        let mut disk = good.clone();
        set(&mut disk, 1, start, last);
        let table = table::read(&disk, None).unwrap();
        assert_eq!(table.partitions.len(), 1);
        assert!(table.warnings.iter().any(|w| w.starts_with("partition 2 is left out")), "{:?}", table.warnings);
    }
    let mut disk = good;
    set(&mut disk, 1, 10, 5000);
    expect(
        &disk,
        TableKind::Gpt,
        &["partition 2 lies outside of the sectors that the GPT says are usable", "partitions 2 and 1 overlap"],
    );
}

#[test]
fn entries_larger_than_usual_are_read() {
    let mut disk = gpt_disk();
    let partitions = expect(&disk, TableKind::Gpt, &[]).partitions;
    for (header, entries) in [(PRIMARY, PRIMARY_ENTRIES), (BACKUP, BACKUP_ENTRIES)] {
        let second = disk[entries + 128..entries + 256].to_vec();
        disk[entries + 128..entries + 256].fill(0xA5);
        disk[entries + 256..entries + 384].copy_from_slice(&second);
        disk[header + 80..header + 88].copy_from_slice(&[64, 0, 0, 0, 0, 1, 0, 0]);
    }
    seal(&mut disk);
    assert_eq!(expect(&disk, TableKind::Gpt, &[]).partitions, partitions);
}

#[test]
fn headers_larger_than_usual_are_read() {
    const SIZE: usize = 256;
    let mut disk = gpt_disk();
    let partitions = expect(&disk, TableKind::Gpt, &[]).partitions;
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    for header in [PRIMARY, BACKUP] {
        let header = &mut disk[header..header + SIZE];
        header[12..16].copy_from_slice(&256u32.to_le_bytes());
        header[92..].fill(0xA5);
        header[16..20].fill(0);
        let sum = crc.checksum(header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
    }
    assert_eq!(expect(&disk, TableKind::Gpt, &[]).partitions, partitions);
    disk[PRIMARY + SIZE - 1] ^= 1;
    expect(&disk, TableKind::Gpt, &["the primary GPT is damaged (the header's checksum is wrong)"]);
}

#[test]
fn odd_boot_indicators_matter_only_in_an_mbr_without_a_gpt() {
    let mut disk = gpt_disk();
    let partitions = expect(&disk, TableKind::Gpt, &[]).partitions;
    disk[446] = 0x41;
    assert_eq!(expect(&disk, TableKind::Gpt, &[]).partitions, partitions);

    let mut disk = logical_disk();
    let partitions = expect(&disk, TableKind::Mbr, &[]).partitions;
    let record = usize::try_from(partitions[0].start).unwrap();
    for entry in 0..4 {
        disk[record + 446 + entry * 16] = 0x41;
    }
    assert_eq!(expect(&disk, TableKind::Mbr, &[]).partitions, partitions);
    disk[446] = 0x41;
    expect(&disk, TableKind::None, &[]);
}

#[test]
fn a_boot_sector_of_a_file_system_is_no_mbr() {
    let scripts = [
        "mkfs.fat -F 12 $DISK",
        "mkfs.fat -F 16 $DISK",
        "mkfs.fat -F 32 -s 1 $DISK",
        "mkfs.ntfs -F -Q $DISK",
        "mkfs.exfat $DISK",
        "echo start=2048 | sfdisk -q $DISK; mke2fs -q -F $DISK",
        // What a tool leaves that wipes nothing: the two bytes, and no entries.
        r"mke2fs -q -F $DISK; printf '\x55\xaa' | dd of=$DISK bs=1 seek=510 conv=notrunc",
    ];
    for script in scripts {
        let dir = tempfile::tempdir().unwrap();
        let image = disk(dir.path(), 36, 512, script);
        let bytes = fs::read(&image).unwrap();
        let table = read(&image, None);
        assert_eq!((table.kind, table.partitions.len()), (TableKind::None, 0), "{script}");
        // Whatever the boot code in front of it, as long as it is not a table.
        let mut odd = bytes;
        odd[446..510].fill(0x41);
        odd[510..512].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(table::read(&odd, None).unwrap().kind, TableKind::None, "{script}");
    }
}

#[test]
fn an_mbr_that_kept_the_boot_sector_of_an_earlier_file_system_is_an_mbr() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        r"mkfs.fat -F 32 -s 1 $DISK; printf 'start=2048,size=4MiB\nsize=4MiB\n' | sfdisk -q --wipe never $DISK";
    let image = disk(dir.path(), 36, 512, script);
    let mut disk = fs::read(&image).unwrap();
    let both = "the boot sector is an MBR, but also looks like that of a volume with FAT";
    assert_eq!(expect(&disk, TableKind::Mbr, &[both]).partitions.len(), 2);
    disk[446 + 12..446 + 16].fill(0xFF);
    expect(&disk, TableKind::None, &[]);
}

/// An MBR disk of 8 MiB: an extended partition with three logical ones, in memory.
pub(crate) fn logical_disk() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let script = r"printf 'label: dos\nstart=2048,type=5\nsize=1MiB\nsize=1MiB\nsize=1MiB\n' | sfdisk -q $DISK";
    fs::read(disk(dir.path(), 8, 512, script)).unwrap()
}

#[test]
fn a_broken_chain_of_logical_partitions_leaves_the_rest_in_doubt() {
    let good = logical_disk();
    let table = expect(&good, TableKind::Mbr, &[]);
    assert_eq!(table.partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 5, 6, 7]);
    let extended = table.partitions[0].extent();
    let third_record = usize::try_from(table.partitions[3].start).unwrap() - (1 << 20);
    let broken = "the chain of logical partitions in extended partition 1 is broken: ";

    let mut disk = good.clone();
    disk[third_record + 510] = 0;
    let table = expect(&disk, TableKind::Mbr, &[&format!("{broken}sector {} is no boot record", third_record / 512)]);
    assert_eq!(table.partitions.len(), 3);
    assert!(table.structures.contains(Extent::between(third_record as u64, extended.end())));

    let mut disk = good.clone();
    let link = third_record + 462;
    disk[link..link + 16].copy_from_slice(&[0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    let table = expect(&disk, TableKind::Mbr, &[&format!("{broken}it returns to sector 2048")]);
    assert_eq!(table.partitions.len(), 4);

    let mut disk = good;
    disk[link..link + 16].copy_from_slice(&[0, 0, 0, 0, 5, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]);
    let table = expect(&disk, TableKind::Mbr, &[&format!("{broken}sector 4294969343 cannot be read")]);
    assert_eq!(table.partitions.len(), 4);
}

#[test]
fn a_chain_without_an_end_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let script = "{ printf 'label: dos\\ntype=5\\n'; for i in {1..20}; do echo size=64KiB; done; } | sfdisk -q $DISK";
    let mut disk = fs::read(disk(dir.path(), 64, 512, script)).unwrap();
    expect(&disk, TableKind::Mbr, &[]);
    // Every sector of the extended partition lists a partition, and links to the next sector.
    for sector in 2048..disk.len() / 512 {
        let next = u32::try_from(sector - 2047).unwrap();
        let at = sector * 512 + 446;
        disk[at..at + 16].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        disk[at + 16..at + 32].copy_from_slice(&[0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        disk[at + 24..at + 28].copy_from_slice(&next.to_le_bytes());
        disk[at + 64..at + 66].copy_from_slice(&[0x55, 0xAA]);
    }
    let table = expect(&disk, TableKind::Mbr, &["the chain of logical partitions in extended partition 1 is broken"]);
    assert_eq!(table.partitions.last().unwrap().number, 255);
}

/// A disk some of whose sectors cannot be read.
struct Failing<'a>(&'a [u8], Extent);

impl ReadAt for Failing<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if !self.1.intersection(Extent::new(offset, buf.len() as u64)).is_empty() {
            return Err(io::Error::other("medium error"));
        }
        self.0.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}

#[test]
fn a_sector_that_cannot_be_read_is_like_a_damaged_one() {
    let disk = gpt_disk();
    let read = |disk: &[u8], at: usize| table::read(&Failing(disk, Extent::new(at as u64, 512)), None).unwrap();
    let table = read(&disk, 0);
    assert_eq!(table.kind, TableKind::None);
    assert_eq!(table.warnings, ["the first sector cannot be read: medium error"]);
    for at in [PRIMARY, PRIMARY_ENTRIES + 4096, BACKUP, BACKUP_ENTRIES + 4096] {
        let table = read(&disk, at);
        assert_eq!((table.kind, table.partitions.len()), (TableKind::Gpt, 2));
        assert!(table.warnings[0].contains("is damaged (medium error)"), "{:?}", table.warnings);
    }
    let disk = logical_disk();
    let table = read(&disk, 1 << 20);
    assert_eq!(table.partitions.len(), 1);
    assert!(table.structures.contains(table.partitions[0].extent()));
}
