//! The beginning of a partclone image: which volume it is of, and how the rest is written.
//!
//! Source: what partclone 0.2 to 0.3 write (`image_desc_v1` and `image_desc_v2` of its `partclone.h`): packed,
//! little endian. Must not know: blocks.

#![forbid(unsafe_code)]

use crc::{CRC_32_JAMCRC, Crc, Table};

use super::ImageError;
use crate::read_at::field;

/// What an image begins with.
const MAGIC: &[u8; 15] = b"partclone-image";
/// The header of version 2, which is long enough to tell the versions apart.
pub const SIZE_V2: usize = 110;
/// The header of version 1; most of it is padding.
pub const SIZE_V1: usize = 4160;

/// 0xEDB88320, begun with ones, not inverted at the end.
pub(super) static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_JAMCRC);

/// Blocks that an image may say it has: a bitmap of 2 GiB.
const BLOCKS_MAX: u64 = 1 << 34;
/// The same without a bitmap in the image, where no byte of the image stands behind the claim.
const BLOCKS_WITHOUT_BITMAP_MAX: u64 = 1 << 30;
/// The largest block that any file system has is half as large.
const BLOCK_BYTES_MAX: u32 = 64 << 20;

/// How an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `0001`: partclone before 0.2.70.
    V1,
    /// `0002`.
    V2,
}

/// How a strip of blocks is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Not at all.
    None,
    /// CRC-32.
    Crc32,
    /// What version 1 writes: CRC-32 over the first byte of each block as often as the block has bytes.
    Crc32OfFirstByte,
    /// XXH64 with seed 0.
    Xxh64,
    /// XXH3 of 128 bits.
    Xxh128,
}

impl Sum {
    /// Its size in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32 | Self::Crc32OfFirstByte => 4,
            Self::Xxh64 => 8,
            Self::Xxh128 => 16,
        }
    }
}

/// How the image says which blocks it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapForm {
    /// It has all of them, and no bitmap.
    None,
    /// A bit for each.
    Bits,
    /// A byte for each.
    Bytes,
}

/// The header.
#[derive(Clone, Debug)]
pub struct Header {
    /// How the image is written.
    pub version: Version,
    /// What partclone calls the file system: `EXTFS`, `NTFS`, `raw`.
    pub file_system: String,
    /// The size of the volume in bytes, as the file system has it.
    pub device_bytes: u64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Bytes of a block, never 0.
    pub block_bytes: u32,
    /// How blocks are summed up.
    pub sum: Sum,
    /// After how many blocks a sum stands; 0: only at the end.
    pub blocks_per_sum: u32,
    /// Whether each sum begins anew.
    pub is_reseeded: bool,
    /// How the image says which blocks it has.
    pub bitmap: BitmapForm,
}

impl Header {
    /// How long the header of an image is that begins with `start`, of [`SIZE_V2`] bytes.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] for anything else, [`ImageError::Unsupported`] for a version of tomorrow.
    pub fn size(start: &[u8]) -> Result<usize, ImageError> {
        if start.get(..MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(ImageError::damaged(0, "it does not begin like an image of partclone"));
        }
        // In both versions the number stands at byte 30.
        match start.get(30..34) {
            Some(b"0001") => Ok(SIZE_V1),
            Some(b"0002") => Ok(SIZE_V2),
            other => {
                let other = String::from_utf8_lossy(other.unwrap_or_default()).into_owned();
                Err(ImageError::Unsupported(format!("partclone's format version {other:?} is not known")))
            }
        }
    }

    /// Parses a header of the length that [`Header::size`] says.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], [`ImageError::Unsupported`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImageError> {
        let header = if Self::size(bytes)? == SIZE_V1 { v1(bytes) } else { v2(bytes) }?;
        if header.block_bytes == 0 || header.block_bytes > BLOCK_BYTES_MAX {
            return Err(ImageError::damaged(
                0,
                format!("its header says that a block has {} bytes", header.block_bytes),
            ));
        }
        let blocks_max = if header.bitmap == BitmapForm::None { BLOCKS_WITHOUT_BITMAP_MAX } else { BLOCKS_MAX };
        if header.blocks == 0 || header.blocks > blocks_max {
            return Err(ImageError::damaged(0, format!("its header says that there are {} blocks", header.blocks)));
        }
        Ok(header)
    }

    /// Bytes of all blocks together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes.into())
    }
}

fn short() -> ImageError {
    ImageError::damaged(0, "its header is cut short")
}

fn text(bytes: Option<&[u8]>) -> String {
    let bytes = bytes.unwrap_or_default();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim().to_owned()
}

fn v1(bytes: &[u8]) -> Result<Header, ImageError> {
    Ok(Header {
        version: Version::V1,
        file_system: text(bytes.get(15..30)),
        block_bytes: field::le32(bytes, 36).ok_or_else(short)?,
        device_bytes: field::le64(bytes, 40).ok_or_else(short)?,
        blocks: field::le64(bytes, 48).ok_or_else(short)?,
        sum: Sum::Crc32OfFirstByte,
        blocks_per_sum: 1,
        is_reseeded: false,
        bitmap: BitmapForm::Bytes,
    })
}

fn v2(bytes: &[u8]) -> Result<Header, ImageError> {
    let (body, sum) = (bytes.get(..106).ok_or_else(short)?, field::le32(bytes, 106).ok_or_else(short)?);
    if CRC32.checksum(body) != sum {
        return Err(ImageError::damaged(0, "the checksum of its header does not match"));
    }
    match field::le16(bytes, 34) {
        Some(0xC0DE) => {}
        Some(0xDEC0) => return Err(ImageError::Unsupported("it was written on a big-endian machine".into())),
        _ => return Err(ImageError::damaged(34, "its mark of endianness is none")),
    }
    let mode = field::le16(bytes, 96).ok_or_else(short)?;
    let sum = match mode {
        0x00 => Sum::None,
        0x20 => Sum::Crc32,
        0x30 => Sum::Xxh64,
        0x31 => Sum::Xxh128,
        _ => return Err(ImageError::Unsupported(format!("partclone's checksum mode 0x{mode:02x} is not known"))),
    };
    let sum_bytes = field::le16(bytes, 98).ok_or_else(short)?;
    if usize::from(sum_bytes) != sum.size() {
        return Err(ImageError::damaged(98, format!("its header says that a checksum has {sum_bytes} bytes")));
    }
    let bitmap = match bytes.get(105) {
        Some(0) => BitmapForm::None,
        Some(1) => BitmapForm::Bits,
        Some(8) => BitmapForm::Bytes,
        other => return Err(ImageError::Unsupported(format!("partclone's bitmap mode {other:?} is not known"))),
    };
    Ok(Header {
        version: Version::V2,
        file_system: text(bytes.get(36..52)),
        device_bytes: field::le64(bytes, 52).ok_or_else(short)?,
        blocks: field::le64(bytes, 60).ok_or_else(short)?,
        block_bytes: field::le32(bytes, 84).ok_or_else(short)?,
        sum,
        blocks_per_sum: field::le32(bytes, 100).ok_or_else(short)?,
        is_reseeded: bytes.get(104).is_some_and(|reseed| *reseed != 0),
        bitmap,
    })
}
