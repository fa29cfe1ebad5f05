//! Extended attributes: in the inode, in one leaf, or in many below an index.
//!
//! Must not know: how blocks are found.

use super::inode::{Fork, Inode};
use super::{XfsFiles, checksum};
use crate::files::{File, MappedFile, XATTR_BYTES_MAX, Xattr};
use crate::fs::{FsError, posix_acl};
use crate::read_at::field::{be16, be32, be64};

const FLAG_LOCAL: u8 = 0x01;
const FLAG_ROOT: u8 = 0x02;
const FLAG_SECURE: u8 = 0x04;
const FLAG_PARENT: u8 = 0x08;
const FLAG_INCOMPLETE: u8 = 0x80;
const LEAF_4: u16 = 0xfbee;
const NODE_4: u16 = 0xfebe;
const LEAF_5: u16 = 0x3bee;
const NODE_5: u16 = 0x3ebe;
const REMOTE_MAGIC: u32 = u32::from_be_bytes(*b"XARM");
const REMOTE_HEADER: usize = 56;
const DEPTH_MAX: usize = 6;
/// Blocks of leaves that are read; a file with more names in it is nobody's.
const LEAVES_MAX: usize = 1 << 14;

/// All attributes of a file, as Linux would name them.
pub(super) fn all(files: &XfsFiles, inode: &Inode) -> Result<Vec<Xattr>, FsError> {
    let Some(fork) = &inode.attributes else { return Ok(Vec::new()) };
    let corrupt = || FsError::corrupt(inode.position, format!("inode {}: broken extended attributes", inode.number));
    let mut found = Vec::new();
    if let Some(bytes) = inode.local(fork) {
        short_form(bytes, &mut found).ok_or_else(corrupt)?;
        return Ok(found);
    }
    let reader = Reader::new(files, inode, fork)?;
    let Some(mut next) = reader.first_leaf()? else { return Ok(found) };
    for _ in 0..LEAVES_MAX {
        let leaf = reader.block(next)?;
        reader.leaf(&leaf, &mut found).ok_or_else(corrupt)?;
        next = be32(&leaf, 0).ok_or_else(corrupt)?;
        if next == 0 {
            return Ok(found);
        }
    }
    Err(corrupt())
}

fn add(found: &mut Vec<Xattr>, flags: u8, name: &[u8], size: u64, value: Option<Vec<u8>>) {
    if flags & (FLAG_PARENT | FLAG_INCOMPLETE) != 0 {
        return;
    }
    let acl_name: Option<&[u8]> = match name {
        b"SGI_ACL_FILE" => Some(b"system.posix_acl_access"),
        b"SGI_ACL_DEFAULT" => Some(b"system.posix_acl_default"),
        _ => None,
    };
    if let (true, Some(acl_name)) = (flags & FLAG_ROOT != 0, acl_name) {
        let value = value.as_deref().and_then(acl);
        found.push(Xattr { name: acl_name.to_vec(), size, value });
        return;
    }
    let space: &[u8] = match flags {
        flags if flags & FLAG_ROOT != 0 => b"trusted.",
        flags if flags & FLAG_SECURE != 0 => b"security.",
        _ => b"user.",
    };
    found.push(Xattr { name: [space, name].concat(), size, value });
}

/// An access control list: a count, then entries of twelve bytes.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    let count = usize::try_from(be32(value, 0)?).ok()?;
    let records = value.get(4..4usize.checked_add(count.checked_mul(12)?)?)?;
    let entries: Option<Vec<_>> = records
        .chunks_exact(12)
        .map(|record| {
            let tag = u16::try_from(be32(record, 0)?).ok()?;
            let has_id = matches!(tag, posix_acl::USER | posix_acl::GROUP);
            let id = if has_id { be32(record, 4)? } else { posix_acl::NO_ID };
            Some(posix_acl::Entry { tag, permissions: be16(record, 8)?, id })
        })
        .collect();
    entries.map(|entries| posix_acl::to_xattr(&entries))
}

fn short_form(bytes: &[u8], found: &mut Vec<Xattr>) -> Option<()> {
    let count = *bytes.get(2)?;
    let mut rest = bytes.get(4..)?;
    for _ in 0..count {
        let (name_len, value_len) = (usize::from(*rest.first()?), usize::from(*rest.get(1)?));
        let flags = *rest.get(2)?;
        let name = rest.get(3..3 + name_len)?;
        let value = rest.get(3 + name_len..3 + name_len + value_len)?;
        add(found, flags, name, value_len as u64, Some(value.to_vec()));
        rest = rest.get(3 + name_len + value_len..)?;
    }
    Some(())
}

