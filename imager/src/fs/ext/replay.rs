//! What the volume's metadata will be once its journal has been replayed.
//!
//! After a crash (or under a mounted file system) block bitmaps, group descriptors and superblock on the
//! volume may be older than the files: blocks taken since are marked only in the journal. So the log is
//! walked as the kernel's recovery walks it, and the newest version of each block is remembered by its
//! place; [`Replay::block`] hands it out. Any doubt is an error, and the volume is read whole.
//!
//! Must not know: what the logged blocks mean.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::checksum::TransactionCrc;
use super::geometry::Geometry;
use super::groups::GroupTable;
use super::inode::{FileBlocks, Inode};
use super::journal::{ESCAPED_BYTES, JournalSuperblock, Kind, LogChecksums, Tag};
use super::superblock::{Journal, Superblock};
use crate::fs::FsError;
use crate::read_at::ReadAt;

/// Bounds memory to about 64 MiB; four times the blocks that the largest usual journal (1 GiB) has.
const LOGGED_BLOCKS_MAX: usize = 1 << 20;

/// The newest logged version of each block in the journal; of none, when the journal is empty.
pub(super) struct Replay<'a> {
    log: Option<Log<'a>>,
}

/// Whether a logged block would look like one of the journal's own, and so begins with zeros in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escaped {
    Yes,
    No,
}

/// Where the newest version of a block lies in the log.
#[derive(Clone, Copy)]
struct Logged {
    position: u32,
    sequence: u32,
    tag: Tag,
}

struct Log<'a> {
    volume: &'a dyn ReadAt,
    block_size: u64,
    file: FileBlocks,
    superblock: JournalSuperblock,
    newest: HashMap<u64, Logged>,
}

impl<'a> Replay<'a> {
    /// Walks the journal, when the volume has one of its own.
    pub(super) fn read(volume: &'a dyn ReadAt, superblock: &Superblock, groups: &GroupTable) -> Result<Self, FsError> {
        let geometry = &superblock.geometry;
        let number = match superblock.journal {
            Journal::None => return Ok(Self { log: None }),
            Journal::External if superblock.state.needs_recovery => {
                return Err(FsError::unsupported("a journal on another device, with changes that are not here yet"));
            }
            Journal::External => return Ok(Self { log: None }),
            Journal::Inode(number) => number,
        };
        let inode = Inode::read(volume, groups, geometry, number)?;
        let mut log = Log::open(volume, geometry, inode.blocks(volume, geometry)?)?;
        if log.superblock.error != 0 {
            return Err(FsError::unsupported("a journal that was aborted after an error"));
        }
        let to_be_replayed = superblock.state.needs_recovery || log.superblock.start != 0;
        if to_be_replayed && (superblock.fast_commits || log.superblock.fast_commit) {
            return Err(FsError::unsupported("a journal to be replayed that may have fast commits"));
        }
        if log.superblock.start == 0 {
            return Ok(Self { log: None });
        }
        log.walk()?;
        Ok(Self { log: Some(log) })
    }

    /// True when there is nothing to replay.
    pub(super) fn is_empty(&self) -> bool {
        self.log.as_ref().is_none_or(|log| log.newest.is_empty())
    }

    /// True when the journal has a version of this block of the volume.
    pub(super) fn has(&self, block: u64) -> bool {
        self.log.as_ref().is_some_and(|log| log.newest.contains_key(&block))
    }

    /// Where the newest version of each block lies that the journal has, in bytes of the volume, and whether its
    /// start has to be put back. Each was held against its checksum.
    pub(super) fn places(&self) -> Result<HashMap<u64, (u64, Escaped)>, FsError> {
        let Some(log) = &self.log else { return Ok(HashMap::new()) };
        let mut places = HashMap::with_capacity(log.newest.len());
        for (&block, logged) in &log.newest {
            self.block(block)?;
            let offset = log.offset(logged.position);
            let offset = offset.ok_or_else(|| log.corrupt(logged.position, "the journal has a hole"))?;
            places.insert(block, (offset, if logged.tag.escaped { Escaped::Yes } else { Escaped::No }));
        }
        Ok(places)
    }

    /// The newest version of a block of the volume that the journal has.
    pub(super) fn block(&self, block: u64) -> Result<Option<Vec<u8>>, FsError> {
        let Some(log) = &self.log else { return Ok(None) };
        let Some(logged) = log.newest.get(&block) else { return Ok(None) };
        let mut bytes = log.read(logged.position)?;
        if !log.superblock.tag_holds(logged.tag, logged.sequence, &bytes) {
            return Err(log.corrupt(logged.position, "a logged block does not match its checksum"));
        }
        if let (true, Some(start)) = (logged.tag.escaped, bytes.get_mut(..4)) {
            start.copy_from_slice(&ESCAPED_BYTES);
        }
        Ok(Some(bytes))
    }
}

