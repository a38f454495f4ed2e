//! The lease: how long this process may write operations to Ably without a word from whoever gives out the partitions.
//!
//! A process that was frozen (stopped, suspended, out of memory) does not know on waking that its partitions are somebody
//! else's by now, and has frames ready. So the right to write is not looked up but runs out: it is extended only by proof
//! of membership, counted from before the proof was asked for, and looked at right before bytes go to a socket. The clock
//! counts time during which the machine was suspended, which the usual monotonic clock does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment by the clock that never stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let millis = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)).as_millis();
        Self(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// So long after the machine was started.
    #[must_use]
    pub fn since_boot(time: Duration) -> Self {
        Self(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// How long ago it was.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Duration::from_millis(Self::now().0.saturating_sub(self.0))
    }
}

/// A process's lease, shared by all who look at it.
#[derive(Debug, Clone)]
pub struct Lease {
    ends: Arc<AtomicU64>,
    term: Duration,
}

impl Lease {
    /// A lease that is not held until it is renewed, each time for `term`.
    #[must_use]
    pub fn new(term: Duration) -> Self {
        Self { ends: Arc::default(), term }
    }

    /// A lease without an end, for who shares nothing with anybody.
    #[must_use]
    pub fn forever() -> Self {
        Self { ends: Arc::new(AtomicU64::new(u64::MAX)), term: Duration::MAX }
    }

    /// It was ours at some moment after `asked`. Never shortens it.
    pub fn renew(&self, asked: Moment) {
        let term = u64::try_from(self.term.as_millis()).unwrap_or(u64::MAX);
        self.ends.fetch_max(asked.0.saturating_add(term), Ordering::AcqRel);
    }

    /// Whether operations may be written now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let ends = self.ends.load(Ordering::Acquire);
        ends == u64::MAX || Moment::now().0 < ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_from_before_the_question() {
        let now = Moment::now();
        // However short a time the machine has been up.
        let term = now.0 / 2;
        let lease = Lease::new(Duration::from_millis(term));
        assert!(!lease.is_held(), "nobody has said anything yet");
        lease.renew(Moment(now.0 - term));
        assert!(!lease.is_held(), "the proof is as old as the term");
        lease.renew(now);
        assert!(lease.is_held());
        lease.renew(Moment(0));
        assert!(lease.is_held(), "an older proof takes nothing back");
    }

    #[test]
    fn without_an_end_it_is_held() {
        assert!(Lease::forever().is_held());
    }
}
