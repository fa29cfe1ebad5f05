//! Finding keys in a sorted list: they are hashes, so their first bits tell about where in it they are.
//!
//! Halving the list again and again misses the processor's cache at every step. Must not know: what the keys name.

#![forbid(unsafe_code)]

use std::ops::Range;

/// Keys that begin alike, about: so many are in one line or two of the processor's cache.
const ALIKE: usize = 4;

/// For each beginning of a key, the keys of a sorted list that have it.
pub(crate) struct KeyTable {
    /// For each beginning, the first key with it or a later one, and one more behind the last.
    starts: Vec<u32>,
    /// What of a key is not its beginning, in bits.
    rest_bits: u32,
}

impl KeyTable {
    /// Of the first 64 bits of each key, ascending, fewer than 2^32 of them.
    pub(crate) fn new(keys: impl ExactSizeIterator<Item = u64>) -> Self {
        let count = keys.len();
        let bits = (count / ALIKE).max(1).ilog2();
        let rest_bits = u64::BITS - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (at, key) in (0..).zip(keys) {
            let beginning = key.checked_shr(rest_bits).unwrap_or(0);
            while starts.len() as u64 <= beginning {
                starts.push(at);
            }
        }
        starts.resize((1 << bits) + 1, u32::try_from(count).unwrap_or(u32::MAX));
        Self { starts, rest_bits }
    }

    /// Where in the list all keys are that begin like this one.
    pub(crate) fn alike(&self, key: u64) -> Range<usize> {
        let beginning = usize::try_from(key.checked_shr(self.rest_bits).unwrap_or(0)).unwrap_or(usize::MAX);
        let start = |beginning| self.starts.get(beginning).map_or(0, |start| usize::try_from(*start).unwrap_or(0));
        start(beginning)..start(beginning.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_where_the_table_says(mut keys in proptest::collection::vec(any::<u64>(), 0..200), other: u64) {
            keys.sort_unstable();
            let table = KeyTable::new(keys.iter().copied());
            for (at, &key) in keys.iter().enumerate() {
                prop_assert!(table.alike(key).contains(&at));
            }
            let alike = keys.get(table.alike(other));
            prop_assert_eq!(alike.is_some_and(|alike| alike.contains(&other)), keys.contains(&other));
        }
    }
}
