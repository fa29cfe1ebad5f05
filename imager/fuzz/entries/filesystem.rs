//! What must be true of every volume.

use imager::extent::Extent;
use imager::fs::inspect;
use imager::read_at::ReadAt;

use super::mend::mend_xfs_log;
use super::volume::PatchedVolume;

/// Reads `data` as a volume, and looks for a file system on it. With the highest bit set of the volume's size, which is
/// not a part of that then, the checksums in the log of an XFS are made right.
pub(crate) fn run(data: &[u8]) {
    let mut data = data.to_vec();
    let volume = match data.get_mut(3) {
        Some(high) if *high & 0x80 != 0 => {
            *high &= 0x7F;
            let mut volume = PatchedVolume::decode(&data);
            mend_xfs_log(&mut volume);
            volume
        }
        _ => PatchedVolume::decode(&data),
    };
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
