//! Virtual machines as they are exported: an OVF descriptor with disks beside it, or an OVA, which is both in a tar.
//!
//! The disks within an OVA are read where they lie. Must not know: captures, images, terminals.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checksums::Checksums;
use super::contents::{Contents, Disk, Neighbours};
use super::error::DiskError;
use super::neighbours::{OpenedFile, open_file};
use super::open::{How, Opened, finish, open, read_with};
use super::ovf::Ovf;
use super::{Format, detect};
use crate::disk::identity;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::read_at::{ReadAt, check_range};

const RECORD: u64 = 512;
const DESCRIPTOR_BYTES_MAX: u64 = 4 << 20;
/// A line for each of its files.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
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

/// Opens the machine that is in the OVA, or that the OVF descriptor at `path` tells of. Its files are read once for the
/// checksums that its manifest has of them, if it has one; `progress` counts that.
///
/// # Errors
/// [`Error::Io`], [`Error::Usage`], [`Error::Damaged`], [`Error::Interrupted`].
pub fn open_appliance(path: &Path, how: &How, progress: &Progress) -> Result<Appliance> {
    let (file, opened) = open_file(path)?;
    let start = file.read_vec(0, usize::try_from(file.size().min(RECORD)).unwrap_or_default());
    if is_ova(&start.map_err(Error::io("read", path))?) {
        return open_ova(Arc::new(file), &opened, path, how, progress);
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
    let mut disks: Vec<Opened> = ovf.disks.iter().map(disk).collect::<Result<_>>()?;
    if let Some(checksums) = checksums_beside(path)? {
        let mut files = vec![path.to_owned()];
        for (name, disk) in ovf.disks.iter().zip(&disks) {
            // As the descriptor calls it, which need not be where it lies.
            let parts = disk.files.iter().skip(1).cloned();
            for file in std::iter::once(directory.join(name)).chain(parts) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        let remarks = checksums.check_files(&files, progress)?;
        if let Some(first) = disks.first_mut() {
            first.notes.extend(remarks);
        }
    }
    Ok(Appliance { name: ovf.name, disks })
}

/// The manifest of the descriptor at `path`, which has its name; none when there is none.
fn checksums_beside(path: &Path) -> Result<Option<Checksums>> {
    let manifest = path.with_extension("mf");
    if manifest == path || !manifest.is_file() {
        return Ok(None);
    }
    // An empty one says nothing, and cannot be opened as a disk.
    if std::fs::metadata(&manifest).is_ok_and(|found| found.len() == 0) {
        return Ok(None);
    }
    let (file, _) = open_file(&manifest)?;
    let len = file.size();
    checksums(&file, &manifest, 0, len).map(Some).map_err(|error| error.of(&manifest))
}

fn checksums(file: &dyn ReadAt, path: &Path, start: u64, len: u64) -> std::result::Result<Checksums, DiskError> {
    if len > MANIFEST_BYTES_MAX {
        return Err(DiskError::damaged(start, format!("a manifest of {len} bytes")));
    }
    let bytes = file.read_vec(start, usize::try_from(len).unwrap_or_default())?;
    Ok(Checksums::parse(path, &String::from_utf8_lossy(&bytes)))
}

fn open_ova(
    file: Arc<dyn Contents>,
    opened: &OpenedFile,
    path: &Path,
    how: &How,
    progress: &Progress,
) -> Result<Appliance> {
    let archive = read_ova(&file, path, how.format, progress)?;
    let mut remarks = archive.remarks;
    let disk = |found: ArchivedDisk| -> Result<Opened> {
        let identity = identity::of_new_file(found.place.clone(), found.disk.contents.size());
        let remarks = std::mem::take(&mut remarks);
        let disk = finish(found.disk, found.format, identity, vec![opened.clone()], remarks, how);
        disk.map_err(|error| error.of(&found.place))
    };
    Ok(Appliance { disks: archive.disks.into_iter().map(disk).collect::<Result<_>>()?, name: archive.name })
}

/// A virtual machine in an OVA.
pub struct Archive {
    /// What it is called.
    pub name: Option<String>,
    /// Its disks, in order.
    pub disks: Vec<ArchivedDisk>,
    /// What should be known about it.
    pub remarks: Vec<String>,
}

/// A disk in an OVA.
pub struct ArchivedDisk {
    /// The path of the archive and the disk's name in it.
    pub place: PathBuf,
    /// What it was found to be.
    pub format: Format,
    /// The disk.
    pub disk: Disk,
}

/// Reads the OVA `file`, which is at `path`; its disks are of `format`, or of what their content says.
///
/// # Errors
/// As [`open_appliance`].
pub fn read_ova(file: &Arc<dyn Contents>, path: &Path, format: Option<Format>, progress: &Progress) -> Result<Archive> {
    let members = members(&**file).map_err(|error| error.of(path))?;
    let first = members.first().ok_or_else(|| DiskError::damaged(0, "an archive of nothing").of(path))?;
    let ovf = descriptor(&**file, first.start, first.len).map_err(|error| error.of(path))?;
    let mut wanted = vec![first];
    for name in &ovf.disks {
        let missing = || Error::damaged(path.display().to_string(), 0, format!("its disk {name} is not in it"));
        wanted.push(members.iter().find(|member| member.name == *name).ok_or_else(missing)?);
    }
    let mut remarks = Vec::new();
    if let Some(manifest) = manifest(&members, first) {
        let place = path.join(&manifest.name);
        let checksums = checksums(&**file, &place, manifest.start, manifest.len).map_err(|error| error.of(path))?;
        let mut parts: Vec<(String, Part)> = Vec::new();
        for member in &wanted {
            // Several disks may be in one file.
            if parts.iter().all(|(_, part)| part.start != member.start) {
                parts.push((member.name.clone(), Part::of(file, member)));
            }
        }
        remarks = checksums.check(&parts, progress)?;
    }
    let disk = |member: &&Member| -> Result<ArchivedDisk> {
        let place = path.join(&member.name);
        let part = Part::of(file, member);
        let format = format.map_or_else(|| detect(&part), Ok).map_err(|error| error.of(&place))?;
        let disk = read_with(Box::new(part), format, &Alone, &Arc::default()).map_err(|error| error.of(&place))?;
        Ok(ArchivedDisk { place, format, disk })
    };
    let disks = wanted.iter().skip(1).map(disk).collect::<Result<_>>()?;
    Ok(Archive { name: ovf.name, disks, remarks })
}

/// The manifest of an archive that begins with the descriptor `first`: the one with its name, else any.
fn manifest<'a>(members: &'a [Member], first: &Member) -> Option<&'a Member> {
    let stem_of = |name: &str| Some(name.get(..name.len().checked_sub(3)?)?.to_ascii_lowercase());
    let is_manifest = |member: &&Member| member.name.to_ascii_lowercase().ends_with(".mf");
    let stem = first.name.get(..first.name.len().saturating_sub(4)).map(str::to_ascii_lowercase);
    let mut found = members.iter().filter(is_manifest);
    let named = found.clone().find(|member| stem_of(&member.name) == stem);
    named.or_else(|| found.next())
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
    file: Arc<dyn Contents>,
    start: u64,
    len: u64,
}

impl Part {
    fn of(file: &Arc<dyn Contents>, member: &Member) -> Self {
        Self { file: Arc::clone(file), start: member.start, len: member.len }
    }
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
