//! What must be true of every volume.

use imager::extent::Extent;
use imager::fs::inspect;
use imager::read_at::ReadAt;

use super::volume::PatchedVolume;

/// Reads `data` as a volume, and looks for a file system on it.
pub(crate) fn run(data: &[u8]) {
    let volume = PatchedVolume::decode(data);
    let found = inspect(&volume);
    let whole = Extent::new(0, volume.size());
    let mut end = None;
    for extent in found.used.iter() {
        assert!(!extent.is_empty() && extent.intersection(whole) == extent, "{extent:?} of {whole:?}");
        assert!(end < Some(extent.start), "{extent:?} after {end:?}");
        end = Some(extent.end());
    }
    assert!(found.size <= whole.len, "{} of {whole:?}", found.size);
    assert!(found.used.contains(Extent::between(found.size, whole.len)), "what follows the file system is left out");
    for file in &found.spare_files {
        assert!(file.extents.iter().all(|extent| extent.intersection(whole) == extent), "{file:?} of {whole:?}");
    }
}
