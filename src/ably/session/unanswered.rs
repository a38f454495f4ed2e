//! The frames that the server has not answered: a queue by number, of which only the head settles.
//!
//! Answers are matched by absolute number, never by position: an answer that comes twice finds nothing, and one that jumps
//! over a frame leaves that frame's operation in doubt. Frames keep their bytes, because after a resumed connection they
//! must be written again unchanged. Frames at the back may not be written yet: they came while the connection was down.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::engine::{OpId, Time};

/// A frame without an answer.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) op: OpId,
    pub(super) is_create: bool,
    pub(super) bytes: Bytes,
    pub(super) came_at: Time,
    /// When it was last written; until then, when it came.
    pub(super) sent_at: Time,
    /// It was written on more than one transport.
    pub(super) resent: bool,
    /// It has already cost the connection a transport by not being answered.
    pub(super) overdue: bool,
}

/// The frames without an answer.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    frames: VecDeque<Frame>,
    /// The number of the first.
    first: u64,
    /// How many of them, from the first on, were written.
    written: usize,
    bytes: usize,
}

/// How a frame leaves the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The answer covers it; which of the answer's frames it is, from 0.
    Covered(u64),
    /// The answer is for later ones.
    Skipped,
}

impl Unanswered {
    /// The number of the next frame.
    pub(super) fn next_serial(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.frames.len(), self.bytes)
    }

    /// Adds a frame that carries [`next_serial`](Self::next_serial).
    pub(super) fn push(&mut self, frame: Frame, is_written: bool) {
        debug_assert!(!is_written || self.written == self.frames.len(), "frames are written in order");
        self.bytes += frame.bytes.len();
        self.written += usize::from(is_written);
        self.frames.push_back(frame);
    }

    /// Settles what an answer for `count` frames from number `from` on settles, in order. An answer for a number that was
    /// never written settles nothing and gives `false`.
    pub(super) fn settle(&mut self, from: u64, count: u64, mut settled: impl FnMut(Frame, Settled)) -> bool {
        let written_end = self.first + self.written as u64;
        if from >= written_end {
            return false;
        }
        let end = from.saturating_add(count).min(written_end);
        while self.first < end {
            let how = self.first.checked_sub(from).map_or(Settled::Skipped, Settled::Covered);
            let Some(frame) = self.pop() else { break };
            settled(frame, how);
        }
        true
    }

    /// The frame that has waited longest for its answer.
    pub(super) fn oldest_written(&self) -> Option<&Frame> {
        self.frames.front().filter(|_| self.written > 0)
    }

    /// When the create came that has waited longest.
    pub(super) fn oldest_create(&self) -> Option<Time> {
        self.frames.iter().find(|frame| frame.is_create).map(|frame| frame.came_at)
    }

    /// Notes that the oldest frame has cost the connection its transport.
    pub(super) fn mark_overdue(&mut self) {
        if let Some(oldest) = self.frames.front_mut() {
            oldest.overdue = true;
        }
    }

    /// Writes everything: again what was written before, then what was not.
    pub(super) fn write_all(&mut self, now: Time, mut write: impl FnMut(Bytes)) {
        for (index, frame) in self.frames.iter_mut().enumerate() {
            frame.resent |= index < self.written;
            frame.sent_at = now;
            write(frame.bytes.clone());
        }
        self.written = self.frames.len();
    }

    /// Gives everything up: `given_up` is told of each frame and whether it was ever written. Numbers begin anew.
    pub(super) fn give_up(&mut self, mut given_up: impl FnMut(Frame, bool)) {
        for (index, frame) in self.frames.drain(..).enumerate() {
            given_up(frame, index < self.written);
        }
        (self.first, self.written, self.bytes) = (0, 0, 0);
    }

    fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.first += 1;
        self.written -= 1;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }
}
