//! Whether a thread still comes back from calls of librdkafka's. Some never do when a client has lost the broker that they
//! wait for, whatever time they are given.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::context::lock;

/// Longer than any call is given, several in a row included.
const STUCK: Duration = Duration::from_secs(90);

/// A thread's sign of life while it is at work.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// It is at work, and alive.
    pub(super) fn beat(&self) {
        *lock(&self.0) = Some(Instant::now());
    }

    /// It has nothing to do.
    pub(super) fn rest(&self) {
        lock(&self.0).take();
    }

    /// Whether it is at work and has not been heard of for too long.
    pub(super) fn is_stuck(&self) -> bool {
        lock(&self.0).is_some_and(|beat| beat.elapsed() >= STUCK)
    }
}
