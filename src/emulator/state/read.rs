//! What a client can read back: messages, their versions, history.

use crate::ably::wire::Message;

use super::{State, unqualified};
use crate::emulator::errors::Failure;

/// Which part of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::emulator) struct Query {
    pub(in crate::emulator) start: u64,
    pub(in crate::emulator) end: u64,
    pub(in crate::emulator) limit: usize,
    pub(in crate::emulator) forwards: bool,
    /// Only what is behind this serial, in the direction of reading.
    pub(in crate::emulator) after: Option<String>,
    /// Only what was there at this position (`untilAttach`).
    pub(in crate::emulator) until: Option<String>,
}

/// One page, and the serial that the next one begins behind.
#[derive(Debug)]
pub(in crate::emulator) struct Page {
    pub(in crate::emulator) messages: Vec<Message<'static>>,
    pub(in crate::emulator) next: Option<String>,
}

impl State {
    /// The latest version of a message.
    pub(in crate::emulator) fn message(
        &mut self,
        channel: &str,
        serial: &str,
        now_ms: u64,
    ) -> Result<Message<'static>, Failure> {
        let (_, name) = unqualified(channel);
        let stored = self.store.message(name, serial)?;
        if stored.lags(now_ms) {
            self.stats.strike("read-lag");
        }
        Ok(stored.readable(now_ms).clone())
    }

    /// A page of a message's versions, in the order in which they were made unless it is to be read backwards.
    pub(in crate::emulator) fn versions(&self, channel: &str, serial: &str, query: &Query) -> Result<Page, Failure> {
        let (_, name) = unqualified(channel);
        let mut versions = self.store.message(name, serial)?.versions();
        if !query.forwards {
            versions.reverse();
        }
        let version = |message: &Message<'_>| message.version.as_ref()?.serial.as_deref().map(str::to_owned);
        if let Some(after) = &query.after {
            let seen = versions.iter().position(|message| version(message).as_ref() == Some(after));
            versions.drain(..seen.map_or(0, |at| at + 1));
        }
        let more = versions.len() > query.limit;
        versions.truncate(query.limit);
        let next = versions.last().filter(|_| more).and_then(version);
        Ok(Page { messages: versions, next })
    }

    /// How many connections are attached to a channel, and how often.
    pub(in crate::emulator) fn occupancy(&self, channel: &str) -> (usize, usize) {
        let attachments = self.store.get(unqualified(channel).1).map_or(&[][..], |channel| &channel.attachments);
        let mut connections: Vec<u64> = attachments.iter().map(|attachment| attachment.connection).collect();
        connections.sort_unstable();
        connections.dedup();
        (connections.len(), attachments.len())
    }

    /// A page of a channel's messages, each in its latest version, in the order in which they were created.
    pub(in crate::emulator) fn history(&mut self, channel: &str, query: &Query, now_ms: u64) -> Page {
        let (_, name) = unqualified(channel);
        let Some(channel) = self.store.get(name) else { return Page { messages: Vec::new(), next: None } };
        let mut late = false;
        let mut wanted = |(serial, timestamp): (&String, Option<u64>)| {
            let at = timestamp.unwrap_or_default();
            let behind =
                query.after.as_ref().is_none_or(|after| if query.forwards { serial > after } else { serial < after });
            let before = query
                .until
                .as_ref()
                .is_none_or(|until| serial.as_str() <= until.as_str() || serial.starts_with(until.as_str()));
            let is_late = self.faults.history_lag > 0 && now_ms.saturating_sub(at) < self.faults.history_lag;
            let is_wanted = (query.start..=query.end).contains(&at) && behind && before;
            late |= is_wanted && is_late;
            is_wanted && !is_late
        };
        let all = channel.messages.iter().filter(|(serial, stored)| wanted((*serial, stored.latest().timestamp)));
        let mut found: Vec<_> = match query.forwards {
            true => all.take(query.limit + 1).collect(),
            false => all.rev().take(query.limit + 1).collect(),
        };
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let next = found.last().filter(|_| more).map(|(serial, _)| (*serial).clone());
        if late {
            self.stats.strike("history-lag");
        }
        if found.iter().any(|(_, stored)| stored.lags(now_ms)) {
            self.stats.strike("read-lag");
        }
        Page { messages: found.into_iter().map(|(_, stored)| stored.readable(now_ms).clone()).collect(), next }
    }
}
