//! Writes images of partclone in every way that there is, for what the partclone at hand does not write any more, or not
//! yet.

use std::hash::Hasher;

use crc::{CRC_32_JAMCRC, Crc};

const CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_JAMCRC);

/// How to write an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// 0 none, 0x20 CRC32, 0x30 XXH64, 0x31 XXH3-128; 0xFF is version 1.
    pub(crate) mode: u16,
    pub(crate) blocks_per_sum: u32,
    pub(crate) reseed: bool,
    /// Version 1 only: sums of 8 bytes.
    pub(crate) stray: bool,
}

/// An image of `volume`, of which the blocks are in use that `used` says.
pub(crate) fn image(volume: &[u8], block_bytes: usize, used: &[bool], how: How) -> Vec<u8> {
    let blocks = used.len() as u64;
    let used_blocks = used.iter().filter(|used| **used).count() as u64;
    let device_bytes = volume.len() as u64;
    let block = u32::try_from(block_bytes).unwrap();
    let sum_bytes: u16 = match how.mode {
        0 => 0,
        0x30 => 8,
        0x31 => 16,
        _ => 4,
    };
    let mut bytes = b"partclone-image".to_vec();
    if how.mode == 0xFF {
        bytes.extend(b"EXTFS\x00\x00\x00\x00\x00\x00\x00\x00\x00\x000001\x00\x00");
        bytes.extend(block.to_le_bytes());
        bytes.extend([device_bytes, blocks, used_blocks].iter().flat_map(|n| n.to_le_bytes()));
        bytes.resize(4160, 0);
        bytes.extend(used.iter().map(|used| u8::from(*used)));
        bytes.extend(b"BiTmAgIc");
    } else {
        bytes.extend(
            b"\x000.3.99\x00\x00\x00\x00\x00\x00\x00\x000002\xde\xc0EXTFS\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        );
        bytes.extend([device_bytes, blocks, used_blocks, used_blocks].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(block.to_le_bytes());
        bytes.extend(18u32.to_le_bytes());
        bytes.extend([2, 64, how.mode, sum_bytes].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(how.blocks_per_sum.to_le_bytes());
        bytes.extend([u8::from(how.reseed), 1]);
        bytes.extend(CRC32.checksum(&bytes).to_le_bytes());
        assert_eq!(bytes.len(), 110);
        let mut bitmap = vec![0; used.len().div_ceil(8)];
        for (number, _) in used.iter().enumerate().filter(|(_, used)| **used) {
            bitmap[number / 8] |= 1 << (number % 8);
        }
        bytes.extend(&bitmap);
        bytes.extend(CRC32.checksum(&bitmap).to_le_bytes());
    }
    // Version 1 never begins anew, and an image has many blocks.
    let mut of_first_bytes = CRC32.digest();
    let mut strip = Vec::new();
    let mut in_strip = 0;
    for (number, _) in used.iter().enumerate().filter(|(_, used)| **used) {
        let start = number * block_bytes;
        let mut block = volume[start..volume.len().min(start + block_bytes)].to_vec();
        block.resize(block_bytes, 0);
        bytes.extend(&block);
        if how.mode == 0xFF {
            of_first_bytes.update(&vec![block[0]; block_bytes]);
            bytes.extend(of_first_bytes.clone().finalize().to_le_bytes());
            bytes.extend([0xAB; 4].iter().take(if how.stray { 4 } else { 0 }));
            continue;
        }
        strip.extend(block);
        in_strip += 1;
        if in_strip == how.blocks_per_sum {
            bytes.extend(sum(how.mode, &strip));
            in_strip = 0;
            if how.reseed {
                strip.clear();
            }
        }
    }
    if in_strip > 0 {
        bytes.extend(sum(how.mode, &strip));
    }
    bytes
}

fn sum(mode: u16, bytes: &[u8]) -> Vec<u8> {
    match mode {
        0 => Vec::new(),
        0x30 => {
            let mut hasher = twox_hash::XxHash64::with_seed(0);
            hasher.write(bytes);
            hasher.finish().to_le_bytes().to_vec()
        }
        0x31 => twox_hash::XxHash3_128::oneshot(bytes).to_le_bytes().to_vec(),
        _ => CRC32.checksum(bytes).to_le_bytes().to_vec(),
    }
}
