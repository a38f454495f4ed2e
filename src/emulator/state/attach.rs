//! Subscribers come to channels and leave.

use std::collections::BTreeMap;

use axum::extract::ws;

use crate::ably::wire::{ProtocolMessage, action};

use super::{State, unqualified};
use crate::emulator::auth::Capability;
use crate::emulator::channel::{Attachment, Channel, Frame};
use crate::emulator::connection::PUBLISH;
use crate::emulator::errors::{Failure, failure, forbidden, too_many_channels};
use crate::emulator::limits::CHANNELS_PER_CONNECTION;
use crate::emulator::seen::Seen;

const HAS_BACKLOG: u64 = 2;
const RESUMED: u64 = 4;
/// Presence, publish, subscribe, presence-subscribe and annotation-publish: what a channel grants by default.
const MODES: u64 = 0x2F_0000;
const PRESENCE: u64 = 1 << 16;
const SUBSCRIBE: u64 = 1 << 18;
/// All bits that are modes.
const MODE_BITS: u64 = 0x03FF_0000;
/// Modes by the names that parameters give them.
const NAMED: [(&str, u64); 8] = [
    ("presence", PRESENCE),
    ("publish", PUBLISH),
    ("subscribe", SUBSCRIBE),
    ("presence_subscribe", 1 << 19),
    ("annotation_publish", 1 << 21),
    ("annotation_subscribe", 1 << 22),
    ("object_subscribe", 1 << 24),
    ("object_publish", 1 << 25),
];

/// Channel parameters that are understood; others are left out of the answer.
const KNOWN_PARAMS: [&str; 5] = ["rewind", "rewindLimit", "modes", "echo", "appendMode"];

/// How a client attaches.
#[derive(Debug)]
pub(in crate::emulator) struct Attach<'a> {
    pub(in crate::emulator) channel: &'a str,
    pub(in crate::emulator) params: BTreeMap<String, String>,
    pub(in crate::emulator) flags: u64,
    pub(in crate::emulator) position: Option<&'a str>,
}

impl State {
    /// A client attaches to a channel: gives what to tell it, ATTACHED first.
    pub(in crate::emulator) fn attach(
        &mut self,
        number: u64,
        attach: &Attach<'_>,
        now_ms: u64,
    ) -> Result<(ProtocolMessage<'static>, Vec<ws::Message>), Failure> {
        let (qualifier, name) = unqualified(attach.channel);
        let params = params(attach, qualifier);
        let connection = self.connections.get(&number).ok_or_else(|| failure(80022, 410, "Connection not found"))?;
        let asked = params.get("modes").map_or(Ok(attach.flags), |names| named(names))?;
        let modes = modes(asked, &connection.who.grant.capability, name)?;
        let known = connection.attached.contains_key(attach.channel);
        if !known && connection.attached.len() >= CHANNELS_PER_CONNECTION {
            return Err(too_many_channels());
        }
        let mut attachment = Attachment {
            connection: number,
            name: attach.channel.to_owned(),
            outbox: connection.outbox.clone(),
            encoding: connection.encoding,
            echo: connection.echo && params.get("echo").is_none_or(|echo| echo != "false"),
            full: params.get("appendMode").is_some_and(|mode| mode == "full"),
            seen: Seen::default(),
            again: None,
        };
        let serials = &mut self.serials;
        let channel = self.store.channel(name, || serials.next(now_ms))?;
        let missed = attach.position.filter(|position| !position.is_empty()).map(|position| channel.since(position));
        let (resumed, error, backlog) = match missed {
            Some(Some(serials)) => (true, None, serials),
            Some(None) => (false, Some(lost()), Vec::new()),
            None if known => (true, None, Vec::new()),
            None => {
                let (serials, is_truncated) = rewound(channel, &params, now_ms)?;
                (false, is_truncated.then(truncated), serials)
            }
        };
        // Without SUBSCRIBE it is attached, and gets nothing.
        let reads = modes & SUBSCRIBE != 0;
        let backlog = if reads { backlog } else { Vec::new() };
        let how = Attached { resumed, error, backlog: !backlog.is_empty() };
        let answer = attached_frame(attach, params, &channel.position, modes, how);
        let frames = backlog_frames(channel, name, &backlog, &mut attachment, now_ms);
        channel.attachments.retain(|other| other.connection != number || other.name != attach.channel);
        if reads {
            channel.attachments.push(attachment);
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.attached.insert(attach.channel.to_owned(), modes);
        }
        Ok((answer, frames))
    }

    /// A client leaves a channel.
    pub(in crate::emulator) fn detach(&mut self, number: u64, name: &str) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.attached.remove(name);
        }
        self.leave(number, name);
        self.store.forget_if_idle(unqualified(name).1);
    }

    /// A connection leaves all its channels. They stay: it may come back and ask what it missed.
    pub(super) fn leave_all(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        for (name, _) in std::mem::take(&mut connection.attached) {
            self.leave(number, &name);
        }
    }

    fn leave(&mut self, number: u64, name: &str) {
        if let Some(channel) = self.store.get_mut(unqualified(name).1) {
            channel.attachments.retain(|attachment| attachment.connection != number || attachment.name != name);
        }
    }
}

