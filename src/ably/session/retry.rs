//! How long to wait before connecting again.
//!
//! At once after a working connection ended; then longer each time, with jitter so that a fleet does not come back as one.
//! Ably's own clients begin at 15 s because they try other hosts in between; a relay has nothing better to do, so it begins
//! at a second and only ends where they do. What the server said about rates or credentials overrides that.

use std::time::Duration;

/// Two attempts are never closer than this.
pub(crate) const SPACING: Duration = Duration::from_secs(1);

/// After a refusal for a rate.
const SLOW: Duration = Duration::from_secs(15);

/// Never longer than this, and so long after a refusal that only a person can mend.
const LONGEST: Duration = Duration::from_secs(30);

/// The wait after `failures` attempts in a row that did not connect.
pub(crate) fn delay(failures: u32, random: &mut fastrand::Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(5);
    (SPACING * (1 << doublings)).min(LONGEST).mul_f64(0.8 + 0.2 * random.f64())
}

/// The wait after a refusal for a rate.
pub(crate) fn slow_delay(failures: u32, random: &mut fastrand::Rng) -> Duration {
    delay(failures, random).max(SLOW + SLOW.mul_f64(0.2 * random.f64()))
}

/// The wait after a refusal that only a person can mend.
pub(crate) fn fatal_delay(random: &mut fastrand::Rng) -> Duration {
    LONGEST.mul_f64(0.8 + 0.2 * random.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest_and_are_never_the_same() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut least = Duration::ZERO;
        for failures in 1..=6 {
            let wait = delay(failures, &mut random);
            assert!(wait > least && wait <= LONGEST, "{failures}: {wait:?}");
            least = wait.mul_f64(0.8);
        }
        assert!(delay(u32::MAX, &mut random) <= LONGEST);
        assert_ne!(delay(6, &mut random), delay(6, &mut random));
        assert!(slow_delay(0, &mut random) >= SLOW);
    }
}
