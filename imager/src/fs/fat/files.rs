//! The files of FAT.
//!
//! A file is known by where its directory entry lies: FAT has no inodes. There are no owners, and times are those of a
//! clock on a wall nobody knows where; they are taken as UTC. Source: Microsoft's "FAT: General Overview of On-Disk
//! Format" 1.03. Must not know: allocation maps, images.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::boot_sector::{self, BootSector, Root};
use super::directory::label;
use super::refuse_others;
use super::table::Chains;
use crate::extent::Extent;
use crate::files::{
    Case, Description, Entry, File, FileSystem, Kind, MappedFile, NodeId, Ownership, Piece, Stat, Time, Volume, Xattr,
};
use crate::fs::{FsError, wide};
use crate::read_at::field::{le16, le32};

const ENTRY_SIZE: usize = 32;
/// No system makes longer directories.
const DIRECTORY_SIZE_MAX: u32 = 65_536 * 32;
const READ_ONLY: u8 = 0x01;
const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
const ATTRIBUTES: u8 = 0x3f;
const DELETED: u8 = 0xe5;
/// Entries lie at multiples of 32 bytes; the root directory has none.
const ROOT: NodeId = NodeId(1);

/// The upper half of code page 437, which Linux takes names to be in.
const CODE_PAGE_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// An open file system.
pub(in crate::fs) struct FatFiles {
    volume: Volume,
    boot: BootSector,
    description: Description,
}

/// Opens it.
///
/// # Errors
/// [`FsError`].
pub(in crate::fs) fn open(volume: Volume) -> Result<Arc<dyn FileSystem>, FsError> {
    let boot = BootSector::from_bytes(&volume.read_vec(0, boot_sector::SIZE)?)?;
    if boot.is_bitlocker {
        return Err(FsError::unsupported("encrypted by BitLocker To Go"));
    }
    if boot.size > volume.size() {
        let what = format!("the file system claims {} bytes, the volume has {}", boot.size, volume.size());
        return Err(FsError::corrupt(0x20, what));
    }
    refuse_others(&*volume, &boot)?;
    let mut warnings = Vec::new();
    if boot.is_dirty {
        warnings.push("marked as not unmounted: files of the last moments may be missing or cut short".to_owned());
    }
    let description = Description {
        kind: "vfat".to_owned(),
        label: boot.label.and_then(|text| label(&text)),
        block_size: boot.cluster_size,
        size: boot.size,
        case: Case::Same,
        ownership: Ownership::None,
        warnings,
    };
    Ok(Arc::new(FatFiles { volume, boot, description }))
}

/// A directory entry of 32 bytes.
struct Short<'a>(&'a [u8]);

