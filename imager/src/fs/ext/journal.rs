//! The journal's own structures (jbd2), all big-endian.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/journal.rst` and `include/linux/jbd2.h`.
//! Must not know: how the log is walked, what the logged blocks mean.

#![forbid(unsafe_code)]

use super::checksum::{CRC32C_START, crc32c};
use crate::fs::FsError;
use crate::read_at::field::{be16, be32};

const MAGIC: u32 = 0xc03b_3998;
/// What an escaped block starts with when it is put back; in the log it starts with zeros.
pub(super) const ESCAPED_BYTES: [u8; 4] = MAGIC.to_be_bytes();

/// The first block of the journal.
#[derive(Debug)]
pub(super) struct JournalSuperblock {
    /// Blocks in the journal, this one included.
    pub(super) blocks: u32,
    /// First block of the log; it reaches to the end of the journal and wraps.
    pub(super) first: u32,
    /// Number of the first transaction in the log.
    pub(super) sequence: u32,
    /// Where it begins; 0 when the log is empty.
    pub(super) start: u32,
    /// Not 0: the journal was aborted.
    pub(super) error: u32,
    pub(super) fast_commit: bool,
    pub(super) async_commit: bool,
    pub(super) checksums: LogChecksums,
    bits64: bool,
}

/// How the log is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogChecksums {
    None,
    /// One over all blocks of a transaction, in its commit block.
    V1,
    /// In every block, and 16 bits for each logged block; with the seed.
    V2(u32),
    /// As V2, with 32 bits.
    V3(u32),
}

/// What a block of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Descriptor,
    Commit,
    Revoke,
}

/// A block that a descriptor block announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Where it belongs.
    pub(super) block: u64,
    pub(super) escaped: bool,
    /// As many bits as the log's version has.
    pub(super) checksum: u32,
}

impl JournalSuperblock {
    /// Understands the journal's first block; `offset` is where it lies on the volume.
    pub(super) fn from_bytes(block: &[u8], offset: u64) -> Result<Self, FsError> {
        let field = |at: usize| {
            be32(block, at).ok_or_else(|| FsError::corrupt(offset, "the journal's superblock is cut short"))
        };
        let s_blocktype = field(0x4)?;
        if field(0x0)? != MAGIC || ![3, 4].contains(&s_blocktype) {
            return Err(FsError::corrupt(offset, "the journal has no superblock"));
        }
        if usize::try_from(field(0xc)?).ok() != Some(block.len()) {
            return Err(FsError::corrupt(offset, "the journal has another block size"));
        }
        // Version 1 has no features.
        let (compat, incompat, ro_compat) =
            if s_blocktype == 3 { (0, 0, 0) } else { (field(0x24)?, field(0x28)?, field(0x2c)?) };
        let unknown = [("COMPAT", compat & !0x1), ("INCOMPAT", incompat & !0x3f), ("RO_COMPAT", ro_compat)];
        if let Some((set, bits)) = unknown.into_iter().find(|(_, bits)| *bits != 0) {
            return Err(FsError::unsupported(format!("journal {set} feature bits {bits:#x}")));
        }
        let s_uuid = block.get(0x30..0x40).unwrap_or_default();
        let seed = crc32c(CRC32C_START, &[s_uuid]);
        let checksums = match (compat & 0x1, incompat & 0x18) {
            (0, 0) => LogChecksums::None,
            (_, 0) => LogChecksums::V1,
            (0, 0x8) => LogChecksums::V2(seed),
            (0, 0x10) => LogChecksums::V3(seed),
            _ => return Err(FsError::corrupt(offset, "the journal has two kinds of checksums")),
        };
        if matches!(checksums, LogChecksums::V2(_) | LogChecksums::V3(_)) {
            let parts = [block.get(..0xfc), Some(&[0; 4]), block.get(0x100..0x400)].map(Option::unwrap_or_default);
            // s_checksum_type: 4 is CRC-32C.
            if block.get(0x50) != Some(&4) || field(0xfc)? != crc32c(CRC32C_START, &parts) {
                return Err(FsError::corrupt(offset, "the checksum of the journal's superblock does not match"));
            }
        }
        let superblock = Self {
            blocks: field(0x10)?,
            first: field(0x14)?,
            sequence: field(0x18)?,
            start: field(0x1c)?,
            error: field(0x20)?,
            fast_commit: incompat & 0x20 != 0,
            async_commit: incompat & 0x4 != 0,
            checksums,
            bits64: incompat & 0x2 != 0,
        };
        let log = superblock.first..superblock.blocks;
        if superblock.first == 0 || log.is_empty() || (superblock.start != 0 && !log.contains(&superblock.start)) {
            return Err(FsError::corrupt(offset, "the journal's superblock points outside of the journal"));
        }
        Ok(superblock)
    }

