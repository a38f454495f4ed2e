//! A token bucket with a rate that gives way: at once when the server refuses, additively back.
//!
//! It keeps to the least of what we are told, what the server says when it connects, what a refusal names, and nine tenths of
//! the rate at which it was last refused: that is not tried again for a while, because every refusal costs a full text.

use std::time::Duration;

use super::time::Time;

/// How much of a second's allowance may be used at once, unless said otherwise.
const BURST_SECONDS: f64 = 0.1;
/// Share of the ceiling that the rate regains each second.
const REGAIN_PER_SECOND: f64 = 0.05;
/// Share of a refused rate that is not refused, as far as we know.
const BELOW_REFUSED: f64 = 0.9;
/// One refusal takes no more than this share of the present rate: it may have met a moment in which little was sent.
const REFUSED_LEAST: f64 = 0.1;
/// Whoever waits looks again after so long: rates change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Seconds after which nobody cares any more how much was taken.
const FULL_WITHIN: f64 = 3_600.0;
/// Over which the rate that was used is measured.
const MEASURED_OVER: Duration = Duration::from_secs(1);
/// Share of that of which something must be known.
const MEASURED_LEAST: f64 = 0.1;

/// A token bucket. A rate of 0 means no limit.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// What we are told to keep to.
    told: f64,
    /// Which share of that is ours.
    share: f64,
    /// What the server says that it takes.
    allowed: f64,
    /// The rate does not fall below this.
    least: f64,
    /// How long a rate that was refused is not tried again.
    hold: Duration,
    /// How many seconds' allowance may be used at once.
    burst: f64,
    rate: f64,
    available: f64,
    refilled: Time,
    refused: Option<Refused>,
    /// When somebody was last told to wait for it.
    waited_for: Option<Time>,
    used: Used,
}

/// The last refusal.
#[derive(Debug, Clone, Copy)]
struct Refused {
    at: Time,
    ceiling: f64,
}

impl Bucket {
    /// A full bucket that lets `rate` a second through, and at the worst `least`. A rate that was refused is not tried again
    /// for `hold`.
    pub(super) fn new(rate: u64, least: u32, hold: Duration) -> Self {
        let told = or_unlimited(rate as f64);
        Self {
            told,
            share: 1.0,
            allowed: f64::INFINITY,
            least: f64::from(least),
            hold,
            burst: BURST_SECONDS,
            rate: told,
            available: (told * BURST_SECONDS).max(1.0),
            refilled: Time::default(),
            refused: None,
            waited_for: None,
            used: Used::default(),
        }
    }

    /// The same, but a whole second's allowance may be used at once.
    pub(super) fn in_bursts(mut self) -> Self {
        (self.burst, self.available) = (1.0, self.rate.max(1.0));
        self
    }

    /// What the server allows, whatever it allowed before.
    pub(super) fn allow(&mut self, rate: u32) {
        let before = self.budget();
        self.allowed = or_unlimited(f64::from(rate));
        let after = self.budget();
        self.rate = if after > before && self.refused.is_none() { after } else { self.rate.min(after) };
        self.available = self.available.min(self.most());
    }

    /// Others share what we are told to keep to: this much of it is ours.
    pub(super) fn share(&mut self, now: Time, share: f64) {
        self.refill(now);
        let grows = share > self.share && self.refused.is_none();
        self.share = share;
        let ceiling = self.ceiling(now);
        self.rate = if grows { ceiling } else { self.rate.min(ceiling) };
        self.available = self.available.min(self.most());
    }

    /// When `amount` may be taken, behind `ahead` others who want as much; none if now.
    pub(super) fn wait(&mut self, now: Time, amount: f64, ahead: usize) -> Option<Time> {
        self.refill(now);
        let missing = amount.min(self.most()) + ahead as f64 * amount - self.available;
        if missing <= 0.0 {
            return None;
        }
        self.waited_for = Some(now);
        let wait = Duration::from_secs_f64((missing / self.rate).min(LOOK_AGAIN.as_secs_f64()));
        // Rounded up: a moment too early would be told "now" again.
        Some(now + wait + Duration::from_micros(1))
    }

    /// Takes `amount`, which [`wait`](Self::wait) has allowed.
    pub(super) fn take(&mut self, now: Time, amount: f64) {
        self.available -= amount;
        self.used.add(now, amount);
    }

    /// Takes one, or tells when there will be one.
    pub(super) fn take_one(&mut self, now: Time) -> Result<(), Time> {
        match self.wait(now, 1.0, 0) {
            Some(time) => Err(time),
            None => {
                self.take(now, 1.0);
                Ok(())
            }
        }
    }

