//! A stick made from a small image grows to its size; the power may go at any moment.

use std::fs;
use std::path::Path;

use imager::extent::Extent;
use imager::read_at::ReadAt;
use imager::stick::{self, Grown};
use imager::table::{self, TableKind};

use crate::engine::{MemTarget, TargetFault, Write, apply};
use crate::support::{Loop, Mount, output, run, sh, sparse_file};

const MIB: u64 = 1 << 20;
const SMALL: u64 = 8 * MIB;
const LARGE: u64 = 12 * MIB;

/// The partition table of `lifeboat-usb.img`, smaller, as `xtask` has sfdisk make it.
fn image(dir: &Path, size: u64) -> Vec<u8> {
    let image = sparse_file(&dir.join("stick.img"), size);
    let id = "1F5B0A7D-C0DE-4000-8000-00000000000";
    sh(&format!(
        "export PATH=$PATH:/usr/sbin; sfdisk -q {image} <<END
label: gpt
label-id: {id}0
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649, uuid={id}1
start=2MiB, size=2MiB, type=uefi, uuid={id}2
start=4MiB, size=3MiB, name=\"LIFEBOAT\", type=linux, uuid={id}3
END",
        image = image.display()
    ));
    fs::read(image).unwrap()
}

/// The image written to a larger stick that held something else.
fn larger(dir: &Path) -> Vec<u8> {
    let mut bytes = image(dir, SMALL);
    bytes.resize(usize::try_from(LARGE).unwrap(), 0xA5);
    bytes
}

fn read(bytes: &[u8]) -> table::PartitionTable {
    table::read(&bytes.to_vec(), Some(512)).unwrap()
}

/// The partitions, by where they start; and that the table is one that anything can start from.
fn assert_readable(bytes: &[u8], when: &str) {
    let table = read(bytes);
    let starts: Vec<u64> = table.partitions.iter().map(|partition| partition.start / MIB).collect();
    assert_eq!((table.kind, starts), (TableKind::Gpt, vec![1, 2, 4]), "{when}");
    assert!(stick::is_stick(&table), "{when}: {table:?}");
    // What the kernel and firmware do: the primary, or else what is in the last sector.
    let is_good = |at: usize| {
        let only = |disk: &[u8]| table::read(&disk.to_vec(), Some(512)).unwrap().partitions.len() == 3;
        let mut disk = bytes.to_vec();
        let other = if at == 512 { disk.len() - 512 } else { 512 };
        disk[other..other + 512].fill(0);
        only(&disk)
    };
    assert!(is_good(512) || is_good(bytes.len() - 512), "{when}: neither copy is where everybody looks");
}

#[test]
fn the_last_partition_grows_to_the_sticks_end() {
    let dir = tempfile::tempdir().unwrap();
    let target = MemTarget::holding(larger(dir.path()), TargetFault::None);
    let growth = stick::grow_partition(&target, Some(512)).unwrap();
    assert_eq!((growth.number, growth.partition), (3, Extent::between(4 * MIB, LARGE - MIB)));
    assert!(growth.steps.len() >= 3);

    let bytes = target.bytes();
    let table = read(&bytes);
    assert_eq!(table.warnings, Vec::<String>::new());
    assert_eq!(table.partitions[2].extent(), growth.partition);
    assert_eq!(
        bytes[512 * 40..],
        [&larger(dir.path())[512 * 40..bytes.len() - 33 * 512], &bytes[bytes.len() - 33 * 512..]].concat()
    );
    let grown = dir.path().join("grown.img");
    fs::write(&grown, &bytes).unwrap();
    let said = run("sgdisk", ["--verify", grown.to_str().unwrap()]);
    assert!(said.contains("No problems found"), "{said}");
    assert!(output("sfdisk", ["--verify", grown.to_str().unwrap()]).status.success());

    let again = MemTarget::holding(bytes, TargetFault::None);
    assert!(stick::grow_partition(&again, Some(512)).unwrap().steps.is_empty());
    assert!(again.writes().is_empty(), "a second time nothing is written");
}

/// Between two flushes a stick may have done any of the writes, and of each only the first sectors.
#[test]
fn a_power_cut_at_any_moment_leaves_a_readable_stick_that_grows_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let before = larger(dir.path());
    let clean = MemTarget::holding(before.clone(), TargetFault::None);
    stick::grow_partition(&clean, Some(512)).unwrap();
    let writes = clean.writes();

    let mut states = Vec::new();
    let mut durable = before;
    for epoch in writes.split_inclusive(|write| matches!(write, Write::Flush)) {
        let pending: Vec<&Write> = epoch.iter().filter(|write| !matches!(write, Write::Flush)).collect();
        for chosen in 0..1u32 << pending.len() {
            // Each write that was begun is there in full, or its first sector, or half of its sectors.
            for cut in 0..3usize {
                let mut state = durable.clone();
                for (index, write) in pending.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1) {
                    let Write::Bytes(at, bytes) = write else { panic!("{index} is no write") };
                    let sectors = bytes.len() / 512;
                    let kept = [sectors, 1, sectors.div_ceil(2)][cut] * 512;
                    apply(&mut state, &Write::Bytes(*at, bytes[..kept].to_vec()));
                }
                states.push(state);
            }
        }
        epoch.iter().for_each(|write| apply(&mut durable, write));
    }
    assert!(states.len() > 20);
    for (number, state) in states.into_iter().enumerate() {
        assert_readable(&state, &format!("state {number}"));
        let next = MemTarget::holding(state, TargetFault::None);
        stick::grow_partition(&next, Some(512)).unwrap();
        assert!(next.bytes() == clean.bytes(), "state {number} ends in another table");
    }
}

