//! Compression of frames: each thread keeps its zstd contexts, which cost more to make than to use.
//!
//! Must not know: packs, seals.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;

use super::pack::{Codec, CodedFrame, RawFrame};

thread_local! {
    static COMPRESSOR: RefCell<Option<(zstd::bulk::Compressor<'static>, Vec<u8>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses a frame at `level` (1–22); one that does not get smaller stays as it is. The buffer of one
/// that does is given to `recycle`, emptied.
///
/// # Errors
/// When there is no memory for the level.
pub fn compress(frame: RawFrame, level: i32, recycle: &mut dyn FnMut(Vec<u8>)) -> io::Result<CodedFrame> {
    let RawFrame { content, mut data, chunks } = frame;
    let raw_len = u32::try_from(data.len()).map_err(io::Error::other)?;
    let coded = COMPRESSOR.with_borrow_mut(|slot| {
        let (compressor, scratch) = match slot {
            Some(kept) => kept,
            None => slot.insert((zstd::bulk::Compressor::new(level)?, Vec::new())),
        };
        compressor.set_compression_level(level)?;
        scratch.clear();
        scratch.reserve(zstd::zstd_safe::compress_bound(data.len()));
        compressor.compress_to_buffer(&data, scratch)?;
        // An exact copy: the scratch space is as large as the frame, and most frames end at half of it.
        io::Result::Ok((scratch.len() < data.len()).then(|| {
            let mut coded = Vec::with_capacity(scratch.len() + super::seal::TAG_LEN);
            coded.extend_from_slice(scratch);
            coded
        }))
    })?;
    Ok(match coded {
        Some(coded) => {
            data.clear();
            recycle(data);
            CodedFrame { content, codec: Codec::Zstd, raw_len, data: coded, chunks }
        }
        None => CodedFrame { content, codec: Codec::Raw, raw_len, data, chunks },
    })
}

/// Decompresses into `out`, never beyond it; gives the length.
///
/// # Errors
/// When it is not one zstd frame, or larger than `out`.
pub fn decompress(data: &[u8], out: &mut [u8]) -> io::Result<usize> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(kept) => kept,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(data, out)
    })
}
