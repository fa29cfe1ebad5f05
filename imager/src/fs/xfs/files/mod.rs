//! The files of XFS, versions 4 and 5.
//!
//! Source: `xfs_format.h` and `xfs_da_format.h` of the Linux kernel, and "XFS Algorithms & Data Structures". Version 5
//! seals its structures, and every seal is checked; all integers are big-endian. A log that was not written out is
//! not followed here, and a warning says so. Must not know: free space, images.

mod attributes;
mod directory;
mod inode;

use std::ops::ControlFlow;
use std::sync::Arc;

use self::inode::{Fork, Inode};
use super::checksum;
use super::log::{Log, State};
use super::superblock::{self, Superblock};
use crate::files::{
    Case, Description, Entry, File, FileSystem, Kind, LINK_BYTES_MAX, MappedFile, NodeId, Ownership, Stat, Volume,
    Xattr,
};
use crate::fs::FsError;
use crate::read_at::field::{be16, be32, be64};

/// What a version 5 block of a link's target begins with.
const LINK_MAGIC: u32 = u32::from_be_bytes(*b"XSLM");
const LINK_HEADER: usize = 56;

/// Where things are, and how inodes are laid out.
pub(super) struct Layout {
    pub(super) superblock: Superblock,
    pub(super) inode_size: u32,
    /// Power of two of the inodes in a block.
    inode_bits: u32,
    /// Power of two of the blocks in a group, rounded up.
    group_bits: u32,
    /// Bytes in a block of a directory.
    pub(super) directory_block: u64,
    /// Entries of directories say what kind of file they name.
    pub(super) has_types: bool,
    root: u64,
}

impl Layout {
    fn from_bytes(bytes: &[u8], superblock: Superblock) -> Result<Self, FsError> {
        let short = || FsError::corrupt(0, "the superblock is cut short");
        let byte = |at: usize| bytes.get(at).map(|byte| u32::from(*byte)).ok_or_else(short);
        let inode_size = u32::from(be16(bytes, 104).ok_or_else(short)?);
        if !inode_size.is_power_of_two() || !(256..=2048).contains(&inode_size) || inode_size > superblock.block_size {
            return Err(FsError::corrupt(104, format!("inodes of {inode_size} bytes")));
        }
        let directory_bits = byte(192)?;
        let directory_block = u64::from(superblock.block_size).checked_shl(directory_bits).unwrap_or(0);
        if directory_block == 0 || directory_block > 64 << 10 {
            return Err(FsError::corrupt(192, format!("directory blocks of 2^{directory_bits} blocks")));
        }
        let has_types = match superblock.checksums {
            true => be32(bytes, 216).ok_or_else(short)? & 1 != 0,
            false => {
                be16(bytes, 100).ok_or_else(short)? & 0x8000 != 0 && be32(bytes, 200).ok_or_else(short)? & 0x200 != 0
            }
        };
        Ok(Self {
            inode_bits: (superblock.block_size / inode_size).trailing_zeros(),
            group_bits: superblock.ag_blocks.next_power_of_two().trailing_zeros(),
            root: be64(bytes, 56).ok_or_else(short)?,
            superblock,
            inode_size,
            directory_block,
            has_types,
        })
    }

    /// Where an inode lies.
    fn inode_position(&self, number: u64) -> Option<u64> {
        let in_group = number & ((1u64 << (self.group_bits + self.inode_bits)) - 1);
        let group = u32::try_from(number >> (self.group_bits + self.inode_bits)).ok()?;
        let block = u32::try_from(in_group >> self.inode_bits).ok()?;
        let index = in_group & ((1 << self.inode_bits) - 1);
        self.block_position(group, block, 1).map(|start| start + index * u64::from(self.inode_size))
    }

    fn block_position(&self, group: u32, block: u32, count: u64) -> Option<u64> {
        let fits =
            group < self.superblock.ag_count && u64::from(block) + count <= u64::from(self.superblock.ag_length(group));
        fits.then(|| self.superblock.position(group, block))
    }

    /// First byte of a run of blocks, by its file system block number; `None` when it leaves its group.
    pub(super) fn position(&self, block: u64, count: u64) -> Option<u64> {
        let group = u32::try_from(block >> self.group_bits).ok()?;
        self.block_position(group, u32::try_from(block & ((1u64 << self.group_bits) - 1)).ok()?, count)
    }
}

/// An open file system.
pub(in crate::fs) struct XfsFiles {
    volume: Volume,
    layout: Layout,
    description: Description,
}

