//! The superblock: geometry, features, where the log is.
//!
//! Decides which file systems the rest of the reader may trust itself with. Must not know: allocation
//! groups' contents, the log's contents. Source: `xfs_format.h` of the Linux kernel, `struct xfs_dsb`; all
//! integers are big-endian.

use super::checksum;
use crate::fs::FsError;
use crate::read_at::field::{be16, be32, be64};

/// `XFSB`.
pub(super) const MAGIC: u32 = 0x5846_5342;
/// As many bytes as the largest sector that a superblock can fill.
pub(super) const SECTOR_SIZE_MAX: usize = 32 << 10;

const CRC_AT: usize = 224;
const VERSION_MASK: u16 = 0xf;
const VERSION_LOG_V2: u16 = 0x400;
const VERSION_SHARED: u16 = 0x200;
const VERSION_EXTENT_FLAG: u16 = 0x1000;
const VERSION_DIRECTORY_V2: u16 = 0x2000;
const VERSION_MORE_BITS: u16 = 0x8000;
/// lazysbcount, attr2, parent, projid32bit, crc, ftype.
const FEATURES2_KNOWN: u32 = 0x2 | 0x8 | 0x10 | 0x80 | 0x100 | 0x200;
/// finobt, rmapbt, reflink, inobtcount: trees of their own, in blocks that the free space trees know of.
const RO_COMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8;
/// ftype, spinodes, meta_uuid, bigtime, nrext64, exchrange, parent, metadir: none touches free space accounting.
const INCOMPAT_KNOWN: u32 = 0x1 | 0x2 | INCOMPAT_META_UUID | 0x8 | 0x20 | 0x40 | 0x80 | 0x100;
const INCOMPAT_META_UUID: u32 = 0x4;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// Zoned: a second space of the volume, with an allocator of its own, follows the data section.
const INCOMPAT_ZONED: u32 = 0x200 | 0x400;
/// Logged extended attributes: intents in the log, nothing in the free space trees.
const LOG_INCOMPAT_KNOWN: u32 = 0x1;

/// What the rest of the reader needs to know, checked to be consistent in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Version 5: every structure carries its checksum, its place and its owner.
    pub(super) checksums: bool,
    /// Bytes per block, a power of two from 512 to 65,536.
    pub(super) block_size: u32,
    /// Bytes per sector, a power of two from 512 to `block_size`.
    pub(super) sector_size: u32,
    /// Blocks in the data section.
    pub(super) blocks: u64,
    /// Blocks per allocation group; the last one may be shorter.
    pub(super) ag_blocks: u32,
    /// Number of allocation groups.
    pub(super) ag_count: u32,
    /// The identity that users see and may change.
    pub(super) uuid: [u8; 16],
    /// The identity that is stamped on the metadata.
    pub(super) meta_uuid: [u8; 16],
    /// The volume's name.
    pub(super) label: Option<String>,
    /// Where the log lies; `None` when it is on another device.
    pub(super) log: Option<LogPlace>,
    /// The realtime section lies on another device.
    pub(super) has_realtime: bool,
}

/// Where the log lies, in bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPlace {
    pub(super) start: u64,
    pub(super) len: u64,
    /// Log records may have more than one header block.
    pub(super) version_2: bool,
}

