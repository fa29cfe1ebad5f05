//! Decompression of single blocks, whose size is known and bounds the memory.
//!
//! Must not know: where blocks come from.

use flate2::{Decompress, FlushDecompress, Status};

/// At most `len` bytes out of a raw deflate stream; what comes behind it is not looked at. Nothing when it is not one.
pub(super) fn deflate(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    inflate(Decompress::new(false), stored, len)
}

/// The same with zlib's header.
pub(super) fn zlib(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    inflate(Decompress::new(true), stored, len)
}

fn inflate(mut stream: Decompress, stored: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut block = vec![0; len];
    loop {
        let (before_in, before_out) = (stream.total_in(), stream.total_out());
        let input = stored.get(usize::try_from(before_in).ok()?..)?;
        let output = block.get_mut(usize::try_from(before_out).ok()?..)?;
        let status = stream.decompress(input, output, FlushDecompress::None).ok()?;
        let out = usize::try_from(stream.total_out()).ok()?;
        let stands_still = (before_in, before_out) == (stream.total_in(), stream.total_out());
        match status {
            Status::StreamEnd => block.truncate(out),
            _ if out == len => {}
            _ if stands_still => return None,
            _ => continue,
        }
        return Some(block);
    }
}

/// At most `len` bytes out of zstd frames, one after the other; what comes behind them is not looked at.
pub(super) fn zstd(stored: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut block = Vec::with_capacity(len);
    let mut decompressor = zstd::bulk::Decompressor::new().ok()?;
    let mut rest = stored;
    while block.len() < len {
        // Frames are decompressed in one go, which takes no window: a frame may claim one of 128 MiB.
        let frame = zstd::zstd_safe::find_frame_compressed_size(rest).ok()?;
        let (frame, behind) = rest.split_at_checked(frame)?;
        let part = decompressor.decompress(frame, len - block.len()).ok()?;
        if part.is_empty() && frame.is_empty() {
            return None;
        }
        block.extend_from_slice(&part);
        rest = behind;
    }
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn blocks_come_back_and_never_more_than_asked_for() {
        let block = b"all work and no play ".repeat(500);
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&block).unwrap();
        let packed = encoder.finish().unwrap();
        let padded = [&packed[..], &[0; 100]].concat();
        assert_eq!(zlib(&padded, block.len()).unwrap(), block);
        assert_eq!(zlib(&padded, block.len() + 1000).unwrap(), block);
        assert_eq!(zlib(&padded, 100).unwrap(), block[..100]);
        assert_eq!(deflate(&padded[2..], block.len()).unwrap(), block);
        assert!(zlib(&packed[..packed.len() / 2], block.len()).is_none());
        assert!(zlib(&[], 10).is_none());
        let half = zstd::bulk::compress(&block[..5000], 3).unwrap();
        let other = zstd::bulk::compress(&block[5000..], 3).unwrap();
        let padded = [&half[..], &other, &[0; 100]].concat();
        assert!(zstd(&padded, block.len()).unwrap() == block);
        assert!(zstd(&half, block.len()).is_none());
        assert!(zstd(&padded, 4999).is_none());
    }
}
