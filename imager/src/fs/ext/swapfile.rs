//! Swap files in the root directory: the user may leave their content out.
//!
//! Only the names that distributions give them, only regular files with a sound swap header, and only on
//! a file system at rest. The header page stays in use, so that the restored file can be switched on.
//! Whatever is doubtful is simply no spare file. Must not know: block groups, the journal.

#![forbid(unsafe_code)]

use super::groups::GroupTable;
use super::inode::{FileBlocks, Inode};
use super::superblock::Superblock;
use crate::extent::{Extent, ExtentSet};
use crate::fs::swap::{Content, SwapHeader};
use crate::fs::{FileSystem, FsError, Note, SpareFile, SpareKind};
use crate::read_at::ReadAt;
use crate::read_at::field::{le16, le32};

const ROOT_INODE: u32 = 2;
const NAMES: [&str; 2] = ["swapfile", "swap.img"];
/// A root directory that is larger is not searched.
const DIRECTORY_BYTES_MAX: u64 = 4 << 20;
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// Notes the swap files of a file system, and whether a system is hibernated in one.
pub(super) fn add_swap_files(
    volume: &dyn ReadAt,
    superblock: &Superblock,
    groups: &GroupTable,
    found: &mut FileSystem,
) {
    // Blocks that several files share are not one file's to leave out.
    if superblock.shared_blocks {
        return;
    }
    let search = Search { volume, superblock, groups };
    // A file system whose root cannot be read has no swap file that could be left out safely.
    for (name, swap) in search.swap_files().unwrap_or_default() {
        let path = format!("/{name}");
        match swap {
            Swap::Paging(extents) if extents.iter().all(|extent| found.used.contains(extent)) => {
                found.spare_files.push(SpareFile { kind: SpareKind::Paging, path, extents });
            }
            Swap::Paging(_) => {}
            Swap::Hibernated(image) => found.notes.push(Note::Hibernated { detail: format!("{image} in {path}") }),
        }
    }
}

enum Swap {
    Paging(ExtentSet),
    Hibernated(&'static str),
}

struct Search<'a> {
    volume: &'a dyn ReadAt,
    superblock: &'a Superblock,
    groups: &'a GroupTable<'a>,
}

impl Search<'_> {
    fn swap_files(&self) -> Result<Vec<(&'static str, Swap)>, FsError> {
        let geometry = &self.superblock.geometry;
        let mut swap_files = Vec::new();
        for (name, number) in self.root_entries()? {
            let inode = Inode::read(self.volume, self.groups, geometry, number)?;
            if inode.is_plain_file() && inode.links == 1 {
                let blocks = inode.blocks(self.volume, geometry)?;
                swap_files.extend(self.swap_file(&inode, &blocks)?.map(|swap| (name, swap)));
            }
        }
        Ok(swap_files)
    }

    /// The inodes that the names of swap files stand for. A hashed directory reads as a plain one: its
    /// index blocks look like empty entries.
    fn root_entries(&self) -> Result<Vec<(&'static str, u32)>, FsError> {
        let geometry = &self.superblock.geometry;
        let root = Inode::read(self.volume, self.groups, geometry, ROOT_INODE)?;
        if !root.is_plain_directory() || root.size > DIRECTORY_BYTES_MAX {
            return Ok(Vec::new());
        }
        let blocks = root.blocks(self.volume, geometry)?;
        let mut entries = Vec::new();
        for index in 0..root.size / u64::from(geometry.block_size()) {
            let Some(physical) = blocks.physical(index) else { continue };
            let place = geometry.bytes(physical, 1);
            let block =
                self.volume.read_vec(place.start, usize::try_from(place.len).map_err(std::io::Error::other)?)?;
            entries.extend(directory_entries(&block));
        }
        Ok(entries)
    }

    fn swap_file(&self, inode: &Inode, blocks: &FileBlocks) -> Result<Option<Swap>, FsError> {
        let block_size = self.superblock.geometry.block_size();
        let mut start = Vec::new();
        for extent in blocks.extents(Extent::new(0, inode.size.min(HEADER_BYTES_MAX)), block_size) {
            let len = usize::try_from(extent.len).map_err(std::io::Error::other)?;
            start.extend(self.volume.read_vec(extent.start, len)?);
        }
        let Some(header) = SwapHeader::find(&start) else { return Ok(None) };
        Ok(match header.content {
            Content::Hibernated(image) => Some(Swap::Hibernated(image)),
            Content::Paging { size } if size <= inode.size => {
                let mut extents = blocks.extents(Extent::between(header.page_size.into(), size), block_size);
                extents.sort_unstable();
                Some(Swap::Paging(extents.into_iter().collect()))
            }
            Content::Paging { .. } | Content::Strange(_) => None,
        })
    }
}

/// The swap files named in one block of a directory.
fn directory_entries(block: &[u8]) -> Vec<(&'static str, u32)> {
    let mut entries = Vec::new();
    let mut rest = block;
    while let (Some(inode), Some(rec_len), Some(name_len)) = (le32(rest, 0), le16(rest, 4), rest.get(6)) {
        let name = rest.get(8..8 + usize::from(*name_len)).unwrap_or_default();
        if let Some(known) = NAMES.into_iter().find(|known| known.as_bytes() == name && inode != 0) {
            entries.push((known, inode));
        }
        // A block of 64 KiB does not fit the field: 0 and 65535 stand for it.
        rest = match rec_len {
            0 | u16::MAX => &[],
            len => rest.get(usize::from(len).max(8)..).unwrap_or_default(),
        };
    }
    entries
}
