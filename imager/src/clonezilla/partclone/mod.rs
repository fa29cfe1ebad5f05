//! Images of partclone, read from beginning to end: which blocks of a volume were in use, and those blocks.
//!
//! ```text
//! header ─► bitmap ─► strips of used blocks, each with its checksum
//! ```
//!
//! Everything that has a checksum is checked, and nothing is believed before it is bounded. Must not know: files,
//! compression, disks.
//!
//! Source: what partclone 0.2 to 0.3 write and read (`partclone.c`, `main.c`, `checksum.c`).

#![forbid(unsafe_code)]

mod bitmap;
mod header;
mod sums;

use std::io::{self, Read};

pub use bitmap::Bitmap;
pub use header::{BitmapForm, Header, SIZE_V1, SIZE_V2, Sum, Version};

use header::CRC32;
use sums::Sums;

/// Bytes of blocks that are handed out at once, unless one block is larger.
const RUN_BYTES: u64 = 1 << 20;
/// What stands between version 1's bitmap and its blocks.
const BITMAP_END: &[u8; 8] = b"BiTmAgIc";
/// What is looked at behind the end.
const TAIL_BYTES_MAX: usize = 64 << 10;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What the image is read from says so.
    #[error("{0}")]
    Read(io::Error),
    /// The bytes are not what was written.
    #[error("byte {offset}: {what}")]
    Damaged {
        /// Position in the image as partclone wrote it, decompressed.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// It is written in a way that this program does not know.
    #[error("{0}")]
    Unsupported(String),
}

impl ImageError {
    pub(crate) fn damaged(offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { offset, what: what.into() }
    }
}

/// What lay behind the last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Nothing,
    /// Bytes that belong to nothing.
    Leftovers,
}

/// A stream that knows how far it was read.
struct Input<R> {
    reader: R,
    offset: u64,
}

impl<R: Read> Input<R> {
    /// Fills `buf`; `what` is being read.
    fn fill(&mut self, buf: &mut [u8], what: &str) -> Result<(), ImageError> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => return Err(ImageError::damaged(self.offset, format!("it ends in the midst of {what}"))),
                Ok(read) => {
                    done += read;
                    self.offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::Read(error)),
            }
        }
        Ok(())
    }
}

/// An image whose header and bitmap were read, and whose blocks come next.
pub struct Image<R> {
    input: Input<R>,
    header: Header,
    used: Bitmap,
    /// The block to go on from.
    at: u64,
    sums: Sums,
}

impl<R: Read> Image<R> {
    /// Reads the header and the bitmap. An image of more than `bytes_max` bytes is not one of a volume of that size.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(reader: R, bytes_max: u64) -> Result<Self, ImageError> {
        let mut input = Input { reader, offset: 0 };
        let mut start = vec![0; SIZE_V2];
        input.fill(&mut start, "its header")?;
        let size = Header::size(&start)?;
        start.resize(size, 0);
        input.fill(start.get_mut(SIZE_V2..).unwrap_or_default(), "its header")?;
        let header = Header::from_bytes(&start)?;
        // A file system may end within its last block.
        if header.bytes() > bytes_max.saturating_add(header.block_bytes.into()) {
            return Err(ImageError::damaged(
                0,
                format!(
                    "its header says that it has {} blocks of {} bytes, which is more than the {bytes_max} bytes that there is room for",
                    header.blocks, header.block_bytes
                ),
            ));
        }
        let used = read_bitmap(&mut input, &header)?;
        let sums = Sums::new(&header);
        Ok(Self { input, header, used, at: 0, sums })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Which blocks the image has.
    pub fn used(&self) -> &Bitmap {
        &self.used
    }

    /// How many bytes of the image were read.
    pub fn offset(&self) -> u64 {
        self.input.offset
    }

    /// Fills `buf` with the next blocks, which follow each other on the volume, and gives the number of the first;
    /// none behind the last. Only then everything was checked.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn next_blocks(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>, ImageError> {
        let block_bytes = u64::from(self.header.block_bytes);
        let blocks_max = (RUN_BYTES / block_bytes).max(1).min(self.sums.blocks_left());
        let Some((first, blocks)) = self.used.next_run(self.at, blocks_max) else {
            self.sums.end(&mut self.input)?;
            return Ok(None);
        };
        buf.resize(usize::try_from(blocks * block_bytes).unwrap_or(usize::MAX), 0);
        self.input.fill(buf, "its blocks")?;
        self.sums.add(buf, first, blocks, &mut self.input)?;
        self.at = first + blocks;
        Ok(Some(first))
    }

    /// Looks what is behind the last block. Reading up to here also makes a decompressor check its own sums.
    ///
    /// # Errors
    /// [`ImageError::Read`].
    pub fn tail(&mut self) -> Result<Tail, ImageError> {
        let mut tail = Vec::new();
        self.input.reader.by_ref().take(TAIL_BYTES_MAX as u64).read_to_end(&mut tail).map_err(ImageError::Read)?;
        // The sums of early images have 8 bytes, of which half mean nothing.
        let is_sum = self.header.version == Version::V1 && tail.len() == sums::STRAY_BYTES;
        Ok(if tail.is_empty() || is_sum { Tail::Nothing } else { Tail::Leftovers })
    }
}

fn read_bitmap<R: Read>(input: &mut Input<R>, header: &Header) -> Result<Bitmap, ImageError> {
    let mut used = Bitmap::new();
    let no_memory = |_| ImageError::Unsupported("there is not enough memory for its bitmap".into());
    let begin = input.offset;
    match (header.bitmap, header.version) {
        (BitmapForm::None, _) => used.push_run(true, header.blocks).map_err(no_memory)?,
        (BitmapForm::Bits, _) => {
            let mut digest = CRC32.digest();
            // In pieces, so that a short image of many blocks costs no memory.
            let mut piece = vec![0; 64 << 10];
            while used.len() < header.blocks {
                let left = header.blocks - used.len();
                let len = usize::try_from(left.div_ceil(8)).unwrap_or(usize::MAX).min(piece.len());
                let bytes = piece.get_mut(..len).unwrap_or_default();
                input.fill(bytes, "its bitmap")?;
                digest.update(bytes);
                used.push_bytes(bytes, left).map_err(no_memory)?;
            }
            let mut sum = [0; 4];
            input.fill(&mut sum, "its bitmap")?;
            if digest.finalize() != u32::from_le_bytes(sum) {
                return Err(ImageError::damaged(begin, "the checksum of its bitmap does not match"));
            }
        }
        (BitmapForm::Bytes, Version::V1) => {
            let mut piece = vec![0; 64 << 10];
            while used.len() < header.blocks {
                let len = usize::try_from(header.blocks - used.len()).unwrap_or(usize::MAX).min(piece.len());
                let bytes = piece.get_mut(..len).unwrap_or_default();
                input.fill(bytes, "its bitmap")?;
                for run in bytes.chunk_by(|a, b| (*a == 1) == (*b == 1)) {
                    used.push_run(run.first() == Some(&1), run.len() as u64).map_err(no_memory)?;
                }
            }
            let mut end = [0; BITMAP_END.len()];
            input.fill(&mut end, "its bitmap")?;
            if &end != BITMAP_END {
                let what = "its bitmap does not end where it should";
                return Err(ImageError::damaged(input.offset - end.len() as u64, what));
            }
        }
        (BitmapForm::Bytes, Version::V2) => {
            return Err(ImageError::Unsupported("its bitmap has bytes for bits, which version 2 never wrote".into()));
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests;
