//! Values that lie in clusters: the runs that say where, and reading through them.
//!
//! Layout: linux-ntfs documentation, "Data runs". Must not know: records, or what a value means.

use crate::extent::{Extent, ExtentSet};
use crate::files::Piece;
use crate::fs::FsError;
use crate::fs::ntfs::record::{Encoding, Mapping};
use crate::read_at::ReadAt;

/// Consecutive clusters, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First cluster in the volume; `None` for a hole, which reads as zero.
    pub(super) lcn: Option<u64>,
    pub(super) clusters: u64,
}

/// Decodes the runs of one mapping: for each a byte with the sizes of two numbers, the length, and the
/// signed distance from the run before. `position` is for messages.
///
/// # Errors
/// When a run is not within the `volume_clusters`, or all of them are not what the mapping promises.
pub(super) fn runs(mapping: &Mapping<'_>, volume_clusters: u64, position: u64) -> Result<Vec<Run>, FsError> {
    let corrupt = |what: &str| FsError::corrupt(position, format!("a run list {what}"));
    let mut runs = Vec::new();
    let mut rest = mapping.pairs;
    let mut previous: u64 = 0;
    let mut total: u64 = 0;
    loop {
        let (&sizes, after) = rest.split_first().ok_or_else(|| corrupt("without an end"))?;
        if sizes == 0 {
            break;
        }
        let (length_size, distance_size) = (usize::from(sizes & 15), usize::from(sizes >> 4));
        let (length, after) = after.split_at_checked(length_size).ok_or_else(|| corrupt("that is cut short"))?;
        let (distance, after) = after.split_at_checked(distance_size).ok_or_else(|| corrupt("that is cut short"))?;
        rest = after;

        let clusters = signed(length).and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0);
        let clusters = clusters.ok_or_else(|| corrupt("with a run of no length"))?;
        total = total.checked_add(clusters).ok_or_else(|| corrupt("of more clusters than can be"))?;
        let lcn = if distance_size == 0 {
            None
        } else {
            let lcn = signed(distance).and_then(|distance| previous.checked_add_signed(distance));
            let within = |&lcn: &u64| lcn.checked_add(clusters).is_some_and(|end| end <= volume_clusters);
            previous = lcn.filter(within).ok_or_else(|| corrupt("that leaves the volume"))?;
            Some(previous)
        };
        runs.push(Run { lcn, clusters });
    }
    if total != mapping.clusters {
        return Err(corrupt(&format!("of {total} clusters where {} belong", mapping.clusters)));
    }
    Ok(runs)
}

/// A signed little-endian number of up to eight bytes.
fn signed(bytes: &[u8]) -> Option<i64> {
    let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xFF } else { 0 };
    let mut full = [sign; 8];
    full.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(full))
}

/// The value of an attribute that lies in clusters, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Each run with its first virtual cluster.
    runs: Vec<(u64, Run)>,
    first_vcn: u64,
    end_vcn: u64,
    cluster_size: u64,
    /// Bytes in the value.
    pub(super) data_size: u64,
    /// Bytes of it that were ever written.
    pub(super) initialized_size: u64,
    /// Whether the clusters hold the value as it is.
    pub(super) encoding: Encoding,
}

impl Stream {
    /// No file that matters here has a hundredth of it.
    const RUNS_MAX: usize = 1 << 20;

    /// Takes one part, `runs` being those of `mapping`.
    pub(super) fn new(mapping: &Mapping<'_>, runs: Vec<Run>, cluster_size: u32) -> Self {
        let mut end_vcn = mapping.first_vcn;
        let mut placed = Vec::with_capacity(runs.len());
        for run in runs {
            placed.push((end_vcn, run));
            end_vcn = end_vcn.saturating_add(run.clusters);
        }
        Self {
            runs: placed,
            first_vcn: mapping.first_vcn,
            end_vcn,
            cluster_size: u64::from(cluster_size),
            data_size: mapping.data_size,
            initialized_size: mapping.initialized_size.min(mapping.data_size),
            encoding: mapping.encoding,
        }
    }

