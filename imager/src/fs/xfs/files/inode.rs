//! Inodes, and where the blocks of their forks lie.
//!
//! Must not know: what is in the forks.

use super::{Layout, checksum};
use crate::files::{Kind, Piece, Time};
use crate::fs::FsError;
use crate::read_at::ReadAt;
use crate::read_at::field::{be16, be32, be64};

const MAGIC: u16 = 0x494e;
const FORMAT_DEVICE: u8 = 0;
const FORMAT_LOCAL: u8 = 1;
const FORMAT_EXTENTS: u8 = 2;
const FORMAT_BTREE: u8 = 3;
const FLAG_REALTIME: u16 = 1;
const FLAG2_BIGTIME: u64 = 1 << 3;
const FLAG2_NREXT64: u64 = 1 << 4;
const BLOCK_MAGIC_4: u32 = u32::from_be_bytes(*b"BMAP");
const BLOCK_MAGIC_5: u32 = u32::from_be_bytes(*b"BMA3");
const LEVELS_MAX: u16 = 9;
/// Bounds a walk through a damaged tree, and the memory for its result.
const NODES_MAX: u32 = 1 << 17;
const EXTENTS_MAX: usize = 4 << 20;

/// One of the forks of an inode.
pub(super) struct Fork {
    format: u8,
    bytes: Vec<u8>,
    extents: u64,
}

/// An inode.
pub(super) struct Inode {
    pub(super) number: u64,
    /// Where it lies, for messages.
    pub(super) position: u64,
    pub(super) kind: Kind,
    pub(super) permissions: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) is_realtime: bool,
    pub(super) accessed: Time,
    pub(super) modified: Time,
    pub(super) changed: Time,
    pub(super) created: Option<Time>,
    pub(super) data: Fork,
    /// Extended attributes.
    pub(super) attributes: Option<Fork>,
}

impl Inode {
    /// Reads and checks an inode that something refers to.
    pub(super) fn read(volume: &dyn ReadAt, layout: &Layout, number: u64) -> Result<Self, FsError> {
        let position = layout.inode_position(number);
        let position = position.ok_or_else(|| FsError::corrupt(0, format!("there is no inode {number}")))?;
        let bytes = volume.read_vec(position, usize::try_from(layout.inode_size).map_err(std::io::Error::other)?)?;
        Self::from_bytes(&bytes, layout, number, position)
    }

    fn from_bytes(bytes: &[u8], layout: &Layout, number: u64, position: u64) -> Result<Self, FsError> {
        let corrupt = |what: &str| FsError::corrupt(position, format!("inode {number}: {what}"));
        let short = || corrupt("cut short");
        let half = |at| be16(bytes, at).ok_or_else(short);
        let word = |at| be32(bytes, at).ok_or_else(short);
        let long = |at| be64(bytes, at).ok_or_else(short);
        let byte = |at: usize| bytes.get(at).copied().ok_or_else(short);
        if half(0)? != MAGIC {
            return Err(corrupt("no inode is there"));
        }
        let version = byte(4)?;
        let is_v3 = version == 3;
        if is_v3 != layout.superblock.checksums {
            return Err(corrupt("its version is another than the file system's"));
        }
        if is_v3 && (long(152)? != number || !checksum::matches(bytes, 100)) {
            return Err(corrupt("its checksum does not match"));
        }
        let mode = u32::from(half(2)?);
        let kind = Kind::from_mode(mode).ok_or_else(|| corrupt("it is free, or has no type"))?;
        let flags2 = if is_v3 { long(120)? } else { 0 };
        let time = |at: usize| -> Result<Time, FsError> {
            if flags2 & FLAG2_BIGTIME != 0 {
                let value = long(at)?;
                let seconds = i64::try_from(value / 1_000_000_000).unwrap_or(0) - (1 << 31);
                return Ok(Time { seconds, nanoseconds: u32::try_from(value % 1_000_000_000).unwrap_or(0) });
            }
            Ok(Time { seconds: word(at)?.cast_signed().into(), nanoseconds: word(at + 4)?.min(999_999_999) })
        };
        let start = if is_v3 { 176 } else { 100 };
        let literal = bytes.get(start..).ok_or_else(short)?;
        let fork_at = usize::from(byte(82)?) * 8;
        let data_end = if fork_at == 0 { literal.len() } else { fork_at };
        let (data, attributes) = literal.split_at_checked(data_end).ok_or_else(|| corrupt("its forks do not fit"))?;
        let (extents, attribute_extents) = match flags2 & FLAG2_NREXT64 {
            0 => (word(76)?.into(), u64::from(half(80)?)),
            _ => (long(24)?, word(76)?.into()),
        };
        let links = if version == 1 { u32::from(half(6)?) } else { word(16)? };
        if links == 0 {
            return Err(corrupt("it is free, and has a name"));
        }
        Ok(Self {
            number,
            position,
            kind,
            permissions: mode & 0o7777,
            uid: word(8)?,
            gid: word(12)?,
            links,
            size: long(56)?,
            blocks: long(64)?,
            is_realtime: half(90)? & FLAG_REALTIME != 0,
            accessed: time(32)?,
            modified: time(40)?,
            changed: time(48)?,
            created: if is_v3 { Some(time(144)?) } else { None },
            data: Fork { format: byte(5)?, bytes: data.to_vec(), extents },
            attributes: (fork_at != 0)
                .then(|| byte(83).map(|format| Fork { format, bytes: attributes.to_vec(), extents: attribute_extents }))
                .transpose()?,
        })
    }

