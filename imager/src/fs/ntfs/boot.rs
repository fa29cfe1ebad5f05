//! The boot sector: the volume's geometry, and where the master file table begins.
//!
//! Layout: linux-ntfs documentation, "$Boot". Must not know: what the clusters hold.

use crate::fs::FsError;
use crate::read_at::field;

/// Bytes of the boot sector that matter here; sectors of 4,096 bytes only pad it.
pub(super) const BOOT_SECTOR_BYTES: usize = 512;

/// What every NTFS volume has at byte 3. BitLocker, ReFS and exFAT have something else there.
pub(super) const OEM_ID: &[u8; 8] = b"NTFS    ";

const CLUSTER_SIZE_MAX: u32 = 2 << 20;

/// The geometry of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BootSector {
    /// Bytes in a cluster, the unit of allocation: 256 to 2 MiB.
    pub(super) cluster_size: u32,
    /// Bytes in the volume. The copy of the boot sector lies behind them.
    pub(super) size: u64,
    /// Clusters in the volume; a last one that is cut short does not count.
    pub(super) clusters: u64,
    /// First cluster of the master file table.
    pub(super) mft_cluster: u64,
    /// Bytes in a record of the master file table: 512 to 4,096.
    pub(super) record_size: u32,
    /// Serial number.
    pub(super) serial: u64,
}

impl BootSector {
    /// Reads the first 512 bytes of a volume.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, FsError> {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        if bytes.get(3..11) != Some(OEM_ID) {
            return Err(FsError::corrupt(3, "the boot sector does not say NTFS"));
        }

        let bytes_per_sector = u32::from(field::le16(bytes, 0x0B).unwrap_or_default());
        if !bytes_per_sector.is_power_of_two() || !(256..=4096).contains(&bytes_per_sector) {
            return Err(FsError::corrupt(0x0B, format!("sectors of {bytes_per_sector} bytes")));
        }

        let sectors_per_cluster = two_way_count(byte(0x0D), 0x80).filter(|count| count.is_power_of_two());
        let cluster_size = sectors_per_cluster.and_then(|count| count.checked_mul(bytes_per_sector));
        let Some(cluster_size) = cluster_size.filter(|&size| size <= CLUSTER_SIZE_MAX) else {
            return Err(FsError::corrupt(0x0D, format!("clusters of {:#04x} sectors", byte(0x0D))));
        };

        let number_of_sectors = field::le64(bytes, 0x28).unwrap_or_default();
        let size = number_of_sectors.checked_mul(u64::from(bytes_per_sector)).filter(|&size| size <= i64::MAX as u64);
        let Some(size) = size.filter(|&size| size >= u64::from(cluster_size)) else {
            return Err(FsError::corrupt(0x28, format!("a volume of {number_of_sectors} sectors")));
        };
        let clusters = size / u64::from(cluster_size);

        let mft_cluster = field::le64(bytes, 0x30).unwrap_or_default();
        if mft_cluster >= clusters {
            return Err(FsError::corrupt(0x30, format!("$MFT at cluster {mft_cluster} of {clusters}")));
        }

        // Positive: clusters. Negative: the power of two, in bytes.
        let record_size = match byte(0x40) {
            count @ 1..=0x7F => cluster_size.checked_mul(u32::from(count)),
            power => two_way_count(power, 0),
        };
        let Some(record_size) = record_size.filter(|&size| size.is_power_of_two() && (512..=4096).contains(&size))
        else {
            return Err(FsError::corrupt(0x40, format!("file records of size code {:#04x}", byte(0x40))));
        };

        let serial = field::le64(bytes, 0x48).unwrap_or_default();
        Ok(Self { cluster_size, size, clusters, mft_cluster, record_size, serial })
    }

    /// [`Self::record_size`], for buffers.
    pub(super) fn record_bytes(&self) -> usize {
        usize::try_from(self.record_size).unwrap_or_default()
    }

    /// The byte at which a cluster begins.
    pub(super) fn position(&self, cluster: u64) -> u64 {
        cluster.saturating_mul(u64::from(self.cluster_size))
    }
}