    /// Adds the next part. `position` is for messages.
    pub(super) fn append(&mut self, next: Self, position: u64) -> Result<(), FsError> {
        if next.first_vcn != self.end_vcn {
            let what = format!("an attribute goes on at its cluster {} instead of {}", next.first_vcn, self.end_vcn);
            return Err(FsError::corrupt(position, what));
        }
        if self.runs.len().saturating_add(next.runs.len()) > Self::RUNS_MAX {
            return Err(FsError::unsupported("a system file in more than a million fragments"));
        }
        self.runs.extend(next.runs);
        self.end_vcn = next.end_vcn;
        Ok(())
    }

    /// Fills `buf` from byte `offset` of the value; holes and what was never written read as zero.
    ///
    /// # Errors
    /// What the device says; `Corrupt` past the last run.
    pub(super) fn read_at(&self, volume: &dyn ReadAt, mut offset: u64, mut buf: &mut [u8]) -> Result<(), FsError> {
        while !buf.is_empty() {
            let Some((position, available)) = self.locate(offset) else {
                return Err(FsError::corrupt(0, format!("byte {offset} of a system file is nowhere")));
            };
            let len = usize::try_from(available).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) = buf.split_at_mut(len);
            match position {
                Some(position) => volume.read_at(position, part)?,
                None => part.fill(0),
            }
            offset = offset.saturating_add(len as u64);
            buf = rest;
        }
        Ok(())
    }

    /// Where byte `offset` is in the volume, if it was written, and for how many bytes that holds.
    fn locate(&self, offset: u64) -> Option<(Option<u64>, u64)> {
        if offset >= self.initialized_size {
            return Some((None, u64::MAX));
        }
        let vcn = offset / self.cluster_size;
        let &(first, run) = self.runs.get(self.runs.partition_point(|(first, _)| *first <= vcn).checked_sub(1)?)?;
        let start = first.checked_mul(self.cluster_size)?;
        let end = start.checked_add(run.clusters.checked_mul(self.cluster_size)?)?.min(self.initialized_size);
        let available = end.checked_sub(offset).filter(|&n| n > 0)?;
        Some((run.lcn.map(|lcn| lcn * self.cluster_size + (offset - start)), available))
    }

    /// Bytes in a cluster.
    pub(super) fn cluster_size(&self) -> u64 {
        self.cluster_size
    }

    /// True when the runs reach as far as the value does.
    pub(super) fn is_whole(&self) -> bool {
        self.first_vcn == 0 && self.end_vcn.saturating_mul(self.cluster_size) >= self.initialized_size
    }

    /// The runs that are not holes, as bytes of the value and of the volume.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.runs.iter().filter_map(|&(vcn, run)| {
            let extent = self.extent(run)?;
            Some(Piece { at: vcn.checked_mul(self.cluster_size)?, len: extent.len, place: extent.start })
        })
    }

    /// Where byte `offset` is in the volume, for messages.
    pub(super) fn position(&self, offset: u64) -> u64 {
        self.locate(offset).and_then(|(position, _)| position).unwrap_or_default()
    }

    /// True when some clusters are not in the volume.
    pub(super) fn has_holes(&self) -> bool {
        self.runs.iter().any(|(_, run)| run.lcn.is_none())
    }

    /// The bytes of the volume that belong to the value, whole clusters.
    pub(super) fn extents(&self) -> ExtentSet {
        let mut extents: Vec<Extent> = self.runs.iter().filter_map(|&(_, run)| self.extent(run)).collect();
        extents.sort_unstable();
        extents.into_iter().collect()
    }

    fn extent(&self, run: Run) -> Option<Extent> {
        Some(Extent::new(run.lcn?.checked_mul(self.cluster_size)?, run.clusters.checked_mul(self.cluster_size)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(pairs: &[u8], clusters: u64) -> Mapping<'_> {
        Mapping { first_vcn: 0, clusters, data_size: 40, initialized_size: 30, encoding: Encoding::Plain, pairs }
    }

    fn decode(pairs: &[u8], clusters: u64) -> Result<Vec<Run>, FsError> {
        runs(&mapping(pairs, clusters), 1000, 77)
    }

    fn message(result: Result<Vec<Run>, FsError>) -> String {
        match result {
            Err(FsError::Corrupt { offset: 77, what }) => what,
            other => panic!("{other:?} is not Corrupt at 77"),
        }
    }

    #[test]
    fn distances_are_signed_and_holes_have_none() {
        let pairs = [0x21, 3, 100, 0, 0x01, 5, 0x11, 1, 0xF0, 0x31, 2, 20, 0, 0, 0];
        let expected = [(Some(100), 3), (None, 5), (Some(84), 1), (Some(104), 2)];
        let expected: Vec<Run> = expected.map(|(lcn, clusters)| Run { lcn, clusters }).into();
        assert_eq!(decode(&pairs, 11).unwrap(), expected);
        assert_eq!(decode(&[0], 0).unwrap(), []);
    }

    #[test]
    fn wrong_run_lists_are_corrupt() {
        assert_eq!(message(decode(&[], 0)), "a run list without an end");
        assert_eq!(message(decode(&[0x11, 1, 5], 1)), "a run list without an end");
        assert_eq!(message(decode(&[0x21, 1, 5], 1)), "a run list that is cut short");
        assert_eq!(message(decode(&[0x1F, 1, 5, 0], 1)), "a run list that is cut short");
        assert_eq!(message(decode(&[0x11, 0, 5, 0], 0)), "a run list with a run of no length");
        assert_eq!(message(decode(&[0x11, 0x80, 5, 0], 0)), "a run list with a run of no length");
        assert_eq!(message(decode(&[0x10, 5, 0], 0)), "a run list with a run of no length");
        assert_eq!(message(decode(&[0x11, 2, 5, 0], 1)), "a run list of 2 clusters where 1 belong");
        assert_eq!(message(decode(&[0x11, 1, 0xFF, 0], 1)), "a run list that leaves the volume");
        assert_eq!(message(decode(&[0x21, 1, 0xE8, 3, 0], 1)), "a run list that leaves the volume");
        assert_eq!(message(decode(&[0x19, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 1)), "a run list with a run of no length");
        let max = [0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
        let thrice = [&max[..], &max, &max, &[0]].concat();
        assert_eq!(message(decode(&thrice, 1)), "a run list of more clusters than can be");
    }

    #[test]
    fn reading_follows_runs_and_holes_up_to_what_was_written() {
        let volume: Vec<u8> = (0..80).collect();
        // Clusters of 8 bytes: 2, 3, a hole, 1, 5; 40 bytes of which 30 were written.
        let pairs = [0x11, 2, 2, 0x01, 1, 0x11, 1, 0xFF, 0x11, 1, 4, 0];
        let mapping = mapping(&pairs, 5);
        let stream = Stream::new(&mapping, runs(&mapping, 10, 0).unwrap(), 8);
        let mut whole = [1; 50];
        stream.read_at(&volume, 0, &mut whole).unwrap();
        let expected: Vec<u8> = (16..32).chain([0; 8]).chain(8..14).chain([0; 20]).collect();
        assert_eq!(whole[..], expected);
        let mut part = [1; 3];
        stream.read_at(&volume, 15, &mut part).unwrap();
        assert_eq!(part, [31, 0, 0]);
        assert!(stream.has_holes());
        assert_eq!(stream.extents().as_slice(), [Extent::new(8, 24), Extent::new(40, 8)]);
    }

    #[test]
    fn a_value_that_claims_more_than_its_runs_is_corrupt_there() {
        let mapping = Mapping { data_size: 100, initialized_size: 100, ..mapping(&[0x11, 1, 1, 0], 1) };
        let stream = Stream::new(&mapping, runs(&mapping, 10, 0).unwrap(), 8);
        assert!(matches!(stream.read_at(&vec![0; 80], 0, &mut [0; 9]), Err(FsError::Corrupt { .. })));
    }

    #[test]
    fn parts_must_follow_each_other() {
        let mapping = mapping(&[0x11, 2, 1, 0], 2);
        let mut stream = Stream::new(&mapping, runs(&mapping, 10, 0).unwrap(), 8);
        let next =
            |first_vcn| Stream::new(&Mapping { first_vcn, ..mapping }, vec![Run { lcn: Some(5), clusters: 1 }], 8);
        assert!(matches!(stream.append(next(3), 9), Err(FsError::Corrupt { offset: 9, .. })));
        stream.append(next(2), 9).unwrap();
        assert_eq!(stream.extents().total(), 24);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_runs_within_the_volume_or_to_an_error(pairs: Vec<u8>, clusters: u8) {
            if let Ok(runs) = decode(&pairs, u64::from(clusters)) {
                prop_assert!(runs.iter().all(|run| run.lcn.is_none_or(|lcn| lcn + run.clusters <= 1000)));
            }
        }
    }
}
