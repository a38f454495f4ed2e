//! A channel: its messages, who is attached, and what each of them gets.

use std::collections::{BTreeMap, HashMap, VecDeque};

use axum::extract::ws;

use crate::ably::wire::{Encoding, Message, ProtocolMessage, action, message_action};

use super::connection::Rate;
use super::errors::failure;
use super::limits::{BACKLOG, IDEMPOTENCY};
use super::message::Stored;
use super::outbox::Outbox;
use super::seen::Seen;

/// A subscriber's place in a channel.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) connection: u64,
    /// The name that it attached by, qualifier included; frames say that name.
    pub(super) name: String,
    /// Frames to it.
    pub(super) outbox: Outbox,
    pub(super) encoding: Encoding,
    /// It gets its own messages.
    pub(super) echo: bool,
    /// It gets whole messages, never pieces.
    pub(super) full: bool,
    /// The messages that it has the whole of.
    pub(super) seen: Seen,
    /// What comes once more after the next delivery.
    pub(super) again: Option<ws::Message>,
}

/// What is odd about a delivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Oddity {
    /// It is the whole message.
    pub(super) whole: bool,
    /// It is missed.
    pub(super) lost: bool,
    /// It comes twice.
    pub(super) again: bool,
}

/// A channel.
#[derive(Debug)]
pub(super) struct Channel {
    /// By serial.
    pub(super) messages: BTreeMap<String, Stored>,
    /// Ids of creates, with the serial that each was given, and when.
    ids: HashMap<String, (String, u64)>,
    ids_in_order: VecDeque<(u64, String)>,
    pub(super) attachments: Vec<Attachment>,
    /// What happened last: position, and the message that it happened to.
    backlog: VecDeque<(String, String)>,
    /// The position that the backlog reaches back to.
    begin: String,
    /// The position of what happened last.
    pub(super) position: String,
    messages_made: u64,
    /// Publishes that count against the channel's rate.
    pub(super) rate: Rate,
    /// Their bytes.
    pub(super) bandwidth: Rate,
}

impl Channel {
    /// One that begins at a position.
    pub(super) fn new(position: String) -> Self {
        Self {
            messages: BTreeMap::new(),
            ids: HashMap::new(),
            ids_in_order: VecDeque::new(),
            attachments: Vec::new(),
            backlog: VecDeque::new(),
            begin: position.clone(),
            position,
            messages_made: 0,
            rate: Rate::default(),
            bandwidth: Rate::default(),
        }
    }

    /// A create that is known by its id.
    pub(super) fn recognise(&mut self, id: &str, now_ms: u64) -> Option<String> {
        let window = u64::try_from(IDEMPOTENCY.as_millis()).unwrap_or(u64::MAX);
        while self.ids_in_order.front().is_some_and(|(at, _)| now_ms.saturating_sub(*at) > window) {
            self.forget_oldest_id();
        }
        self.ids.get(id).map(|(serial, _)| serial.clone())
    }

    fn forget_oldest_id(&mut self) {
        let Some((noted, id)) = self.ids_in_order.pop_front() else { return };
        // It may have been given to another message since.
        if self.ids.get(&id).is_some_and(|(_, at)| *at <= noted) {
            self.ids.remove(&id);
        }
    }

    /// Takes a message out, and what is kept because of it.
    pub(super) fn remove(&mut self, serial: &str) -> Option<Stored> {
        let removed = self.messages.remove(serial)?;
        // Messages go in the order in which they came: an id that is older than all of them is of none.
        while self.ids_in_order.len() > self.messages.len() {
            self.forget_oldest_id();
        }
        let oldest = self.messages.values().next().map_or(self.messages_made + 1, |stored| stored.number);
        self.attachments.iter_mut().for_each(|attachment| attachment.seen.forget_below(oldest));
        Some(removed)
    }

    /// Remembers the id of a create.
    pub(super) fn remember(&mut self, id: String, serial: &str, now_ms: u64) {
        self.ids.insert(id.clone(), (serial.to_owned(), now_ms));
        self.ids_in_order.push_back((now_ms, id));
    }

    /// Keeps a new message. Gives the bytes that it takes.
    pub(super) fn insert(&mut self, serial: &str, message: Message<'static>) -> usize {
        self.messages_made += 1;
        let stored = Stored::new(self.messages_made, message);
        let bytes = stored.kept_bytes();
        self.messages.insert(serial.to_owned(), stored);
        bytes
    }

    /// Whether it holds nothing and nobody.
    pub(super) fn is_idle(&self) -> bool {
        self.messages.is_empty() && self.attachments.is_empty()
    }

    /// Notes that something happened to a message at a position.
    pub(super) fn note(&mut self, position: &str, serial: &str) {
        position.clone_into(&mut self.position);
        self.backlog.push_back((position.to_owned(), serial.to_owned()));
        if self.backlog.len() > BACKLOG
            && let Some((position, _)) = self.backlog.pop_front()
        {
            self.begin = position;
        }
    }

