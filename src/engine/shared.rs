//! What the engines of one process share: connections and budgets, and how much memory texts take.

use std::time::Duration;

use super::flow::Flow;
use super::response::Response;
use super::settings::Limits;

/// What the engines of one process share. Lent to each call; nothing in it is locked.
#[derive(Debug)]
pub struct Shared {
    /// Connections and rates.
    pub flow: Flow,
    pub(super) limits: Limits,
    pub(super) usage: Usage,
}

/// How much the open responses of all partitions take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Responses with text in memory.
    pub open: usize,
    /// Responses without: their text was dropped, or none has come.
    pub stubs: usize,
    /// Bytes of text in memory.
    pub text_bytes: usize,
}

impl Shared {
    /// With these limits; `append_rollup` is the server's window.
    #[must_use]
    pub fn new(limits: Limits, append_rollup: Duration) -> Self {
        Self { flow: Flow::new(limits, append_rollup), limits, usage: Usage::default() }
    }

    /// Whether records may be applied. When not, answers (and what they let go) make room; engines that are told
    /// [`Tick`](super::Input::Tick) drop what they can.
    #[must_use]
    pub fn intake_open(&self) -> bool {
        !self.is_full()
    }

    /// How much is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    pub(super) fn is_full(&self) -> bool {
        self.usage.open >= self.limits.open_max || self.usage.text_bytes >= self.limits.text_bytes_max
    }
}

/// What one response takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    /// Its text is not in memory.
    pub(super) stub: bool,
    bytes: usize,
}

impl Weight {
    pub(super) fn of(response: &Response) -> Self {
        let bytes = response.text.in_memory();
        Self { stub: bytes == 0, bytes }
    }
}

impl Usage {
    /// A response came.
    pub(super) fn add(&mut self, weight: Weight) {
        *self.of_kind(weight) += 1;
        self.text_bytes += weight.bytes;
    }

    /// A response went.
    pub(super) fn subtract(&mut self, weight: Weight) {
        *self.of_kind(weight) -= 1;
        self.text_bytes -= weight.bytes;
    }

    /// A response changed.
    pub(super) fn change(&mut self, before: Weight, after: Weight) {
        self.subtract(before);
        self.add(after);
    }

    fn of_kind(&mut self, weight: Weight) -> &mut usize {
        if weight.stub { &mut self.stubs } else { &mut self.open }
    }
}
