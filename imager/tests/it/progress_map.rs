//! Progress says where on a disk the work was.

use std::sync::Arc;

use imager::copy::{self, Options};
use imager::layout::Wanted;
use imager::progress::{CELLS, Progress};
use imager::restore::{self, DiskTarget, Plan, ReadBack, WhatToWrite};
use imager::table::Ids;

use crate::engine::{MemStore, MemTarget, capture, disks, init, restore_options};

/// The disk has a table at both ends and two file systems, which are not full.
fn assert_is_where_the_data_are(progress: &Progress, size: usize) {
    let covered = progress.covered();
    assert_eq!((covered.len(), covered[0].disk.as_str(), covered[0].size), (1, "/dev/test", size as u64));
    let cells = covered[0].cells.as_bytes();
    assert_eq!(cells.len() as u64, CELLS);
    let at = |byte: usize| cells[byte * cells.len() / size];
    assert!(at(0) > b'0' && at(size - 1) > b'0', "the partition table: {}", covered[0].cells);
    assert!(at(1 << 20) > b'0', "the beginning of a file system: {}", covered[0].cells);
    let untouched = cells.iter().filter(|cell| **cell == b'0').count();
    assert!(untouched > cells.len() / 8, "what is not in use: {}", covered[0].cells);
}

#[test]
fn a_copy_and_a_restore_fill_the_map_where_the_data_are() {
    let disk = &disks()[0];
    let source = disk.source();
    let options = Options { wanted: Wanted::default(), ids: Ids::Keep, read_back: ReadBack::No };
    let target = Arc::new(MemTarget::blank(disk.bytes.len()));
    let plan = copy::Plan::new(&*source, target, &options).unwrap();
    let progress = Progress::new();
    copy::copy(&*source, &plan, &options, &progress).unwrap();
    assert_is_where_the_data_are(&progress, disk.bytes.len());

    let repository = init(Arc::new(MemStore::default()));
    let image = capture(&repository, disk).unwrap();
    let target = DiskTarget { disk: 0, target: Arc::new(MemTarget::blank(disk.bytes.len())), what: WhatToWrite::All };
    let progress = Progress::new();
    let plan = Plan::new(&repository, &image.manifest, vec![target], &restore_options(), &progress).unwrap();
    restore::restore(&repository, plan, &restore_options(), &progress).unwrap();
    assert_is_where_the_data_are(&progress, disk.bytes.len());
}