/// Opens it.
///
/// # Errors
/// [`FsError`].
pub(in crate::fs) fn open(volume: Volume) -> Result<Arc<dyn FileSystem>, FsError> {
    let len = usize::try_from(volume.size()).unwrap_or(usize::MAX).min(superblock::SECTOR_SIZE_MAX);
    let bytes = volume.read_vec(0, len)?;
    let superblock = Superblock::from_bytes(&bytes)?;
    if superblock.size() > volume.size() {
        let what = format!("the file system claims {} bytes, the volume has {}", superblock.size(), volume.size());
        return Err(FsError::corrupt(8, what));
    }
    let mut warnings = Vec::new();
    let state = superblock.log.map(|place| Log::new(&*volume, &superblock, place).state());
    match state {
        Some(Ok(State::Clean)) => {}
        Some(Err(FsError::Io(error))) => return Err(error.into()),
        None => warnings.push("its log is on another device: files of the last moments may be missing or old".to_owned()),
        Some(_) => warnings.push(
            "not unmounted, and its log is not followed here: files of the last moments may be missing or old; a mount of the partition shows them".to_owned(),
        ),
    }
    let description = Description {
        kind: "xfs".to_owned(),
        label: superblock.label.clone(),
        block_size: superblock.block_size,
        size: superblock.size(),
        case: Case::Differs,
        ownership: Ownership::Unix,
        warnings,
    };
    let files = XfsFiles { layout: Layout::from_bytes(&bytes, superblock)?, volume, description };
    if files.inode(files.root())?.kind != Kind::Directory {
        return Err(FsError::corrupt(56, "the root is no directory"));
    }
    Ok(Arc::new(files))
}

impl XfsFiles {
    fn inode(&self, node: NodeId) -> Result<Inode, FsError> {
        Inode::read(&*self.volume, &self.layout, node.0)
    }

    /// The content of a fork.
    fn mapped(&self, inode: &Inode, fork: &Fork, size: u64) -> Result<MappedFile, FsError> {
        let pieces = inode.pieces(&*self.volume, &self.layout, fork)?;
        Ok(MappedFile::new(Arc::clone(&self.volume), size, pieces))
    }
}

impl FileSystem for XfsFiles {
    fn description(&self) -> &Description {
        &self.description
    }

    fn root(&self) -> NodeId {
        NodeId(self.layout.root)
    }

    fn stat(&self, node: NodeId) -> Result<Stat, FsError> {
        let inode = self.inode(node)?;
        let is_device = matches!(inode.kind, Kind::CharacterDevice | Kind::BlockDevice);
        Ok(Stat {
            node,
            kind: inode.kind,
            size: if is_device { 0 } else { inode.size },
            stored: inode.blocks.saturating_mul(self.layout.superblock.block_size.into()),
            permissions: inode.permissions,
            uid: inode.uid,
            gid: inode.gid,
            links: inode.links,
            device: if is_device { inode.device() } else { (0, 0) },
            accessed: inode.accessed,
            modified: inode.modified,
            changed: inode.changed,
            created: inode.created,
        })
    }

    fn list(&self, directory: NodeId, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let inode = self.inode(directory)?;
        directory::list(self, &inode, visit)
    }

    fn open(&self, node: NodeId) -> Result<Box<dyn File>, FsError> {
        let inode = self.inode(node)?;
        if inode.kind != Kind::File {
            return Err(FsError::unsupported("not a regular file"));
        }
        if inode.is_realtime {
            return Err(FsError::unsupported("its content is on the realtime device, which is another disk"));
        }
        Ok(Box::new(self.mapped(&inode, &inode.data, inode.size)?))
    }

    fn read_link(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(node)?;
        let corrupt = |what: &str| FsError::corrupt(inode.position, what.to_owned());
        if inode.kind != Kind::Symlink || inode.size > LINK_BYTES_MAX {
            return Err(corrupt("not a symbolic link"));
        }
        let size = usize::try_from(inode.size).map_err(std::io::Error::other)?;
        if let Some(bytes) = inode.local(&inode.data) {
            return bytes.get(..size).map(<[u8]>::to_vec).ok_or_else(|| corrupt("a link that is cut short"));
        }
        let mut target = Vec::new();
        for piece in inode.pieces(&*self.volume, &self.layout, &inode.data)? {
            let len = piece.len.min(2 * LINK_BYTES_MAX);
            let block = self.volume.read_vec(piece.place, usize::try_from(len).map_err(std::io::Error::other)?)?;
            let content = match self.layout.superblock.checksums {
                false => &block[..],
                true => {
                    let is_sound = be32(&block, 0) == Some(LINK_MAGIC)
                        && be64(&block, 32) == Some(inode.number)
                        && checksum::matches(&block, 12);
                    block.get(LINK_HEADER..).filter(|_| is_sound).ok_or_else(|| corrupt("a link's block is none"))?
                }
            };
            target.extend(content.iter().take(size - target.len().min(size)));
        }
        if target.len() != size {
            return Err(corrupt("a link that is cut short"));
        }
        Ok(target)
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>, FsError> {
        attributes::all(self, &self.inode(node)?)
    }
}