impl<'a> Log<'a> {
    fn open(volume: &'a dyn ReadAt, geometry: &Geometry, file: FileBlocks) -> Result<Self, FsError> {
        let block_size = u64::from(geometry.block_size());
        let offset = file.physical(0).map_or(0, |block| block * block_size);
        let len = usize::try_from(block_size).map_err(std::io::Error::other)?;
        let superblock = JournalSuperblock::from_bytes(&volume.read_vec(offset, len)?, offset)?;
        Ok(Self { volume, block_size, file, superblock, newest: HashMap::new() })
    }

    fn offset(&self, position: u32) -> Option<u64> {
        self.file.physical(position.into()).map(|block| block * self.block_size)
    }

    fn read(&self, position: u32) -> Result<Vec<u8>, FsError> {
        let offset = self.offset(position).ok_or_else(|| self.corrupt(position, "the journal has a hole"))?;
        let len = usize::try_from(self.block_size).map_err(std::io::Error::other)?;
        Ok(self.volume.read_vec(offset, len)?)
    }

    fn corrupt(&self, position: u32, what: &str) -> FsError {
        FsError::corrupt(self.offset(position).unwrap_or(0), what)
    }

    /// The position after the next `count` blocks; the log wraps. `left` counts down the blocks of the log,
    /// so that a damaged one is not walked in circles.
    fn advance(&self, position: u32, count: usize, left: &mut u32) -> Result<u32, FsError> {
        let count = u32::try_from(count).ok().filter(|count| count <= left);
        let count = count.ok_or_else(|| self.corrupt(position, "the log is longer than the journal"))?;
        *left -= count;
        let room = self.superblock.blocks - position;
        Ok(if count < room { position + count } else { self.superblock.first + (count - room) })
    }

    /// Collects the committed transactions, oldest first.
    fn walk(&mut self) -> Result<(), FsError> {
        let mut sequence = self.superblock.sequence;
        let mut position = self.superblock.start;
        let mut left = self.superblock.blocks - self.superblock.first;
        let mut pending: Vec<(u64, Logged)> = Vec::new();
        let mut pending_revokes: Vec<(u64, u32)> = Vec::new();
        let mut revokes: HashMap<u64, u32> = HashMap::new();
        let mut crc = TransactionCrc::new();
        while left > 0 {
            let block = self.read(position)?;
            let Some(kind) = self.superblock.kind(&block, sequence) else { break };
            if !self.superblock.checksum_holds(&block, kind) {
                return Err(self.corrupt(position, "a block of the journal does not match its checksum"));
            }
            let here = position;
            position = self.advance(position, 1, &mut left)?;
            match kind {
                Kind::Descriptor => {
                    crc.update(&block);
                    for tag in self.superblock.tags(&block) {
                        if self.superblock.checksums == LogChecksums::V1 {
                            crc.update(&self.read(position)?);
                        }
                        pending.push((tag.block, Logged { position, sequence, tag }));
                        position = self.advance(position, 1, &mut left)?;
                    }
                }
                Kind::Revoke => {
                    let revoked = self.superblock.revoked(&block);
                    let revoked = revoked.ok_or_else(|| self.corrupt(here, "a revoke block is too full"))?;
                    pending_revokes.extend(revoked.into_iter().map(|block| (block, sequence)));
                }
                Kind::Commit => {
                    self.check_transaction(&block, here, crc.take())?;
                    self.newest.extend(pending.drain(..));
                    revokes.extend(pending_revokes.drain(..));
                    sequence = sequence.wrapping_add(1);
                }
            }
            if self.newest.len() + pending.len() + revokes.len() + pending_revokes.len() > LOGGED_BLOCKS_MAX {
                return Err(FsError::unsupported("a journal with a million blocks to be replayed"));
            }
        }
        // A revoke record is about its own transaction and all before it. Sequence numbers wrap around.
        self.newest.retain(|block, logged| {
            revokes.get(block).is_none_or(|revoked| (1..1 << 31).contains(&logged.sequence.wrapping_sub(*revoked)))
        });
        Ok(())
    }

    /// A commit block is written after the blocks it commits; with asynchronous commits only a checksum
    /// over all of them tells that they arrived.
    fn check_transaction(&self, commit: &[u8], position: u32, computed: u32) -> Result<(), FsError> {
        let recorded = match self.superblock.checksums {
            LogChecksums::V1 => JournalSuperblock::transaction_checksum(commit)?,
            LogChecksums::None | LogChecksums::V2(_) | LogChecksums::V3(_) => None,
        };
        match recorded {
            Some(recorded) if recorded != computed => {
                Err(self.corrupt(position, "a transaction in the journal does not match its checksum"))
            }
            None if self.superblock.async_commit
                && matches!(self.superblock.checksums, LogChecksums::None | LogChecksums::V1) =>
            {
                Err(FsError::unsupported("a journal to be replayed whose commits cannot be checked"))
            }
            _ => Ok(()),
        }
    }
}
