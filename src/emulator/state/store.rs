//! Channels and their messages, within bounds: when there are too many, or too many bytes of them, the oldest messages go.

use std::collections::{HashMap, VecDeque};

use super::valid_name;
use crate::ably::wire::Message;
use crate::emulator::channel::Channel;
use crate::emulator::errors::{Failure, failure, no_such_message};
use crate::emulator::limits::{CHANNELS, MESSAGES, STORED_BYTES};
use crate::emulator::message::Stored;

/// All channels.
#[derive(Debug, Default)]
pub(super) struct Store {
    channels: HashMap<String, Channel>,
    /// Messages in the order in which they were made: channel and serial.
    order: VecDeque<(String, String)>,
    bytes: usize,
}

impl Store {
    /// How many channels there are.
    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Channel> {
        self.channels.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Channel> {
        self.channels.get_mut(name)
    }

    /// The channel of that name, made if need be. `position` is where a new one begins.
    pub(super) fn channel(&mut self, name: &str, position: impl FnOnce() -> String) -> Result<&mut Channel, Failure> {
        if !self.channels.contains_key(name) {
            valid_name(name)?;
            self.make_room()?;
            self.channels.insert(name.to_owned(), Channel::new(position()));
        }
        self.channels.get_mut(name).ok_or_else(|| failure(90000, 500, "Channel operation failed"))
    }

    /// A message that is there.
    pub(super) fn message(&self, channel: &str, serial: &str) -> Result<&Stored, Failure> {
        let found = self.channels.get(channel).and_then(|channel| channel.messages.get(serial));
        found.ok_or_else(no_such_message)
    }

    /// A message that is there, to change nothing that counts: its size stays.
    pub(super) fn message_mut(&mut self, channel: &str, serial: &str) -> Result<&mut Stored, Failure> {
        let found = self.channels.get_mut(channel).and_then(|channel| channel.messages.get_mut(serial));
        found.ok_or_else(no_such_message)
    }

    /// Keeps a new message of a channel that is there.
    pub(super) fn insert(&mut self, name: &str, message: Message<'static>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let serial = message.serial.clone().unwrap_or_default().into_owned();
        self.bytes += channel.insert(&serial, message);
        self.order.push_back((name.to_owned(), serial));
        self.evict();
    }

    /// Changes a message. Gives what those get who have seen it, if somebody is attached.
    pub(super) fn change(
        &mut self,
        name: &str,
        serial: &str,
        change: impl FnOnce(&mut Stored, bool) -> Option<Message<'static>>,
    ) -> Result<Option<Message<'static>>, Failure> {
        let channel = self.channels.get_mut(name).ok_or_else(no_such_message)?;
        let watched = !channel.attachments.is_empty();
        let stored = channel.messages.get_mut(serial).ok_or_else(no_such_message)?;
        let before = stored.kept_bytes();
        let piece = change(stored, watched);
        self.bytes = self.bytes + stored.kept_bytes() - before;
        self.evict();
        Ok(piece)
    }

    /// Forgets a channel that holds nothing and nobody.
    pub(super) fn forget_if_idle(&mut self, name: &str) {
        if self.channels.get(name).is_some_and(Channel::is_idle) {
            self.channels.remove(name);
        }
    }

    fn evict(&mut self) {
        while (self.bytes > STORED_BYTES || self.order.len() > MESSAGES) && self.evict_one() {}
    }

    fn evict_one(&mut self) -> bool {
        let Some((name, serial)) = self.order.pop_front() else { return false };
        if let Some(channel) = self.channels.get_mut(&name)
            && let Some(stored) = channel.remove(&serial)
        {
            self.bytes -= stored.kept_bytes();
        }
        self.forget_if_idle(&name);
        true
    }

    /// Makes room for a channel: those that hold the oldest messages go, else those that are idle.
    fn make_room(&mut self) -> Result<(), Failure> {
        const TRIES: usize = 1_000;
        let mut tries = 0;
        while self.channels.len() >= CHANNELS && tries < TRIES && self.evict_one() {
            tries += 1;
        }
        if self.channels.len() >= CHANNELS {
            self.channels.retain(|_, channel| !channel.is_idle());
        }
        if self.channels.len() >= CHANNELS {
            return Err(failure(40114, 403, "Account channel limit reached"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::wire::Data;

    fn message(serial: usize, bytes: usize) -> Message<'static> {
        let data = Some(Data::Text("x".repeat(bytes).into()));
        Message { serial: Some(format!("{serial:05}").into()), data, ..Message::default() }
    }

    #[test]
    fn the_oldest_messages_make_room_for_new_ones() {
        let mut store = Store::default();
        let large = STORED_BYTES / 32;
        for at in 0..40 {
            let name = format!("ai:{}", at % 20);
            store.channel(&name, String::new).expect("there is room");
            store.insert(&name, message(at, large));
        }
        assert!(store.bytes <= STORED_BYTES);
        assert!(store.message("ai:0", "00000").is_err(), "the first has gone");
        assert!(store.message("ai:19", "00039").is_ok(), "the last is there");
        let kept: usize =
            store.channels.values().flat_map(|channel| channel.messages.values()).map(Stored::kept_bytes).sum();
        assert_eq!(store.bytes, kept);
    }

    #[test]
    fn a_channel_that_holds_nothing_is_forgotten() {
        let mut store = Store::default();
        store.channel("ai:x", String::new).expect("there is room");
        store.forget_if_idle("ai:x");
        assert_eq!(store.channels(), 0);
        assert!(store.channel(":bad", String::new).is_err());
    }
}