/// Messages, whole, to somebody who attaches.
fn backlog_frames(
    channel: &Channel,
    name: &str,
    serials: &[String],
    to: &mut Attachment,
    now_ms: u64,
) -> Vec<ws::Message> {
    let mut frames = Vec::with_capacity(serials.len());
    for stored in serials.iter().filter_map(|serial| channel.messages.get(serial)) {
        let id = format!("backlog:{}", stored.number);
        let position = &channel.position;
        let frame = Frame { channel: name, publisher: 0, publisher_id: "", id: &id, position, now_ms };
        frames.push(frame.encode(to.encoding, &to.name, std::slice::from_ref(stored.latest())));
        to.seen.insert(stored.number);
    }
    frames
}

/// The parameters of an attach: its own, and those in the channel's name.
fn params(attach: &Attach<'_>, qualifier: &str) -> BTreeMap<String, String> {
    let mut params = attach.params.clone();
    let pairs = qualifier.split('&').filter_map(|pair| pair.split_once('='));
    params.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    params
}

/// The modes that a parameter names, one after a comma.
fn named(names: &str) -> Result<u64, Failure> {
    let bit = |name: &str| NAMED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim())).map(|(_, bit)| bit);
    let mut bits = names.split(',').map(|name| bit(name).ok_or_else(|| failure(40003, 400, "Invalid modes")));
    bits.try_fold(0, |modes, bit| bit.map(|bit| modes | bit))
}

fn lost() -> Failure {
    failure(90003, 404, "Unable to recover channel: messages expired")
}

fn truncated() -> Failure {
    failure(90004, 404, "Rewind truncated: there is more than is given")
}

/// The modes that are granted, of those asked for: what the capability does not allow is left out, but not all of it.
fn modes(flags: u64, capability: &Capability, channel: &str) -> Result<u64, Failure> {
    let mut modes = if flags & MODE_BITS == 0 { MODES } else { flags & MODE_BITS };
    let asked = modes;
    for (mode, operation) in [(PUBLISH, "publish"), (SUBSCRIBE, "subscribe"), (PRESENCE, "presence")] {
        if capability.allows(operation, channel).is_err() {
            modes &= !mode;
        }
    }
    // One who asks for nothing in particular comes to read.
    let needed = if flags & MODE_BITS == 0 { SUBSCRIBE } else { asked };
    if modes & needed == 0 { Err(forbidden("subscribe", channel)) } else { Ok(modes) }
}

/// How somebody is attached.
struct Attached {
    resumed: bool,
    /// What it has to do without.
    error: Option<Failure>,
    backlog: bool,
}

fn attached_frame(
    attach: &Attach<'_>,
    mut params: BTreeMap<String, String>,
    position: &str,
    modes: u64,
    how: Attached,
) -> ProtocolMessage<'static> {
    let flags = modes | if how.resumed { RESUMED } else { 0 } | if how.backlog { HAS_BACKLOG } else { 0 };
    params.retain(|name, _| KNOWN_PARAMS.contains(&name.as_str()));
    ProtocolMessage {
        action: action::ATTACHED,
        channel: Some(attach.channel.to_owned().into()),
        channel_serial: Some(position.to_owned().into()),
        flags: Some(flags),
        params: Some(params.into_iter().map(|(name, value)| (name.into(), value.into())).collect()),
        error: how.error,
        ..ProtocolMessage::default()
    }
}

/// The messages that a rewind asks for: a number of them, or those of a time. Only so many are given; says whether there are
/// more.
fn rewound(channel: &Channel, params: &BTreeMap<String, String>, now_ms: u64) -> Result<(Vec<String>, bool), Failure> {
    const MOST: usize = 100;
    let Some(rewind) = params.get("rewind") else { return Ok((Vec::new(), false)) };
    let bad = || failure(40003, 400, "Invalid rewind");
    let (digits, unit) = rewind.split_at(rewind.find(|c: char| !c.is_ascii_digit()).unwrap_or(rewind.len()));
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let (count, age_ms) = match unit {
        "" => (usize::try_from(number).unwrap_or(usize::MAX), u64::MAX),
        "s" => (usize::MAX, number.saturating_mul(1_000)),
        "m" => (usize::MAX, number.saturating_mul(60_000)),
        _ => return Err(bad()),
    };
    let limit = params.get("rewindLimit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let young = |timestamp: Option<u64>| now_ms.saturating_sub(timestamp.unwrap_or(now_ms)) <= age_ms;
    let newest = channel.messages.iter().rev().filter(|(_, stored)| young(stored.latest().timestamp));
    let wanted = count.min(limit);
    let mut serials: Vec<String> = newest.take(wanted.min(MOST + 1)).map(|(serial, _)| serial.clone()).collect();
    let is_truncated = serials.len() > MOST;
    serials.truncate(MOST);
    serials.reverse();
    Ok((serials, is_truncated))
}
