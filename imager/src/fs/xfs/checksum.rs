//! The CRC32C that version 5 file systems and the log put on their structures.
//!
//! Source: `xfs_cksum.h` of the Linux kernel: the checksum is taken with its own field as zeros and stored
//! little-endian, whatever the order of the rest.

use crc::{CRC_32_ISCSI, Crc, Digest, Table};

use crate::read_at::field::le32;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Whether the structure that fills `bytes` carries its own checksum at byte `at`.
pub(super) fn matches(bytes: &[u8], at: usize) -> bool {
    start(bytes, at).is_some_and(|digest| le32(bytes, at) == Some(digest.finalize()))
}

/// A running checksum of `bytes`, with the four bytes at `at` taken as zeros; `None` when `at` is outside.
pub(super) fn start(bytes: &[u8], at: usize) -> Option<Digest<'static, u32, Table<16>>> {
    let mut digest = CRC32C.digest();
    digest.update(bytes.get(..at)?);
    digest.update(&[0; 4]);
    digest.update(bytes.get(at.checked_add(4)?..)?);
    Some(digest)
}
