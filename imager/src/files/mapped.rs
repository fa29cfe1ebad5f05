//! Files whose bytes lie on the volume as they are, and files that are in memory.
//!
//! Must not know: file systems.

use super::{File, Volume};
use crate::extent::Extent;
use crate::fs::FsError;

/// Consecutive bytes of a file that are consecutive on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte in the file.
    pub(crate) at: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// First byte on the volume.
    pub(crate) place: u64,
}

/// A file in pieces; what lies between them is zeros.
pub(crate) struct MappedFile {
    volume: Volume,
    size: u64,
    pieces: Vec<Piece>,
}

impl MappedFile {
    /// `pieces` ascend and do not overlap; what they have behind `size` does not count.
    pub(crate) fn new(volume: Volume, size: u64, pieces: Vec<Piece>) -> Self {
        Self { volume, size, pieces }
    }

    fn first_at(&self, offset: u64) -> usize {
        self.pieces.partition_point(|piece| piece.at.saturating_add(piece.len) <= offset)
    }
}

impl File for MappedFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let wanted = Extent::between(offset, offset.saturating_add(buf.len() as u64).min(self.size));
        let len = usize::try_from(wanted.len).unwrap_or(0);
        let buf = buf.get_mut(..len).unwrap_or_default();
        buf.fill(0);
        let pieces = self.pieces.iter().skip(self.first_at(offset));
        for piece in pieces.take_while(|piece| piece.at < wanted.end()) {
            let part = Extent::new(piece.at, piece.len).intersection(wanted);
            let start = usize::try_from(part.start.saturating_sub(wanted.start)).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(part.len).unwrap_or(usize::MAX));
            if let Some(target) = buf.get_mut(start..end) {
                self.volume.read_at(piece.place.saturating_add(part.start - piece.at), target)?;
            }
        }
        Ok(len)
    }

    fn next_data(&self, from: u64) -> Option<Extent> {
        let piece = self.pieces.get(self.first_at(from))?;
        let start = piece.at.max(from);
        let data = Extent::between(start, piece.at.saturating_add(piece.len).min(self.size));
        (start < self.size && !data.is_empty()).then_some(data)
    }
}

/// A small file, read whole.
pub(crate) struct BytesFile(pub(crate) Vec<u8>);

impl File for BytesFile {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let bytes = self.0.get(start..).unwrap_or_default();
        let len = bytes.len().min(buf.len());
        if let (Some(to), Some(of)) = (buf.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(of);
        }
        Ok(len)
    }

    fn next_data(&self, from: u64) -> Option<Extent> {
        (from < self.size()).then(|| Extent::between(from, self.size()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn pieces_are_read_where_they_lie_and_holes_are_zeros() {
        let volume: Vec<u8> = (0..100).collect();
        let pieces = vec![
            Piece { at: 5, len: 5, place: 50 },
            Piece { at: 10, len: 5, place: 20 },
            Piece { at: 20, len: 30, place: 0 },
        ];
        let file = MappedFile::new(Arc::new(volume), 25, pieces);
        let mut all = [9; 30];
        assert_eq!(file.read_at(0, &mut all).unwrap(), 25);
        let expected = [vec![0; 5], (50..55).collect(), (20..25).collect(), vec![0; 5], (0..5).collect()].concat();
        assert_eq!(all[..25], expected);
        let mut some = [9; 4];
        assert_eq!(file.read_at(8, &mut some).unwrap(), 4);
        assert_eq!(some, [53, 54, 20, 21]);
        assert_eq!(file.read_at(25, &mut some).unwrap(), 0);
        assert_eq!(file.read_at(u64::MAX, &mut some).unwrap(), 0);
        assert_eq!(file.next_data(0), Some(Extent::new(5, 5)));
        assert_eq!(file.next_data(12), Some(Extent::new(12, 3)));
        assert_eq!(file.next_data(15), Some(Extent::new(20, 5)));
        assert_eq!(file.next_data(25), None);
    }
}
