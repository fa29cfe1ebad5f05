//! The files of ext2, ext3 and ext4.
//!
//! What the journal still has to write is laid over the volume, so that files are read as the next mount would show
//! them. Source: the kernel's `Documentation/filesystems/ext4`. Must not know: block bitmaps, images.

mod directory;
mod overlay;
mod xattr;

use std::ops::ControlFlow;
use std::sync::Arc;

use self::overlay::Overlay;
use super::groups::GroupTable;
use super::inode::{COMPRESSED, ENCRYPTED, EXTENTS, INLINE_DATA, Inode, RunState};
use super::replay::Replay;
use super::superblock::Superblock;
use super::{check_not_taken_over, check_replayed_superblock, dirty};
use crate::files::{
    BytesFile, Case, Description, Entry, File, FileSystem, Kind, LINK_BYTES_MAX, MappedFile, NodeId, Ownership, Piece,
    Stat, Time, Volume, Xattr,
};
use crate::fs::FsError;
use crate::fs::ext::geometry::Geometry;
use crate::read_at::field::{le16, le32};

const ROOT_INODE: u32 = 2;
/// `EXT4_HUGE_FILE_FL`: `i_blocks` counts blocks of the file system.
const HUGE_FILE: u32 = 0x4_0000;
/// Longest directory that is read: some ten million names.
const DIRECTORY_BYTES_MAX: u64 = 4 << 30;
/// A file that is kept whole in its inode.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// An open file system.
pub(in crate::fs) struct ExtFiles {
    volume: Volume,
    geometry: Geometry,
    /// First block of each group's inode table; `None` where the descriptor is damaged.
    inode_tables: Vec<Option<u64>>,
    description: Description,
}

/// Opens it.
///
/// # Errors
/// [`FsError`].
pub(in crate::fs) fn open(volume: Volume) -> Result<Arc<dyn FileSystem>, FsError> {
    check_not_taken_over(&*volume)?;
    let superblock = Superblock::read(&*volume)?;
    let geometry = superblock.geometry.clone();
    let mut warnings: Vec<String> = Vec::new();
    let volume = replayed(volume, &superblock, &mut warnings)?;
    let groups = GroupTable::read(&*volume, &geometry)?;
    let mut inode_tables = Vec::new();
    for number in 0..geometry.groups() {
        let group = groups.group(number)?;
        let end = group.inode_table.checked_add(geometry.inode_table_blocks());
        let is_sound = groups.checksum_holds(number)
            && group.inode_table > u64::from(geometry.first_data_block)
            && end.is_some_and(|end| end <= geometry.blocks_count);
        inode_tables.push(is_sound.then_some(group.inode_table));
    }
    drop(groups);
    let damaged = inode_tables.iter().filter(|table| table.is_none()).count();
    if damaged > 0 {
        warnings.push(format!("the descriptors of {damaged} block groups are damaged; their files cannot be read"));
    }
    let description = Description {
        kind: superblock.kind.to_owned(),
        label: superblock.label.clone(),
        block_size: geometry.block_size(),
        size: geometry.size(),
        case: Case::Differs,
        ownership: Ownership::Unix,
        warnings,
    };
    let files = ExtFiles { volume, geometry, inode_tables, description };
    if files.inode(NodeId(ROOT_INODE.into()))?.kind()? != Kind::Directory {
        return Err(FsError::corrupt(0, "the root is no directory"));
    }
    Ok(Arc::new(files))
}

/// The volume as it is when its journal has been replayed; as it lies there, with a warning, when that cannot be done.
fn replayed(volume: Volume, superblock: &Superblock, warnings: &mut Vec<String>) -> Result<Volume, FsError> {
    let attempt = || -> Result<_, FsError> {
        let groups = GroupTable::read(&*volume, &superblock.geometry)?;
        let replay = Replay::read(&*volume, superblock, &groups)?;
        if let Some(block) = replay.block(superblock.geometry.superblock_block())? {
            check_replayed_superblock(superblock, &block)?;
        }
        replay.places()
    };
    match attempt() {
        Ok(places) => {
            // The journal mends what is only late.
            if let Some(why) = dirty(superblock).filter(|_| superblock.state.errors || !superblock.state.clean) {
                warnings.push(why.to_owned());
            }
            if places.is_empty() {
                return Ok(volume);
            }
            warnings.push("not cleanly unmounted: its journal was taken into account".to_owned());
            Ok(Arc::new(Overlay::new(volume, superblock.geometry.block_size().into(), places)))
        }
        Err(FsError::Io(error)) => Err(FsError::Io(error)),
        Err(error) => {
            warnings.push(format!(
                "not cleanly unmounted, and its journal could not be followed ({error}): files of the last moments may be missing or old"
            ));
            Ok(volume)
        }
    }
}

