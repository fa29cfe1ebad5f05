//! Compression of frames: each thread keeps its zstd contexts, which cost more to make than to use.
//!
//! Must not know: packs, seals.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::pack::{Codec, CodedFrame, RawFrame};

thread_local! {
    static COMPRESSOR: RefCell<Option<(zstd::bulk::Compressor<'static>, Vec<u8>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<Decoder<'static>>> = const { RefCell::new(None) };
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

/// The most that `raw_len` bytes become by compression: zstd's own bound, rounded up.
#[must_use]
pub fn coded_len_max(raw_len: u64) -> u64 {
    raw_len.saturating_add(raw_len / 256).saturating_add(64)
}

/// Decompresses what claims to have `raw_len` bytes. A claim that the machine has no memory for is an error, and
/// memory that nothing is decompressed into is never touched.
///
/// # Errors
/// When it is not zstd, when it has another length, when there is no memory.
pub fn decompress_all(data: &[u8], raw_len: u64) -> io::Result<Vec<u8>> {
    decompress_all_into(Vec::new(), data, raw_len)
}

/// As [`decompress_all`], in the memory that `room` has, if that is enough.
///
/// # Errors
/// As there.
pub fn decompress_all_into(room: Vec<u8>, data: &[u8], raw_len: u64) -> io::Result<Vec<u8>> {
    let no_memory = || io::Error::other(format!("{raw_len} bytes are too many for this machine"));
    let len = usize::try_from(raw_len).map_err(|_| no_memory())?;
    let mut out = room;
    out.clear();
    out.try_reserve_exact(len).map_err(|_| no_memory())?;
    with_decompressor(|decompressor| decompressor.decompress_to_buffer(data, &mut out))?;
    if out.len() == len { Ok(out) } else { Err(io::Error::other("it has another length than it claims")) }
}

/// Decompresses into `out`, never beyond it; gives the length.
///
/// # Errors
/// When it is not one zstd frame, or larger than `out`.
pub fn decompress(data: &[u8], out: &mut [u8]) -> io::Result<usize> {
    with_decompressor(|decompressor| decompressor.decompress_to_buffer(data, out))
}

/// The first `len` bytes of what `data` decompresses to; what comes behind them is not decompressed, nor looked at. They
/// are put into the memory that `room` has, if that is enough.
///
/// # Errors
/// When what is looked at is not zstd, when there are fewer bytes, when there is no memory.
pub fn decompress_beginning(room: Vec<u8>, data: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = room;
    bytes.truncate(len);
    bytes.try_reserve_exact(len - bytes.len()).map_err(io::Error::other)?;
    // The decoder wants a slice; only what is new is filled.
    bytes.resize(len, 0);
    DECODER.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(kept) => kept,
            None => slot.insert(Decoder::new()?),
        };
        decoder.reinit()?;
        let (mut input, mut output) = (InBuffer::around(data), OutBuffer::around(bytes.as_mut_slice()));
        while output.pos() < len {
            let before = (input.pos(), output.pos());
            if decoder.run(&mut input, &mut output)? == 0 || before == (input.pos(), output.pos()) {
                break;
            }
        }
        if output.pos() < len {
            return Err(io::Error::other("it has fewer bytes than it claims"));
        }
        Ok(())
    })?;
    Ok(bytes)
}

fn with_decompressor<T>(work: impl FnOnce(&mut zstd::bulk::Decompressor<'static>) -> io::Result<T>) -> io::Result<T> {
    DECOMPRESSOR.with_borrow_mut(|slot| match slot {
        Some(kept) => work(kept),
        None => work(slot.insert(zstd::bulk::Decompressor::new()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_no_lower_than_zstds() {
        for len in (0..300_000).step_by(37).chain([1 << 20, 64 << 20, 1 << 30]) {
            let bound = zstd::zstd_safe::compress_bound(usize::try_from(len).unwrap());
            assert!(coded_len_max(len) >= bound as u64, "{len}");
        }
    }

    #[test]
    fn the_beginning_is_what_the_whole_begins_with() {
        let whole: Vec<u8> =
            (0..1_000_000u32).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let data = zstd::bulk::compress(&whole, 3).unwrap();
        for len in [0, 1, 4096, 131_071, 131_072, 131_073, 2_000_000, whole.len()] {
            assert!(decompress_beginning(Vec::new(), &data, len).unwrap() == whole[..len], "{len}");
        }
        assert!(decompress_beginning(Vec::new(), &data, whole.len() + 1).is_err());
        assert!(decompress_beginning(vec![9; 77], &data[..data.len() / 2], whole.len()).is_err());
        assert!(decompress_beginning(Vec::new(), b"no zstd", 1).is_err());
        // What an error left behind is of no consequence.
        assert!(decompress_beginning(Vec::new(), &data, 4096).unwrap() == whole[..4096]);
    }

    #[test]
    fn a_wrong_claim_is_an_error() {
        let data = zstd::bulk::compress(&[5; 1000], 3).unwrap();
        assert_eq!(decompress_all(&data, 1000).unwrap(), [5; 1000]);
        for claim in [0, 999, 1001, 1 << 30, u64::MAX] {
            assert!(decompress_all(&data, claim).is_err(), "{claim}");
        }
        assert!(decompress_all(b"no zstd", 7).is_err());
    }
}
