//! Places where a repository can be: partitions and sticks, mounted below `/run/lifeboat/places`.
//!
//! Must not know: repositories, jobs.

mod signature;
mod spot;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imager::disk::identity;
use imager::read_at::ReadAt;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use rustix::fs::StatVfsMountFlags;

pub(crate) use self::spot::Spot;

/// File systems that nobody can write to.
const READ_ONLY: [&str; 1] = ["iso9660"];

/// A partition, or a disk without a table, with a file system that can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its node: `/dev/sdb1`.
    pub device: PathBuf,
    /// The file system's label.
    pub label: Option<String>,
    /// The file system's UUID or serial number, as `blkid` prints it.
    pub uuid: Option<String>,
    /// As `mount -t` names it: ext4, xfs, btrfs, vfat, exfat, ntfs3, iso9660.
    pub filesystem: String,
    /// Size in bytes.
    pub size: u64,
    /// The disk's maker and model.
    pub model: Option<String>,
    /// The disk's serial number.
    pub serial: Option<String>,
    /// Where it is mounted now.
    pub mounted: Option<PathBuf>,
}

impl Place {
    /// Can a repository be written there? A CD can only be read.
    pub(crate) fn is_writable(&self) -> bool {
        !READ_ONLY.contains(&&*self.filesystem)
    }

    /// "BACKUP (/dev/sdb1, exfat)".
    pub(crate) fn shown(&self) -> String {
        let label = self.label.as_deref().unwrap_or("without a label");
        format!("{label} ({}, {})", self.device.display(), self.filesystem)
    }
}

/// All places of this machine where something can be written, by name.
///
/// # Errors
/// Without sysfs.
pub(crate) fn list() -> io::Result<Vec<Place>> {
    let mut places = all()?;
    places.retain(Place::is_writable);
    Ok(places)
}

/// All places of this machine, CDs too, by name.
///
/// # Errors
/// Without sysfs.
pub(crate) fn all() -> io::Result<Vec<Place>> {
    const NO_PLACES: [&str; 3] = ["ram", "zram", "fd"];
    let mounts = mounts();
    let mut names: Vec<String> = fs::read_dir("/sys/class/block")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NO_PLACES.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    // sda1 before sda2 before sda10.
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names.iter().filter_map(|name| look(name, &mounts)).collect())
}

fn look(name: &str, mounts: &[Mounted]) -> Option<Place> {
    let sysfs = Path::new("/sys/class/block").join(name);
    let has_entries = |directory: &str| fs::read_dir(sysfs.join(directory)).is_ok_and(|mut dir| dir.next().is_some());
    // What md or device-mapper is built on is not mounted by itself.
    if has_entries("holders") {
        return None;
    }
    let sectors: u64 = fs::read_to_string(sysfs.join("size")).ok()?.trim().parse().ok()?;
    let size = sectors.checked_mul(512).filter(|&size| size > 0)?;
    let device = Path::new("/dev").join(name.replace('!', "/"));
    let found = signature::of(&Volume { file: File::open(&device).ok()?, size })?;
    let is_partitioned = fs::read_dir(&sysfs).ok()?.flatten().any(|entry| entry.path().join("partition").exists());
    // A CD's image on a stick has partitions and is mounted as a whole; nothing else does.
    if is_partitioned && found.filesystem != "iso9660" {
        return None;
    }
    let identity = identity::of_device(&device).ok();
    let (model, serial) = identity.map_or((None, None), |identity| (identity.model, identity.serial));
    let number = fs::read_to_string(sysfs.join("dev")).ok()?;
    let mounted = mounts.iter().find(|mounted| mounted.number == number.trim() || mounted.source == device);
    Some(Place {
        mounted: mounted.map(|mounted| mounted.at.clone()),
        device,
        label: found.label,
        uuid: found.uuid,
        filesystem: found.filesystem.to_owned(),
        size,
        model,
        serial,
    })
}

/// A device, read as the parsers like it.
struct Volume {
    file: File,
    size: u64,
}

impl ReadAt for Volume {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    /// `8:1`.
    number: String,
    at: PathBuf,
    /// btrfs has numbers of its own, but names the device here.
    source: PathBuf,
}

fn mounts() -> Vec<Mounted> {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(2);
    let (number, root, at) = (fields.next()?, fields.next()?, fields.next()?);
    // Only the whole of it counts, not a directory of it that is mounted elsewhere.
    let plain = |text: &str| PathBuf::from(text.replace("\\040", " ").replace("\\134", "\\"));
    (root == "/").then(|| Mounted {
        number: number.to_owned(),
        at: plain(at),
        source: right.split(' ').nth(1).map(plain).unwrap_or_default(),
    })
}

fn directory() -> PathBuf {
    crate::job::run_directory().join("places")
}

/// What a place is mounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing is changed on it.
    Read,
    /// For writing, where that is possible.
    Write,
}

