//! The kernel's own account of block devices and mounts: sysfs and procfs, with udev's notes beside them.
//!
//! Everything is read below one root directory, so that a test can bring its own. What cannot be read is
//! not there: devices come and go while this looks.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// Where `sys`, `proc`, `run` and `dev` are.
pub(super) struct System {
    root: PathBuf,
}

/// Major and minor number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number {
    pub(super) major: u64,
    pub(super) minor: u64,
}

impl Number {
    pub(super) fn of(device: u64) -> Self {
        Self { major: major(device), minor: minor(device) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl System {
    /// This machine.
    pub(super) fn host() -> Self {
        Self::below(Path::new("/"))
    }

    /// The machine whose files lie in this directory.
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// An absolute path of that machine.
    pub(super) fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// The device that a path names, if it names a block device. Without a node, its name decides.
    pub(super) fn number(&self, path: &Path) -> Option<Number> {
        match fs::metadata(self.path(path)) {
            Ok(meta) => meta.file_type().is_block_device().then(|| Number::of(meta.rdev())),
            Err(_) => Some(self.block_by_name(path.strip_prefix("/dev").ok()?).ok()?.number),
        }
    }

    /// # Errors
    /// `NotFound` when there is no such device.
    pub(super) fn block(&self, number: Number) -> io::Result<Block> {
        Block::at(&self.path(format!("/sys/dev/block/{}:{}", number.major, number.minor)))
    }

    fn block_by_name(&self, name: &Path) -> io::Result<Block> {
        let name = name.to_string_lossy().replace('/', "!");
        Block::at(&self.path("/sys/class/block").join(name))
    }

    /// Every whole device, partitions left out.
    ///
    /// # Errors
    /// Without sysfs.
    pub(super) fn blocks(&self) -> io::Result<Vec<Block>> {
        let entries = fs::read_dir(self.path("/sys/block"))?;
        Ok(entries.flatten().filter_map(|entry| Block::at(&entry.path()).ok()).collect())
    }

    /// A property that udev noted about a device.
    pub(super) fn udev(&self, number: Number, key: &str) -> Option<String> {
        let notes = self.path(format!("/run/udev/data/b{}:{}", number.major, number.minor));
        let notes = String::from_utf8_lossy(&fs::read(notes).ok()?).into_owned();
        notes.lines().find_map(|line| clean(line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('=')?))
    }

    /// Everything that is mounted, oldest first.
    pub(super) fn mounts(&self) -> Vec<Mounted> {
        let lines = fs::read(self.path("/proc/self/mountinfo")).unwrap_or_default();
        lines.split(|&b| b == b'\n').filter_map(Mounted::from_line).collect()
    }

    /// Devices and files in use as swap.
    pub(super) fn swaps(&self) -> Vec<PathBuf> {
        let lines = fs::read(self.path("/proc/swaps")).unwrap_or_default();
        let paths = lines.split(|&b| b == b'\n').skip(1).filter_map(|line| line.split(u8::is_ascii_whitespace).next());
        paths.filter(|path| !path.is_empty()).map(|path| unescape(path).into()).collect()
    }

    /// All devices of the btrfs to which this one belongs; the device itself for any other.
    pub(super) fn btrfs_devices(&self, number: Number) -> Vec<Number> {
        let file_systems = fs::read_dir(self.path("/sys/fs/btrfs")).into_iter().flatten().flatten();
        let devices = |entry: fs::DirEntry| links(&entry.path().join("devices")).iter().map(|b| b.number).collect();
        let mut sets = file_systems.map(devices);
        sets.find(|set: &Vec<Number>| set.contains(&number)).unwrap_or_else(|| vec![number])
    }

    /// The devices that a mounted file system lies on; none for one of the network or of memory.
    pub(super) fn devices_of(&self, mounted: &Mounted) -> Vec<Number> {
        if mounted.number.major != 0 {
            return vec![mounted.number];
        }
        // btrfs and bcachefs have numbers of their own making; the latter names all its devices.
        let sources = mounted.source.as_bytes().split(|&b| b == b':').map(OsStr::from_bytes).map(Path::new);
        let numbers = sources.filter(|path| path.is_absolute()).filter_map(|path| self.number(path));
        match mounted.kind.as_bytes() {
            b"btrfs" => numbers.flat_map(|number| self.btrfs_devices(number)).collect(),
            _ => numbers.collect(),
        }
    }
}

/// A block device, as its directory in sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Without symbolic links: the way from the bus to the device.
    pub(super) dir: PathBuf,
    /// The kernel's name, `sda1`.
    pub(super) name: String,
    pub(super) number: Number,
}

impl Block {
    fn at(link: &Path) -> io::Result<Self> {
        let dir = fs::canonicalize(link)?;
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let number = attribute(&dir, "dev").as_deref().and_then(Number::parse);
        match (name, number) {
            (Some(name), Some(number)) => Ok(Self { dir, name, number }),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is no block device", link.display()))),
        }
    }

    /// Its node; `!` stands for `/` in the kernel's names.
    pub(super) fn node(&self) -> PathBuf {
        Path::new("/dev").join(self.name.replace('!', "/"))
    }

    /// A line of text about it, without padding; `None` when there is none or it is empty.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        attribute(&self.dir, file)
    }

    /// A number about it.
    pub(super) fn value(&self, file: &str) -> Option<u64> {
        self.text(file)?.parse().ok()
    }

    /// The disk that this is a partition of.
    pub(super) fn disk(&self) -> Option<Self> {
        self.dir.join("partition").exists().then(|| Self::at(self.dir.parent()?).ok()).flatten()
    }

    /// The partitions of this disk.
    pub(super) fn partitions(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.join("partition").exists()).filter_map(|path| Self::at(&path).ok()).collect()
    }

