//! Directories: in the inode, in one block, or in many with an index that is not needed to list them.
//!
//! Must not know: how blocks are found.

use std::ops::ControlFlow;

use super::inode::Inode;
use super::{XfsFiles, checksum};
use crate::files::{Entry, File, Kind, NodeId};
use crate::fs::FsError;
use crate::read_at::field::{be16, be32, be64};

/// From here on a directory has its index.
const INDEX_START: u64 = 32 << 30;
const FREE_TAG: u16 = 0xffff;

/// Visits the entries of a directory.
pub(super) fn list(
    files: &XfsFiles,
    inode: &Inode,
    visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), FsError> {
    let corrupt = |what: &str| FsError::corrupt(inode.position, format!("directory {}: {what}", inode.number));
    if inode.kind != Kind::Directory {
        return Err(corrupt("it is none"));
    }
    if let Some(bytes) = inode.local(&inode.data) {
        return short_form(bytes, files.layout.has_types, visit).ok_or_else(|| corrupt("broken entries"));
    }
    let content = files.mapped(inode, &inode.data, INDEX_START)?;
    let block_size = files.layout.directory_block;
    let mut block = vec![0; usize::try_from(block_size).map_err(std::io::Error::other)?];
    let mut at = 0;
    while let Some(data) = content.next_data(at) {
        let start = data.start / block_size * block_size;
        content.read_at(start, &mut block)?;
        let bad = |what: &str| corrupt(&format!("its block at byte {start}: {what}"));
        let range =
            entries_of(&block, inode.number, files.layout.superblock.checksums).ok_or_else(|| bad("is none"))?;
        let entries = block.get(range).ok_or_else(|| bad("is none"))?;
        if visit_block(entries, files.layout.has_types, visit).ok_or_else(|| bad("broken entries"))?.is_break() {
            return Ok(());
        }
        at = start + block_size;
    }
    Ok(())
}

/// Where in a block its entries are; `None` when it is no block of this directory.
fn entries_of(block: &[u8], owner: u64, has_checksums: bool) -> Option<std::ops::Range<usize>> {
    let magic = be32(block, 0)?.to_be_bytes();
    let (start, is_single) = match (has_checksums, &magic) {
        (false, b"XD2D") => (16, false),
        (false, b"XD2B") => (16, true),
        (true, b"XDD3") => (64, false),
        (true, b"XDB3") => (64, true),
        _ => return None,
    };
    if has_checksums && (be64(block, 40)? != owner || !checksum::matches(block, 4)) {
        return None;
    }
    // A directory of a single block has its index at the end of it.
    let end = if is_single {
        let tail = block.len().checked_sub(8)?;
        let count = usize::try_from(be32(block, tail)?).ok()?;
        tail.checked_sub(count.checked_mul(8)?)?
    } else {
        block.len()
    };
    (start <= end).then_some(start..end)
}

fn visit_block(
    mut rest: &[u8],
    has_types: bool,
    visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Option<ControlFlow<()>> {
    while !rest.is_empty() {
        if be16(rest, 0)? == FREE_TAG {
            let len = usize::from(be16(rest, 2)?);
            rest = rest.get(len..).filter(|_| len >= 8)?;
            continue;
        }
        let node = be64(rest, 0)?;
        let name_len = usize::from(*rest.get(8)?);
        let name = rest.get(9..9 + name_len).filter(|name| !name.is_empty())?;
        let kind = if has_types { kind(*rest.get(9 + name_len)?) } else { None };
        let len = (9 + name_len + usize::from(has_types) + 2).next_multiple_of(8);
        if !matches!(name, b"." | b"..") && visit(Entry { name: name.to_vec(), node: NodeId(node), kind }).is_break() {
            return Some(ControlFlow::Break(()));
        }
        rest = rest.get(len..)?;
    }
    Some(ControlFlow::Continue(()))
}

/// A header with the parent's number, then names with numbers of four or eight bytes.
fn short_form(bytes: &[u8], has_types: bool, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Option<()> {
    let (count, wide) = (*bytes.first()?, *bytes.get(1)? > 0);
    let number_len = if wide { 8 } else { 4 };
    let count = if wide && count == 0 { bytes.get(1).copied()? } else { count };
    let mut rest = bytes.get(2 + number_len..)?;
    for _ in 0..count {
        let name_len = usize::from(*rest.first()?);
        let name = rest.get(3..3 + name_len).filter(|name| !name.is_empty())?;
        let mut at = 3 + name_len;
        let kind = if has_types { kind(*rest.get(at)?) } else { None };
        at += usize::from(has_types);
        let node = if wide { be64(rest, at)? } else { be32(rest, at)?.into() };
        if visit(Entry { name: name.to_vec(), node: NodeId(node), kind }).is_break() {
            return Some(());
        }
        rest = rest.get(at + number_len..)?;
    }
    Some(())
}

fn kind(file_type: u8) -> Option<Kind> {
    Some(match file_type {
        1 => Kind::File,
        2 => Kind::Directory,
        3 => Kind::CharacterDevice,
        4 => Kind::BlockDevice,
        5 => Kind::Fifo,
        6 => Kind::Socket,
        7 => Kind::Symlink,
        _ => return None,
    })
}
