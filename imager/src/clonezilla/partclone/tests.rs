//! Headers, bitmaps and blocks as partclone writes them, and what is wrong with them.

use proptest::prelude::*;

use self::partclone_writer::{How, image};
use super::*;

#[path = "../../../tests/it/partclone_writer.rs"]
mod partclone_writer;

/// What an image holds, and what is behind it.
fn read(bytes: &[u8], bytes_max: u64) -> Result<(Vec<u8>, Vec<bool>, Tail), ImageError> {
    let mut image = Image::open(bytes, bytes_max)?;
    let used = (0..image.used().len()).map(|number| image.used().get(number)).collect();
    let block_bytes = usize::try_from(image.header().block_bytes).unwrap();
    let mut volume = vec![0; usize::try_from(image.header().bytes()).unwrap()];
    let mut buf = Vec::new();
    while let Some(first) = image.next_blocks(&mut buf)? {
        volume[usize::try_from(first).unwrap() * block_bytes..][..buf.len()].copy_from_slice(&buf);
    }
    Ok((volume, used, image.tail()?))
}

const WAYS: [How; 9] = [
    How { mode: 0, blocks_per_sum: 0, reseed: false, stray: false },
    How { mode: 0x20, blocks_per_sum: 1, reseed: true, stray: false },
    How { mode: 0x20, blocks_per_sum: 7, reseed: false, stray: false },
    How { mode: 0x20, blocks_per_sum: 256, reseed: true, stray: false },
    How { mode: 0x30, blocks_per_sum: 3, reseed: true, stray: false },
    How { mode: 0x30, blocks_per_sum: 5, reseed: false, stray: false },
    How { mode: 0x31, blocks_per_sum: 4, reseed: true, stray: false },
    How { mode: 0xFF, blocks_per_sum: 1, reseed: false, stray: false },
    How { mode: 0xFF, blocks_per_sum: 1, reseed: false, stray: true },
];

/// Blocks whose bytes all differ from their neighbours'.
fn volume(used: &[bool], block_bytes: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at * 31 + at / block_bytes * 7) % 251).unwrap() + 1;
    (0..used.len() * block_bytes).map(|at| if used[at / block_bytes] { byte(at) } else { 0 }).collect()
}

proptest! {
    #[test]
    fn what_was_written_is_read(used in proptest::collection::vec(any::<bool>(), 1..700), way in 0..WAYS.len(), tail in 0usize..3) {
        let volume = volume(&used, 512);
        let mut bytes = image(&volume, 512, &used, WAYS[way]);
        bytes.extend(vec![9; tail]);
        let (found, found_used, found_tail) = read(&bytes, volume.len() as u64).unwrap();
        prop_assert_eq!(found_used, used);
        prop_assert_eq!(found, volume);
        prop_assert_eq!(found_tail == Tail::Nothing, tail == 0);
    }

    #[test]
    fn what_is_cut_short_is_noticed(used in proptest::collection::vec(any::<bool>(), 1..40), way in 0..WAYS.len(), cut in 0.0f64..1.0) {
        let volume = volume(&used, 512);
        let how = WAYS[way];
        let mut bytes = image(&volume, 512, &used, how);
        // The stray bytes behind the last sum are missed by nobody.
        let whole = bytes.len() - if how.stray && used.contains(&true) { 4 } else { 0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "any place will do")]
        bytes.truncate((whole as f64 * cut) as usize);
        let is_noticed = matches!(read(&bytes, u64::MAX), Err(ImageError::Damaged { .. }));
        prop_assert!(is_noticed);
    }
}

#[test]
fn every_byte_that_is_summed_up_counts() {
    let used: Vec<bool> = (0..40).map(|number| number % 3 != 1).collect();
    let volume = volume(&used, 64);
    for how in WAYS.into_iter().filter(|how| !matches!(how.mode, 0 | 0xFF)) {
        let good = image(&volume, 64, &used, how);
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            let found = read(&bytes, u64::MAX);
            assert!(found.is_err(), "byte {at} of {how:?} may be anything");
            if let (Err(ImageError::Damaged { offset, .. }), true) = (found, at > 200) {
                // The strip begins before the byte, and not long before it.
                let strip = u64::from(how.blocks_per_sum) * 64 + 16;
                assert!(offset <= at as u64 && at as u64 <= offset + strip, "{offset} for {at} of {how:?}");
            }
        }
    }
}

#[test]
fn the_first_version_sums_up_the_first_byte_of_each_block() {
    let used = [true; 5];
    let volume = volume(&used, 64);
    let how = How { mode: 0xFF, blocks_per_sum: 1, reseed: false, stray: false };
    let good = image(&volume, 64, &used, how);
    let begin = 4160 + 5 + 8;
    let with = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        read(&bytes, u64::MAX)
    };
    assert!(with(begin).is_err() && with(begin + 64).is_err() && with(begin + 4 * 68).is_err());
    assert_eq!(with(begin + 1).unwrap().0[1], volume[1] ^ 1);
}

#[test]
fn what_a_header_claims_is_bounded() {
    let used = [true; 8];
    let volume = volume(&used, 512);
    let how = How { mode: 0x20, blocks_per_sum: 2, reseed: true, stray: false };
    let good = image(&volume, 512, &used, how);
    // A volume of less room than the image has blocks; a file system may end within its last one.
    assert!(read(&good, 8 * 512 - 1).is_ok());
    assert!(matches!(read(&good, 7 * 512 - 1), Err(ImageError::Damaged { .. })));
    for (at, value) in [(60, u64::MAX), (60, 1 << 40), (60, 0), (84, 0), (84, u64::from(u32::MAX)), (98, 200)] {
        let mut bytes = good.clone();
        let len = if at == 60 { 8 } else { 4 };
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        let sum = CRC32.checksum(&bytes[..106]);
        bytes[106..110].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(read(&bytes, u64::MAX), Err(ImageError::Damaged { .. })), "{value} at {at}");
    }
    // As many blocks as there may be, and not a byte of a bitmap: that costs no memory.
    let mut bytes = good[..110].to_vec();
    bytes[60..68].copy_from_slice(&(1u64 << 34).to_le_bytes());
    let sum = CRC32.checksum(&bytes[..106]);
    bytes[106..110].copy_from_slice(&sum.to_le_bytes());
    assert!(matches!(read(&bytes, u64::MAX), Err(ImageError::Damaged { offset: 110, .. })));
}

#[test]
fn what_is_not_known_is_said() {
    let good = image(&volume(&[true], 512), 512, &[true], WAYS[1]);
    for (at, byte, word) in
        [(33, b'3', "version"), (96, 0x77, "checksum mode"), (105, 2, "bitmap mode"), (34, 0xC0, "endian")]
    {
        let mut bytes = good.clone();
        bytes[at] = byte;
        if at == 34 {
            bytes[35] = 0xDE;
        }
        let sum = CRC32.checksum(&bytes[..106]);
        bytes[106..110].copy_from_slice(&sum.to_le_bytes());
        match read(&bytes, u64::MAX) {
            Err(ImageError::Unsupported(what)) => assert!(what.contains(word), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(read(b"", 1), Err(ImageError::Damaged { .. })));
    assert!(matches!(read(&[0; 5000], 1), Err(ImageError::Damaged { offset: 0, .. })));
}