/// Mounts a place and says where; where it is mounted already, that is where. One that we mounted for reading becomes
/// one for writing when that is asked for.
///
/// # Errors
/// What the kernel says, with what to do about it.
pub(crate) fn mount(place: &Place, access: Access) -> io::Result<PathBuf> {
    let is_to_be_written = access == Access::Write && place.is_writable();
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    if !is_to_be_written {
        flags |= MsFlags::MS_RDONLY;
    }
    if let Some(mounted) = all()?.into_iter().find(|other| other.device == place.device).and_then(|now| now.mounted) {
        let is_read_only =
            rustix::fs::statvfs(&mounted).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
        if is_to_be_written && is_read_only && mounted.starts_with(directory()) {
            let none: Option<&str> = None;
            nix::mount::mount(none, &mounted, none, flags | MsFlags::MS_REMOUNT, none)
                .map_err(|error| explain(place, error))?;
        }
        return Ok(mounted);
    }
    // The device's name is in it, so that two sticks of the same label have two directories.
    let name = place.device.file_name().unwrap_or_default().to_string_lossy();
    let label: String = place
        .label
        .iter()
        .flat_map(|label| label.chars())
        .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .collect();
    let at = directory().join(if label.is_empty() { name.into_owned() } else { format!("{label}-{name}") });
    fs::create_dir_all(&at)?;
    let options = match &*place.filesystem {
        "vfat" => Some("utf8"),
        _ => None,
    };
    match nix::mount::mount(Some(&place.device), &at, Some(&*place.filesystem), flags, options) {
        Ok(()) => Ok(at),
        Err(error) => {
            let _ = fs::remove_dir(&at);
            Err(explain(place, error))
        }
    }
}

fn explain(place: &Place, error: Errno) -> io::Error {
    let advice = match error {
        Errno::EROFS | Errno::EACCES => "it is write-protected: look for a switch on it",
        Errno::ENODEV => "this medium's kernel has no driver for that file system; use another disk",
        Errno::EBUSY => "something else uses it",
        Errno::ENXIO | Errno::ENOENT | Errno::ENOMEDIUM => "it is gone: plug it in again",
        Errno::EIO => "it cannot be read: the disk or its cable is failing; use another disk",
        _ if place.filesystem == "ntfs3" => {
            "Windows did not shut down cleanly, or the file system is damaged: start it in Windows, run `chkdsk /f`, and shut down with `shutdown /s /t 0`"
        }
        _ => {
            "the file system is damaged or was not unmounted cleanly: check it on a machine that knows it (fsck, chkdsk)"
        }
    };
    let message = format!("cannot mount {}: {}: {advice}", place.shown(), error.desc());
    io::Error::new(io::Error::from(error).kind(), message)
}

/// Flushes and unmounts what [`mount`] mounted; anything else stays as it is.
///
/// # Errors
/// When it is in use.
pub(crate) fn unmount(place: &Place) -> io::Result<()> {
    let now = all()?.into_iter().find(|other| other.device == place.device);
    let Some(at) = now.and_then(|place| place.mounted).filter(|at| at.starts_with(directory())) else { return Ok(()) };
    nix::mount::umount2(&at, MntFlags::empty()).map_err(|error| {
        let message = format!("cannot unmount {}: {}", place.shown(), error.desc());
        io::Error::new(io::Error::from(error).kind(), message)
    })?;
    fs::remove_dir(at)
}

/// Bytes that can still be written below a directory.
///
/// # Errors
/// What the kernel says.
pub(crate) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(directory)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn mounts_are_found() {
        let line = "36 35 98:0 / /mnt/a\\040b rw,noatime shared:2 - ext3 /dev/root rw";
        let expected = Mounted { number: "98:0".into(), at: "/mnt/a b".into(), source: "/dev/root".into() };
        assert_eq!(parse_mount(line), Some(expected));
        assert_eq!(parse_mount("36 35 98:0 /sub /mnt rw - ext3 /dev/root rw"), None);
        assert_eq!(parse_mount("nonsense"), None);
    }

    /// Detaches a loop device when dropped.
    struct Loop(PathBuf);

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
        }
    }

    #[test]
    fn a_place_is_mounted_written_and_unmounted() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root for loop devices");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        assert!(Command::new("mkfs.ext4").args(["-q", "-L", "TESTPLACE"]).arg(&image).status().unwrap().success());
        let attached = Command::new("losetup").args(["-f", "--show"]).arg(&image).output().unwrap();
        assert!(attached.status.success(), "{attached:?}");
        let device = Loop(PathBuf::from(String::from_utf8(attached.stdout).unwrap().trim()));

        let find = || list().unwrap().into_iter().find(|place| place.device == device.0).unwrap();
        let place = find();
        assert_eq!((place.label.as_deref(), &*place.filesystem, place.size), (Some("TESTPLACE"), "ext4", 32 << 20));
        assert_eq!(place.mounted, None);
        let at = mount(&place, Access::Read).unwrap();
        fs::write(at.join("file"), "content").unwrap_err();
        assert_eq!(mount(&place, Access::Write).unwrap(), at);
        fs::write(at.join("file"), "content").unwrap();
        assert_eq!(find().mounted.as_deref(), Some(&*at));
        assert_eq!(mount(&place, Access::Read).unwrap(), at, "a second time it is where it was");
        assert!((1..32 << 20).contains(&free_bytes(&at).unwrap()));
        unmount(&find()).unwrap();
        assert!(!at.exists() && find().mounted.is_none());
        unmount(&place).unwrap();
    }
}