/// A count up to `plain_max` as it is; above, the byte is a negative power of two: 0xF4 is 2^12.
fn two_way_count(byte: u8, plain_max: u8) -> Option<u32> {
    if (1..=plain_max).contains(&byte) {
        return Some(u32::from(byte));
    }
    let power = u32::from(byte.wrapping_neg());
    (byte > 0x80).then(|| 1u32.checked_shl(power)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 MiB, sectors of 512 bytes, clusters of 4 KiB, records of 1 KiB.
    fn boot_sector() -> Vec<u8> {
        let mut bytes = vec![0; BOOT_SECTOR_BYTES];
        bytes[3..11].copy_from_slice(OEM_ID);
        bytes[0x0B..0x0D].copy_from_slice(&512u16.to_le_bytes());
        bytes[0x0D] = 8;
        bytes[0x28..0x30].copy_from_slice(&16_383u64.to_le_bytes());
        bytes[0x30..0x38].copy_from_slice(&2u64.to_le_bytes());
        bytes[0x40] = 0xF6;
        bytes[0x48..0x50].copy_from_slice(&0x5DC9_6C7A_265A_89C0u64.to_le_bytes());
        bytes
    }

    fn patched(at: usize, patch: &[u8]) -> Result<BootSector, FsError> {
        let mut bytes = boot_sector();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        BootSector::from_bytes(&bytes)
    }

    fn corrupt_at(result: Result<BootSector, FsError>) -> u64 {
        match result {
            Err(FsError::Corrupt { offset, .. }) => offset,
            other => panic!("{other:?} is not Corrupt"),
        }
    }

    #[test]
    fn the_last_cluster_that_is_cut_short_does_not_count() {
        let boot = BootSector::from_bytes(&boot_sector()).unwrap();
        let expected = BootSector {
            cluster_size: 4096,
            size: 16_383 * 512,
            clusters: 2047,
            mft_cluster: 2,
            record_size: 1024,
            serial: 0x5DC9_6C7A_265A_89C0,
        };
        assert_eq!(boot, expected);
    }

    #[test]
    fn large_clusters_are_negative_powers_of_two() {
        assert_eq!(patched(0x0D, &[0x80]).unwrap().cluster_size, 64 << 10);
        assert_eq!(patched(0x0D, &[0xF8]).unwrap().cluster_size, 128 << 10);
        assert_eq!(patched(0x0D, &[0xF4]).unwrap().cluster_size, 2 << 20);
        for wrong in [0, 3, 0x7F, 0x81, 0xE0, 0xF3] {
            assert_eq!(corrupt_at(patched(0x0D, &[wrong])), 0x0D, "{wrong:#x}");
        }
    }

    #[test]
    fn records_are_counted_in_clusters_or_as_a_power_of_two() {
        assert_eq!(patched(0x40, &[1]).unwrap().record_size, 4096);
        assert_eq!(patched(0x40, &[0xF4]).unwrap().record_size, 4096);
        for wrong in [0, 2, 0x7F, 0x80, 0x81, 0xF3, 0xF8, 0xFF] {
            assert_eq!(corrupt_at(patched(0x40, &[wrong])), 0x40, "{wrong:#x}");
        }
    }

    #[test]
    fn impossible_sizes_are_corrupt() {
        for wrong in [0u16, 128, 500, 8192] {
            assert_eq!(corrupt_at(patched(0x0B, &wrong.to_le_bytes())), 0x0B);
        }
        for wrong in [0u64, 7, u64::MAX, u64::MAX / 512, 1 << 55] {
            assert_eq!(corrupt_at(patched(0x28, &wrong.to_le_bytes())), 0x28);
        }
        assert_eq!(corrupt_at(patched(0x30, &2047u64.to_le_bytes())), 0x30);
        assert_eq!(corrupt_at(patched(3, b"-FVE-FS-")), 3);
        assert_eq!(corrupt_at(BootSector::from_bytes(&[])), 3);
    }
}
