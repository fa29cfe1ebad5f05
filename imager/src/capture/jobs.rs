//! The order in which a capture goes over a disk: what to read in one go, and what needs no reading.
//!
//! Must not know: how reading is done, what is made of the bytes.

#![forbid(unsafe_code)]

use crate::extent::{Extent, ExtentSet};
use crate::layout::{Layout, RegionLayout};

/// Bytes of one read, at most: of larger ones little is in the processor's cache when they are hashed, smaller ones are
/// copied more slowly.
pub(crate) const READ_BYTES_MAX: u64 = 1 << 20;
/// Gaps up to this size are read and thrown away: cheaper than another request.
const GAP_BYTES_MAX: u64 = 32 << 10;

/// One step over a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Read this.
    Read(ReadJob),
    /// These bytes are zeros.
    Zero {
        /// Number of the region.
        region: usize,
        /// Which bytes, relative to the region.
        extent: Extent,
    },
}

/// One read and which of its bytes are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadJob {
    /// Number of the region.
    pub region: usize,
    /// Where the region begins on the disk.
    pub region_start: u64,
    /// Which bytes to read, relative to the region.
    pub extent: Extent,
    /// Which of them are wanted, ascending, relative to the region.
    pub wanted: Vec<Extent>,
}

/// Jobs are made for so much of a region at a time: a multiple of 4 KiB.
const WINDOW_BYTES: u64 = 4 << 30;

/// All jobs of one region, in ascending order, made as they are taken.
///
/// `data` are the bytes of the disk that may differ from zero.
pub(crate) fn jobs_of_region<'a>(
    layout: &'a Layout,
    region: usize,
    data: &'a ExtentSet,
) -> impl Iterator<Item = Job> + 'a {
    let plan = layout.regions.get(region);
    let len = plan.map_or(0, |plan| plan.place.len);
    let windows = (0..len.div_ceil(WINDOW_BYTES))
        .map(move |n| Extent::new(n * WINDOW_BYTES, WINDOW_BYTES.min(len - n * WINDOW_BYTES)));
    windows.flat_map(move |window| plan.map_or_else(Vec::new, |plan| jobs_of_window(plan, region, window, data)))
}

fn jobs_of_window(plan: &RegionLayout, region: usize, window: Extent, data: &ExtentSet) -> Vec<Job> {
    let on_disk = Extent::new(plan.place.start + window.start, window.len);
    let data: ExtentSet = data.intersect(on_disk).map(|e| Extent::new(e.start - plan.place.start, e.len)).collect();
    let data = data.aligned_outward(4096, plan.place.len);
    let wanted: ExtentSet = plan.wanted.intersect(window).collect();
    let zeros = wanted.minus(&data).union(&plan.zeros.intersect(window).collect());
    let read = wanted.minus(&zeros);
    let mut jobs = Vec::new();
    let mut zero = zeros.iter().peekable();
    let mut open: Option<ReadJob> = None;
    for extent in read.iter() {
        let mut rest = extent;
        while !rest.is_empty() {
            // A zero run in between keeps its place in the order.
            while let Some(extent) = zero.next_if(|z| z.start < rest.start) {
                jobs.extend(open.take().map(Job::Read));
                jobs.push(Job::Zero { region, extent });
            }
            let fits = open.as_ref().is_some_and(|job| {
                rest.start - job.extent.end() <= GAP_BYTES_MAX && rest.start + 4096 <= job.extent.start + READ_BYTES_MAX
            });
            if !fits {
                jobs.extend(open.take().map(Job::Read));
            }
            let job = open.get_or_insert_with(|| ReadJob {
                region,
                region_start: plan.place.start,
                extent: Extent::new(rest.start, 0),
                wanted: Vec::new(),
            });
            let part = Extent::between(rest.start, rest.end().min(job.extent.start + READ_BYTES_MAX));
            job.extent = Extent::between(job.extent.start, part.end());
            job.wanted.push(part);
            rest = Extent::between(part.end(), rest.end());
        }
    }
    jobs.extend(open.map(Job::Read));
    jobs.extend(zero.map(|extent| Job::Zero { region, extent }));
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{PartitionTable, TableKind};
    use proptest::prelude::*;

    fn layout(len: u64, wanted: ExtentSet) -> Layout {
        let table = PartitionTable {
            kind: TableKind::None,
            sector_size: 512,
            disk_id: None,
            partitions: Vec::new(),
            structures: ExtentSet::new(),
            warnings: Vec::new(),
        };
        let place = Extent::new(8192, len);
        let region = RegionLayout { place, partition: None, wanted, zeros: ExtentSet::new() };
        Layout { size: 8192 + len, table, volumes: Vec::new(), regions: vec![region], warnings: Vec::new() }
    }

    proptest! {
        #[test]
        fn every_wanted_byte_is_read_or_zero_once_and_in_order(
            wanted in proptest::collection::vec((0u64..3000, 1u64..600), 0..20),
            data in proptest::collection::vec((0u64..3000, 1u64..600), 0..20),
        ) {
            let blocks = |runs: Vec<(u64, u64)>| -> ExtentSet {
                runs.into_iter().map(|(start, len)| Extent::new(start * 4096, len * 4096)).collect()
            };
            let (wanted, data) = (blocks(wanted), blocks(data));
            let len = 4000 * 4096;
            let on_disk: ExtentSet = data.iter().map(|e| Extent::new(e.start + 8192, e.len)).collect();
            let layout = layout(len, wanted.clone());
            let jobs: Vec<Job> = jobs_of_region(&layout, 0, &on_disk).collect();
            let (mut read, mut zero, mut at) = (ExtentSet::new(), ExtentSet::new(), 0);
            for job in &jobs {
                let (extents, end) = match job {
                    Job::Zero { extent, .. } => {
                        zero.insert(*extent);
                        (vec![*extent], extent.end())
                    }
                    Job::Read(job) => {
                        prop_assert!(job.extent.len <= READ_BYTES_MAX);
                        prop_assert!(job.wanted.iter().all(|e| e.intersection(job.extent) == *e));
                        job.wanted.iter().for_each(|e| read.insert(*e));
                        (job.wanted.clone(), job.extent.end())
                    }
                };
                for extent in extents {
                    prop_assert!(extent.start >= at);
                    at = extent.end();
                }
                at = at.max(end);
            }
            prop_assert_eq!(read.union(&zero), wanted.clone());
            prop_assert_eq!(zero, wanted.minus(&data));
        }
    }
}
