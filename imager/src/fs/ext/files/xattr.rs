//! Extended attributes: behind the inode's fields, in a block of their own, or as values in inodes of their own.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/attributes.rst` and `fs/ext4/acl.c`. Must not know: who asks.

use super::{ExtFiles, Node};
use crate::files::{NodeId, XATTR_BYTES_MAX, Xattr};
use crate::fs::FsError;
use crate::fs::posix_acl;
use crate::read_at::field::{le16, le32};

const MAGIC: u32 = 0xea02_0000;
const INDEX_SYSTEM: u8 = 7;

/// An attribute as it lies on the volume.
pub(super) struct Found {
    index: u8,
    name: Vec<u8>,
    /// The inode that has the value, when it is large.
    value_inode: u32,
    size: u64,
    pub(super) value: Option<Vec<u8>>,
}

impl Found {
    /// What does not fit into the inode's own field, of a file that is kept there.
    pub(super) fn is_inline_data(&self) -> bool {
        self.index == INDEX_SYSTEM && self.name == b"data"
    }
}

/// All attributes of a file, as Linux would name them.
pub(super) fn all(files: &ExtFiles, node: &Node) -> Result<Vec<Xattr>, FsError> {
    let mut found = in_inode(node)?;
    let i_file_acl = u64::from(node.u32_at(0x68)) | u64::from(node.u16_at(0x76)) << 32;
    if i_file_acl != 0 {
        let place = files.geometry.bytes(i_file_acl, 1);
        if place.is_empty() {
            return Err(FsError::corrupt(
                place.start,
                format!("inode {} has attributes outside of the volume", node.id),
            ));
        }
        let block = files.volume.read_vec(place.start, usize::try_from(place.len).map_err(std::io::Error::other)?)?;
        if le32(&block, 0) != Some(MAGIC) {
            return Err(FsError::corrupt(place.start, "a block of attributes without its magic"));
        }
        found.extend(entries(block.get(32..).unwrap_or_default(), &block, place.start)?);
    }
    let mut xattrs = Vec::new();
    for found in found.into_iter().filter(|found| !found.is_inline_data()) {
        let Some(prefix) = prefix(found.index) else { continue };
        let value =
            if found.value_inode == 0 { found.value } else { large_value(files, found.value_inode, found.size) };
        let value = match found.index {
            2 | 3 => value.and_then(|value| acl(&value)),
            _ => value,
        };
        xattrs.push(Xattr { name: [prefix, &found.name].concat(), size: found.size, value });
    }
    Ok(xattrs)
}

/// Those behind the fields of the inode.
pub(super) fn in_inode(node: &Node) -> Result<Vec<Found>, FsError> {
    let area = node.raw.get(node.extra_end()..).unwrap_or_default();
    // An inode of 128 bytes has no such place.
    if node.raw.len() <= 128 || le32(area, 0) != Some(MAGIC) {
        return Ok(Vec::new());
    }
    let area = area.get(4..).unwrap_or_default();
    entries(area, area, node.inode.offset)
}

/// The entries at the start of `list`, whose values lie in `values`.
fn entries(list: &[u8], values: &[u8], place: u64) -> Result<Vec<Found>, FsError> {
    let corrupt = || FsError::corrupt(place, "broken extended attributes");
    let mut found = Vec::new();
    let mut rest = list;
    while le32(rest, 0).ok_or_else(corrupt)? != 0 {
        let (name_len, index) = (*rest.first().ok_or_else(corrupt)?, *rest.get(1).ok_or_else(corrupt)?);
        let offset = usize::from(le16(rest, 2).ok_or_else(corrupt)?);
        let value_inode = le32(rest, 4).ok_or_else(corrupt)?;
        let size = le32(rest, 8).ok_or_else(corrupt)?;
        let name_len = usize::from(name_len);
        let name = rest.get(16..16 + name_len).ok_or_else(corrupt)?.to_vec();
        let value = match value_inode {
            0 => {
                let end = offset.checked_add(usize::try_from(size).map_err(|_| corrupt())?).ok_or_else(corrupt)?;
                Some(values.get(offset..end).ok_or_else(corrupt)?.to_vec())
            }
            _ => None,
        };
        found.push(Found { index, name, value_inode, size: size.into(), value });
        rest = rest.get((16 + name_len).next_multiple_of(4)..).ok_or_else(corrupt)?;
    }
    Ok(found)
}

/// The value that another inode holds; `None` when that cannot be read.
fn large_value(files: &ExtFiles, inode: u32, size: u64) -> Option<Vec<u8>> {
    let node = files.inode(NodeId(inode.into())).ok()?;
    if node.inode.size != size || size > XATTR_BYTES_MAX {
        return None;
    }
    let mut value = vec![0; usize::try_from(size).ok()?];
    files.content(&node).ok()?.read_at(0, &mut value).ok()?;
    Some(value)
}

fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        INDEX_SYSTEM => b"system.",
        8 => b"system.richacl",
        _ => return None,
    })
}

/// An access control list: a version, then entries of four bytes, or of eight when they have an id.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    let mut rest = value.get(4..).filter(|_| le32(value, 0) == Some(1))?;
    while !rest.is_empty() {
        let (tag, permissions) = (le16(rest, 0)?, le16(rest, 2)?);
        let has_id = matches!(tag, posix_acl::USER | posix_acl::GROUP);
        let id = if has_id { le32(rest, 4)? } else { posix_acl::NO_ID };
        entries.push(posix_acl::Entry { tag, permissions, id });
        rest = rest.get(if has_id { 8 } else { 4 }..)?;
    }
    Some(posix_acl::to_xattr(&entries))
}
