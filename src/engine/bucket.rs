//! A token bucket with a rate that gives way: multiplicatively when the server refuses, additively back.

use std::time::Duration;

use super::time::Time;

/// How much of a second's allowance may be used at once.
const BURST_SECONDS: f64 = 0.1;
/// Two refusals closer than this are one: the second was sent before the first was known.
const BACK_OFF_ONCE_PER: Duration = Duration::from_secs(1);
/// Share of the ceiling that the rate regains each second.
const REGAIN_PER_SECOND: f64 = 0.05;

/// A token bucket. A rate of 0 means no limit.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    ceiling: f64,
    rate: f64,
    available: f64,
    refilled: Time,
    backed_off: Option<Time>,
}

impl Bucket {
    /// A full bucket that lets `rate` operations a second through.
    pub(super) fn new(rate: u32) -> Self {
        let rate = f64::from(rate);
        Self { ceiling: rate, rate, available: burst(rate), refilled: Time::default(), backed_off: None }
    }

    /// Lowers the ceiling to what the server allows.
    pub(super) fn cap(&mut self, rate: u32) {
        let rate = f64::from(rate);
        if rate > 0.0 && (self.ceiling == 0.0 || rate < self.ceiling) {
            self.ceiling = rate;
            self.rate = if self.rate == 0.0 { rate } else { self.rate.min(rate) };
        }
    }

    /// Takes one operation's worth, or tells when there will be one.
    pub(super) fn take(&mut self, now: Time) -> Result<(), Time> {
        if self.ceiling == 0.0 {
            return Ok(());
        }
        self.refill(now);
        if self.available >= 1.0 {
            self.available -= 1.0;
            return Ok(());
        }
        // Rounded up: a moment too early would be told "now" again.
        Err(now + Duration::from_secs_f64((1.0 - self.available) / self.rate) + Duration::from_micros(1))
    }

    /// Gives back what was taken for an operation that could not be sent after all.
    pub(super) fn give_back(&mut self) {
        self.available += 1.0;
    }

    /// The server refused: half as fast from now on.
    pub(super) fn back_off(&mut self, now: Time, observed_ceiling: f64) {
        if self.backed_off.is_some_and(|last| now.since(last) < BACK_OFF_ONCE_PER) {
            return;
        }
        if self.ceiling == 0.0 {
            self.ceiling = observed_ceiling;
            self.rate = observed_ceiling;
        }
        self.refill(now);
        self.backed_off = Some(now);
        self.rate = (self.rate / 2.0).max(1.0);
        self.available = self.available.min(burst(self.rate));
    }

    fn refill(&mut self, now: Time) {
        let seconds = now.since(self.refilled).as_secs_f64();
        if seconds > 0.0 {
            self.refilled = now;
            self.rate = (self.rate + self.ceiling * REGAIN_PER_SECOND * seconds).min(self.ceiling);
            self.available = (self.available + self.rate * seconds).min(burst(self.rate));
        }
    }
}

fn burst(rate: f64) -> f64 {
    (rate * BURST_SECONDS).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_in(bucket: &mut Bucket, from: Time, seconds: u64) -> u64 {
        let (mut now, mut sent) = (from, 0);
        let end = from + Duration::from_secs(seconds);
        while now < end {
            match bucket.take(now) {
                Ok(()) => sent += 1,
                Err(next) => now = next + Duration::from_micros(1),
            }
        }
        sent
    }

    #[test]
    fn lets_its_rate_through_and_no_more() {
        let mut bucket = Bucket::new(50);
        let sent = sent_in(&mut bucket, Time::from_millis(1_000_000), 10);
        assert!((495..=506).contains(&sent), "{sent} in ten seconds");
    }

    #[test]
    fn the_moment_that_it_names_is_late_enough() {
        for rate in [3, 7, 50, 333] {
            let mut bucket = Bucket::new(rate);
            let mut now = Time::from_millis(1_000_000);
            for _ in 0..1_000 {
                if let Err(next) = bucket.take(now) {
                    assert_eq!(bucket.take(next), Ok(()), "at {rate} a second");
                    now = next;
                }
            }
        }
    }

    #[test]
    fn halves_on_a_refusal_once_a_second_and_regains() {
        let mut bucket = Bucket::new(100);
        let start = Time::from_millis(1_000_000);
        for _ in 0..10 {
            bucket.back_off(start, 100.0);
        }
        let slow = sent_in(&mut bucket, start, 1);
        assert!((45..=65).contains(&slow), "{slow} in the first second");
        sent_in(&mut bucket, start + Duration::from_secs(1), 10);
        let fast = sent_in(&mut bucket, start + Duration::from_secs(11), 1);
        assert!((95..=105).contains(&fast), "{fast} after it regained");
    }

    #[test]
    fn no_rate_is_no_limit_until_the_server_sets_one() {
        let mut bucket = Bucket::new(0);
        let now = Time::from_millis(1);
        assert!((0..10_000).all(|_| bucket.take(now).is_ok()));
        bucket.cap(10);
        assert!((0..10_000).any(|_| bucket.take(now).is_err()));
    }
}
