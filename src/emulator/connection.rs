//! A connection: who it is, what it was told, and what its state is worth after a drop.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::ably::wire::Encoding;

use super::auth::Grant;
use super::errors::Failure;
use super::limits::ANSWERS_KEPT;
use super::outbox::Outbox;
use super::serial;

/// The mode of an attachment that may publish.
pub(super) const PUBLISH: u64 = 1 << 17;
/// After so long a connection has left a channel that it published to.
const CHANNEL_LEFT_MS: u64 = 1_000;

/// Who publishes: what the server knows of it, and puts into messages.
#[derive(Debug)]
pub(super) struct Publisher {
    /// The connection; 0 over REST.
    pub(super) connection: u64,
    /// Its public id; empty over REST.
    pub(super) connection_id: String,
    pub(super) grant: Grant,
}

/// A connection, with or without a transport.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) who: Arc<Publisher>,
    /// The secret to resume it with; each transport has another.
    pub(super) key: String,
    /// How many times it has had a transport.
    pub(super) transports: u32,
    pub(super) encoding: Encoding,
    pub(super) rollup: Duration,
    pub(super) echo: bool,
    /// Frames to it, while it has a transport.
    pub(super) outbox: Outbox,
    /// The frame that comes next.
    pub(super) next_serial: u64,
    answers: VecDeque<(u64, Kept)>,
    /// Since when it has had no transport.
    pub(super) dropped_at: Option<u64>,
    /// Operations after rollup.
    pub(super) rate: Rate,
    /// Operations as they come.
    pub(super) raw_rate: Rate,
    /// The channels that it is attached to, by the names that it attached by, and with which modes.
    pub(super) attached: HashMap<String, u64>,
    /// The channels that it publishes to, while these are limited, and when it last did.
    published: HashMap<String, u64>,
}

/// What became of a frame.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Taken; one serial per message.
    Ack(Vec<Option<String>>),
    /// Refused.
    Nack(Failure),
}

/// An answer as it is kept: the serials of an array are told from its position.
#[derive(Debug)]
enum Kept {
    One(Answer),
    Array { position: Option<String>, messages: usize },
}

impl Kept {
    fn of(answer: Answer) -> Self {
        match answer {
            Answer::Ack(serials) if serials.len() > 1 => {
                let first = serials.first().and_then(Option::as_deref);
                let position = first.map(|first| serial::position(first).to_owned());
                Self::Array { position, messages: serials.len() }
            }
            answer => Self::One(answer),
        }
    }

    fn answer(&self) -> Answer {
        match self {
            Self::One(answer) => answer.clone(),
            Self::Array { position, messages } => Answer::Ack(serial::of_messages(position.as_deref(), *messages)),
        }
    }
}

impl Connection {
    pub(super) fn new(who: Arc<Publisher>, rollup: Duration, echo: bool) -> Self {
        Self {
            who,
            key: String::new(),
            transports: 0,
            encoding: Encoding::Json,
            rollup,
            echo,
            outbox: Outbox::closed(),
            next_serial: 0,
            answers: VecDeque::new(),
            dropped_at: None,
            rate: Rate::default(),
            raw_rate: Rate::default(),
            attached: HashMap::new(),
            published: HashMap::new(),
        }
    }

    /// A transport takes over, under another key.
    pub(super) fn take(&mut self, key: String, encoding: Encoding, outbox: Outbox) {
        self.key = key;
        self.transports += 1;
        self.encoding = encoding;
        self.outbox = outbox;
        self.dropped_at = None;
    }

    /// Whether it may publish to a channel as it is attached to it. Whoever is not attached may.
    pub(super) fn is_attached_to_publish(&self, channel: &str) -> bool {
        self.attached.get(channel).is_none_or(|modes| modes & PUBLISH != 0)
    }

    /// Whether it may publish to a channel: to so many at a time. One that it has left alone for a while is no longer one of
    /// them.
    pub(super) fn enters(&mut self, channel: &str, limit: usize, now_ms: u64) -> bool {
        if limit == 0 {
            return true;
        }
        if self.published.len() >= limit && !self.published.contains_key(channel) {
            self.published.retain(|_, at| now_ms.saturating_sub(*at) < CHANNEL_LEFT_MS);
        }
        let enters = self.published.len() < limit || self.published.contains_key(channel);
        if enters {
            self.published.insert(channel.to_owned(), now_ms);
        }
        enters
    }

    /// Gives it another grant.
    pub(super) fn grant(&mut self, grant: Grant) {
        let Publisher { connection, connection_id, .. } = &*self.who;
        let (connection, connection_id) = (*connection, connection_id.clone());
        self.who = Arc::new(Publisher { connection, connection_id, grant });
    }

    /// What became of a frame that came before; it is not applied again.
    pub(super) fn known_answer(&self, serial: u64) -> Option<Answer> {
        self.answers.iter().rev().find(|(known, _)| *known == serial).map(|(_, kept)| kept.answer())
    }

    /// Keeps an answer, to give it again after a resume.
    pub(super) fn keep(&mut self, serial: u64, answer: Answer) {
        if self.answers.len() >= ANSWERS_KEPT {
            self.answers.pop_front();
        }
        self.answers.push_back((serial, Kept::of(answer)));
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
        self.take_some(1.0, limit, now_ms)
    }

    /// Takes so many. What is more than half a second's worth goes through when nothing else has been taken.
    pub(super) fn take_some(&mut self, amount: f64, limit: u32, now_ms: u64) -> bool {
        if limit == 0 || amount == 0.0 {
            return true;
        }
        let limit = f64::from(limit);
        let elapsed = now_ms.saturating_sub(self.at_ms) as f64 / 1_000.0;
        self.at_ms = now_ms.max(self.at_ms);
        self.used = (self.used - elapsed * limit).max(0.0);
        if self.used + amount > (limit / 2.0).max(amount) {
            return false;
        }
        self.used += amount;
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

    #[test]
    fn a_connection_leaves_channels_that_it_does_not_use() {
        let grant = Grant::everything("me");
        let who = Arc::new(Publisher { connection: 1, connection_id: "c".to_owned(), grant });
        let mut connection = Connection::new(who, Duration::ZERO, true);
        assert!(connection.enters("a", 2, 0) && connection.enters("b", 2, 500));
        assert!(!connection.enters("c", 2, 900) && connection.enters("b", 2, 900));
        assert!(connection.enters("c", 2, 1_000), "it has left the first");
        assert!(!connection.enters("a", 2, 1_100) && connection.enters("a", 0, 1_100));
    }

    #[test]
    fn the_answer_to_an_array_takes_no_more_than_another() {
        let grant = Grant::everything("me");
        let who = Arc::new(Publisher { connection: 1, connection_id: "c".to_owned(), grant });
        let mut connection = Connection::new(who, Duration::ZERO, true);
        for (number, serials) in [(0, serial::of_messages(Some("p"), 1_000)), (1, vec![None; 1_000])] {
            connection.keep(number, Answer::Ack(serials.clone()));
            assert!(matches!(connection.answers.back(), Some((_, Kept::Array { messages: 1_000, .. }))));
            assert!(matches!(connection.known_answer(number), Some(Answer::Ack(again)) if again == serials));
        }
    }

    #[test]
    fn what_is_larger_than_the_limit_goes_through_alone() {
        let mut rate = Rate::default();
        assert!(rate.take_some(500.0, 100, 1_000));
        assert!(!rate.take_some(500.0, 100, 2_000));
        assert!(rate.take_some(500.0, 100, 6_000));
    }
}