    /// Major and minor number.
    pub(super) fn device(&self) -> (u32, u32) {
        let value = be32(&self.data.bytes, 0).filter(|_| self.data.format == FORMAT_DEVICE).unwrap_or(0);
        (value >> 18 & 0x1ff, value & 0x3_ffff)
    }

    /// What lies in the inode itself.
    pub(super) fn local<'a>(&self, fork: &'a Fork) -> Option<&'a [u8]> {
        (fork.format == FORMAT_LOCAL).then_some(&*fork.bytes)
    }

    /// Where the bytes of a fork lie; what was never written is left out.
    pub(super) fn pieces(&self, volume: &dyn ReadAt, layout: &Layout, fork: &Fork) -> Result<Vec<Piece>, FsError> {
        let mut walk = Walk { inode: self, volume, layout, nodes: 0, end: 0, records: 0, pieces: Vec::new() };
        match fork.format {
            FORMAT_EXTENTS => {
                let count = usize::try_from(fork.extents).unwrap_or(usize::MAX).saturating_mul(16);
                let records = fork.bytes.get(..count).ok_or_else(|| walk.corrupt("more extents than fit"))?;
                walk.records(records)?;
            }
            FORMAT_BTREE => {
                let (level, count) = (be16(&fork.bytes, 0).unwrap_or(0), be16(&fork.bytes, 2).unwrap_or(0));
                let max = (fork.bytes.len().saturating_sub(4)) / 16;
                if level == 0 || level > LEVELS_MAX || usize::from(count) > max {
                    return Err(walk.corrupt("the root of its extent tree is broken"));
                }
                walk.children(&fork.bytes, 4 + 8 * max, count, level)?;
            }
            FORMAT_LOCAL if self.size == 0 => {}
            _ => return Err(walk.corrupt("its content is kept in an unknown way")),
        }
        Ok(walk.pieces)
    }
}

struct Walk<'a> {
    inode: &'a Inode,
    volume: &'a dyn ReadAt,
    layout: &'a Layout,
    nodes: u32,
    /// Blocks of the file that were passed.
    end: u64,
    records: usize,
    pieces: Vec<Piece>,
}

impl Walk<'_> {
    fn corrupt(&self, what: &str) -> FsError {
        FsError::corrupt(self.inode.position, format!("inode {}: {what}", self.inode.number))
    }

    fn children(&mut self, node: &[u8], pointers_at: usize, count: u16, level: u16) -> Result<(), FsError> {
        for index in 0..usize::from(count) {
            let block = be64(node, pointers_at + 8 * index).ok_or_else(|| self.corrupt("a broken extent tree"))?;
            self.block(block, level - 1)?;
        }
        Ok(())
    }

    fn block(&mut self, block: u64, level: u16) -> Result<(), FsError> {
        self.nodes += 1;
        let position = self.layout.position(block, 1).filter(|_| self.nodes <= NODES_MAX);
        let position = position.ok_or_else(|| self.corrupt("its extent tree leaves the volume, or is too large"))?;
        let len = usize::try_from(self.layout.superblock.block_size).map_err(std::io::Error::other)?;
        let bytes = self.volume.read_vec(position, len)?;
        let bad = || FsError::corrupt(position, "a block of an extent tree is none");
        let is_v5 = self.layout.superblock.checksums;
        let (magic, header) = if is_v5 { (BLOCK_MAGIC_5, 72) } else { (BLOCK_MAGIC_4, 24) };
        if be32(&bytes, 0) != Some(magic) || be16(&bytes, 4) != Some(level) {
            return Err(bad());
        }
        if is_v5 && (be64(&bytes, 56) != Some(self.inode.number) || !checksum::matches(&bytes, 64)) {
            return Err(bad());
        }
        let count = be16(&bytes, 6).ok_or_else(bad)?;
        let max = (len - header) / 16;
        if usize::from(count) > max {
            return Err(bad());
        }
        if level > 0 {
            return self.children(&bytes, header + 8 * max, count, level);
        }
        let records = bytes.get(header..header + 16 * usize::from(count)).ok_or_else(bad)?;
        self.records(records)
    }

    /// Extents, packed into 128 bits: a flag, 54 bits of offset, 52 of block number, 21 of length.
    fn records(&mut self, records: &[u8]) -> Result<(), FsError> {
        let block_size = u64::from(self.layout.superblock.block_size);
        for record in records.chunks_exact(16) {
            let (high, low) = (be64(record, 0).unwrap_or(0), be64(record, 8).unwrap_or(0));
            let is_unwritten = high >> 63 != 0;
            let logical = (high & (u64::MAX >> 1)) >> 9;
            let block = (high & 0x1ff) << 43 | low >> 21;
            let count = low & 0x1f_ffff;
            self.records += 1;
            let place = self.layout.position(block, count).filter(|_| count > 0 && logical >= self.end);
            let place = place.filter(|_| self.records <= EXTENTS_MAX);
            let place = place.ok_or_else(|| self.corrupt("its extents leave the volume, or are out of order"))?;
            self.end = logical + count;
            if is_unwritten {
                continue;
            }
            let piece = Piece { at: logical.saturating_mul(block_size), len: count * block_size, place };
            match self.pieces.last_mut() {
                Some(last) if last.at + last.len == piece.at && last.place + last.len == piece.place => {
                    last.len += piece.len
                }
                _ => self.pieces.push(piece),
            }
        }
        Ok(())
    }
}