impl Short<'_> {
    fn attributes(&self) -> u8 {
        self.0.get(11).copied().unwrap_or(0) & ATTRIBUTES
    }

    fn is_directory(&self) -> bool {
        self.attributes() & DIRECTORY != 0
    }

    fn u16_at(&self, at: usize) -> u16 {
        le16(self.0, at).unwrap_or(0)
    }

    fn first_cluster(&self, boot: &BootSector) -> u32 {
        let high = if matches!(boot.root, Root::Cluster(_)) { u32::from(self.u16_at(20)) << 16 } else { 0 };
        high | u32::from(self.u16_at(26))
    }

    fn size(&self) -> u32 {
        le32(self.0, 28).unwrap_or(0)
    }

    fn checksum(&self) -> u8 {
        self.0.iter().take(11).fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
    }

    /// "NAME.EXT", in lower case where Windows NT says so.
    fn name(&self) -> Vec<u8> {
        let flags = self.0.get(12).copied().unwrap_or(0);
        let text = |bytes: &[u8], is_lower: bool| -> String {
            let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
            let character = |byte: &u8| match *byte {
                ascii @ ..0x80 if is_lower => char::from(ascii.to_ascii_lowercase()),
                ascii @ ..0x80 => char::from(ascii),
                upper => CODE_PAGE_437.chars().nth(usize::from(upper - 0x80)).unwrap_or('\u{fffd}'),
            };
            bytes.get(..end).unwrap_or_default().iter().map(character).collect()
        };
        let mut base = self.0.get(..8).unwrap_or_default().to_vec();
        // The first byte of an entry cannot be 0xe5, which means deleted.
        if let Some(first @ 0x05) = base.first_mut() {
            *first = DELETED;
        }
        let (base, extension) =
            (text(&base, flags & 0x08 != 0), text(self.0.get(8..11).unwrap_or_default(), flags & 0x10 != 0));
        if extension.is_empty() { base.into_bytes() } else { format!("{base}.{extension}").into_bytes() }
    }

    fn time(&self, date_at: usize, time_at: Option<usize>, hundredths_at: Option<usize>) -> Time {
        let date = self.u16_at(date_at);
        let clock = time_at.map_or(0, |at| self.u16_at(at));
        let hundredths = hundredths_at.and_then(|at| self.0.get(at)).map_or(0, |byte| i64::from((*byte).min(199)));
        let (year, month, day) = (1980 + i64::from(date >> 9), i64::from(date >> 5 & 15), i64::from(date & 31));
        let (hour, minute, second) = (i64::from(clock >> 11), i64::from(clock >> 5 & 63), 2 * i64::from(clock & 31));
        if date == 0 {
            return Time::default();
        }
        let seconds =
            days_from_1970(year, month.clamp(1, 12), day.max(1)) * 86_400 + hour * 3600 + minute * 60 + second;
        let nanoseconds = u32::try_from(hundredths % 100 * 10_000_000).unwrap_or(0);
        Time { seconds: seconds + hundredths / 100, nanoseconds }
    }
}

/// Days of the Gregorian calendar, by counting years from March on.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

impl FatFiles {
    fn raw_entry(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        if !node.0.is_multiple_of(ENTRY_SIZE as u64) {
            return Err(FsError::corrupt(node.0, "no directory entry"));
        }
        Ok(self.volume.read_vec(node.0, ENTRY_SIZE)?)
    }

    /// Where the entries of a directory lie, in order.
    fn directory(&self, node: NodeId) -> Result<Vec<Extent>, FsError> {
        let first = if node == ROOT {
            match self.boot.root {
                Root::Fixed { start, len } => return Ok(vec![Extent::new(start, len)]),
                Root::Cluster(first) => first,
            }
        } else {
            let raw = self.raw_entry(node)?;
            if !Short(&raw).is_directory() {
                return Err(FsError::corrupt(node.0, "a file that is no directory"));
            }
            Short(&raw).first_cluster(&self.boot)
        };
        let max = (DIRECTORY_SIZE_MAX / self.boot.cluster_size).max(1);
        let chain = Chains::new(&*self.volume, &self.boot).follow(first, max)?;
        let chain = chain.ok_or_else(|| FsError::corrupt(node.0, "a directory whose chain of clusters is broken"))?;
        Ok(chain.runs)
    }
}

/// Parts of a long name, which come last part first, before the entry that they are about.
#[derive(Default)]
struct LongName {
    parts: Vec<[u16; 13]>,
    expected: u8,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, entry: &[u8]) {
        let order = entry.first().copied().unwrap_or(0);
        let checksum = entry.get(13).copied().unwrap_or(0);
        if order & 0x40 != 0 {
            *self = Self { parts: Vec::new(), expected: order & 0x3f, checksum };
        }
        if order & 0x3f != self.expected || self.expected == 0 || checksum != self.checksum {
            *self = Self::default();
            return;
        }
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        self.parts.push(places.map(|at| le16(entry, at).unwrap_or(0)));
        self.expected -= 1;
    }

    /// The name, when all of it came and it is about this entry.
    fn take(&mut self, short: &Short<'_>) -> Option<Vec<u8>> {
        let whole = std::mem::take(self);
        if whole.expected != 0 || whole.parts.is_empty() || whole.checksum != short.checksum() {
            return None;
        }
        let units = whole.parts.iter().rev().flatten().copied().take_while(|unit| *unit != 0);
        Some(wide::to_bytes(units)).filter(|name| !name.is_empty())
    }
}

