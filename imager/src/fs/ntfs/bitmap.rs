//! `$Bitmap`: a bit for every cluster of the volume, set when it is in use.
//!
//! Layout: linux-ntfs documentation, "$Bitmap": least significant bit first; the bits past the last
//! cluster are set and mean nothing. Must not know: what else says that a cluster is in use.

use crate::extent::{Extent, ExtentSet};
use crate::fs::FsError;
use crate::fs::ntfs::mft::{Content, Mft, UNNAMED, check_plain};
use crate::fs::ntfs::record::Kind;

const BITMAP_FILE: u64 = 6;
const PIECE_BYTES: u64 = 1 << 20;

/// The bytes whose clusters are marked. The bitmap is read once, in pieces of 1 MiB.
pub(super) fn used(mft: &Mft<'_>) -> Result<ExtentSet, FsError> {
    let file = mft.system_file(BITMAP_FILE)?;
    let content = mft.content(&file, Kind::DATA, UNNAMED)?;
    let content = content.ok_or_else(|| FsError::corrupt(file.position, "$Bitmap has no content"))?;
    let bytes = mft.boot.clusters.div_ceil(8);
    if content.size() < bytes {
        let what = format!("$Bitmap has {} bytes, the volume needs {bytes}", content.size());
        return Err(FsError::corrupt(file.position, what));
    }

    let mut used = ExtentSet::new();
    let mut buf = Vec::new();
    let mut start = 0;
    while start < bytes {
        let len = PIECE_BYTES.min(bytes - start);
        buf.resize(usize::try_from(len).unwrap_or_default(), 0);
        content.read_at(mft.volume, start, &mut buf)?;
        each_set_run(&buf, |first, count| {
            let first = start * 8 + first;
            let end = first.saturating_add(count).min(mft.boot.clusters);
            used.insert(Extent::between(mft.boot.position(first), mft.boot.position(end)));
        });
        start += len;
    }

    // A bitmap that does not even know itself is not to be believed.
    let mut own = mft.stream().extents();
    if let Content::Stream(stream) = &content {
        check_plain(stream, "$Bitmap", file.position)?;
        own = own.union(&stream.extents());
    }
    match own.iter().find(|&extent| !used.contains(extent)) {
        Some(extent) => Err(FsError::corrupt(extent.start, "$Bitmap says that clusters of $MFT or $Bitmap are free")),
        None => Ok(used),
    }
}

/// Calls `run` with the first and the number of set bits, ascending; long runs come in parts.
fn each_set_run(bytes: &[u8], mut run: impl FnMut(u64, u64)) {
    for (first, bytes) in (0..).step_by(64).zip(bytes.chunks(8)) {
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let mut word = u64::from_le_bytes(word);
        while word != 0 {
            let skipped = word.trailing_zeros();
            let count = (word >> skipped).trailing_ones();
            run(first + u64::from(skipped), u64::from(count));
            // Two shifts, because one by 64 is none.
            word &= !((u64::MAX >> (64 - count)) << skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_cover_exactly_the_set_bits(bytes: Vec<u8>) {
            let mut seen = vec![false; bytes.len() * 8];
            each_set_run(&bytes, |first, count| {
                let first = usize::try_from(first).unwrap();
                for bit in &mut seen[first..first + usize::try_from(count).unwrap()] {
                    assert!(!*bit);
                    *bit = true;
                }
            });
            let expected: Vec<bool> = (0..bytes.len() * 8).map(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn full_words_are_runs_of_64() {
        let mut runs = Vec::new();
        each_set_run(&[0xFF; 17], |first, count| runs.push((first, count)));
        assert_eq!(runs, [(0, 64), (64, 64), (128, 8)]);
    }
}
