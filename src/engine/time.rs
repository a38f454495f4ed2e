//! Time as a value. The engine never reads a clock: every input carries the moment at which it happened, so that a
//! simulator can play hours in milliseconds and a schedule can be repeated exactly.

use std::ops::Add;
use std::time::Duration;

/// A moment, in microseconds since the Unix epoch.
///
/// One notion of time serves deadlines and records alike. The shell takes the wall clock once at start and adds what a
/// monotonic clock has measured since, so a `Time` never goes back while a process lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// From milliseconds since the Unix epoch (the unit of Kafka and Ably timestamps).
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Whole milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 / 1_000
    }

    /// How much later `self` is than `earlier`; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        let micros = u64::try_from(later.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}
