//! The gate through which connections are opened: no more of them in a second than the account allows, whether they are new or
//! come back all together after a network was away.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Who would have to wait longer tries again later, at a moment of its own choosing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets so many pass in a second, at once or one by one.
#[derive(Debug)]
pub(super) struct Gate {
    spacing: Duration,
    /// When one would pass if they passed one by one.
    next: Mutex<Option<Instant>>,
}

impl Gate {
    /// One for `rate` a second; 0 for any number.
    pub(super) fn new(rate: u32) -> Self {
        Self { spacing: Duration::from_secs(1).checked_div(rate).unwrap_or_default(), next: Mutex::new(None) }
    }

    /// How long to wait before passing; none if that is too long.
    pub(super) fn turn(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A second's worth may pass at once.
        let (burst, due) = (Duration::from_secs(1).saturating_sub(self.spacing), next.unwrap_or(now).max(now));
        let wait = due.duration_since(now).saturating_sub(burst);
        if wait > PATIENCE {
            return None;
        }
        *next = Some(due + self.spacing);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_pass_in_a_second() {
        let gate = Gate::new(20);
        let waits: Vec<u128> = (0..25).map(|_| gate.turn().expect("a turn").as_millis()).collect();
        assert!(waits[..20].iter().all(|wait| *wait == 0), "{waits:?}");
        assert_eq!(waits[20..], [50, 100, 150, 200, 250]);
        assert_eq!((0..200).filter(|_| gate.turn().is_some()).count(), 95, "up to five seconds");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(gate.turn(), Some(Duration::ZERO));
    }

    #[test]
    fn without_a_rate_all_pass() {
        let gate = Gate::new(0);
        assert!((0..1_000).all(|_| gate.turn() == Some(Duration::ZERO)));
    }
}
