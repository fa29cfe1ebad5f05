//! Files that NTFS compresses: LZNT1, in units of (usually) sixteen clusters.
//!
//! A unit whose clusters are all there is stored as it is, one without any is zeros, and anything between is
//! compressed. Layout: linux-ntfs documentation, "Compression"; [MS-XCA] 2.5. Must not know: records, directories.

use std::sync::{Arc, Mutex};

use super::super::stream::Stream;
use crate::extent::Extent;
use crate::files::{File, Piece, Volume};
use crate::fs::FsError;
use crate::progress::lock;
use crate::read_at::field::le16;

/// A unit is 64 KiB in Windows; the format would allow more.
const UNIT_BYTES_MAX: u64 = 1 << 20;
/// What one chunk of LZNT1 becomes.
const CHUNK_BYTES: usize = 4096;

/// An open file.
pub(super) struct CompressedFile {
    volume: Volume,
    size: u64,
    written: u64,
    unit: u64,
    pieces: Vec<Piece>,
    /// Where its record lies, for messages.
    position: u64,
    /// The unit that was read last.
    last: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

impl CompressedFile {
    /// Units are two to this `power` of clusters.
    pub(super) fn new(volume: Volume, stream: &Stream, power: u8, position: u64) -> Result<Self, FsError> {
        let unit = 1u64.checked_shl(power.into()).and_then(|clusters| clusters.checked_mul(stream.cluster_size()));
        let unit = unit.filter(|&unit| unit <= UNIT_BYTES_MAX && power > 0);
        let unit = unit.ok_or_else(|| FsError::corrupt(position, "a unit of compression that cannot be"))?;
        let (size, written, pieces) = (stream.data_size, stream.initialized_size, stream.pieces().collect());
        Ok(Self { volume, size, written, unit, pieces, position, last: Mutex::default() })
    }

    fn first_at(&self, offset: u64) -> usize {
        self.pieces.partition_point(|piece| piece.at.saturating_add(piece.len) <= offset)
    }

    fn unit(&self, number: u64) -> Result<Arc<Vec<u8>>, FsError> {
        if let Some((last, bytes)) = &*lock(&self.last)
            && *last == number
        {
            return Ok(Arc::clone(bytes));
        }
        let range = Extent::new(number.saturating_mul(self.unit), self.unit);
        let mut stored = Vec::new();
        for piece in self.pieces.iter().skip(self.first_at(range.start)).take_while(|piece| piece.at < range.end()) {
            let part = Extent::new(piece.at, piece.len).intersection(range);
            // A hole in front of data would be no unit that Windows makes.
            if part.start - range.start != stored.len() as u64 {
                return Err(FsError::corrupt(self.position, "a compressed unit with a hole inside"));
            }
            let len = usize::try_from(part.len).map_err(std::io::Error::other)?;
            stored.extend(self.volume.read_vec(piece.place.saturating_add(part.start - piece.at), len)?);
        }
        let unit = usize::try_from(self.unit).map_err(std::io::Error::other)?;
        let bytes = match stored.len() {
            0 => vec![0; unit],
            len if len == unit => stored,
            _ => decompress(&stored, unit).ok_or_else(|| FsError::corrupt(self.position, "broken compressed data"))?,
        };
        let bytes = Arc::new(bytes);
        *lock(&self.last) = Some((number, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl File for CompressedFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let end = offset.saturating_add(buf.len() as u64).min(self.size);
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
        let mut rest = buf.get_mut(..len).unwrap_or_default();
        let mut at = offset;
        while !rest.is_empty() {
            let within = usize::try_from(at % self.unit).unwrap_or(0);
            let count = usize::try_from(self.unit).unwrap_or(0).saturating_sub(within).min(rest.len());
            let (part, after) = rest.split_at_mut(count);
            part.fill(0);
            let valid = usize::try_from(self.written.saturating_sub(at)).unwrap_or(usize::MAX).min(count);
            if valid > 0 {
                let unit = self.unit(at / self.unit)?;
                if let (Some(to), Some(of)) = (part.get_mut(..valid), unit.get(within..within + valid)) {
                    to.copy_from_slice(of);
                }
            }
            at = at.saturating_add(count as u64);
            rest = after;
        }
        Ok(len)
    }

    fn next_data(&self, from: u64) -> Option<Extent> {
        let piece = self.pieces.get(self.first_at(from / self.unit * self.unit))?;
        let unit = (piece.at / self.unit * self.unit).max(from / self.unit * self.unit);
        let data = Extent::between(unit.max(from), unit.saturating_add(self.unit).min(self.size));
        (unit.max(from) < self.size && !data.is_empty()).then_some(data)
    }
}

/// Undoes LZNT1; `None` when the input breaks its rules. What the input does not reach is zeros.
fn decompress(mut input: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(len);
    while output.len() < len {
        let header = match le16(input, 0) {
            None | Some(0) => break,
            Some(header) => header,
        };
        let size = usize::from(header & 0xfff) + 1;
        let chunk = input.get(2..2 + size)?;
        input = input.get(2 + size..)?;
        let start = output.len();
        if header & 0x8000 == 0 {
            output.extend_from_slice(chunk);
        } else {
            decompress_chunk(chunk, &mut output)?;
        }
        if output.len() - start > CHUNK_BYTES {
            return None;
        }
        // A chunk that ends early is filled up.
        output.resize(start + CHUNK_BYTES, 0);
    }
    (output.len() <= len).then(|| {
        output.resize(len, 0);
        output
    })
}

fn decompress_chunk(mut chunk: &[u8], output: &mut Vec<u8>) -> Option<()> {
    let start = output.len();
    while let Some((&flags, rest)) = chunk.split_first() {
        chunk = rest;
        for bit in 0..8 {
            if chunk.is_empty() {
                return Some(());
            }
            if flags >> bit & 1 == 0 {
                let (&literal, rest) = chunk.split_first()?;
                output.push(literal);
                chunk = rest;
            } else {
                let token = usize::from(le16(chunk, 0)?);
                chunk = chunk.get(2..)?;
                // The further into the chunk, the more bits the distance has.
                let mut length_bits = 12;
                let mut position = (output.len() - start).checked_sub(1)?;
                while position >= 0x10 {
                    length_bits -= 1;
                    position >>= 1;
                }
                let length = (token & ((1 << length_bits) - 1)) + 3;
                let from = output.len().checked_sub((token >> length_bits) + 1).filter(|&from| from >= start)?;
                for at in from..from + length {
                    output.push(*output.get(at)?);
                }
            }
            if output.len() - start > CHUNK_BYTES {
                return None;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_specifications_example_decompresses() {
        // [MS-XCA] 3.3.
        let input = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0, 0x45,
            0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4,
            0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00,
            0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let expected = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let output = decompress(&input, 8192).unwrap();
        assert_eq!(std::str::from_utf8(&output[..expected.len()]).unwrap(), expected);
        assert!(output[expected.len()..].iter().all(|&byte| byte == 0));
    }

    proptest! {
        #[test]
        fn any_bytes_decompress_or_are_refused(input: Vec<u8>) {
            if let Some(output) = decompress(&input, 65_536) {
                prop_assert_eq!(output.len(), 65_536);
            }
        }
    }
}
