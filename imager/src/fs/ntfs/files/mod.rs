//! The files of NTFS.
//!
//! Streams besides the content appear as extended attributes `user.NAME`. The system's own files, and names that
//! exist for DOS only, are not shown. What is compressed by NTFS itself is read; what Windows keeps in other ways
//! (EFS, WOF, deduplication, the cloud) is listed, and refused with the reason. Layout: linux-ntfs documentation.
//! Must not know: allocation maps, images.

mod compressed;
mod reparse;

use std::ops::ControlFlow;
use std::sync::Arc;

use self::compressed::CompressedFile;
use self::reparse::Reparse;
use super::boot::BootSector;
use super::log::{Journal, journal};
use super::mft::{Content, Mft, UNNAMED};
use super::record::{Encoding, Kind as AttributeKind, Record, Reference, undo_fixups};
use super::root::{BY_NAME, each_entry};
use super::stream::Stream;
use super::volume::{State, volume_information};
use crate::files::{
    BytesFile, Case, Description, Entry, File, FileSystem, Kind, LINK_BYTES_MAX, MappedFile, NodeId, Ownership, Piece,
    Stat, Time, Volume, XATTR_BYTES_MAX, Xattr,
};
use crate::fs::{FsError, wide};
use crate::read_at::field;

const ROOT_FILE: u64 = 5;
/// The files below are the system's own, but for the root.
const FIRST_USER_FILE: u64 = 16;
const DIRECTORY_BYTES_MAX: u64 = 4 << 30;
const NAMESPACE_DOS: u8 = 2;
const FLAG_REPARSE: u32 = 0x400;
const FLAG_DIRECTORY: u32 = 0x1000_0000;

/// An open file system.
pub(in crate::fs) struct NtfsFiles {
    volume: Volume,
    boot: BootSector,
    table: Arc<Stream>,
    root: NodeId,
    description: Description,
}

/// Opens it.
///
/// # Errors
/// [`FsError`].
pub(in crate::fs) fn open(volume: Volume) -> Result<Arc<dyn FileSystem>, FsError> {
    let mft = Mft::open(&*volume)?;
    let information = volume_information(&mft)?;
    let mut warnings = Vec::new();
    if information.state != State::Good {
        warnings.push("marked as in need of a check (chkdsk)".to_owned());
    }
    match journal(&mft) {
        Ok(Journal::Clean | Journal::Empty) => {}
        Ok(Journal::Unclean(why)) => warnings.push(format!(
            "not shut down cleanly ({why}), and the journal is not followed: files of the last moments may be missing or old"
        )),
        Err(FsError::Io(error)) => return Err(error.into()),
        Err(error) => warnings.push(format!("its journal cannot be read: {error}")),
    }
    let root = mft.system_file(ROOT_FILE)?;
    let description = Description {
        kind: "ntfs".to_owned(),
        label: information.label,
        block_size: mft.boot.cluster_size,
        size: mft.boot.size,
        case: Case::Same,
        ownership: Ownership::None,
        warnings,
    };
    let (boot, table) = (mft.boot.clone(), mft.shared_stream());
    let root = node_id(root.reference());
    drop(mft);
    Ok(Arc::new(NtfsFiles { volume, boot, table, root, description }))
}

/// The record's number, and as much of its sequence number as leaves the highest byte to those who show several
/// file systems as one.
fn node_id(reference: Reference) -> NodeId {
    NodeId(reference.number | u64::from(reference.sequence & 0xff) << 48)
}

/// Windows counts in units of 100 ns from 1601 on.
fn time(value: u64) -> Time {
    const SECONDS_TO_1970: i64 = 11_644_473_600;
    let seconds = i64::try_from(value / 10_000_000).unwrap_or(i64::MAX).saturating_sub(SECONDS_TO_1970);
    Time { seconds, nanoseconds: u32::try_from(value % 10_000_000 * 100).unwrap_or(0) }
}

