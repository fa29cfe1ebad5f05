//! Making checksums right that a change has made wrong: what lies behind them is reached.

use imager::read_at::{ReadAt, field};

use super::volume::PatchedVolume;

const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// Makes the checksums right of the records in the log of an XFS.
#[allow(dead_code, reason = "not every target has file systems")]
pub(crate) fn mend_xfs_log(volume: &mut PatchedVolume<'_>) {
    const MAGIC: u32 = 0xFEED_BABE;
    const LOG_BYTES_MAX: u64 = 8 << 20;
    const RECORDS_MAX: usize = 200;
    const RECORD_BYTES_MAX: usize = 256 << 10;
    const CRC_AT: usize = 32;
    let mend = || -> Option<Vec<(u64, [u8; 4])>> {
        let sector = volume.read_vec(0, 512).ok().filter(|sector| sector.starts_with(b"XFSB"))?;
        let (block, ag_blocks) = (u64::from(field::be32(&sector, 4)?), u64::from(field::be32(&sector, 84)?));
        let (first, shift) = (field::be64(&sector, 48)?, u32::from(*sector.get(124)?).min(63));
        let group = (first >> shift).checked_mul(ag_blocks)?;
        let start = group.checked_add(first & ((1 << shift) - 1))?.checked_mul(block)?;
        let len = u64::from(field::be32(&sector, 96)?).checked_mul(block)?.min(volume.size().checked_sub(start)?);
        let log = volume.read_vec(start, usize::try_from(len.min(LOG_BYTES_MAX)).unwrap()).ok()?;
        let mut sums = Vec::new();
        let is_record = |at: &usize| field::be32(&log, *at) == Some(MAGIC);
        for at in (0..log.len()).step_by(512).filter(is_record).take(RECORDS_MAX) {
            let field = |offset| field::be32(&log, at + offset).and_then(|number| usize::try_from(number).ok());
            let (Some(version), Some(data_len), Some(size)) = (field(8), field(12), field(320)) else { continue };
            if data_len > RECORD_BYTES_MAX {
                continue;
            }
            let headers = if version == 1 { 1 } else { size.div_ceil(32 << 10).max(1) };
            let data = at + headers.min(256) * 512;
            let (Some(header), Some(data)) = (log.get(at..at + 328), log.get(data..data.saturating_add(data_len)))
            else {
                continue;
            };
            let used = data.len().div_ceil(32 << 10).min(headers);
            let mut digest = CRC.digest();
            digest.update(&header[..CRC_AT]);
            digest.update(&[0; 4]);
            digest.update(&header[CRC_AT + 4..]);
            let extended = log[at..].chunks_exact(512).take(used).skip(1);
            extended.for_each(|header| digest.update(&header[..260]));
            digest.update(data);
            sums.push((start + (at + CRC_AT) as u64, digest.finalize().to_le_bytes()));
        }
        Some(sums)
    };
    for (at, sum) in mend().unwrap_or_default() {
        volume.put(at, sum.to_vec());
    }
}

/// Makes the checksums right of the headers, the tables of regions and the log's entries of a VHDX.
#[allow(dead_code, reason = "not every target has disk files")]
pub(crate) fn mend_vhdx(file: &mut PatchedVolume<'static>) {
    const ENTRIES_BYTES_MAX: usize = 4 << 20;
    let sum = |mut bytes: Vec<u8>| {
        bytes[4..8].fill(0);
        CRC.checksum(&bytes).to_le_bytes().to_vec()
    };
    let mut logs = Vec::new();
    for (at, len, mark) in [
        (64u64 << 10, 4096, b"head"),
        (128 << 10, 4096, b"head"),
        (192 << 10, 64 << 10, b"regi"),
        (256 << 10, 64 << 10, b"regi"),
    ] {
        let Ok(bytes) = file.read_vec(at, len) else { continue };
        if bytes.starts_with(mark) {
            if mark == b"head" {
                logs.push((field::le64(&bytes, 72).unwrap(), field::le32(&bytes, 68).unwrap()));
            }
            file.put(at + 4, sum(bytes));
        }
    }
    logs.dedup();
    let mut summed = 0;
    for (start, len) in logs {
        if len > 1 << 20 {
            continue;
        }
        let Ok(ring) = file.read_vec(start, usize::try_from(len).unwrap()) else { continue };
        for at in (0..ring.len() / 4096).map(|number| number * 4096) {
            let entry_len = field::le32(&ring, at + 8).map_or(0, |len| usize::try_from(len).unwrap());
            if !ring[at..].starts_with(b"loge") || entry_len < 4096 || entry_len > ring.len() {
                continue;
            }
            summed += entry_len;
            if summed > ENTRIES_BYTES_MAX {
                break;
            }
            let entry: Vec<u8> = ring[at..].iter().chain(&ring).copied().take(entry_len).collect();
            file.put(start + at as u64 + 4, sum(entry));
        }
    }
}
