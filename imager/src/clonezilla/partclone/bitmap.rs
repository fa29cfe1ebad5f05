//! A bit for each block of a volume, and where the next run of them is.
//!
//! Must not know: what the blocks hold.

#![forbid(unsafe_code)]

/// Bits by number, least significant first.
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
    len: u64,
}

const BITS: u64 = 64;

impl Bitmap {
    /// No bits yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of bits.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True without any bit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bits as words; those behind the last bit are clear.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Appends `count` equal bits.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn push_run(&mut self, bit: bool, count: u64) -> Result<(), std::collections::TryReserveError> {
        let end = self.len.saturating_add(count);
        let words = usize::try_from(end.div_ceil(BITS)).unwrap_or(usize::MAX);
        self.words.try_reserve(words.saturating_sub(self.words.len()))?;
        if !bit {
            self.words.resize(words, 0);
            self.len = end;
            return Ok(());
        }
        let mut at = self.len;
        while at < end {
            let (word, first) = (at / BITS, at % BITS);
            let bits = (BITS - first).min(end - at);
            let mask = (u64::MAX >> (BITS - bits)) << first;
            match usize::try_from(word).ok().and_then(|word| self.words.get_mut(word)) {
                Some(word) => *word |= mask,
                None => self.words.push(mask),
            }
            at += bits;
        }
        self.len = end;
        Ok(())
    }

    /// Appends the bits of `bytes`, least significant first, but no more than `count`.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn push_bytes(&mut self, bytes: &[u8], count: u64) -> Result<(), std::collections::TryReserveError> {
        if !self.len.is_multiple_of(BITS) {
            // Only behind a last piece of odd length, which nobody reads in pieces of whole words.
            for bit in 0..count.min(bytes.len() as u64 * 8) {
                let byte = usize::try_from(bit / 8).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0);
                self.push_run(byte >> (bit % 8) & 1 == 1, 1)?;
            }
            return Ok(());
        }
        self.words.try_reserve(bytes.len().div_ceil(8))?;
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            if let Some(word) = word.get_mut(..piece.len()) {
                word.copy_from_slice(piece);
            }
            self.words.push(u64::from_le_bytes(word));
        }
        self.len += count.min(bytes.len() as u64 * 8);
        self.words.truncate(usize::try_from(self.len.div_ceil(BITS)).unwrap_or(usize::MAX));
        if let (Some(last), odd @ 1..) = (self.words.last_mut(), self.len % BITS) {
            *last &= u64::MAX >> (BITS - odd);
        }
        Ok(())
    }

    /// Whether bit `number` is set.
    #[must_use]
    pub fn get(&self, number: u64) -> bool {
        self.word(number / BITS) >> (number % BITS) & 1 == 1
    }

    /// How many are set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first run of set bits from bit `from` on, no longer than `len_max`: its first bit and its length.
    #[must_use]
    pub fn next_run(&self, from: u64, len_max: u64) -> Option<(u64, u64)> {
        let first = self.find(from, self.len, false)?;
        // No further than asked for: who takes a long run in parts would look at all of it each time.
        let limit = first.saturating_add(len_max).min(self.len);
        let end = self.find(first, limit, true).unwrap_or(limit);
        Some((first, end - first))
    }

    /// The first bit from `from` on, and before `limit`, that is set, or clear.
    fn find(&self, from: u64, limit: u64, is_clear: bool) -> Option<u64> {
        let mut at = from;
        while at < limit {
            let word = if is_clear { !self.word(at / BITS) } else { self.word(at / BITS) };
            let rest = word >> (at % BITS);
            if rest != 0 {
                let found = at + u64::from(rest.trailing_zeros());
                return (found < limit).then_some(found);
            }
            at = (at / BITS + 1) * BITS;
        }
        None
    }

    fn word(&self, number: u64) -> u64 {
        usize::try_from(number).ok().and_then(|number| self.words.get(number)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits_of(bitmap: &Bitmap) -> Vec<bool> {
        (0..bitmap.len()).map(|number| bitmap.get(number)).collect()
    }

    proptest! {
        #[test]
        fn runs_are_the_bits_that_were_pushed(runs: Vec<(bool, u8)>, len_max in 1u64..100) {
            let mut bitmap = Bitmap::new();
            let mut model = Vec::new();
            for (bit, count) in runs {
                bitmap.push_run(bit, count.into()).unwrap();
                model.extend(std::iter::repeat_n(bit, count.into()));
            }
            prop_assert_eq!(bits_of(&bitmap), model.clone());
            prop_assert_eq!(bitmap.count(), model.iter().filter(|bit| **bit).count() as u64);
            let (mut at, mut found) = (0, vec![false; model.len()]);
            while let Some((first, len)) = bitmap.next_run(at, len_max) {
                prop_assert!(first >= at && (1..=len_max).contains(&len));
                found[usize::try_from(first).unwrap()..][..usize::try_from(len).unwrap()].fill(true);
                at = first + len;
            }
            prop_assert_eq!(found, model);
        }

        #[test]
        fn bytes_are_bits_least_significant_first(bytes: Vec<u8>, cut in 0u64..8, odd in 0u64..3) {
            let count = (bytes.len() as u64 * 8).saturating_sub(cut);
            let mut bitmap = Bitmap::new();
            bitmap.push_run(true, odd).unwrap();
            bitmap.push_bytes(&bytes, count).unwrap();
            let model = (0..count).map(|bit| bytes[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1 == 1);
            prop_assert_eq!(bits_of(&bitmap), std::iter::repeat_n(true, usize::try_from(odd).unwrap()).chain(model).collect::<Vec<_>>());
            prop_assert_eq!(bitmap.count(), bits_of(&bitmap).iter().filter(|bit| **bit).count() as u64);
        }
    }
}