    /// What a block of the log is; `None` when it is not the next one of transaction `sequence`, and the
    /// log ends before it.
    pub(super) fn kind(&self, block: &[u8], sequence: u32) -> Option<Kind> {
        if be32(block, 0) != Some(MAGIC) || be32(block, 8) != Some(sequence) {
            return None;
        }
        match be32(block, 4)? {
            1 => Some(Kind::Descriptor),
            2 => Some(Kind::Commit),
            5 => Some(Kind::Revoke),
            _ => None,
        }
    }

    /// True when the block's own checksum holds, or it has none.
    pub(super) fn checksum_holds(&self, block: &[u8], kind: Kind) -> bool {
        let (LogChecksums::V2(seed) | LogChecksums::V3(seed)) = self.checksums else { return true };
        let at = if kind == Kind::Commit { 0x10 } else { block.len().saturating_sub(4) };
        let (Some(before), Some(after)) = (block.get(..at), block.get(at + 4..)) else { return false };
        be32(block, at) == Some(crc32c(seed, &[before, &[0; 4], after]))
    }

    /// True when a logged block, as it lies in the log, is what its tag says.
    pub(super) fn tag_holds(&self, tag: Tag, sequence: u32, block: &[u8]) -> bool {
        let crc = |seed| crc32c(seed, &[&sequence.to_be_bytes(), block]);
        match self.checksums {
            LogChecksums::None | LogChecksums::V1 => true,
            LogChecksums::V2(seed) => crc(seed) & 0xffff == tag.checksum,
            LogChecksums::V3(seed) => crc(seed) == tag.checksum,
        }
    }

    /// The version 1 checksum in a commit block: `None` when the writer left it out.
    pub(super) fn transaction_checksum(block: &[u8]) -> Result<Option<u32>, FsError> {
        let (h_chksum_type, h_chksum_size) = (block.get(0xc), block.get(0xd));
        match (h_chksum_type, h_chksum_size, be32(block, 0x10)) {
            (Some(0), Some(0), Some(0)) => Ok(None),
            (Some(1), Some(4), Some(crc)) => Ok(Some(crc)),
            _ => Err(FsError::unsupported("a kind of transaction checksum in the journal")),
        }
    }

    /// Bytes that a checksum takes at the end of descriptor and revoke blocks.
    fn tail_len(&self) -> usize {
        if matches!(self.checksums, LogChecksums::V2(_) | LogChecksums::V3(_)) { 4 } else { 0 }
    }

    /// The tags of a descriptor block.
    pub(super) fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let tag_len = match self.checksums {
            LogChecksums::V3(_) => 16,
            LogChecksums::V2(_) => 10 + if self.bits64 { 4 } else { 0 },
            LogChecksums::None | LogChecksums::V1 => 8 + if self.bits64 { 4 } else { 0 },
        };
        let mut rest = block.get(12..block.len().saturating_sub(self.tail_len())).unwrap_or_default();
        let mut tags = Vec::new();
        while let Some((tag, after)) = rest.split_at_checked(tag_len) {
            // The lower half of V3's wide flags lies where the others have their flags.
            let (Some(t_blocknr), Some(t_flags)) = (be32(tag, 0), be16(tag, 6)) else { break };
            let t_blocknr_high = be32(tag, 8).filter(|_| self.bits64).unwrap_or(0);
            tags.push(Tag {
                block: u64::from(t_blocknr_high) << 32 | u64::from(t_blocknr),
                escaped: t_flags & 0x1 != 0,
                checksum: match self.checksums {
                    LogChecksums::V3(_) => be32(tag, 12).unwrap_or(0),
                    _ => be16(tag, 4).map_or(0, u32::from),
                },
            });
            // Unless it is the same as before, the file system's UUID follows.
            let uuid_len = if t_flags & 0x2 != 0 { 0 } else { 16 };
            rest = after.get(uuid_len..).unwrap_or_default();
            if t_flags & 0x8 != 0 {
                break;
            }
        }
        tags
    }

    /// The blocks that a revoke block names; `None` when it claims more than it holds.
    pub(super) fn revoked(&self, block: &[u8]) -> Option<Vec<u64>> {
        let r_count = usize::try_from(be32(block, 12)?).ok()?;
        if r_count > block.len().checked_sub(self.tail_len())? {
            return None;
        }
        let record_len = if self.bits64 { 8 } else { 4 };
        let records = block.get(16..r_count.max(16))?.chunks_exact(record_len);
        Some(records.map(|record| record.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))).collect())
    }
}