impl NtfsFiles {
    fn mft(&self) -> Mft<'_> {
        Mft::reopened(&*self.volume, self.boot.clone(), Arc::clone(&self.table))
    }

    fn record(&self, mft: &Mft<'_>, node: NodeId) -> Result<Record, FsError> {
        let number = node.0 & 0xFFFF_FFFF_FFFF;
        let record = mft.record(number)?;
        if !record.is_in_use() || node_id(record.reference()) != node || !record.is_base() {
            let what = format!("file record {number} is not of the file that is named");
            return Err(FsError::corrupt(record.position, what));
        }
        Ok(record)
    }

    /// `$STANDARD_INFORMATION`.
    fn information(mft: &Mft<'_>, record: &Record) -> Result<Vec<u8>, FsError> {
        let value = mft.first_content(record, AttributeKind::STANDARD_INFORMATION, UNNAMED)?;
        let value = value.ok_or_else(|| FsError::corrupt(record.position, "a file without its information"))?;
        value.read_all(mft.volume, 256, record.position)
    }

    fn reparse(mft: &Mft<'_>, record: &Record) -> Result<Option<Reparse>, FsError> {
        let Some(value) = mft.first_content(record, AttributeKind::REPARSE_POINT, UNNAMED)? else { return Ok(None) };
        Ok(Some(Reparse::from_bytes(&value.read_all(mft.volume, LINK_BYTES_MAX, record.position)?)))
    }

    fn kind(record: &Record, reparse: Option<&Reparse>) -> Kind {
        match reparse {
            Some(Reparse::Link(_)) => Kind::Symlink,
            Some(Reparse::Special(kind)) => *kind,
            _ if record.is_directory() => Kind::Directory,
            _ => Kind::File,
        }
    }

    /// The content of a stream.
    fn stream(&self, mft: &Mft<'_>, record: &Record, name: &[u8]) -> Result<Box<dyn File>, FsError> {
        let stream = match mft.content(record, AttributeKind::DATA, name)? {
            None => return Ok(Box::new(BytesFile(Vec::new()))),
            Some(Content::Resident(bytes)) => return Ok(Box::new(BytesFile(bytes))),
            Some(Content::Stream(stream)) => stream,
        };
        if !stream.is_whole() {
            return Err(FsError::corrupt(record.position, "a file is longer than its clusters"));
        }
        let (size, written) = (stream.data_size, stream.initialized_size);
        match stream.encoding {
            Encoding::Plain => {
                let pieces = stream
                    .pieces()
                    .map(|piece| Piece { len: piece.len.min(written.saturating_sub(piece.at)), ..piece });
                let pieces = pieces.filter(|piece| piece.len > 0).collect();
                Ok(Box::new(MappedFile::new(Arc::clone(&self.volume), size, pieces)))
            }
            Encoding::Compressed(power) => {
                Ok(Box::new(CompressedFile::new(Arc::clone(&self.volume), &stream, power, record.position)?))
            }
            Encoding::Other => {
                Err(FsError::unsupported("encrypted by Windows (EFS), and its key is not to be had here"))
            }
        }
    }

    /// Bytes in the content, and on the volume.
    fn sizes(mft: &Mft<'_>, record: &Record) -> Result<(u64, u64), FsError> {
        Ok(match mft.first_content(record, AttributeKind::DATA, UNNAMED)? {
            None => (0, 0),
            Some(Content::Resident(bytes)) => (bytes.len() as u64, 0),
            Some(Content::Stream(stream)) => {
                let stored = stream.pieces().fold(0u64, |sum, piece| sum.saturating_add(piece.len));
                (stream.data_size, stored)
            }
        })
    }
}

impl FileSystem for NtfsFiles {
    fn description(&self) -> &Description {
        &self.description
    }

    fn root(&self) -> NodeId {
        self.root
    }

    fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
        const READ_ONLY: u32 = 1;
        let mft = self.mft();
        let record = self.record(&mft, node)?;
        let information = Self::information(&mft, &record)?;
        let flags = field::le32(&information, 32).unwrap_or(0);
        let reparse = if flags & FLAG_REPARSE == 0 { None } else { Self::reparse(&mft, &record)? };
        let kind = Self::kind(&record, reparse.as_ref());
        let (mut size, stored) = match kind {
            Kind::File => Self::sizes(&mft, &record)?,
            _ => (0, 0),
        };
        if let Some(Reparse::Link(target)) = &reparse {
            size = target.len() as u64;
        }
        let names = mft.contents(&record, AttributeKind::FILE_NAME, UNNAMED)?;
        let is_name = |content: &&Content| match content {
            Content::Resident(value) => value.get(0x41) != Some(&NAMESPACE_DOS),
            Content::Stream(_) => false,
        };
        let at = |offset| time(field::le64(&information, offset).unwrap_or(0));
        Ok(Stat {
            node,
            kind,
            size,
            stored,
            permissions: match kind {
                Kind::Directory => 0o755,
                Kind::Symlink => 0o777,
                _ if flags & READ_ONLY != 0 => 0o444,
                _ => 0o644,
            },
            uid: 0,
            gid: 0,
            links: u32::try_from(names.iter().filter(is_name).count()).unwrap_or(1).max(1),
            device: (0, 0),
            accessed: at(24),
            modified: at(8),
            changed: at(16),
            created: Some(at(0)),
        })
    }

    fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let mft = self.mft();
        let record = self.record(&mft, directory)?;
        let corrupt = |what: &str| FsError::corrupt(record.position, what.to_owned());
        if !record.is_directory() {
            return Err(corrupt("a file that is no directory"));
        }
        let index_root = mft.content(&record, AttributeKind::INDEX_ROOT, BY_NAME)?;
        let index_root = index_root.ok_or_else(|| corrupt("a directory without an index"))?;
        let index_root = index_root.read_all(mft.volume, u64::from(mft.boot.record_size), record.position)?;
        if visit_node(index_root.get(0x10..).unwrap_or_default(), visit)
            .ok_or_else(|| corrupt("a broken directory entry"))?
            .is_break()
        {
            return Ok(());
        }
        let Some(blocks) = mft.content(&record, AttributeKind::INDEX_ALLOCATION, BY_NAME)? else { return Ok(()) };
        let block_size = field::le32(&index_root, 8).unwrap_or_default();
        if !block_size.is_power_of_two()
            || !(512..=64 << 10).contains(&block_size)
            || blocks.size() > DIRECTORY_BYTES_MAX
        {
            return Err(corrupt("directory blocks that cannot be"));
        }
        let used = mft.content(&record, AttributeKind::BITMAP, BY_NAME)?;
        let used = used.ok_or_else(|| corrupt("a directory without a map of its blocks"))?;
        let used = used.read_all(mft.volume, DIRECTORY_BYTES_MAX / 512 / 8, record.position)?;
        let mut block = vec![0; usize::try_from(block_size).unwrap_or_default()];
        let count = blocks.size() / u64::from(block_size);
        for number in 0..count {
            let byte = usize::try_from(number / 8).ok().and_then(|at| used.get(at)).copied().unwrap_or(0);
            if byte >> (number % 8) & 1 == 0 {
                continue;
            }
            blocks.read_at(mft.volume, number * u64::from(block_size), &mut block)?;
            if !block.starts_with(b"INDX") {
                return Err(corrupt("a block of a directory is none"));
            }
            undo_fixups(&mut block, record.position)?;
            let visited = visit_node(block.get(0x18..).unwrap_or_default(), visit);
            if visited.ok_or_else(|| corrupt("a broken directory entry"))?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&self, node: NodeId) -> Result<Box<dyn File>, FsError> {
        let mft = self.mft();
        let record = self.record(&mft, node)?;
        let flags = field::le32(&Self::information(&mft, &record)?, 32).unwrap_or(0);
        let reparse = if flags & FLAG_REPARSE == 0 { None } else { Self::reparse(&mft, &record)? };
        if Self::kind(&record, reparse.as_ref()) != Kind::File {
            return Err(FsError::unsupported("not a regular file"));
        }
        if let Some(why) = reparse.as_ref().and_then(|reparse| reparse.hindrance(flags)) {
            return Err(FsError::unsupported(why));
        }
        self.stream(&mft, &record, UNNAMED)
    }

    fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        let mft = self.mft();
        let record = self.record(&mft, node)?;
        match Self::reparse(&mft, &record)? {
            Some(Reparse::Link(target)) => Ok(target),
            _ => Err(FsError::corrupt(record.position, "not a symbolic link")),
        }
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>, FsError> {
        /// What Windows compresses a file into: not a stream that anybody made.
        const WOF: &[u8] = b"WofCompressedData";
        let mft = self.mft();
        let record = self.record(&mft, node)?;
        let mut xattrs = Vec::new();
        for name in mft.names(&record, AttributeKind::DATA)? {
            let shown = wide::le_to_bytes(&name);
            if name.is_empty() || shown == WOF {
                continue;
            }
            let size = mft.first_content(&record, AttributeKind::DATA, &name)?.map_or(0, |content| content.size());
            let value = (size <= XATTR_BYTES_MAX).then(|| -> Option<Vec<u8>> {
                let mut value = vec![0; usize::try_from(size).ok()?];
                let read = self.stream(&mft, &record, &name).ok()?.read_at(0, &mut value).ok()?;
                (read == value.len()).then_some(value)
            });
            xattrs.push(Xattr { name: [b"user.", &*shown].concat(), value: value.flatten(), size });
        }
        Ok(xattrs)
    }
}

/// Visits the entries of a node of the index; `None` when it is broken.
fn visit_node(node: &[u8], visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Option<ControlFlow<()>> {
    let mut flow = ControlFlow::Continue(());
    let mut is_broken = false;
    each_entry(node, |reference, key| {
        if flow.is_break() {
            return;
        }
        match entry(reference, key) {
            Some(Some(entry)) => flow = visit(entry),
            Some(None) => {}
            None => is_broken = true,
        }
    })?;
    (!is_broken).then_some(flow)
}

/// One entry; `Some(None)` for one that is not shown, `None` for a broken one.
fn entry(reference: Reference, file_name: &[u8]) -> Option<Option<Entry>> {
    let (&length, &namespace) = (file_name.get(0x40)?, file_name.get(0x41)?);
    let name = file_name.get(0x42..0x42 + 2 * usize::from(length))?;
    let flags = field::le32(file_name, 0x38)?;
    if namespace == NAMESPACE_DOS || reference.number < FIRST_USER_FILE {
        return Some(None);
    }
    let kind = match (flags & FLAG_REPARSE, flags & FLAG_DIRECTORY) {
        (0, 0) => Some(Kind::File),
        (0, _) => Some(Kind::Directory),
        _ => None,
    };
    Some(Some(Entry { name: wide::le_to_bytes(name), node: node_id(reference), kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1601() {
        assert_eq!(time(116_444_736_000_000_000), Time { seconds: 0, nanoseconds: 0 });
        assert_eq!(time(116_444_736_000_000_001), Time { seconds: 0, nanoseconds: 100 });
        assert_eq!(time(0).seconds, -11_644_473_600);
    }
}
