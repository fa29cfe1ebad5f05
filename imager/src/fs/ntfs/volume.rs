//! `$Volume`: label, version and the flag that asks for a check.
//!
//! Layout: linux-ntfs documentation, "$Volume". Must not know: what follows from them.

use crate::fs::FsError;
use crate::fs::ntfs::mft::{Mft, UNNAMED};
use crate::fs::ntfs::record::{Attribute, Kind};
use crate::read_at::field;

const VOLUME_FILE: u64 = 3;
const VOLUME_IS_DIRTY: u16 = 0x0001;
const CHKDSK_UNDERWAY: u16 = 0x4000;

/// What a volume says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VolumeInformation {
    pub(super) label: Option<String>,
    pub(super) state: State,
}

/// Whether the metadata can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody has found a fault.
    Good,
    /// Windows or a driver has seen a fault, or could not finish, and asks for a check.
    Dirty,
    /// A check was interrupted in the middle of mending.
    HalfMended,
}

/// Reads `$Volume`.
///
/// # Errors
/// `Unsupported` for a version that nobody knows.
pub(super) fn volume_information(mft: &Mft<'_>) -> Result<VolumeInformation, FsError> {
    let file = mft.system_file(VOLUME_FILE)?;
    let attributes = file.attributes()?;
    let value = |kind| {
        let is_meant = |attribute: &&Attribute<'_>| attribute.kind == kind && attribute.name == UNNAMED;
        attributes.iter().find(is_meant).and_then(Attribute::resident)
    };
    let information = value(Kind::VOLUME_INFORMATION).unwrap_or_default();
    let (Some(&[major, minor]), Some(flags)) = (information.get(8..10), field::le16(information, 10)) else {
        return Err(FsError::corrupt(file.position, "$Volume does not say its version"));
    };
    if !matches!((major, minor), (1, 1 | 2) | (3, 0 | 1)) {
        return Err(FsError::unsupported(format!("NTFS version {major}.{minor}")));
    }
    let state = match flags {
        flags if flags & CHKDSK_UNDERWAY != 0 => State::HalfMended,
        flags if flags & VOLUME_IS_DIRTY != 0 => State::Dirty,
        _ => State::Good,
    };
    let label = value(Kind::VOLUME_NAME).map(utf16).filter(|label| !label.is_empty());
    Ok(VolumeInformation { label, state })
}

/// Text of UTF-16LE; what is no text becomes the replacement character.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    char::decode_utf16(units.iter().map(|&unit| u16::from_le_bytes(unit))).map(|c| c.unwrap_or('\u{FFFD}')).collect()
}