impl Superblock {
    /// Reads the superblock that `bytes` start with; they should hold a whole sector.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, FsError> {
        let raw = Raw(bytes);
        let superblock = Self::from_fields(&raw)?;
        if superblock.checksums && !checksum::matches(raw.first(superblock.sector_size)?, CRC_AT) {
            return Err(FsError::corrupt(0, "the superblock's checksum is wrong"));
        }
        Ok(superblock)
    }

    /// The same for a superblock to which a log has been applied: its checksum is out of date.
    pub(super) fn from_replayed(bytes: &[u8]) -> Result<Self, FsError> {
        Self::from_fields(&Raw(bytes))
    }

    fn from_fields(raw: &Raw<'_>) -> Result<Self, FsError> {
        if raw.be32(0)? != MAGIC {
            return Err(FsError::corrupt(0, "no XFS superblock"));
        }
        let sb_versionnum = raw.be16(100)?;
        let version = sb_versionnum & VERSION_MASK;
        if !matches!(version, 4 | 5) {
            return Err(FsError::unsupported(format!("XFS version {version}")));
        }
        check_features(raw, sb_versionnum)?;
        let sector_size = u32::from(raw.be16(102)?);
        if !sector_size.is_power_of_two() || !(512..=32 << 10).contains(&sector_size) {
            return Err(FsError::corrupt(102, format!("sector size {sector_size}")));
        }
        let block_size = raw.be32(4)?;
        if !block_size.is_power_of_two() || !(sector_size.max(512)..=64 << 10).contains(&block_size) {
            return Err(FsError::corrupt(4, format!("block size {block_size}")));
        }
        let (ag_blocks, ag_count) = (raw.be32(84)?, raw.be32(88)?);
        let blocks = raw.be64(8)?;
        let ag_block_bits = raw.u8(124)?;
        let bits_needed = ag_blocks.checked_next_power_of_two().map(u32::trailing_zeros);
        let sectors_of_headers = 4 * u64::from(sector_size);
        if u64::from(ag_blocks) * u64::from(block_size) <= sectors_of_headers
            || bits_needed != Some(u32::from(ag_block_bits))
        {
            return Err(FsError::corrupt(84, format!("{ag_blocks} blocks per allocation group")));
        }
        let before_last = u64::from(ag_blocks) * u64::from(ag_count.saturating_sub(1));
        if ag_count == 0 || blocks <= before_last || blocks - before_last > u64::from(ag_blocks) {
            return Err(FsError::corrupt(88, format!("{ag_count} allocation groups for {blocks} blocks")));
        }
        if blocks.checked_mul(u64::from(block_size)).is_none() {
            return Err(FsError::corrupt(8, format!("{blocks} blocks")));
        }

        let uuid = raw.uuid(32)?;
        let has_meta_uuid = version == 5 && raw.be32(216)? & INCOMPAT_META_UUID != 0;
        let name = raw.get(108, 12)?;
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let mut superblock = Self {
            checksums: version == 5,
            block_size,
            sector_size,
            blocks,
            ag_blocks,
            ag_count,
            uuid,
            meta_uuid: if has_meta_uuid { raw.uuid(248)? } else { uuid },
            label: (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()),
            log: None,
            has_realtime: raw.be64(16)? != 0,
        };
        superblock.log = superblock.log_place(raw.be64(48)?, raw.be32(96)?, sb_versionnum & VERSION_LOG_V2 != 0)?;
        Ok(superblock)
    }

    /// `sb_logstart` is a file system block number: the group above, the block in it below.
    fn log_place(&self, sb_logstart: u64, sb_logblocks: u32, version_2: bool) -> Result<Option<LogPlace>, FsError> {
        if sb_logstart == 0 {
            return Ok(None);
        }
        let bits = self.ag_blocks.next_power_of_two().trailing_zeros();
        let (ag, block) = (sb_logstart >> bits, sb_logstart & ((1 << bits) - 1));
        let ag = u32::try_from(ag).ok().filter(|&ag| ag < self.ag_count);
        let end = block + u64::from(sb_logblocks);
        let ag = ag.filter(|&ag| sb_logblocks != 0 && end <= u64::from(self.ag_length(ag)));
        let start = ag.and_then(|ag| u32::try_from(block).ok().map(|block| self.position(ag, block)));
        let len = u64::from(sb_logblocks) * u64::from(self.block_size);
        match start {
            // `XFS_MAX_LOG_BYTES`
            Some(start) if len <= 1 << 31 => Ok(Some(LogPlace { start, len, version_2 })),
            _ => Err(FsError::corrupt(48, format!("a log of {sb_logblocks} blocks at block {sb_logstart}"))),
        }
    }

    /// Bytes that the file system claims.
    pub(super) fn size(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_size))
    }

    /// Number of blocks in group `ag`.
    pub(super) fn ag_length(&self, ag: u32) -> u32 {
        let before = u64::from(ag) * u64::from(self.ag_blocks);
        let rest = self.blocks.saturating_sub(before).min(u64::from(self.ag_blocks));
        u32::try_from(rest).unwrap_or(self.ag_blocks)
    }

    /// First byte of `block` of group `ag`.
    pub(super) fn position(&self, ag: u32, block: u32) -> u64 {
        // Fewer than 2^32 groups of fewer than 2^31 blocks: the number of blocks cannot overflow.
        let block = u64::from(ag) * u64::from(self.ag_blocks) + u64::from(block);
        block.saturating_mul(u64::from(self.block_size))
    }
}

