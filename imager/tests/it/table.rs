//! Partition tables made by sfdisk and sgdisk, against what sfdisk and libblkid make of them.

use std::fs;
use std::path::{Path, PathBuf};

use imager::extent::Extent;
use imager::table::{self, PartitionTable, TableKind};
use serde_json::Value;

use crate::support::{Loop, output, run, sh, sparse_file};

const MIB: u64 = 1 << 20;

/// A disk image of `size_mib` MiB, made by a shell script that finds it in `$DISK`.
fn disk(dir: &Path, size_mib: u64, sector_size: u32, script: &str) -> PathBuf {
    let image = sparse_file(&dir.join("disk.img"), size_mib * MIB);
    with_sectors(&image, sector_size, |disk| {
        sh(&format!("export PATH=$PATH:/usr/sbin DISK={}\n{{ {script}\n}} >&2\nsync $DISK", disk.display()))
    });
    image
}

/// Gives tools a disk with sectors of this size: the image itself, or a loop device.
fn with_sectors<T>(image: &Path, sector_size: u32, then: impl FnOnce(&Path) -> T) -> T {
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
    for layout in LAYOUTS {
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
