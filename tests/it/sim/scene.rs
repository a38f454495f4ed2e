//! What every part of the world has at hand: the time, chance, what is to happen later, and the trace.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use super::fault::{Fault, Odds};
use super::fleet::Deed;

/// Microseconds in a millisecond.
pub(super) const MS: u64 = 1_000;
/// Microseconds in a second.
pub(super) const SECOND: u64 = 1_000 * MS;
/// When every run begins: after the epoch by more than any idle time.
pub(super) const START: u64 = 1_000_000 * SECOND;

/// A rule that was broken, in words.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

/// How often each kind of fault has struck.
pub(super) type Struck = [u64; Fault::ALL.len()];

/// Whether the rules held.
pub(super) type Kept<T = ()> = Result<T, Broken>;

/// Ends the run unless a rule holds.
macro_rules! hold {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::sim::scene::Broken(format!($($words)+)));
        }
    };
}
pub(super) use hold;

/// Notes a step, if anybody listens.
macro_rules! note {
    ($scene:expr, $($words:tt)+) => {
        if $scene.trace.is_some() {
            let line = format!($($words)+);
            $scene.note(&line);
        }
    };
}
pub(super) use note;

/// Something that is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A partition may have records to be read.
    Intake(usize),
    /// A frame reaches the server on one of its connections.
    Arrive(usize),
    /// The server flushes the appends to a message that it rolled up.
    Flush(usize),
    /// The server's answers reach the client.
    Answers(usize),
    /// The transport of a link breaks.
    Break(usize),
    /// The client finds that the transport of that number is broken.
    Noticed(usize, u32),
    /// The attempt of that number to open a transport is over.
    Opened(usize, u32),
    /// The answer to a request is not waited for any longer.
    Overdue(usize),
    /// Operations reach a link.
    Told(usize),
    /// What happened on a link reaches the engines.
    Heard(usize),
    /// Reports of a partition become durable.
    Durable(usize),
    /// A dead letter of a partition becomes durable.
    DeadLetter(usize, i64),
    /// A question of a partition's engine is answered.
    Reply(usize),
    /// Something among many processes.
    Fleet(Deed),
}

/// Where the steps of a run are written down; it outlives a panic of the engine.
pub(super) type Trace = Rc<RefCell<Vec<String>>>;

/// The time, chance, what is to happen, and the trace.
pub(super) struct Scene {
    pub(super) now: u64,
    pub(super) rng: fastrand::Rng,
    pub(super) odds: Odds,
    /// From then on nothing goes wrong any more.
    pub(super) calm_from: u64,
    /// How often each kind of fault has struck.
    pub(super) struck: Struck,
    pub(super) trace: Option<Trace>,
    queue: BinaryHeap<Reverse<(u64, u64, Due)>>,
    pushed: u64,
}

impl Scene {
    pub(super) fn new(rng: fastrand::Rng, odds: Odds, calm_from: u64, trace: Option<Trace>) -> Self {
        Self {
            now: START,
            rng,
            odds,
            calm_from,
            struck: [0; Fault::ALL.len()],
            trace,
            queue: BinaryHeap::with_capacity(64),
            pushed: 0,
        }
    }

    /// Whether a fault strikes now.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let odds = self.odds.of(fault);
        let strikes = odds > 0 && self.now < self.calm_from && self.rng.u8(..100) < odds;
        self.struck[fault as usize] += u64::from(strikes);
        strikes
    }

    /// Whether a fault is played at all.
    pub(super) fn plays(&self, fault: Fault) -> bool {
        self.odds.of(fault) > 0 && self.now < self.calm_from
    }

    /// One of these.
    pub(super) fn pick<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.rng.usize(..N)]
    }

    /// A time from now, at random within bounds.
    pub(super) fn within(&mut self, bounds: std::ops::Range<u64>) -> u64 {
        self.now + self.rng.u64(bounds)
    }

    /// Has something happen at a time.
    pub(super) fn at(&mut self, time: u64, due: Due) {
        self.pushed += 1;
        self.queue.push(Reverse((time.max(self.now), self.pushed, due)));
    }

    /// When the next thing happens.
    pub(super) fn next_time(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((time, ..))| *time)
    }

    /// Takes the next thing.
    pub(super) fn pop(&mut self) -> Option<Due> {
        let Reverse((time, _, due)) = self.queue.pop()?;
        self.now = self.now.max(time);
        Some(due)
    }

    pub(super) fn note(&mut self, line: &str) {
        let millis = (self.now - START) as f64 / MS as f64;
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push(format!("{millis:>12.3}  {line}"));
        }
    }
}
