//! How long to wait before the next try.

use std::time::Duration;

/// The longest wait between two tries.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// The wait after `failures` failures in a row: `first`, then twice as long each time, up to [`LONGEST`].
///
/// No jitter: what waits here is spread by the buckets behind it.
pub(super) fn delay(first: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    first.max(Duration::from_millis(50)).saturating_mul(1 << doublings).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let first = Duration::from_millis(250);
        let delays: Vec<_> = (0..9).map(|failures| delay(first, failures).as_millis()).collect();
        assert_eq!(delays, [250, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
        assert_eq!(delay(first, u32::MAX), LONGEST);
    }
}
