//! Blocks of directories.
//!
//! A hashed directory reads as a plain one: its index blocks look like empty entries. Source: the kernel's
//! `Documentation/filesystems/ext4/directory.rst`. Must not know: inodes.

use std::ops::ControlFlow;

use crate::files::{Entry, Kind, NodeId};
use crate::fs::FsError;
use crate::fs::ext::checksum::crc32c;
use crate::read_at::field::{le16, le32};

/// Type of the entry at the end of a block that holds its checksum.
const TAIL_TYPE: u8 = 0xde;

/// Visits the entries of a block that lies at byte `place` of the volume.
pub(super) fn entries(
    block: &[u8],
    place: u64,
    encrypted: bool,
    visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, FsError> {
    let mut at = 0;
    while at + 8 <= block.len() {
        let corrupt = || FsError::corrupt(place.saturating_add(at as u64), "a broken directory entry");
        let rest = block.get(at..).unwrap_or_default();
        let (inode, rec_len) = (le32(rest, 0).ok_or_else(corrupt)?, le16(rest, 4).ok_or_else(corrupt)?);
        let (name_len, file_type) = (*rest.get(6).ok_or_else(corrupt)?, *rest.get(7).ok_or_else(corrupt)?);
        let len = record_len(rec_len, rest.len());
        let name = rest.get(8..8 + usize::from(name_len)).filter(|name| len >= 8 + name.len() && len <= rest.len());
        let name = name.filter(|_| len.is_multiple_of(4)).ok_or_else(corrupt)?;
        if inode != 0 && !matches!(name, b"" | b"." | b"..") {
            let name = if encrypted { stand_in(name) } else { name.to_vec() };
            let entry = Entry { name, node: NodeId(inode.into()), kind: kind(file_type) };
            if visit(entry).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        at += len;
    }
    Ok(ControlFlow::Continue(()))
}

/// The name that stands for an encrypted one: the same for the same, and one that can be written anywhere.
fn stand_in(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    format!("encrypted-{}", hash.get(..32).unwrap_or_default()).into_bytes()
}

/// Before `filetype` the byte is the length's upper half, 0.
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

/// Length of an entry. One of 64 KiB does not fit the field: 0 and 65535 stand for it.
fn record_len(rec_len: u16, rest: usize) -> usize {
    match usize::from(rec_len) {
        0 | 0xffff if rest == 64 << 10 => rest,
        len => (len & 0xfffc) | (len & 3) << 16,
    }
}

/// Whether a block belongs to the index of a hashed directory: it looks like one whose entries leave no room for the
/// checksum of plain ones, though the end may still look like that one, from the time before the index.
fn is_index(block: &[u8]) -> bool {
    let len_at = |at: usize| le16(block, at + 4).map(|len| record_len(len, block.len() - at));
    let is_node = le32(block, 0) == Some(0) && len_at(0) == Some(block.len());
    let is_root = len_at(0) == Some(12) && len_at(12) == block.len().checked_sub(12);
    is_node || is_root
}

/// Whether a block matches the checksum at its end; index blocks, which have theirs elsewhere, are not checked.
pub(super) fn checksum_holds(block: &[u8], seed: Option<u32>) -> bool {
    let Some(seed) = seed.filter(|_| block.len() > 24 && !is_index(block)) else { return true };
    let Some((covered, tail)) = block.split_last_chunk::<12>() else { return true };
    let is_tail = tail.starts_with(&[0, 0, 0, 0, 12, 0, 0, TAIL_TYPE]);
    !is_tail || le32(tail, 8) == Some(crc32c(seed, &[covered]))
}