    /// The messages that something happened to after a position; none when the channel does not reach back so far.
    pub(super) fn since(&self, position: &str) -> Option<Vec<String>> {
        if position < self.begin.as_str() {
            return None;
        }
        let mut serials: Vec<String> =
            self.backlog.iter().filter(|(at, _)| at.as_str() > position).map(|(_, serial)| serial.clone()).collect();
        serials.sort();
        serials.dedup();
        Some(serials)
    }

    /// Sends what happened to a message to everyone attached: a piece to those who have the message, the whole to others; or
    /// all messages of an array. In one frame, whose position is that of all of it. Gives how many got it, and the connections
    /// that were too slow.
    pub(super) fn deliver(&mut self, frame: &Frame<'_>, pieces: &[Message<'static>], odd: Oddity) -> (u64, Vec<u64>) {
        let stored = |piece: &Message<'_>| self.messages.get(piece.serial.as_deref().unwrap_or_default());
        let stored: Vec<&Stored> = pieces.iter().filter_map(stored).collect();
        let Some(first) = stored.first() else { return (0, Vec::new()) };
        let is_append = pieces.iter().any(|piece| piece.action == Some(message_action::APPEND));
        let mut encoded: Vec<(Encoding, bool, ws::Message)> = Vec::new();
        let (mut delivered, mut slow) = (0, Vec::new());
        for attachment in &mut self.attachments {
            if attachment.connection == frame.publisher && !attachment.echo {
                stored.iter().for_each(|stored| attachment.seen.add(stored.number));
                continue;
            }
            if odd.lost {
                if attachment.outbox.send(frame.encode_gap(attachment.encoding, &attachment.name)).is_err() {
                    slow.push(attachment.connection);
                }
                continue;
            }
            let unseen = stored.iter().filter(|stored| attachment.seen.insert(stored.number)).count() > 0;
            let whole = is_append && (unseen || attachment.full || odd.whole);
            let named = attachment.name == frame.channel;
            let known = encoded.iter().find(|(encoding, w, _)| *encoding == attachment.encoding && *w == whole);
            let bytes = match known.filter(|_| named) {
                Some((_, _, bytes)) => bytes.clone(),
                None => {
                    let messages = if whole { std::slice::from_ref(first.latest()) } else { pieces };
                    let bytes = frame.encode(attachment.encoding, &attachment.name, messages);
                    if named {
                        encoded.push((attachment.encoding, whole, bytes.clone()));
                    }
                    bytes
                }
            };
            let again = std::mem::replace(&mut attachment.again, odd.again.then(|| bytes.clone()));
            match [Some(bytes), again].into_iter().flatten().try_for_each(|bytes| attachment.outbox.send(bytes)) {
                Ok(()) => delivered += 1,
                Err(_) => slow.push(attachment.connection),
            }
        }
        (delivered, slow)
    }
}

/// A MESSAGE frame to subscribers, but for its messages.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) channel: &'a str,
    /// The connection that published.
    pub(super) publisher: u64,
    pub(super) publisher_id: &'a str,
    pub(super) id: &'a str,
    pub(super) position: &'a str,
    pub(super) now_ms: u64,
}

impl Frame<'_> {
    /// The frame with those messages, for whoever attached by that name.
    pub(super) fn encode(&self, encoding: Encoding, name: &str, messages: &[Message<'static>]) -> ws::Message {
        let frame = ProtocolMessage {
            action: action::MESSAGE,
            id: Some(self.id.into()),
            connection_id: (!self.publisher_id.is_empty()).then(|| self.publisher_id.into()),
            channel: Some(name.into()),
            channel_serial: Some(self.position.into()),
            timestamp: Some(self.now_ms),
            messages: Some(messages.to_vec()),
            ..ProtocolMessage::default()
        };
        super::codec::encode(encoding, &frame)
    }

    /// What whoever attached by that name is told in its place.
    fn encode_gap(&self, encoding: Encoding, name: &str) -> ws::Message {
        let frame = ProtocolMessage {
            action: action::ATTACHED,
            channel: Some(name.into()),
            channel_serial: Some(self.position.into()),
            flags: Some(0),
            error: Some(failure(80020, 400, "Continuity was lost, as the faults say")),
            ..ProtocolMessage::default()
        };
        super::codec::encode(encoding, &frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_with_their_messages_and_with_time() {
        let mut channel = Channel::new(String::new());
        for number in 0..10 {
            let serial = format!("{number:02}");
            channel.insert(&serial, Message::default());
            channel.remember(format!("id-{number}"), &serial, number);
        }
        for number in 0..8 {
            assert!(channel.remove(&format!("{number:02}")).is_some());
        }
        assert_eq!((channel.ids.len(), channel.ids_in_order.len()), (2, 2));
        assert_eq!([3, 9].map(|number| channel.recognise(&format!("id-{number}"), 9).is_some()), [false, true]);
        channel.remember("id-9".to_owned(), "10", 100);
        let window = u64::try_from(IDEMPOTENCY.as_millis()).expect("it fits");
        let later = 10 + window;
        assert_eq!(channel.recognise("id-9", later).as_deref(), Some("10"), "it was given again since");
        assert_eq!((channel.recognise("id-8", later), channel.ids_in_order.len()), (None, 1));
    }
}