impl FileSystem for FatFiles {
    fn description(&self) -> &Description {
        &self.description
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
        let raw = if node == ROOT { Vec::new() } else { self.raw_entry(node)? };
        let entry = Short(&raw);
        let is_directory = node == ROOT || entry.is_directory();
        let size = u64::from(if is_directory { 0 } else { entry.size() });
        let modified = entry.time(24, Some(22), None);
        Ok(Stat {
            node,
            kind: if is_directory { Kind::Directory } else { Kind::File },
            size,
            stored: size.next_multiple_of(self.boot.cluster_size.into()),
            permissions: match (is_directory, entry.attributes() & READ_ONLY) {
                (true, _) => 0o755,
                (false, 0) => 0o644,
                (false, _) => 0o444,
            },
            uid: 0,
            gid: 0,
            links: 1,
            device: (0, 0),
            accessed: entry.time(18, None, None),
            modified,
            changed: modified,
            created: (node != ROOT).then(|| entry.time(16, Some(14), Some(13))),
        })
    }

    fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let mut long = LongName::default();
        for run in self.directory(directory)? {
            let bytes = self.volume.read_vec(run.start, usize::try_from(run.len).map_err(std::io::Error::other)?)?;
            for (at, raw) in (run.start..).step_by(ENTRY_SIZE).zip(bytes.chunks_exact(ENTRY_SIZE)) {
                let entry = Short(raw);
                match raw.first() {
                    None | Some(0) => return Ok(()),
                    Some(&DELETED) => long = LongName::default(),
                    _ if entry.attributes() == LONG_NAME => long.add(raw),
                    _ if entry.attributes() & VOLUME_LABEL != 0 => long = LongName::default(),
                    _ => {
                        let name = long.take(&entry).unwrap_or_else(|| entry.name());
                        let kind = Some(if entry.is_directory() { Kind::Directory } else { Kind::File });
                        if matches!(&*name, b"." | b"..") {
                            continue;
                        }
                        if visit(Entry { name, node: NodeId(at), kind }).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn open(&self, node: NodeId) -> Result<Box<dyn File>, FsError> {
        let raw = if node == ROOT { Vec::new() } else { self.raw_entry(node)? };
        let entry = Short(&raw);
        if node == ROOT || entry.is_directory() {
            return Err(FsError::unsupported("not a regular file"));
        }
        let size = entry.size();
        let clusters = size.div_ceil(self.boot.cluster_size);
        let chain = Chains::new(&*self.volume, &self.boot).follow_to(entry.first_cluster(&self.boot), clusters)?;
        let chain = chain.ok_or_else(|| FsError::corrupt(node.0, "a file whose chain of clusters is broken"))?;
        let mut at = 0;
        let mut pieces = Vec::with_capacity(chain.runs.len());
        for run in chain.runs {
            pieces.push(Piece { at, len: run.len, place: run.start });
            at += run.len;
        }
        Ok(Box::new(MappedFile::new(Arc::clone(&self.volume), size.into(), pieces)))
    }

    fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        Err(FsError::corrupt(node.0, "not a symbolic link"))
    }

    fn xattrs(&self, _node: NodeId) -> Result<Vec<Xattr>, FsError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_and_seconds() {
        assert_eq!(days_from_1970(1970, 1, 1), 0);
        assert_eq!(days_from_1970(2000, 2, 29), 11_016);
        assert_eq!(days_from_1970(2024, 12, 31), 20_088);
        let mut raw = vec![0; 32];
        raw[22..26].copy_from_slice(&[0x21, 0x64, 0x5d, 0x58]);
        // 2024-02-29 12:33:02 UTC.
        assert_eq!(Short(&raw).time(24, Some(22), None).seconds, 1_709_209_982);
    }

    #[test]
    fn the_code_page_is_whole() {
        assert_eq!(CODE_PAGE_437.chars().count(), 128);
        // Lower case, of ASCII.
        assert_eq!(Short(b"\x9aBUNG   TXT \x18                   ").name(), "Übung.txt".as_bytes());
    }
}
