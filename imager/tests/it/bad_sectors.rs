//! Sectors that cannot be read: the capture says which, keeps the rest, and a restore puts zeros in their place.

use std::sync::Arc;

use imager::disk::source::Source;
use imager::extent::{Extent, ExtentSet};
use imager::repo::store::Store;

use crate::engine::{DiskContent, FaultDisk, MemStore, assert_same, capture_sources, disks, init, restored};

#[test]
fn unreadable_sectors_are_recorded_exactly_and_restored_as_zeros() {
    let disk = &disks()[0];
    // In the gap before the first partition, in ext4's metadata and data, and a run over several blocks.
    let bad: ExtentSet = [(40, 1), (2048 + 3, 1), (2048 + 2100, 1), (2048 + 3001, 1), (2048 + 3100, 40)]
        .map(|(sector, count)| Extent::new(sector * 512, count * 512))
        .into_iter()
        .collect();
    let mut source = FaultDisk::new(DiskContent::Bytes(Arc::clone(&disk.bytes)));
    source.bad = bad.clone();
    let repository = init(MemStore::new() as Arc<dyn Store>);
    let captured = capture_sources(&repository, &[Box::new(source) as Box<dyn Source>]).unwrap();

    let unreadable: ExtentSet = captured.manifest.disks[0].unreadable.iter().copied().collect();
    assert!(!unreadable.is_empty() && unreadable.minus(&bad).is_empty(), "{unreadable:?} of {bad:?}");
    // A bad sector in ext4's metadata makes its map unknown: then all of the partition is wanted.
    let mut expected = disk.bytes.to_vec();
    for extent in bad.iter() {
        let start = usize::try_from(extent.start).unwrap();
        expected[start..start + usize::try_from(extent.len).unwrap()].fill(0);
    }
    let found = restored(&repository, captured.id).unwrap();
    for region in &captured.manifest.disks[0].regions {
        let range = usize::try_from(region.start).unwrap()..usize::try_from(region.start + region.len).unwrap();
        if region.start == 1 << 20 {
            assert_same(&found[range.clone()], &expected[range]);
        }
    }
    assert_eq!(unreadable, bad);
}