struct Reader<'a> {
    content: MappedFile,
    inode: &'a Inode,
    block_size: u64,
    has_checksums: bool,
}

impl<'a> Reader<'a> {
    fn new(files: &XfsFiles, inode: &'a Inode, fork: &Fork) -> Result<Self, FsError> {
        Ok(Self {
            content: files.mapped(inode, fork, 1 << 40)?,
            inode,
            block_size: files.layout.superblock.block_size.into(),
            has_checksums: files.layout.superblock.checksums,
        })
    }

    /// A block of the index or a leaf, checked.
    fn block(&self, number: u32) -> Result<Vec<u8>, FsError> {
        let mut block = vec![0; usize::try_from(self.block_size).map_err(std::io::Error::other)?];
        self.content.read_at(u64::from(number) * self.block_size, &mut block)?;
        let is_known = match (self.has_checksums, be16(&block, 8)) {
            (false, Some(LEAF_4 | NODE_4)) => true,
            (true, Some(LEAF_5 | NODE_5)) => {
                be64(&block, 48) == Some(self.inode.number) && checksum::matches(&block, 12)
            }
            _ => false,
        };
        if !is_known {
            let what = format!("inode {}: block {number} of its attributes is none", self.inode.number);
            return Err(FsError::corrupt(self.inode.position, what));
        }
        Ok(block)
    }

    /// Goes down to the leaf that comes first; `None` when there is none.
    fn first_leaf(&self) -> Result<Option<u32>, FsError> {
        if self.content.next_data(0).is_none() {
            return Ok(None);
        }
        let mut number = 0;
        for _ in 0..DEPTH_MAX {
            let block = self.block(number)?;
            if matches!(be16(&block, 8), Some(LEAF_4 | LEAF_5)) {
                return Ok(Some(number));
            }
            // The first entry: a hash, and the block below.
            let entries = if self.has_checksums { 64 } else { 16 };
            number = be32(&block, entries + 4).unwrap_or(0);
        }
        let what = format!("inode {}: the index of its attributes is broken", self.inode.number);
        Err(FsError::corrupt(self.inode.position, what))
    }

    fn leaf(&self, leaf: &[u8], found: &mut Vec<Xattr>) -> Option<()> {
        let (count_at, entries_at) = if self.has_checksums { (56, 80) } else { (12, 32) };
        for index in 0..usize::from(be16(leaf, count_at)?) {
            let entry = leaf.get(entries_at + 8 * index..)?;
            let (at, flags) = (usize::from(be16(entry, 4)?), *entry.get(6)?);
            let record = leaf.get(at..)?;
            if flags & FLAG_LOCAL != 0 {
                let (value_len, name_len) = (usize::from(be16(record, 0)?), usize::from(*record.get(2)?));
                let name = record.get(3..3 + name_len)?;
                let value = record.get(3 + name_len..3 + name_len + value_len)?;
                add(found, flags, name, value_len as u64, Some(value.to_vec()));
            } else {
                let (block, size) = (be32(record, 0)?, u64::from(be32(record, 4)?));
                let name_len = usize::from(*record.get(8)?);
                let name = record.get(9..9 + name_len)?;
                add(found, flags, name, size, self.remote(block, size));
            }
        }
        Some(())
    }

    /// A value in blocks of its own; `None` when it cannot be read.
    fn remote(&self, first: u32, size: u64) -> Option<Vec<u8>> {
        if size > XATTR_BYTES_MAX {
            return None;
        }
        let size = usize::try_from(size).ok()?;
        let mut value = Vec::with_capacity(size);
        let mut at = u64::from(first) * self.block_size;
        while value.len() < size {
            let mut block = vec![0; usize::try_from(self.block_size).ok()?];
            self.content.read_at(at, &mut block).ok()?;
            let bytes = match self.has_checksums {
                false => &block[..],
                true => {
                    let is_sound = be32(&block, 0)? == REMOTE_MAGIC
                        && be64(&block, 32)? == self.inode.number
                        && checksum::matches(&block, 12);
                    block.get(REMOTE_HEADER..).filter(|_| is_sound)?
                }
            };
            value.extend(bytes.iter().take(size - value.len()));
            at += self.block_size;
        }
        Some(value)
    }
}
