//! Time since this machine was started, also while it was suspended.
//!
//! Must not know: who wants to know.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A clock that is never set and goes on while the machine is suspended.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The kernel's.
    #[must_use]
    pub fn of_this_machine() -> Self {
        // Every Linux of the last ten years has this clock.
        Self::new(|| clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }

    /// A clock that shows what `read` says.
    pub fn new(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes() {
        let clock = Clock::of_this_machine();
        let before = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now() > before && before > Duration::ZERO);
    }
}
