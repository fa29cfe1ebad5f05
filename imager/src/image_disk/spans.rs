//! Leaves of block maps as records, kept for the next read: taking a leaf apart costs more than a small read.
//!
//! Must not know: frames, how a leaf is found.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::progress::lock;
use crate::repo::block_map::Record;

/// Records that are kept, at most: 12 MiB of them, the leaves of some 16 GiB in chunks of usual size.
const RECORDS_MAX: usize = 1 << 18;

/// Number of the region, number of the span in it.
type Key = (usize, u64);

/// The records of spans that were read lately.
#[derive(Default)]
pub(super) struct Spans {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_span: HashMap<Key, Arc<[Record]>>,
    records: usize,
}

impl Spans {
    /// The records of a span; `read` is asked for those that are not here.
    ///
    /// # Errors
    /// What `read` says.
    pub(super) fn get(&self, key: Key, read: impl FnOnce() -> Result<Vec<Record>>) -> Result<Arc<[Record]>> {
        if let Some(records) = lock(&self.kept).by_span.get(&key) {
            return Ok(Arc::clone(records));
        }
        let records: Arc<[Record]> = read()?.into();
        let mut kept = lock(&self.kept);
        // All of them go: it is rare, and none has to be told from another while they are read. The 1 is for empty ones.
        if kept.records > RECORDS_MAX {
            *kept = Kept::default();
        }
        kept.records += records.len() + 1;
        kept.by_span.insert(key, Arc::clone(&records));
        Ok(records)
    }
}
