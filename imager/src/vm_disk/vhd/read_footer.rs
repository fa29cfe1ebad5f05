//! The footer of a VHD file, of which a dynamic disk has a copy in front. Must not know: blocks.

use crate::read_at::{ReadAt, field};
use crate::vm_disk::error::DiskError;
use crate::vm_disk::pages::header;

/// The first bytes of a footer.
pub(in crate::vm_disk) const COOKIE: &[u8; 8] = b"conectix";
/// Bytes of a footer.
pub(in crate::vm_disk) const FOOTER_BYTES: u64 = 512;

/// What kind of a disk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vm_disk) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// What a footer says.
#[derive(Clone, Debug)]
pub(in crate::vm_disk) struct Footer {
    pub kind: Kind,
    /// Size of the disk in bytes. The geometry that is there, too, may say a little less: what it leaves out is not
    /// left out here.
    pub size: u64,
    /// Where the header of a dynamic disk is.
    pub header_offset: u64,
    pub is_saved_state: bool,
}

impl Footer {
    /// The footer in 512 bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::vm_disk) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(COOKIE) {
            return Err("there is no footer".to_owned());
        }
        let be32 = |at| field::be32(bytes, at).unwrap_or_default();
        if be32(64) != checksum(bytes, 64) {
            return Err("the checksum of the footer is wrong".to_owned());
        }
        if be32(12) >> 16 != 1 {
            return Err(format!("a footer of version {:#x}", be32(12)));
        }
        let kind = match be32(60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => return Err(format!("a disk of kind {other}")),
        };
        let be64 = |at| field::be64(bytes, at).unwrap_or_default();
        Ok(Self {
            kind,
            size: be64(48),
            header_offset: be64(16),
            is_saved_state: bytes.get(84).is_some_and(|&b| b != 0),
        })
    }

    /// The footer of a file: the last sector, or its copy in front when that is damaged, which is said.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] when there is neither.
    pub(super) fn of(file: &dyn ReadAt) -> Result<(Self, Option<String>), DiskError> {
        let at = file.size().saturating_sub(FOOTER_BYTES);
        let last = Self::from_bytes(&header(file, at, 512)?);
        let error = match last {
            Ok(footer) => return Ok((footer, None)),
            Err(error) => error,
        };
        match Self::from_bytes(&header(file, 0, 512)?) {
            Ok(footer) if footer.kind != Kind::Fixed => {
                let note = format!("its footer is damaged ({error}); the copy at its beginning was taken");
                Ok((footer, Some(note)))
            }
            _ => Err(DiskError::damaged(at, format!("{error}, and there is no copy: it is cut off or no VHD file"))),
        }
    }
}

/// The one's complement of the sum of all bytes but the four at `at`.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
    !sum(bytes).wrapping_sub(sum(bytes.get(at..at + 4).unwrap_or_default()))
}
