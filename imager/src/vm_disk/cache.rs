//! Blocks kept in memory, the ones used last, within a bound; each is made once, however many want it.
//!
//! Must not know: what the blocks are.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::progress::lock;

/// All that is kept of one disk and of everything that it is made of.
const BYTES_MAX: usize = 32 << 20;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 160;

type Key = (u64, u64);

/// A place in the cache; locked while its block is being made.
#[derive(Default)]
struct Slot {
    block: Mutex<Option<Arc<Vec<u8>>>>,
    used: AtomicU64,
}

/// The cache.
#[derive(Default)]
pub(super) struct Cache {
    slots: Mutex<Slots>,
    clock: AtomicU64,
    owners: AtomicU64,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, Arc<Slot>>,
    bytes: usize,
}

/// One user's part of a cache.
pub(super) struct Share {
    cache: Arc<Cache>,
    owner: u64,
}

impl Cache {
    /// A part for one more user.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { cache: Arc::clone(self), owner: self.owners.fetch_add(1, Ordering::Relaxed) }
    }

    /// Throws out the older half when there is too much. One that is being made is not counted yet, and stays.
    fn make_room(&self, len: usize) {
        let mut slots = lock(&self.slots);
        slots.bytes += len + ENTRY_BYTES;
        if slots.bytes <= BYTES_MAX {
            return;
        }
        let loaded = slots.by_key.iter().filter_map(|(key, slot)| {
            let len = slot.block.try_lock().ok()?.as_ref()?.len();
            Some((slot.used.load(Ordering::Relaxed), *key, len))
        });
        let mut loaded: Vec<_> = loaded.collect();
        loaded.sort_unstable();
        for (_, key, len) in loaded {
            if slots.bytes <= BYTES_MAX / 2 {
                break;
            }
            slots.by_key.remove(&key);
            slots.bytes = slots.bytes.saturating_sub(len + ENTRY_BYTES);
        }
    }
}

impl Share {
    /// The block of that key, made by `make` when it is not there.
    ///
    /// # Errors
    /// Those of `make`; the next one tries again.
    pub(super) fn get(&self, key: u64, make: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Arc<Vec<u8>>> {
        let key = (self.owner, key);
        let slot = Arc::clone(lock(&self.cache.slots).by_key.entry(key).or_default());
        slot.used.store(self.cache.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut held = lock(&slot.block);
        if let Some(block) = &*held {
            return Ok(Arc::clone(block));
        }
        match make() {
            Ok(block) => {
                let block = Arc::new(block);
                *held = Some(Arc::clone(&block));
                drop(held);
                self.cache.make_room(block.len());
                Ok(block)
            }
            Err(error) => {
                lock(&self.cache.slots).by_key.remove(&key);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_made_once_while_it_is_kept() {
        let cache = Arc::new(Cache::default());
        let (first, second) = (cache.share(), cache.share());
        for key in 0..200 {
            assert_eq!(first.get(key, || Ok(vec![1; 1 << 20])).unwrap()[0], 1);
            assert_eq!(first.get(key, || panic!("it is there")).unwrap()[0], 1);
            assert!(lock(&cache.slots).bytes <= BYTES_MAX);
        }
        // The same key of another is another block; what failed is tried again.
        assert!(second.get(199, || Err(io::Error::other("no"))).is_err());
        assert_eq!(second.get(199, || Ok(vec![2])).unwrap()[0], 2);
    }
}