#[test]
fn a_stick_that_fails_midway_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    for nth in 0.. {
        let target = MemTarget::holding(larger(dir.path()), TargetFault::Dead(nth));
        let outcome = stick::grow_partition(&target, Some(512));
        assert_readable(&target.bytes(), &format!("call {nth} failed"));
        if !target.has_struck() {
            outcome.unwrap();
            assert!(nth >= 6, "{nth} calls");
            return;
        }
        outcome.unwrap_err();
    }
}

#[test]
fn any_other_disk_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let good = larger(dir.path());
    let at = good.len() - 1;
    let mut other_disk = good.clone();
    // The disk's GUID, without the checksum being right any more: neither copy can be trusted.
    other_disk[512 + 56] ^= 1;
    other_disk[at] ^= 1;
    let mut no_table = good.clone();
    no_table[..34 * 512].fill(0);
    let renamed = {
        fs::write(dir.path().join("renamed.img"), image(dir.path(), SMALL)).unwrap();
        run("sgdisk", ["--change-name=3:OTHER", dir.path().join("renamed.img").to_str().unwrap()]);
        let mut bytes = fs::read(dir.path().join("renamed.img")).unwrap();
        bytes.resize(good.len(), 0);
        bytes
    };
    let more = {
        let path = dir.path().join("more.img");
        fs::write(&path, &good).unwrap();
        run("sgdisk", ["--move-second-header", "--new=4:8M:10M", path.to_str().unwrap()]);
        fs::read(&path).unwrap()
    };
    for (name, bytes) in [("no table", no_table), ("another name", renamed), ("a partition behind it", more)] {
        let target = MemTarget::holding(bytes, TargetFault::None);
        stick::grow_partition(&target, Some(512)).unwrap_err();
        assert!(target.writes().is_empty(), "{name}: something was written");
    }
}

/// Containers and the like leave that right out, whoever one is.
fn may_resize() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> SYS_RESOURCE & 1 == 1
}

/// With the kernel: a mounted ext4 with a file in it grows in its partition.
#[test]
fn the_kernel_enlarges_partition_and_file_system_while_it_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.img");
    fs::write(&path, image(dir.path(), SMALL)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(256 * MIB).unwrap();
    let disk = Loop::attach(&path, &["--partscan"]);
    // Not every kernel looks for such tables by itself, and nobody may be there to make the nodes.
    let sectors = |bytes: u64| (bytes / 512).to_string();
    output("addpart", [disk.0.to_str().unwrap(), "3", &sectors(4 * MIB), &sectors(3 * MIB)]);
    let name = format!("{}p3", disk.0.file_name().unwrap().to_str().unwrap());
    let number = fs::read_to_string(format!("/sys/class/block/{name}/dev")).unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let partition = dir.path().join(&name);
    run("mknod", [partition.to_str().unwrap(), "b", major, minor]);
    run("mkfs.ext4", ["-q", "-b", "4096", "-i", "65536", "-m", "0", partition.to_str().unwrap()]);
    {
        let target = imager::disk::target::TargetDisk::open_device(&disk.0).unwrap();
        stick::grow_partition(&target, Some(512)).unwrap();
    }
    let mounted = Mount::new(&partition, &dir.path().join("mounted"), "rw");
    fs::write(mounted.0.join("file"), "content").unwrap();
    let source = imager::disk::source::SourceDisk::open(&disk.0).unwrap();
    let growth = table::grow_last(&source, &table::read(&source, Some(512)).unwrap()).unwrap();
    assert!(growth.steps.is_empty() && source.size() == 256 * MIB);
    stick::tell_kernel(&disk.0, &growth).unwrap();
    let sectors = fs::read_to_string(format!("/sys/class/block/{name}/size")).unwrap();
    assert_eq!(sectors.trim().parse::<u64>().unwrap() * 512, growth.partition.len);
    if !may_resize() {
        eprintln!("skipped in part: the kernel enlarges a file system only for those with CAP_SYS_RESOURCE");
        return;
    }
    assert_eq!(stick::grow_file_system(&mounted.0, growth.partition.len).unwrap(), Grown::Yes);
    assert_eq!(stick::grow_file_system(&mounted.0, growth.partition.len).unwrap(), Grown::No);
    let found = rustix::fs::statvfs(&mounted.0).unwrap();
    assert!(found.f_blocks * found.f_frsize > 240 * MIB);
    assert_eq!(fs::read_to_string(mounted.0.join("file")).unwrap(), "content");
    drop(mounted);
    run("e2fsck", ["-f", "-n", partition.to_str().unwrap()]);

    // Of another file system nothing is asked.
    assert!(stick::grow_file_system(Path::new("/proc"), 1 << 30).is_err());
}