/// An inode, and its bytes.
struct Node {
    id: u32,
    inode: Inode,
    raw: Vec<u8>,
}

impl Node {
    fn kind(&self) -> Result<Kind, FsError> {
        let what = || FsError::corrupt(self.inode.offset, format!("inode {} has no type", self.id));
        Kind::from_mode(self.inode.mode.into()).ok_or_else(what)
    }

    fn u16_at(&self, at: usize) -> u32 {
        le16(&self.raw, at).map_or(0, u32::from)
    }

    fn u32_at(&self, at: usize) -> u32 {
        le32(&self.raw, at).unwrap_or(0)
    }

    /// Where the extra fields end: those of inodes larger than 128 bytes.
    fn extra_end(&self) -> usize {
        if self.raw.len() <= 128 { 128 } else { 128 + usize::from(le16(&self.raw, 128).unwrap_or(0)) }
    }

    fn time(&self, at: usize, extra_at: usize) -> Time {
        let seconds = i64::from(self.u32_at(at).cast_signed());
        if self.extra_end() < extra_at + 4 {
            return Time { seconds, nanoseconds: 0 };
        }
        let extra = self.u32_at(extra_at);
        Time { seconds: seconds + (i64::from(extra & 3) << 32), nanoseconds: (extra >> 2).min(999_999_999) }
    }

    fn device(&self) -> (u32, u32) {
        match (self.u32_at(0x28), self.u32_at(0x2c)) {
            (0, new) => ((new & 0xf_ff00) >> 8, (new & 0xff) | (new >> 12 & 0xf_ff00)),
            (old, _) => (old >> 8 & 0xff, old & 0xff),
        }
    }

    fn has(&self, flag: u32) -> bool {
        self.inode.flags & flag != 0
    }
}

impl ExtFiles {
    fn inode(&self, node: NodeId) -> Result<Node, FsError> {
        let no_such = || FsError::corrupt(0, format!("there is no inode {}", node.0));
        let id = u32::try_from(node.0).ok().filter(|id| (1..=self.geometry.inodes_count).contains(id));
        let id = id.ok_or_else(no_such)?;
        let group = usize::try_from((id - 1) / self.geometry.inodes_per_group.max(1)).map_err(|_| no_such())?;
        let table = self.inode_tables.get(group).copied().ok_or_else(no_such)?;
        let table = table.ok_or_else(|| {
            FsError::corrupt(0, format!("the descriptor of block group {group} is damaged, which has inode {id}"))
        })?;
        let (inode, raw) = Inode::read_raw(&*self.volume, &self.geometry, table, id)?;
        Ok(Node { id, inode, raw })
    }

    /// An inode that something refers to: one that was freed is none.
    fn live(&self, node: NodeId) -> Result<Node, FsError> {
        let node = self.inode(node)?;
        if node.inode.links == 0 {
            return Err(FsError::corrupt(node.inode.offset, format!("inode {} is free, and has a name", node.id)));
        }
        Ok(node)
    }

    /// The content of any inode.
    fn content(&self, node: &Node) -> Result<Box<dyn File>, FsError> {
        if node.has(ENCRYPTED) {
            return Err(FsError::unsupported("encrypted (fscrypt), and its key is not in the image"));
        }
        if node.has(COMPRESSED) {
            return Err(FsError::unsupported("compressed in a way that only patched kernels know"));
        }
        if node.has(INLINE_DATA) {
            return Ok(Box::new(BytesFile(self.inline(node)?)));
        }
        let block_size = u64::from(self.geometry.block_size());
        let blocks = node.inode.blocks(&*self.volume, &self.geometry)?;
        let written = blocks.runs.iter().filter(|run| run.state == RunState::Written);
        let pieces = written.map(|run| Piece {
            at: run.logical.saturating_mul(block_size),
            len: run.len.saturating_mul(block_size),
            place: run.physical.saturating_mul(block_size),
        });
        Ok(Box::new(MappedFile::new(Arc::clone(&self.volume), node.inode.size, pieces.collect())))
    }