    /// From when on it says nothing that a new one does not.
    pub(super) fn rests_until(&self, now: Time) -> Time {
        let refused = self.refused.map_or(now, |refused| refused.at + self.hold);
        let missing = if self.rate.is_finite() { (self.most() - self.available) / self.rate } else { 0.0 };
        refused.max(now + Duration::from_secs_f64(missing.clamp(0.0, FULL_WITHIN)).max(MEASURED_OVER))
    }

    /// How much was taken in the last second.
    pub(super) fn used(&mut self, now: Time) -> f64 {
        self.used.in_last_second(now)
    }

    /// What it may let through, if nothing was refused.
    pub(super) fn budget(&self) -> f64 {
        (self.told * self.share).min(self.allowed)
    }

    fn ceiling(&self, now: Time) -> f64 {
        let refused = self.refused.filter(|refused| now.since(refused.at) < self.hold);
        self.budget().min(refused.map_or(f64::INFINITY, |refused| refused.ceiling))
    }

    /// The server refused what was sent at `sent_at`: slower from now on, as slow as it says if it says so. What was sent before
    /// the last refusal was known says nothing new.
    pub(super) fn refused(&mut self, now: Time, sent_at: Time, named: Option<f64>) {
        if self.refused.is_some_and(|last| sent_at <= last.at) {
            return;
        }
        self.refill(now);
        let least = self.least.min(self.budget());
        let ceiling = match named.filter(|named| *named < self.rate) {
            Some(named) => {
                self.rate = named.max(least);
                self.rate
            }
            None => {
                let refused = self.sent(now);
                self.rate = (self.rate.min(refused) / 2.0).max(least);
                (refused * BELOW_REFUSED).max(least)
            }
        };
        self.refused = Some(Refused { at: now, ceiling });
        self.available = self.available.min(0.0);
    }

    /// The rate at which something has been sent: the present one if anybody had to wait for it lately, else as measured.
    fn sent(&mut self, now: Time) -> f64 {
        let (rate, used) = (self.rate, self.used.rate(now));
        match self.waited_for.is_some_and(|last| now.since(last) < MEASURED_OVER) {
            true => rate,
            false if rate.is_finite() => used.clamp(rate * REFUSED_LEAST, rate),
            false => used,
        }
    }

    /// What was refused was refused for another reason. Nothing is left, though.
    pub(super) fn forget_refusal(&mut self, now: Time) {
        self.refill(now);
        (self.refused, self.rate) = (None, self.budget());
        self.available = self.available.min(0.0);
    }

    fn most(&self) -> f64 {
        (self.rate * self.burst).max(1.0)
    }

    fn refill(&mut self, now: Time) {
        let seconds = now.since(self.refilled).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        self.refilled = now;
        let ceiling = self.ceiling(now);
        if self.rate < ceiling {
            // Without any ceiling it grows by what was refused.
            let scale = if ceiling.is_finite() { ceiling } else { self.refused.map_or(ceiling, |last| last.ceiling) };
            self.rate = (self.rate + scale * REGAIN_PER_SECOND * seconds).min(ceiling);
        }
        self.available = (self.available + self.rate * seconds).min(self.most());
    }
}

/// How much was taken lately: in this second, and in the one before.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    began: Time,
    now: f64,
    /// None if there was nothing before this second.
    before: Option<f64>,
}

impl Used {
    fn add(&mut self, now: Time, amount: f64) {
        self.pass(now);
        self.now += amount;
    }

    fn in_last_second(&mut self, now: Time) -> f64 {
        self.pass(now);
        let passed = now.since(self.began).as_secs_f64() / MEASURED_OVER.as_secs_f64();
        self.now + self.before.unwrap_or_default() * (1.0 - passed).max(0.0)
    }

    /// As if what has begun just now had always been so.
    fn rate(&mut self, now: Time) -> f64 {
        let taken = self.in_last_second(now);
        let passed = now.since(self.began).as_secs_f64() / MEASURED_OVER.as_secs_f64();
        if self.before.is_some() { taken } else { taken / passed.max(MEASURED_LEAST) }
    }

    fn pass(&mut self, now: Time) {
        let passed = now.since(self.began);
        if passed >= MEASURED_OVER {
            let goes_on = passed < MEASURED_OVER * 2;
            self.before = goes_on.then_some(self.now);
            self.now = 0.0;
            self.began = if goes_on { self.began + MEASURED_OVER } else { now };
        }
    }
}

fn or_unlimited(rate: f64) -> f64 {
    if rate == 0.0 { f64::INFINITY } else { rate }
}

#[cfg(test)]
mod tests;
