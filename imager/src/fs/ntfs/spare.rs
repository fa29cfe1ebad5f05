//! Page files and the hibernation file: where they lie, and whether Windows is hibernated.
//!
//! Must not know: whether anyone leaves them out.

use crate::fs::ntfs::mft::{Content, Mft, UNNAMED};
use crate::fs::ntfs::record::Kind;
use crate::fs::ntfs::root;
use crate::fs::{FsError, SpareFile, SpareKind};

/// Their names in the root directory.
const SPARE_FILES: [(&str, SpareKind); 3] = [
    ("pagefile.sys", SpareKind::Paging),
    ("swapfile.sys", SpareKind::Paging),
    ("hiberfil.sys", SpareKind::Hibernation),
];
const HIBERNATION_HEADER_BYTES: u64 = 4096;

/// What the root directory has of them.
#[derive(Debug, Default)]
pub(super) struct Spare {
    pub(super) files: Vec<SpareFile>,
    /// Why Windows is taken to be hibernated.
    pub(super) hibernated: Option<String>,
}

/// Looks for the files, and into the hibernation file.
pub(super) fn spare(mft: &Mft<'_>) -> Result<Spare, FsError> {
    let mut spare = Spare::default();
    for (which, record) in root::find(mft, &SPARE_FILES.map(|(name, _)| name))? {
        let Some(&(name, kind)) = SPARE_FILES.get(which) else { continue };
        let Some(content) = mft.content(&record, Kind::DATA, UNNAMED)? else { continue };
        if kind == SpareKind::Hibernation {
            spare.hibernated = hibernated(mft, &content)?;
        }
        if let Content::Stream(stream) = content {
            spare.files.push(SpareFile { kind, path: name.to_owned(), extents: stream.extents() });
        }
    }
    Ok(spare)
}

/// A hibernation file that is not in use begins with zeros. One that is too small for a header belongs to
/// a volume of a hibernated Windows that is not its system volume.
fn hibernated(mft: &Mft<'_>, content: &Content) -> Result<Option<String>, FsError> {
    if content.size() < HIBERNATION_HEADER_BYTES {
        return Ok(Some("hiberfil.sys is a stub".to_owned()));
    }
    let mut header = vec![0; usize::try_from(HIBERNATION_HEADER_BYTES).unwrap_or_default()];
    content.read_at(mft.volume, 0, &mut header)?;
    if header.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let signature = header.get(..4).unwrap_or_default();
    Ok(Some(format!("hiberfil.sys begins with {}", signature.escape_ascii())))
}