    /// What lies in the inode: 60 bytes, and the rest in an attribute.
    fn inline(&self, node: &Node) -> Result<Vec<u8>, FsError> {
        let corrupt = || FsError::corrupt(node.inode.offset, format!("inode {} is longer than it can be", node.id));
        if node.inode.size > INLINE_BYTES_MAX {
            return Err(corrupt());
        }
        let mut bytes = node.inode.i_block.to_vec();
        bytes.extend(
            xattr::in_inode(node)?
                .into_iter()
                .find(|found| found.is_inline_data())
                .and_then(|found| found.value)
                .unwrap_or_default(),
        );
        let size = usize::try_from(node.inode.size).map_err(|_| corrupt())?;
        if size > bytes.len() {
            return Err(corrupt());
        }
        bytes.truncate(size);
        Ok(bytes)
    }
}

impl FileSystem for ExtFiles {
    fn description(&self) -> &Description {
        &self.description
    }

    fn root(&self) -> NodeId {
        NodeId(ROOT_INODE.into())
    }

    fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
        let node = self.live(node)?;
        let kind = node.kind()?;
        let blocks = u64::from(node.u32_at(0x1c)) | u64::from(node.u16_at(0x74)) << 32;
        let unit = if node.has(HUGE_FILE) { self.geometry.block_size().into() } else { 512 };
        let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
        Ok(Stat {
            node: NodeId(node.id.into()),
            kind,
            size: if is_device { 0 } else { node.inode.size },
            stored: blocks.saturating_mul(unit),
            permissions: u32::from(node.inode.mode) & 0o7777,
            uid: node.u16_at(0x2) | node.u16_at(0x78) << 16,
            gid: node.u16_at(0x18) | node.u16_at(0x7a) << 16,
            links: node.inode.links.into(),
            device: if is_device { node.device() } else { (0, 0) },
            accessed: node.time(0x8, 0x8c),
            modified: node.time(0x10, 0x88),
            changed: node.time(0xc, 0x84),
            created: (node.extra_end() >= 0x98).then(|| node.time(0x90, 0x94)),
        })
    }

    fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let node = self.live(directory)?;
        if node.kind()? != Kind::Directory {
            return Err(FsError::corrupt(node.inode.offset, format!("inode {} is no directory", node.id)));
        }
        let encrypted = node.has(ENCRYPTED);
        if node.has(INLINE_DATA) {
            let bytes = self.inline(&node)?;
            // The first four bytes are the parent's number.
            let (first, rest) = bytes.split_at(bytes.len().min(60));
            for part in [first.get(4..).unwrap_or_default(), rest] {
                let place = node.inode.offset;
                if directory::entries(part, place, encrypted, visit)?.is_break() {
                    return Ok(());
                }
            }
            return Ok(());
        }
        if node.inode.size > DIRECTORY_BYTES_MAX {
            return Err(FsError::corrupt(node.inode.offset, format!("a directory of {} bytes", node.inode.size)));
        }
        let block_size = u64::from(self.geometry.block_size());
        let blocks = node.inode.blocks(&*self.volume, &self.geometry)?;
        let count = node.inode.size / block_size;
        for run in &blocks.runs {
            for index in 0..run.len {
                if run.logical + index >= count {
                    return Ok(());
                }
                let place = self.geometry.bytes(run.physical + index, 1);
                let len = usize::try_from(place.len).map_err(std::io::Error::other)?;
                let block = self.volume.read_vec(place.start, len)?;
                if !directory::checksum_holds(&block, node.inode.seed) {
                    return Err(FsError::corrupt(place.start, "a directory block does not match its checksum"));
                }
                if directory::entries(&block, place.start, encrypted, visit)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn open(&self, node: NodeId) -> Result<Box<dyn File>, FsError> {
        let node = self.live(node)?;
        if node.kind()? != Kind::File {
            return Err(FsError::unsupported("not a regular file"));
        }
        self.content(&node)
    }

    fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        let node = self.live(node)?;
        if node.kind()? != Kind::Symlink || node.inode.size > LINK_BYTES_MAX {
            return Err(FsError::corrupt(node.inode.offset, format!("inode {} is no symbolic link", node.id)));
        }
        if node.has(ENCRYPTED) {
            return Err(FsError::unsupported("encrypted (fscrypt), and its key is not in the image"));
        }
        let size = usize::try_from(node.inode.size).map_err(std::io::Error::other)?;
        if size < node.inode.i_block.len() && !node.has(EXTENTS | INLINE_DATA) {
            return Ok(node.inode.i_block.get(..size).unwrap_or_default().to_vec());
        }
        let mut target = vec![0; size];
        self.content(&node)?.read_at(0, &mut target)?;
        Ok(target)
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>, FsError> {
        xattr::all(self, &self.live(node)?)
    }
}