fn check_features(raw: &Raw<'_>, sb_versionnum: u16) -> Result<(), FsError> {
    let unknown = |what: &str, bits: u32| Err(FsError::unsupported(format!("XFS {what} {bits:#x}")));
    if raw.u8(126)? != 0 {
        return Err(FsError::unsupported("mkfs.xfs or xfs_growfs has not finished (sb_inprogress)"));
    }
    if sb_versionnum & VERSION_SHARED != 0 && raw.u8(179)? != 0 {
        return Err(FsError::unsupported("a shared XFS volume"));
    }
    let expected = VERSION_DIRECTORY_V2 | VERSION_EXTENT_FLAG;
    if sb_versionnum & expected != expected {
        return unknown("of before 2002, with version bits", u32::from(sb_versionnum));
    }
    if sb_versionnum & VERSION_MORE_BITS != 0 {
        let features2 = raw.be32(200)?;
        if features2 & !FEATURES2_KNOWN != 0 {
            return unknown("features", features2 & !FEATURES2_KNOWN);
        }
    }
    if sb_versionnum & VERSION_MASK != 5 {
        return Ok(());
    }
    let ro_compat = raw.be32(212)?;
    if ro_compat & !RO_COMPAT_KNOWN != 0 {
        return unknown("read-only compatible features", ro_compat & !RO_COMPAT_KNOWN);
    }
    let incompat = raw.be32(216)?;
    if incompat & INCOMPAT_NEEDS_REPAIR != 0 {
        return Err(FsError::unsupported("xfs_repair must finish first (needsrepair)"));
    }
    if incompat & INCOMPAT_ZONED != 0 {
        return Err(FsError::unsupported("a zoned XFS volume"));
    }
    if incompat & !INCOMPAT_KNOWN != 0 {
        return unknown("incompatible features", incompat & !INCOMPAT_KNOWN);
    }
    let log_incompat = raw.be32(220)?;
    if log_incompat & !LOG_INCOMPAT_KNOWN != 0 {
        return unknown("incompatible log features", log_incompat & !LOG_INCOMPAT_KNOWN);
    }
    Ok(())
}

/// Fields of a buffer that may be too short for them.
struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    fn get(&self, at: usize, len: usize) -> Result<&'a [u8], FsError> {
        at.checked_add(len).and_then(|end| self.0.get(at..end)).ok_or_else(too_short)
    }

    fn first(&self, len: u32) -> Result<&'a [u8], FsError> {
        self.get(0, usize::try_from(len).map_err(|_| too_short())?)
    }

    fn u8(&self, at: usize) -> Result<u8, FsError> {
        self.0.get(at).copied().ok_or_else(too_short)
    }

    fn be16(&self, at: usize) -> Result<u16, FsError> {
        be16(self.0, at).ok_or_else(too_short)
    }

    fn be32(&self, at: usize) -> Result<u32, FsError> {
        be32(self.0, at).ok_or_else(too_short)
    }

    fn be64(&self, at: usize) -> Result<u64, FsError> {
        be64(self.0, at).ok_or_else(too_short)
    }

    fn uuid(&self, at: usize) -> Result<[u8; 16], FsError> {
        self.get(at, 16)?.try_into().map_err(|_| too_short())
    }
}

fn too_short() -> FsError {
    FsError::corrupt(0, "the volume ends within the superblock")
}