    /// The devices that are built on this one.
    pub(super) fn holders(&self) -> Vec<Self> {
        links(&self.dir.join("holders"))
    }

    /// The devices that this one is built on.
    pub(super) fn slaves(&self) -> Vec<Self> {
        links(&self.dir.join("slaves"))
    }

    /// The file or device that a loop device shows.
    pub(super) fn backing_file(&self) -> Option<PathBuf> {
        let mut path = fs::read(self.dir.join("loop/backing_file")).ok()?;
        path.truncate(path.trim_ascii_end().len());
        (!path.is_empty()).then(|| OsString::from_vec(path).into())
    }
}

fn links(directory: &Path) -> Vec<Block> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Block::at(&entry.path()).ok()).collect()
}

/// The text in a file, without padding; `None` when there is none or it is empty.
pub(super) fn attribute(directory: &Path, file: &str) -> Option<String> {
    clean(&String::from_utf8_lossy(&fs::read(directory.join(file)).ok()?))
}

/// Text without padding and control characters, and with single blanks; `None` when nothing is left.
pub(super) fn clean(text: &str) -> Option<String> {
    let text = text.replace(|c: char| c.is_control(), " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) id: u64,
    /// 0 as major number for file systems that lie on no one device.
    pub(super) number: Number,
    pub(super) at: PathBuf,
    pub(super) kind: OsString,
    /// Mostly a path; whatever the file system wants to show.
    pub(super) source: OsString,
    /// The file system's own options.
    pub(super) options: OsString,
}

impl Mounted {
    fn from_line(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&b| b == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let number = Number::parse(std::str::from_utf8(fields.nth(1)?).ok()?)?;
        let at = unescape(fields.nth(1)?).into();
        let mut after_dash = fields.skip_while(|&field| field != b"-").skip(1);
        let kind = unescape(after_dash.next()?);
        let source = unescape(after_dash.next()?);
        let options = unescape(after_dash.next().unwrap_or_default());
        Some(Self { id, number, at, kind, source, options })
    }
}

/// Undoes the kernel's `\040` for blanks and the like.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_taken_apart() {
        let line =
            br"36 35 98:0 /root /mnt/a\040b\134c rw,noatime master:1 shared:2 - ext3 /dev/x\040y rw,errors=continue";
        let mounted = Mounted::from_line(line).unwrap();
        assert_eq!((mounted.id, mounted.number), (36, Number { major: 98, minor: 0 }));
        assert_eq!(mounted.at, Path::new(r"/mnt/a b\c"));
        assert_eq!((mounted.kind.as_os_str(), mounted.source.as_os_str()), ("ext3".as_ref(), "/dev/x y".as_ref()));
        assert_eq!(mounted.options, "rw,errors=continue");
        assert_eq!(Mounted::from_line(b""), None);
        assert_eq!(Mounted::from_line(b"36 35 98:0 /"), None);
    }

    #[test]
    fn an_escape_that_is_none_stays() {
        assert_eq!(unescape(br"a\04"), r"a\04");
        assert_eq!(unescape(br"a\9zzb"), r"a\9zzb");
        assert_eq!(unescape(br"\134040"), r"\040");
    }

    #[test]
    fn padding_goes_and_nothing_is_nothing() {
        assert_eq!(clean("  ACME\0  DISK \n").as_deref(), Some("ACME DISK"));
        assert_eq!(clean(" \0\0 \n"), None);
    }
}
