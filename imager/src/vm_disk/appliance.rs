//! Virtual machines as they are exported: an OVF descriptor with disks beside it, or an OVA, which is both in a tar.
//!
//! The disks within an OVA are read where they lie. Must not know: captures, images, terminals.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::contents::{Contents, Neighbours};
use super::error::DiskError;
use super::neighbours::{OpenedFile, open_file};
use super::open::{How, Opened, finish, open, read_with};
use super::ovf::Ovf;
use super::{Format, detect};
use crate::disk::identity;
use crate::disk::source::SourceDisk;
use crate::error::{Error, Result};
use crate::read_at::{ReadAt, check_range};

const RECORD: u64 = 512;
const DESCRIPTOR_BYTES_MAX: u64 = 4 << 20;
/// An appliance has a descriptor, a manifest, a certificate and some disks.
const MEMBERS_MAX: usize = 1000;

/// A virtual machine that was exported.
pub struct Appliance {
    /// What it is called.
    pub name: Option<String>,
    /// Its disks, in order.
    pub disks: Vec<Opened>,
}

/// Whether a file that begins so is an OVA: a tar that begins with the descriptor, as the format wants.
pub(super) fn is_ova(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar") && member_name(start).to_ascii_lowercase().ends_with(".ovf")
}

/// Opens the machine that is in the OVA, or that the OVF descriptor at `path` tells of.
///
/// # Errors
/// [`Error::Io`], [`Error::Usage`], [`Error::Damaged`].
pub fn open_appliance(path: &Path, how: &How) -> Result<Appliance> {
    let (file, opened) = open_file(path)?;
    let start = file.read_vec(0, usize::try_from(file.size().min(RECORD)).unwrap_or_default());
    if is_ova(&start.map_err(Error::io("read", path))?) {
        return open_ova(Arc::new(file), &opened, path, how);
    }
    if file.size() > DESCRIPTOR_BYTES_MAX {
        return Err(Error::Usage(format!("{} is too large for an OVF descriptor", path.display())));
    }
    let ovf = descriptor(&file, 0, file.size()).map_err(|error| error.of(path))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let disk = |name: &String| {
        if name.contains('/') || name == ".." {
            return Err(Error::Usage(format!("{}: its disk {name} is not in its own directory", path.display())));
        }
        open(&directory.join(name), how)
    };
    let disks = ovf.disks.iter().map(disk).collect::<Result<_>>()?;
    Ok(Appliance { name: ovf.name, disks })
}

fn open_ova(file: Arc<SourceDisk>, opened: &OpenedFile, path: &Path, how: &How) -> Result<Appliance> {
    let members = members(&*file).map_err(|error| error.of(path))?;
    let first = members.first().ok_or_else(|| DiskError::damaged(0, "an archive of nothing").of(path))?;
    let ovf = descriptor(&*file, first.start, first.len).map_err(|error| error.of(path))?;
    let disk = |name: &String| -> Result<Opened> {
        let place = path.join(name);
        let member = members.iter().find(|member| member.name == *name);
        let missing = || Error::damaged(path.display().to_string(), 0, format!("its disk {name} is not in it"));
        let member = member.ok_or_else(missing)?;
        let part = Part { file: Arc::clone(&file), start: member.start, len: member.len };
        let format = how.format.map_or_else(|| detect(&part), Ok).map_err(|error| error.of(&place))?;
        let disk = read_with(Box::new(part), format, &Alone, &Arc::default()).map_err(|error| error.of(&place))?;
        let identity = identity::of_new_file(place.clone(), disk.contents.size());
        finish(disk, format, identity, vec![opened.clone()], Vec::new(), how).map_err(|error| error.of(&place))
    };
    Ok(Appliance { disks: ovf.disks.iter().map(disk).collect::<Result<_>>()?, name: ovf.name })
}

fn descriptor(file: &dyn ReadAt, start: u64, len: u64) -> std::result::Result<Ovf, DiskError> {
    if len > DESCRIPTOR_BYTES_MAX {
        return Err(DiskError::damaged(start, format!("a descriptor of {len} bytes")));
    }
    let bytes = file.read_vec(start, usize::try_from(len).unwrap_or_default())?;
    Ovf::parse(&String::from_utf8_lossy(&bytes))
}

/// A file in an archive.
struct Member {
    name: String,
    start: u64,
    len: u64,
}

