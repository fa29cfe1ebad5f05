//! The stick that the machine was started from grows to its real size, at the first start.
//!
//! Nothing is done to any other disk: the stick's own boot menu says that it was the stick; there is exactly one disk
//! with the identifiers of Lifeboat's image; it can be unplugged; and its `.disk/info` names the very build that runs. Must
//! not know: how a partition grows.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use imager::disk::identity::{self, Identity};
use imager::disk::source::{Source, SourceDisk};
use imager::disk::target::TargetDisk;
use imager::read_at::{ReadAt, field};
use imager::stick::{self, Grown};
use imager::table;
use imager::units::size;

use crate::log::say;
use crate::places::{self, Access, Place};

/// What the stick's menu says to the kernel, and no other menu. None of the words for people.
const STARTED_FROM: &str = "lifeboat-medium=stick";

/// A stick that has not come by then does not come.
const HARDWARE: Duration = Duration::from_secs(30);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(500);

/// Less is not worth writing to a stick.
const WORTH_BYTES: u64 = 16 << 20;

/// The name of a build is shorter.
const INFO_BYTES_MAX: u64 = 4096;

/// Runs once.
pub(crate) fn run() -> ExitCode {
    if was_started_from() {
        match grow() {
            Ok(Some(bytes)) => say(&format!("the stick's partition for backups has {} now", size(bytes))),
            Ok(None) => {}
            Err(why) => say(&format!("the stick's partition for backups stays as large as it is: {why}")),
        }
    }
    let _ = fs::write(done_file(), "");
    ExitCode::SUCCESS
}

/// True once the stick is as large as it will be, or when it was not the stick that the machine was started from.
pub(crate) fn is_done() -> bool {
    !was_started_from() || done_file().exists()
}

fn was_started_from() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_ascii_whitespace().any(|word| word == STARTED_FROM)
}

fn done_file() -> PathBuf {
    crate::job::run_directory().join("stick")
}

/// The partition's new size; none when it had that already.
fn grow() -> Result<Option<u64>, String> {
    let stick = wait_for_stick()?;
    check_build(&stick)?;
    let growth = grow_partition(&stick)?;
    let text = |error: imager::Error| error.to_string();
    let device = partition_of(&stick, growth.number).ok_or("its partition is gone")?;
    if partition_bytes(&device) != Some(growth.partition.len) {
        stick::tell_kernel(&stick.path, &growth).map_err(text)?;
    }
    let bytes = growth.partition.len;
    let place = place_at(&device)?;
    if bytes.saturating_sub(file_system_bytes(&device).unwrap_or(bytes)) < WORTH_BYTES {
        return Ok(None);
    }
    let grown = with_mounted(&place, Access::Write, |at| stick::grow_file_system(at, bytes).map_err(text))?;
    Ok((grown == Grown::Yes).then_some(bytes))
}

fn wait_for_stick() -> Result<Identity, String> {
    let began = Instant::now();
    loop {
        match find_stick() {
            Ok(Some(stick)) => return Ok(stick),
            Err(why) => return Err(why),
            Ok(None) if began.elapsed() >= HARDWARE => return Err("it cannot be found".to_owned()),
            Ok(None) => thread::sleep(LOOK),
        }
    }
}

