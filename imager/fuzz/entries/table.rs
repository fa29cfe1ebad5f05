//! What must be true of every disk: its regions are the whole disk, and its table can be fitted to a larger one.

use imager::layout::{self, Wanted};
use imager::read_at::ReadAt;
use imager::table::{self, Ids};

use super::volume::PatchedVolume;

/// Reads `data` as a disk; the first byte chooses the size of its sectors.
pub(crate) fn run(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let disk = PatchedVolume::decode(data);
    let sector_size = [None, Some(512), Some(4096)][usize::from(choice % 3)];
    let wanted = Wanted { all_sectors: choice & 0x80 != 0, ..Wanted::default() };
    let Ok(layout) = layout::read(&disk, sector_size, &wanted) else { return };
    let mut end = 0;
    for region in &layout.regions {
        assert_eq!(region.place.start, end, "regions have a gap or overlap");
        end = region.place.end();
        for set in [&region.wanted, &region.zeros] {
            assert!(set.iter().all(|extent| extent.end() <= region.place.len), "{set:?} of {region:?}");
        }
    }
    assert_eq!(end, disk.size());
    for larger in [0, 512, 1 << 20] {
        let size = disk.size() + larger;
        let Ok(patches) = table::adapt(&disk, &layout.table, size, Ids::Keep) else { continue };
        for patch in patches {
            assert!(patch.offset + patch.bytes.len() as u64 <= size, "a patch behind the disk's end");
        }
    }
}