fn member_name(record: &[u8]) -> String {
    let name = record.get(..100).unwrap_or_default();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// The files of a tar. Names of more than 100 letters are not needed, and not understood.
fn members(file: &dyn ReadAt) -> std::result::Result<Vec<Member>, DiskError> {
    let mut members = Vec::new();
    let mut at = 0;
    while file.size().saturating_sub(at) >= RECORD && members.len() < MEMBERS_MAX {
        let record = file.read_vec(at, 512)?;
        if record.iter().all(|&byte| byte == 0) {
            break;
        }
        let damaged = |what: &str| DiskError::damaged(at, what);
        let sum = record
            .iter()
            .enumerate()
            .fold(0u64, |sum, (place, &byte)| sum + u64::from(if (148..156).contains(&place) { b' ' } else { byte }));
        if octal(record.get(148..156)) != Some(sum) {
            return Err(damaged("a header of the archive is damaged"));
        }
        let len = number(record.get(124..136)).ok_or_else(|| damaged("a file of the archive has no size"))?;
        let start = at + RECORD;
        let end = start.checked_add(len).filter(|&end| end <= file.size());
        let end = end.ok_or_else(|| damaged("a file of the archive reaches behind its end: it is cut off"))?;
        if matches!(record.get(156), Some(b'0' | 0)) {
            members.push(Member { name: member_name(&record), start, len });
        }
        at = end.checked_next_multiple_of(RECORD).ok_or_else(|| damaged("an archive without end"))?;
    }
    Ok(members)
}

/// A size: octal, or binary when the highest bit is set.
fn number(bytes: Option<&[u8]>) -> Option<u64> {
    match bytes? {
        [0x80, rest @ ..] => rest.iter().try_fold(0u64, |sum, &byte| Some(sum.checked_mul(256)? + u64::from(byte))),
        _ => octal(bytes),
    }
}

fn octal(bytes: Option<&[u8]>) -> Option<u64> {
    let text = std::str::from_utf8(bytes?).ok()?.trim_matches(|c: char| c == ' ' || c == '\0');
    u64::from_str_radix(text, 8).ok()
}

/// A file within an archive.
struct Part {
    file: Arc<SourceDisk>,
    start: u64,
    len: u64,
}

impl ReadAt for Part {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(offset, buf.len(), self.len)?;
        self.file.read_at(self.start + offset, buf)
    }

    fn size(&self) -> u64 {
        self.len
    }
}

impl Contents for Part {}

/// What is in an archive has no neighbours.
struct Alone;

impl Neighbours for Alone {
    fn file(&self, name: &[u8]) -> std::result::Result<Box<dyn Contents>, DiskError> {
        let name = String::from_utf8_lossy(name);
        Err(DiskError::unsupported(format!(
            "it needs another file, {name}; unpack the archive (`tar -xf`) and take that"
        )))
    }

    fn disk(&self, name: &[u8], _: Option<&[u8]>) -> std::result::Result<Box<dyn Contents>, DiskError> {
        self.file(name)
    }
}

/// Whether a file is an OVF descriptor, by its name, or an OVA, by its content.
#[must_use]
pub fn is_appliance(path: &Path) -> bool {
    let Ok((file, _)) = open_file(path) else { return false };
    let start = file.read_vec(0, usize::try_from(file.size().min(RECORD)).unwrap_or_default()).unwrap_or_default();
    let has_name = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("ovf"));
    is_ova(&start) || has_name && detect(&file).is_ok_and(|format| format == Format::Raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar of one file.
    fn tar(len: usize) -> Vec<u8> {
        let mut record = vec![0; 512];
        record[..7].copy_from_slice(b"vm.ovf\0");
        record[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
        record[156] = b'0';
        record[257..263].copy_from_slice(b"ustar\0");
        record[148..156].fill(b' ');
        let sum: u32 = record.iter().map(|&byte| u32::from(byte)).sum();
        record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        record.resize(512 + len.next_multiple_of(512) + 1024, 0);
        record
    }

    #[test]
    fn archives_are_walked_and_damage_is_noticed() {
        let whole = tar(700);
        assert!(is_ova(&whole));
        let found = members(&whole).unwrap();
        assert_eq!((found.len(), &*found[0].name, found[0].start, found[0].len), (1, "vm.ovf", 512, 700));
        for at in 0..512 {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            // Every byte of the header is in its checksum, which some spell in two ways.
            assert!(members(&changed).is_err() || (148..156).contains(&at), "{at}");
        }
        for len in 1..1200 {
            let cut: Vec<u8> = whole[..len].to_vec();
            assert!(members(&cut).is_err() || len < 512, "{len}");
        }
        assert_eq!(number(Some(&[0x80, 0, 1, 0])), Some(256));
        assert_eq!(number(Some(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0])), None);
    }
}
