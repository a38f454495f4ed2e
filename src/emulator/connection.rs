//! A connection: who it is, what it was told, and what its state is worth after a drop.

use std::collections::VecDeque;
use std::time::Duration;

use axum::extract::ws;
use tokio::sync::mpsc;

use crate::ably::wire::Encoding;

use super::auth::Grant;
use super::errors::Failure;
use super::limits::ANSWERS_KEPT;

/// A connection, with or without a transport.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: String,
    /// How many times it has had a transport: part of its key, so that each transport has another.
    pub(super) transports: u32,
    pub(super) grant: Grant,
    pub(super) encoding: Encoding,
    pub(super) rollup: Duration,
    pub(super) echo: bool,
    /// Frames to it, while it has a transport.
    pub(super) outbox: mpsc::Sender<ws::Message>,
    /// The frame that comes next.
    pub(super) next_serial: u64,
    answers: VecDeque<(u64, Answer)>,
    /// Since when it has had no transport.
    pub(super) dropped_at: Option<u64>,
    pub(super) rate: Rate,
    pub(super) attached: usize,
}

/// What became of a frame.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Taken; one serial per message.
    Ack(Vec<Option<String>>),
    /// Refused.
    Nack(Failure),
}

impl Connection {
    pub(super) fn new(
        id: String,
        grant: Grant,
        encoding: Encoding,
        rollup: Duration,
        echo: bool,
        outbox: mpsc::Sender<ws::Message>,
    ) -> Self {
        Self {
            id,
            transports: 1,
            grant,
            encoding,
            rollup,
            echo,
            outbox,
            next_serial: 0,
            answers: VecDeque::new(),
            dropped_at: None,
            rate: Rate::default(),
            attached: 0,
        }
    }

    /// The secret to resume it with.
    pub(super) fn key(&self) -> String {
        format!("{}!{}", self.id, self.transports)
    }

    /// What became of a frame that came before; it is not applied again.
    pub(super) fn known_answer(&self, serial: u64) -> Option<Answer> {
        self.answers.iter().rev().find(|(known, _)| *known == serial).map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer, to give it again after a resume.
    pub(super) fn keep(&mut self, serial: u64, answer: Answer) {
        if self.answers.len() >= ANSWERS_KEPT {
            self.answers.pop_front();
        }
        self.answers.push_back((serial, answer));
    }
}

/// A rate: how much of it is left.
#[derive(Debug, Default)]
pub(super) struct Rate {
    used: f64,
    at_ms: u64,
}

impl Rate {
    /// Takes one, of `limit` a second; 0 is no limit. Up to half a second's worth may come at once.
    pub(super) fn take(&mut self, limit: u32, now_ms: u64) -> bool {
        if limit == 0 {
            return true;
        }
        let limit = f64::from(limit);
        let elapsed = now_ms.saturating_sub(self.at_ms) as f64 / 1_000.0;
        self.at_ms = now_ms.max(self.at_ms);
        self.used = (self.used - elapsed * limit).max(0.0);
        if self.used + 1.0 > (limit / 2.0).max(1.0) {
            return false;
        }
        self.used += 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_its_limit_through() {
        let mut rate = Rate::default();
        let taken = (0..10_000).filter(|ms| rate.take(100, 1_000_000 + ms)).count();
        assert!((1_000..=1_060).contains(&taken), "{taken} in ten seconds");
        assert!((0..1_000).all(|_| rate.take(0, 1)));
    }
}
