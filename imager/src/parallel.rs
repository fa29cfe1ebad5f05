//! The same work on many things at once, where waiting for a disk or a store is most of it.

#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;
use crate::progress::{Progress, lock};

const THREADS: usize = 4;

/// Calls `work` for 0..count from a few threads and joins what they keep, in no order.
///
/// # Errors
/// The first error of `work`, [`Error::Interrupted`](crate::error::Error::Interrupted).
pub(crate) fn in_parallel<T: Send>(
    count: usize,
    progress: &Progress,
    work: &(dyn Fn(usize, &mut Vec<T>) -> Result<()> + Sync),
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let outcome: Mutex<Result<Vec<T>>> = Mutex::new(Ok(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut kept = Vec::new();
                let mut result = Ok(());
                while result.is_ok() && lock(&outcome).is_ok() {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    result = progress.check().and_then(|()| work(index, &mut kept));
                }
                let mut outcome = lock(&outcome);
                match (&mut *outcome, result) {
                    (Ok(all), Ok(())) => all.append(&mut kept),
                    (Ok(_), Err(error)) => *outcome = Err(error),
                    (Err(_), _) => {}
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