/// The only disk with the identifiers of Lifeboat's image.
fn find_stick() -> Result<Option<Identity>, String> {
    let mut found = Vec::new();
    for disk in identity::all_disks().map_err(|error| format!("cannot list the disks: {error}"))? {
        // A disk that cannot be read is none that the machine was started from.
        let Ok(source) = SourceDisk::open(&disk.path) else { continue };
        if table::read(&source, source.sector_size()).is_ok_and(|table| stick::is_stick(&table)) {
            found.push(disk);
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [stick] if can_be_unplugged(stick) && !stick.read_only => Ok(Some(stick.clone())),
        [stick] => Err(format!("{stick} is no stick, or cannot be written")),
        _ => {
            let names: Vec<String> = found.iter().map(|disk| disk.path.display().to_string()).collect();
            Err(format!("{} were all made from the same image, and nobody can tell which one it is", names.join(", ")))
        }
    }
}

fn can_be_unplugged(disk: &Identity) -> bool {
    disk.removable || matches!(disk.transport.as_deref(), Some("usb" | "mmc"))
}

/// What is on it is what runs.
fn check_build(stick: &Identity) -> Result<(), String> {
    let own = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let own = build_of(&own).ok_or("this build has no name")?;
    let device = partition_of(stick, 2).ok_or("it has no partition to start from")?;
    let place = place_at(&device)?;
    let info = with_mounted(&place, Access::Read, |at| {
        let mut info = String::new();
        let file = File::open(at.join(".disk/info"));
        let read = file.and_then(|file| file.take(INFO_BYTES_MAX).read_to_string(&mut info));
        read.map(|_| info).map_err(|error| format!("cannot read its .disk/info: {error}"))
    })?;
    if info.trim() == own {
        return Ok(());
    }
    Err(format!("{} has another build of Lifeboat than the one that runs", stick.path.display()))
}

/// `PRETTY_NAME` of an os-release file.
fn build_of(os_release: &str) -> Option<String> {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

fn grow_partition(disk: &Identity) -> Result<table::Growth, String> {
    let source = SourceDisk::open(&disk.path).map_err(|error| error.to_string())?;
    let sector_size = source.sector_size();
    let table = table::read(&source, sector_size).map_err(|error| error.to_string())?;
    let growth = table::grow_last(&source, &table).map_err(|error| error.to_string())?;
    if growth.steps.is_empty() {
        return Ok(growth);
    }
    drop(source);
    // For this process alone; looked at once more, for that reason.
    let target = TargetDisk::open_device(&disk.path).map_err(|error| error.to_string())?;
    stick::grow_partition(&target, sector_size).map_err(|error| error.to_string())
}

/// `/dev/sda3`.
fn partition_of(disk: &Identity, number: u32) -> Option<PathBuf> {
    let below = Path::new("/sys/class/block").join(disk.path.file_name()?);
    let is_it =
        |path: &Path| fs::read_to_string(path.join("partition")).is_ok_and(|text| text.trim().parse() == Ok(number));
    let found = fs::read_dir(below).ok()?.flatten().map(|entry| entry.path()).find(|path| is_it(path))?;
    Some(Path::new("/dev").join(found.file_name()?))
}

fn partition_bytes(device: &Path) -> Option<u64> {
    let sectors = fs::read_to_string(Path::new("/sys/class/block").join(device.file_name()?).join("size")).ok()?;
    sectors.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// What an ext4's superblock says. Source: the kernel's `Documentation/filesystems/ext4/super.rst`.
fn file_system_bytes(device: &Path) -> Option<u64> {
    const SUPERBLOCK_AT: u64 = 1024;
    let superblock = SourceDisk::open(device).ok()?.read_vec(SUPERBLOCK_AT, 1024).ok()?;
    if field::le16(&superblock, 0x38)? != 0xEF53 {
        return None;
    }
    let has_64_bit = field::le32(&superblock, 0x60)? & 0x80 != 0;
    let high = if has_64_bit { field::le32(&superblock, 0x150)? } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(field::le32(&superblock, 4)?);
    1024u64.checked_shl(field::le32(&superblock, 0x18)?)?.checked_mul(blocks)
}

fn place_at(device: &Path) -> Result<Place, String> {
    let places = places::all().map_err(|error| error.to_string())?;
    let missing = || format!("{} has no file system that is known", device.display());
    places.into_iter().find(|place| place.device == device).ok_or_else(missing)
}

/// Does something with a place while it is mounted, and leaves it as it was.
fn with_mounted<T>(place: &Place, access: Access, work: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
    let at = places::mount(place, access).map_err(|error| error.to_string())?;
    let done = work(&at);
    if place.mounted.is_none() {
        places::unmount(place).map_err(|error| error.to_string())?;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_found() {
        let text = "NAME=Lifeboat\nPRETTY_NAME=\"Lifeboat 0.1.0 (abc, changed)\"\nVERSION_ID=0.1.0\n";
        assert_eq!(build_of(text).as_deref(), Some("Lifeboat 0.1.0 (abc, changed)"));
        assert_eq!(build_of("NAME=x\n"), None);
    }

    #[test]
    fn only_what_can_be_unplugged_is_a_stick() {
        let disk = |transport: &str, removable| {
            let identity = identity::of_new_file("/dev/sda".into(), 1);
            Identity { transport: Some(transport.into()), removable, ..identity }
        };
        assert!(can_be_unplugged(&disk("usb", false)) && can_be_unplugged(&disk("mmc", false)));
        assert!(can_be_unplugged(&disk("scsi", true)));
        assert!(!can_be_unplugged(&disk("sata", false)) && !can_be_unplugged(&disk("virtio", false)));
    }
}
