//! Compression of frames. What zstd needs for one costs more to make than to use, and is kept: by each thread, or for all.
//!
//! Must not know: packs, seals.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::sync::Mutex;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::pack::{Codec, CodedFrame, RawFrame};
use crate::progress::lock;

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
    if out.capacity() < len {
        // Not made larger: what is in it would be copied.
        out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| no_memory())?;
    }
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

/// Some of the bytes that a zstd frame decompresses to, taken out while it is fed. What lies before them is decompressed
/// and forgotten; what lies behind is not looked at.
pub struct Part {
    /// There until it is dropped.
    tools: Option<PartTools>,
    /// Bytes before the wanted ones.
    to_skip: usize,
    wanted: Vec<u8>,
    /// How many of the wanted ones are there.
    found: usize,
}

/// A decoder, which has room for as much of a frame as later bytes may refer to, and room for what is skipped.
struct PartTools {
    decoder: Decoder<'static>,
    skipped: Vec<u8>,
}

/// Kept from one part to the next, for whichever thread wants them: those that read parts are many, and come and go.
static PART_TOOLS: Mutex<Vec<PartTools>> = Mutex::new(Vec::new());
const PART_TOOLS_MAX: usize = 8;

/// Decompressed and forgotten at once: a block of zstd, which the processor's cache holds.
const SKIPPED_BYTES: usize = 128 << 10;

impl Part {
    /// Of the bytes `range`, which somebody has bounded.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(range: std::ops::Range<usize>) -> io::Result<Self> {
        let kept = lock(&PART_TOOLS).pop();
        let mut tools = match kept {
            Some(kept) => kept,
            None => {
                let mut decoder = Decoder::new()?;
                // As far back as whole frames may refer: memory for it is only taken as it is filled.
                decoder.set_parameter(DParameter::WindowLogMax(31))?;
                PartTools { decoder, skipped: vec![0; SKIPPED_BYTES] }
            }
        };
        tools.decoder.reinit()?;
        let mut wanted = Vec::new();
        wanted.try_reserve_exact(range.len()).map_err(io::Error::other)?;
        wanted.resize(range.len(), 0);
        Ok(Self { tools: Some(tools), to_skip: range.start, wanted, found: 0 })
    }

    /// Takes the next bytes of the zstd frame; `true` when nothing more is needed.
    ///
    /// # Errors
    /// When it is not zstd, and when it ends before the wanted bytes do.
    pub fn feed(&mut self, data: &[u8]) -> io::Result<bool> {
        let Some(PartTools { decoder, skipped }) = &mut self.tools else { return Ok(true) };
        let mut input = InBuffer::around(data);
        while self.found < self.wanted.len() {
            let skips = self.to_skip > 0;
            let room = match self.to_skip {
                0 => self.wanted.get_mut(self.found..),
                left => skipped.get_mut(..left.min(SKIPPED_BYTES)),
            };
            let before = input.pos();
            let mut output = OutBuffer::around(room.unwrap_or_default());
            let ended = decoder.run(&mut input, &mut output)? == 0;
            let made = output.pos();
            if skips {
                self.to_skip -= made;
            } else {
                self.found += made;
            }
            if self.found < self.wanted.len() {
                if ended {
                    return Err(io::Error::other("it has fewer bytes than it claims"));
                }
                if made == 0 && input.pos() == before {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The bytes, once [`Part::feed`] has said that they are there.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.wanted)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut kept = lock(&PART_TOOLS);
        if kept.len() < PART_TOOLS_MAX {
            kept.extend(self.tools.take());
        }
    }
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
    fn a_part_is_what_the_whole_has_there_however_it_is_fed() {
        let whole: Vec<u8> =
            (0..1_000_000u32).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let data = zstd::bulk::compress(&whole, 3).unwrap();
        let part = |range: std::ops::Range<usize>, data: &[u8], step: usize| {
            let mut part = Part::new(range)?;
            for piece in data.chunks(step) {
                if part.feed(piece)? {
                    return Ok(Some(part.into_bytes()));
                }
            }
            io::Result::Ok(None)
        };
        let end = whole.len();
        for range in
            [0..0, 0..1, 5..4096, 131_071..131_073, 131_072..200_000, 2_000_000..2_000_001, 1..end, end - 9..end]
        {
            for step in [1000, 70_000, data.len()] {
                assert!(part(range.clone(), &data, step).unwrap().unwrap() == whole[range.clone()], "{range:?} {step}");
            }
        }
        // What it does not need may be missing; what it needs may not.
        assert!(part(9..5000, &data[..data.len() / 2], 1000).unwrap().unwrap() == whole[9..5000]);
        assert!(part(end - 9..end, &data[..data.len() / 2], 1000).unwrap().is_none());
        assert!(part(end - 9..end + 1, &data, 1000).is_err());
        assert!(part(0..1, b"no zstd", 7).is_err());
        // What an error left behind is of no consequence.
        assert!(part(0..4096, &data, 1000).unwrap().unwrap() == whole[..4096]);
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
