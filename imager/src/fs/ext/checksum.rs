//! The three checksums of ext4 and its journal, as the kernel computes them: no final inversion, and
//! the state of one run seeds the next.
//!
//! Must not know: what is checked.

#![forbid(unsafe_code)]

use crc::{Algorithm, CRC_16_MODBUS, CRC_32_ISCSI, CRC_32_MPEG_2, Crc, Table};

/// CRC-32C without the final inversion that the catalogue's version has.
static CRC32C_RAW: Algorithm<u32> = Algorithm { xorout: 0, ..CRC_32_ISCSI };
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC32C_RAW);
static CRC16: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_MODBUS);
static CRC32_BE: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_MPEG_2);

/// What every CRC-32C starts with when nothing else seeds it.
pub(super) const CRC32C_START: u32 = u32::MAX;

/// CRC-32C of `parts`, one after the other, continuing from `seed`.
pub(super) fn crc32c(seed: u32, parts: &[&[u8]]) -> u32 {
    // The crate takes the initial value as the catalogue writes it: most significant bit first.
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// CRC-16 of `parts`, one after the other: the group descriptors of `uninit_bg`.
pub(super) fn crc16(parts: &[&[u8]]) -> u16 {
    let mut digest = CRC16.digest();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// The running checksum over a transaction in a journal with version 1 checksums.
pub(super) struct TransactionCrc(crc::Digest<'static, u32, Table<16>>);

impl TransactionCrc {
    /// Of no block yet.
    pub(super) fn new() -> Self {
        Self(CRC32_BE.digest())
    }

    /// Takes in one block.
    pub(super) fn update(&mut self, block: &[u8]) {
        self.0.update(block);
    }

    /// The checksum so far; the next transaction starts anew.
    pub(super) fn take(&mut self) -> u32 {
        std::mem::replace(&mut self.0, CRC32_BE.digest()).finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_those_of_the_catalogue_without_the_final_inversion() {
        assert_eq!(!crc32c(CRC32C_START, &[b"123456789"]), 0xe306_9283);
        assert_eq!(crc16(&[b"1234", b"56789"]), 0x4b37);
    }

    #[test]
    fn one_run_seeds_the_next() {
        let first = crc32c(CRC32C_START, &[b"1234"]);
        assert_eq!(crc32c(first, &[b"56789"]), crc32c(CRC32C_START, &[b"123", b"456789"]));
    }

    #[test]
    fn a_transaction_starts_anew_after_each_take() {
        let mut crc = TransactionCrc::new();
        for _ in 0..2 {
            crc.update(b"12345");
            crc.update(b"6789");
            assert_eq!(crc.take(), 0x0376_e6e7);
        }
    }
}
