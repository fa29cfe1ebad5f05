//! The checksums between the blocks of an image.
//!
//! Version 1 sums up each block, and means its content, but takes the block's first byte over and over; its sums run
//! on from block to block. Where it was compiled for 64 bits it first wrote sums of 8 bytes, half of which mean
//! nothing; no header says so, but the second sum is then not where it should be. Must not know: files.

#![forbid(unsafe_code)]

use std::hash::Hasher;
use std::io::Read;

use twox_hash::{XxHash3_128, XxHash64};

use super::header::{CRC32, Header, Sum};
use super::{ImageError, Input};

/// What follows a sum of 4 bytes where 8 were written.
pub(super) const STRAY_BYTES: usize = 4;

enum State {
    None,
    Crc32(u32),
    Xxh64(XxHash64),
    Xxh128(Box<XxHash3_128>),
}

pub(super) struct Sums {
    sum: Sum,
    blocks_per_sum: u32,
    is_reseeded: bool,
    state: State,
    /// Blocks since the last sum.
    blocks: u64,
    /// The first of them, and where it is in the image.
    first: (u64, u64),
    /// Sums that were found right.
    right: u64,
    /// Whether each sum is followed by bytes that mean nothing.
    has_stray_bytes: bool,
}

impl Sums {
    pub(super) fn new(header: &Header) -> Self {
        Self {
            sum: header.sum,
            blocks_per_sum: header.blocks_per_sum,
            is_reseeded: header.is_reseeded,
            state: begun(header.sum),
            blocks: 0,
            first: (0, 0),
            right: 0,
            has_stray_bytes: false,
        }
    }

    /// How many blocks may be read before a sum stands.
    pub(super) fn blocks_left(&self) -> u64 {
        match (self.sum, self.blocks_per_sum) {
            (Sum::None, _) | (_, 0) => u64::MAX,
            (_, blocks) => u64::from(blocks).saturating_sub(self.blocks).max(1),
        }
    }

    /// Adds `blocks` blocks from block `first` on, which were just read, and checks the sum that stands behind them.
    pub(super) fn add<R: Read>(
        &mut self,
        bytes: &mut [u8],
        first: u64,
        blocks: u64,
        input: &mut Input<R>,
    ) -> Result<(), ImageError> {
        if self.sum == Sum::None {
            return Ok(());
        }
        if self.blocks == 0 {
            self.first = (first, input.offset.saturating_sub(bytes.len() as u64));
        }
        self.blocks += blocks;
        if self.sum == Sum::Crc32OfFirstByte {
            return self.check_v1(bytes, input);
        }
        self.update(bytes);
        if self.blocks_per_sum != 0 && self.blocks >= self.blocks_per_sum.into() { self.check(input) } else { Ok(()) }
    }

    /// Checks the sum of a last strip that is not full.
    pub(super) fn end<R: Read>(&mut self, input: &mut Input<R>) -> Result<(), ImageError> {
        if self.sum == Sum::None || self.blocks == 0 { Ok(()) } else { self.check(input) }
    }

    fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::None => {}
            State::Crc32(state) => *state = crc32(*state, bytes),
            State::Xxh64(state) => state.write(bytes),
            State::Xxh128(state) => state.write(bytes),
        }
    }

    fn matches(&self, found: &[u8]) -> bool {
        match &self.state {
            State::None => true,
            State::Crc32(state) => found == state.to_le_bytes(),
            State::Xxh64(state) => found == state.finish().to_le_bytes(),
            State::Xxh128(state) => found == state.finish_128().to_le_bytes(),
        }
    }

    fn check<R: Read>(&mut self, input: &mut Input<R>) -> Result<(), ImageError> {
        let mut found = [0; 16];
        let found = found.get_mut(..self.sum.size()).unwrap_or_default();
        input.fill(found, "a checksum")?;
        if !self.matches(found) {
            return Err(self.mismatch());
        }
        if self.is_reseeded {
            self.state = begun(self.sum);
        }
        self.blocks = 0;
        self.right += 1;
        Ok(())
    }

    fn mismatch(&self) -> ImageError {
        let (block, offset) = self.first;
        let blocks = match self.blocks {
            1 => format!("block {block}"),
            more => format!("the {more} blocks from block {block} on"),
        };
        ImageError::damaged(offset, format!("the checksum of {blocks} does not match"))
    }

    fn check_v1<R: Read>(&mut self, block: &mut [u8], input: &mut Input<R>) -> Result<(), ImageError> {
        let State::Crc32(before) = self.state else { return Ok(()) };
        if self.has_stray_bytes {
            slide(block, &[], input)?;
        }
        let mut found = [0; 4];
        input.fill(&mut found, "a checksum")?;
        self.state = State::Crc32(crc32_of_first_byte(before, block));
        if !self.matches(&found) {
            // Are these the 8 bytes? The first sum is where it should be even then.
            if self.right != 1 || self.has_stray_bytes {
                return Err(self.mismatch());
            }
            self.has_stray_bytes = true;
            let rest = found;
            slide(block, &rest, input)?;
            input.fill(&mut found, "a checksum")?;
            self.state = State::Crc32(crc32_of_first_byte(before, block));
            if !self.matches(&found) {
                return Err(self.mismatch());
            }
        }
        self.blocks = 0;
        self.right += 1;
        Ok(())
    }
}

/// Takes the stray bytes off the front of a block, and puts the block's last bytes behind it: `rest`, or what comes
/// next.
fn slide<R: Read>(block: &mut [u8], rest: &[u8], input: &mut Input<R>) -> Result<(), ImageError> {
    if block.len() < STRAY_BYTES {
        return Err(ImageError::Unsupported("its blocks are shorter than its checksums".into()));
    }
    block.rotate_left(STRAY_BYTES);
    let end = block.len() - STRAY_BYTES;
    let last = block.get_mut(end..).unwrap_or_default();
    if last.len() == rest.len() {
        last.copy_from_slice(rest);
        return Ok(());
    }
    input.fill(last, "its blocks")
}

fn begun(sum: Sum) -> State {
    match sum {
        Sum::None => State::None,
        Sum::Crc32 | Sum::Crc32OfFirstByte => State::Crc32(u32::MAX),
        Sum::Xxh64 => State::Xxh64(XxHash64::with_seed(0)),
        Sum::Xxh128 => State::Xxh128(Box::new(XxHash3_128::new())),
    }
}

/// Goes on from `state`; the digest takes its beginning with its bits reversed, as all of this CRC is.
fn crc32(state: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC32.digest_with_initial(state.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

fn crc32_of_first_byte(state: u32, block: &[u8]) -> u32 {
    let first = block.first().copied().unwrap_or(0);
    crc32(state, &vec![first; block.len()])
}
