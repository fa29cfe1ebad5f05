//! Runs of bytes, and ordered sets of them. Every plan is made of these.
//!
//! Must not know: what the bytes mean. All arithmetic saturates or is checked: positions come from disks.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// A run of consecutive bytes: `start..start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// `len` bytes from `start`; cut short at the end of the 64-bit range.
    #[must_use]
    pub fn new(start: u64, len: u64) -> Self {
        Self { start, len: len.min(u64::MAX - start) }
    }

    /// The bytes from `start` up to, not including, `end`; empty when `end` is not after `start`.
    #[must_use]
    pub fn between(start: u64, end: u64) -> Self {
        Self { start, len: end.saturating_sub(start) }
    }

    /// The first byte after the run.
    #[must_use]
    pub fn end(self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// True for a run of no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// What two runs share; empty when they do not meet.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }
}

/// An ordered set of bytes as disjoint, non-touching extents.
///
/// Memory is bounded: past [`ExtentSet::EXTENTS_MAX`] extents, the smallest gaps are filled in,
/// which for an allocation map is safe (more is in use, never less).
///
/// In JSON it is the list of its extents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Extent>", into = "Vec<Extent>")]
pub struct ExtentSet {
    extents: Vec<Extent>,
    gap_min: u64,
}

impl ExtentSet {
    /// 64 MiB of extents.
    pub const EXTENTS_MAX: usize = 4 << 20;

    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of `0..len`.
    #[must_use]
    pub fn whole(len: u64) -> Self {
        Self::from_iter([Extent::new(0, len)])
    }

    /// Adds a run. Cheapest when called in ascending order; any order is right.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        match self.extents.last_mut() {
            Some(last) if extent.start >= last.start => {
                if extent.start <= last.end().saturating_add(self.gap_min) {
                    *last = Extent::between(last.start, last.end().max(extent.end()));
                } else {
                    self.extents.push(extent);
                }
            }
            None => self.extents.push(extent),
            Some(_) => self.insert_before_last(extent),
        }
        if self.extents.len() > Self::EXTENTS_MAX {
            self.coarsen();
        }
    }

    fn insert_before_last(&mut self, extent: Extent) {
        let first = self.extents.partition_point(|e| e.end() < extent.start);
        let after = self.extents.partition_point(|e| e.start <= extent.end());
        let mut merged = extent;
        if let (Some(a), Some(b)) = (self.extents.get(first), after.checked_sub(1).and_then(|i| self.extents.get(i)))
            && first < after
        {
            merged = Extent::between(extent.start.min(a.start), extent.end().max(b.end()));
        }
        self.extents.splice(first..after, [merged]);
    }

    /// Doubles the smallest gap that is kept until half of the extents are gone.
    fn coarsen(&mut self) {
        while self.extents.len() > Self::EXTENTS_MAX / 2 {
            self.gap_min = (self.gap_min * 2).max(4096);
            let gap_min = self.gap_min;
            self.extents.dedup_by(|next, kept| {
                let joins = next.start <= kept.end().saturating_add(gap_min);
                if joins {
                    *kept = Extent::between(kept.start, kept.end().max(next.end()));
                }
                joins
            });
        }
    }

    /// The extents, ascending, disjoint, with gaps between them.
    #[must_use]
    pub fn as_slice(&self) -> &[Extent] {
        &self.extents
    }

    /// The extents, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.extents.iter().copied()
    }

    /// Number of bytes in the set.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.extents.iter().fold(0, |sum, e| sum.saturating_add(e.len))
    }

    /// True when the set has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// True when every byte of `extent` is in the set.
    #[must_use]
    pub fn contains(&self, extent: Extent) -> bool {
        let at = self.extents.partition_point(|e| e.end() <= extent.start);
        extent.is_empty() || self.extents.get(at).is_some_and(|e| e.start <= extent.start && e.end() >= extent.end())
    }

    /// The parts of the set that lie in `within`.
    pub fn intersect(&self, within: Extent) -> impl Iterator<Item = Extent> + '_ {
        let at = self.extents.partition_point(|e| e.end() <= within.start);
        self.extents.iter().skip(at).map(move |e| e.intersection(within)).take_while(|e| !e.is_empty())
    }

    /// The parts of `within` that are not in the set.
    #[must_use]
    pub fn complement(&self, within: Extent) -> Self {
        let mut gaps = Self::new();
        let mut at = within.start;
        for extent in self.intersect(within) {
            gaps.insert(Extent::between(at, extent.start));
            at = extent.end();
        }
        gaps.insert(Extent::between(at, within.end()));
        gaps
    }

    /// The bytes that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<Extent> = self.extents.iter().chain(&other.extents).copied().collect();
        all.sort_unstable();
        all.into_iter().collect()
    }

    /// The bytes that are in this set and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.iter().flat_map(|e| other.complement(e).extents).collect()
    }

    /// The set with every extent grown outward to multiples of `grid` bytes, and cut at `limit`.
    ///
    /// `grid` of 0 or 1 changes nothing.
    #[must_use]
    pub fn aligned_outward(&self, grid: u64, limit: u64) -> Self {
        let grid = grid.max(1);
        self.iter()
            .map(|e| {
                let end = e.end().checked_next_multiple_of(grid).unwrap_or(u64::MAX).min(limit);
                Extent::between(e.start - e.start % grid, end)
            })
            .collect()
    }
}

