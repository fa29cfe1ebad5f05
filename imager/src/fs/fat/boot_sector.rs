//! The boot sector of a FAT volume: what it is, and where everything lies.
//!
//! Must not know: what the tables and directories hold. Source: Microsoft's "FAT: General Overview of
//! On-Disk Format" 1.03; where that and practice differ, what the Linux kernel (`fs/fat/inode.c`) mounts and
//! `libblkid` recognises. Integers are little-endian.

use crate::fs::FsError;
use crate::read_at::field::{le16, le32};

/// Bytes that hold every field of a boot sector, whatever the sector size.
pub(super) const SIZE: usize = 512;

/// How wide an entry of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Bits12,
    Bits16,
    Bits32,
}

/// A boot sector whose fields make sense together. Positions are bytes of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BootSector {
    pub(super) width: Width,
    pub(super) sector_size: u32,
    pub(super) cluster_size: u32,
    /// Number of clusters; the first one has number 2.
    pub(super) clusters: u32,
    /// First byte of the first table.
    pub(super) table_start: u64,
    /// Bytes from one table to the next.
    pub(super) table_size: u64,
    pub(super) tables: u8,
    /// The one table that counts, when the others are not kept up to date.
    pub(super) only_table: Option<u8>,
    pub(super) root: Root,
    /// First byte of the first cluster.
    pub(super) data_start: u64,
    /// Bytes that the file system claims.
    pub(super) size: u64,
    /// Sectors of FAT32 that should be in front of the tables: FSInfo, the copy of the boot sector.
    pub(super) extra_sectors: [u16; 2],
    /// The media byte, which the first table entry repeats.
    pub(super) media: u8,
    pub(super) is_dirty: bool,
    pub(super) serial: Option<u32>,
    pub(super) label: Option<[u8; 11]>,
    /// The discovery volume of a BitLocker To Go drive.
    pub(super) is_bitlocker: bool,
}

/// Where the root directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    /// Between the tables and the data.
    Fixed { start: u64, len: u64 },
    /// In a chain of clusters.
    Cluster(u32),
}

/// Says whether `bytes` begin with the boot sector of a FAT volume, as strictly as `blkid` does.
pub(super) fn is_fat(bytes: &[u8]) -> bool {
    let at = |start: usize, magic: &[u8]| bytes.get(start..start + magic.len()) == Some(magic);
    let is_other = [&b"NTFS    "[..], b"EXFAT   ", b"-FVE-FS-", b"ReFS"].iter().any(|magic| at(3, magic))
        || [b"JFS     ", b"HPFS    "].iter().any(|magic| at(0x36, *magic));
    let is_named = at(0x52, b"MSWIN")
        || at(0x52, b"FAT32   ")
        || at(0x36, b"MSDOS")
        || [b"FAT16   ", b"FAT12   ", b"FAT     "].iter().any(|magic| at(0x36, *magic));
    let is_bootable = (at(0, &[0xeb]) || at(0, &[0xe9])) && at(510, &[0x55, 0xaa]);
    !is_other && (is_named || is_bootable) && Fields::from_bytes(bytes).is_some_and(|fields| fields.are_sane())
}

/// The fields that all widths share ("BPB"), as they are on disk.
struct Fields {
    sector_size: u16,
    sectors_per_cluster: u8,
    reserved_sectors: u16,
    tables: u8,
    root_entries: u16,
    media: u8,
    sectors: u32,
    sectors_per_table_16: u16,
    sectors_per_table_32: u32,
}

impl Fields {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sectors_16, sectors_32) = (le16(bytes, 0x13)?, le32(bytes, 0x20)?);
        Some(Self {
            sector_size: le16(bytes, 0x0b)?,
            sectors_per_cluster: *bytes.get(0x0d)?,
            reserved_sectors: le16(bytes, 0x0e)?,
            tables: *bytes.get(0x10)?,
            root_entries: le16(bytes, 0x11)?,
            media: *bytes.get(0x15)?,
            sectors: if sectors_16 == 0 { sectors_32 } else { sectors_16.into() },
            sectors_per_table_16: le16(bytes, 0x16)?,
            sectors_per_table_32: le32(bytes, 0x24)?,
        })
    }

    fn are_sane(&self) -> bool {
        self.sector_size.is_power_of_two()
            && (512..=4096).contains(&self.sector_size)
            && self.sectors_per_cluster.is_power_of_two()
            && self.reserved_sectors != 0
            && self.tables != 0
            && matches!(self.media, 0xf0 | 0xf8..)
            && self.sectors != 0
            && (self.sectors_per_table_16 != 0 || self.sectors_per_table_32 != 0)
    }
}

impl BootSector {
    /// Takes apart what [`is_fat`] has recognised.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, FsError> {
        let cut_off = || FsError::corrupt(0, "the volume ends within the boot sector");
        let fields = Fields::from_bytes(bytes).filter(Fields::are_sane);
        let fields = fields.ok_or_else(|| FsError::corrupt(0x0b, "no boot sector of a FAT volume"))?;
        let is_32 = fields.sectors_per_table_16 == 0;
        let sector_size = u32::from(fields.sector_size);
        let cluster_size = sector_size * u32::from(fields.sectors_per_cluster);
        let bytes_of = |sectors: u64| sectors * u64::from(sector_size);

