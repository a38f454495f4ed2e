//! The process's clock: the wall clock once at start, a monotonic clock ever after, so that time never goes back.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::engine::Time;

/// Tells the time to engines.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Time,
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: Time::default() + wall, started: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.base + self.started.elapsed()
    }

    /// The same moment for timers; the past is now.
    #[must_use]
    pub fn instant(&self, time: Time) -> Instant {
        self.started + time.since(self.base)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_survives_the_way_there_and_back() {
        let clock = Clock::start();
        let later = clock.now() + Duration::from_secs(5);
        assert!(clock.instant(later) > Instant::now() + Duration::from_secs(4));
        assert!(clock.instant(Time::default()) <= Instant::now());
    }
}