impl From<Vec<Extent>> for ExtentSet {
    fn from(extents: Vec<Extent>) -> Self {
        extents.into_iter().collect()
    }
}

impl From<ExtentSet> for Vec<Extent> {
    fn from(set: ExtentSet) -> Self {
        set.extents
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        extents.into_iter().for_each(|e| set.insert(e));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model(extents: &[(u16, u8)]) -> (ExtentSet, Vec<bool>) {
        let mut bits = vec![false; 70_000];
        let mut set = ExtentSet::new();
        for &(start, len) in extents {
            set.insert(Extent::new(u64::from(start), u64::from(len)));
            bits[usize::from(start)..usize::from(start) + usize::from(len)].fill(true);
        }
        (set, bits)
    }

    fn bits_of(set: &ExtentSet) -> Vec<bool> {
        let mut bits = vec![false; 70_000];
        for e in set.iter() {
            let (start, end) = (usize::try_from(e.start).unwrap(), usize::try_from(e.end()).unwrap());
            bits[start..end].fill(true);
        }
        bits
    }

    fn is_normal(set: &ExtentSet) -> bool {
        set.as_slice().windows(2).all(|w| w[0].end() < w[1].start) && set.iter().all(|e| !e.is_empty())
    }

    proptest! {
        #[test]
        fn a_set_is_the_bits_that_were_inserted(extents: Vec<(u16, u8)>) {
            let (set, bits) = model(&extents);
            prop_assert!(is_normal(&set));
            prop_assert_eq!(bits_of(&set), bits);
        }

        #[test]
        fn union_minus_and_complement_are_bitwise(a: Vec<(u16, u8)>, b: Vec<(u16, u8)>) {
            let ((a, a_bits), (b, b_bits)) = (model(&a), model(&b));
            let both = |f: fn(bool, bool) -> bool| a_bits.iter().zip(&b_bits).map(|(&x, &y)| f(x, y)).collect::<Vec<_>>();
            prop_assert_eq!(bits_of(&a.union(&b)), both(|x, y| x | y));
            prop_assert_eq!(bits_of(&a.minus(&b)), both(|x, y| x & !y));
            let not: Vec<bool> = a_bits.iter().map(|x| !x).collect();
            prop_assert_eq!(bits_of(&a.complement(Extent::new(0, 70_000))), not);
        }

        #[test]
        fn contains_agrees_with_the_bits(a: Vec<(u16, u8)>, start: u16, len: u8) {
            let (set, bits) = model(&a);
            let (from, to) = (usize::from(start), usize::from(start) + usize::from(len));
            let expected = bits[from..to].iter().all(|&b| b);
            prop_assert_eq!(set.contains(Extent::new(u64::from(start), u64::from(len))), expected);
        }
    }

    #[test]
    fn a_set_with_too_many_extents_grows_coarser_and_loses_nothing() {
        let mut set = ExtentSet::new();
        let count = ExtentSet::EXTENTS_MAX as u64 + 10;
        for i in 0..count {
            set.insert(Extent::new(i * 8192, 4096));
        }
        assert!(set.as_slice().len() <= ExtentSet::EXTENTS_MAX);
        assert!(is_normal(&set));
        for i in [0, 1, 77, count / 2, count - 1] {
            assert!(set.contains(Extent::new(i * 8192, 4096)));
        }
    }

    #[test]
    fn the_end_of_the_address_space_does_not_wrap() {
        let set: ExtentSet = [Extent::new(u64::MAX - 5, 100), Extent::new(0, u64::MAX)].into_iter().collect();
        assert_eq!(set.as_slice(), [Extent::new(0, u64::MAX)]);
        assert_eq!(set.aligned_outward(4096, u64::MAX).total(), u64::MAX);
    }
}