        let sectors_per_table =
            if is_32 { fields.sectors_per_table_32 } else { u32::from(fields.sectors_per_table_16) };
        let table_start = bytes_of(fields.reserved_sectors.into());
        let table_size = bytes_of(sectors_per_table.into());
        let root_start = table_start + table_size * u64::from(fields.tables);
        let root_len = bytes_of((u64::from(fields.root_entries) * 32).div_ceil(sector_size.into()));
        let (data_start, size) = (root_start + root_len, bytes_of(fields.sectors.into()));
        let clusters = size.saturating_sub(data_start) / u64::from(cluster_size);
        let width = match clusters {
            0 => return Err(FsError::corrupt(0x20, "no room for a single cluster")),
            // One less than the smallest special number.
            1..=0x0fff_fff4 if is_32 => Width::Bits32,
            1..=4084 if !is_32 => Width::Bits12,
            4085..=65_524 if !is_32 => Width::Bits16,
            _ => return Err(FsError::corrupt(0x20, format!("{clusters} clusters are too many"))),
        };
        let clusters = u32::try_from(clusters).unwrap_or(0);
        if width.table_len(clusters) > table_size {
            return Err(FsError::corrupt(0x16, "the tables are too short for the clusters"));
        }
        let text = bytes.get(0x36..0x3b).ok_or_else(cut_off)?;
        if matches!((width, text), (Width::Bits12, b"FAT16") | (Width::Bits16, b"FAT12")) {
            let text = String::from_utf8_lossy(text);
            return Err(FsError::unsupported(format!("the boot sector says {text}, its {clusters} clusters do not")));
        }

        // The end of the boot sector's fields: extended signature, serial number, label.
        let (state_at, signature_at) = if is_32 { (0x41, 0x42) } else { (0x25, 0x26) };
        let state = *bytes.get(state_at).ok_or_else(cut_off)?;
        let signature = *bytes.get(signature_at).ok_or_else(cut_off)?;
        let serial = le32(bytes, signature_at + 1).filter(|_| matches!(signature, 0x28 | 0x29));
        let label = bytes.get(signature_at + 5..signature_at + 16).filter(|_| signature == 0x29);
        let mut sector = Self {
            width,
            sector_size,
            cluster_size,
            clusters,
            table_start,
            table_size,
            tables: fields.tables,
            only_table: None,
            root: Root::Fixed { start: root_start, len: root_len },
            data_start,
            size,
            extra_sectors: [0; 2],
            media: fields.media,
            is_dirty: matches!(signature, 0x28 | 0x29) && state & 1 != 0,
            serial,
            label: label.and_then(|label| label.try_into().ok()),
            is_bitlocker: bytes.get(0x1a8..0x1b8) == Some(BITLOCKER_TO_GO.as_slice()),
        };
        if is_32 {
            sector.read_fat32_fields(bytes, fields.root_entries).ok_or_else(cut_off)??;
        }
        Ok(sector)
    }

    fn read_fat32_fields(&mut self, bytes: &[u8], root_entries: u16) -> Option<Result<(), FsError>> {
        const MIRRORING_OFF: u16 = 0x80;
        let (flags, version) = (le16(bytes, 0x28)?, le16(bytes, 0x2a)?);
        if version != 0 || root_entries != 0 {
            return Some(Err(FsError::unsupported(format!("FAT32 of version {version:#x}"))));
        }
        if flags & MIRRORING_OFF != 0 {
            let active = u8::try_from(flags & 0xf).ok()?;
            if active >= self.tables {
                return Some(Err(FsError::corrupt(0x28, format!("table {active} of {} is active", self.tables))));
            }
            self.only_table = Some(active);
        }
        self.root = Root::Cluster(le32(bytes, 0x2c)?);
        // 0 and 0xffff mean that there is none.
        self.extra_sectors = [le16(bytes, 0x30)?, le16(bytes, 0x32)?].map(|at| if at == 0xffff { 0 } else { at });
        Some(Ok(()))
    }

    /// First byte of a cluster; `None` when there is no such cluster.
    pub(super) fn cluster_start(&self, cluster: u32) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|&index| index < self.clusters)?;
        Some(self.data_start + u64::from(index) * u64::from(self.cluster_size))
    }
}

/// The identifier of a BitLocker To Go volume, 4967D63B-2E29-4AD8-8399-F6A339E3D001.
const BITLOCKER_TO_GO: [u8; 16] =
    [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01];

impl Width {
    /// Bytes of a table that has entries for `clusters` clusters and the two before them.
    pub(super) fn table_len(self, clusters: u32) -> u64 {
        let entries = u64::from(clusters) + 2;
        match self {
            Self::Bits12 => (entries * 3).div_ceil(2),
            Self::Bits16 => entries * 2,
            Self::Bits32 => entries * 4,
        }
    }
}
