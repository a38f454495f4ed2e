//! Subscribers come to channels and leave.

use std::collections::{BTreeMap, HashSet};

use axum::extract::ws;

use crate::ably::wire::{ProtocolMessage, action};

use super::{State, unqualified};
use crate::emulator::channel::{Attachment, Channel, Frame};
use crate::emulator::errors::{Failure, failure};
use crate::emulator::limits::CHANNELS_PER_CONNECTION;

const HAS_BACKLOG: u64 = 2;
const RESUMED: u64 = 4;
/// Presence, publish, subscribe, presence-subscribe and annotation-publish: what a channel grants by default.
const MODES: u64 = 0x2F_0000;
/// All bits that are modes.
const MODE_BITS: u64 = 0x03FF_0000;

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
        let mut params = attach.params.clone();
        let pairs = qualifier.split('&').filter_map(|pair| pair.split_once('='));
        params.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let connection = self.connections.get(&number).ok_or_else(|| failure(80022, 410, "Connection not found"))?;
        connection.grant.allows("subscribe", name)?;
        let (encoding, outbox) = (connection.encoding, connection.outbox.clone());
        let echo = connection.echo && params.get("echo").is_none_or(|echo| echo != "false");
        let attached = connection.attached;
        let full = params.get("appendMode").is_some_and(|mode| mode == "full");

        let channel = self.channel(name)?;
        let known =
            channel.attachments.iter().position(|other| other.connection == number && other.name == attach.channel);
        if known.is_none() && attached >= CHANNELS_PER_CONNECTION {
            return Err(failure(90010, 400, "Maximum number of channels per connection exceeded"));
        }
        let missed = attach.position.filter(|position| !position.is_empty()).map(|position| channel.since(position));
        let (resumed, lost, backlog) = match (missed, known) {
            (Some(Some(serials)), _) => (true, false, serials),
            (Some(None), _) => (false, true, Vec::new()),
            (None, Some(_)) => (true, false, Vec::new()),
            (None, None) => (false, false, rewound(channel, &params, now_ms)?),
        };
        let position = if channel.position.is_empty() { "00000000000000-000@emulator" } else { &channel.position };
        let mut attachment = Attachment {
            connection: number,
            name: attach.channel.to_owned(),
            outbox,
            encoding,
            echo,
            full,
            seen: HashSet::new(),
        };
        let mut frames = Vec::with_capacity(backlog.len());
        for stored in backlog.iter().filter_map(|serial| channel.messages.get(serial)) {
            let id = format!("backlog:{}", stored.number);
            let frame = Frame { channel: name, publisher: 0, publisher_id: "", id: &id, position, now_ms };
            frames.push(frame.encode(encoding, attach.channel, stored.latest()));
            attachment.seen.insert(stored.number);
        }
        let answer = attached_frame(attach, params, position, resumed, !frames.is_empty(), lost);
        match known {
            Some(index) => channel.attachments[index] = attachment,
            None => channel.attachments.push(attachment),
        }
        if known.is_none()
            && let Some(connection) = self.connections.get_mut(&number)
        {
            connection.attached += 1;
        }
        Ok((answer, frames))
    }

    /// A client leaves a channel.
    pub(in crate::emulator) fn detach(&mut self, number: u64, name: &str) {
        let (_, plain) = unqualified(name);
        let Some(channel) = self.channels.get_mut(plain) else { return };
        let before = channel.attachments.len();
        channel.attachments.retain(|attachment| attachment.connection != number || attachment.name != name);
        let left = before - channel.attachments.len();
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.attached = connection.attached.saturating_sub(left);
        }
    }
}

fn attached_frame(
    attach: &Attach<'_>,
    mut params: BTreeMap<String, String>,
    position: &str,
    resumed: bool,
    backlog: bool,
    lost: bool,
) -> ProtocolMessage<'static> {
    let requested = attach.flags & MODE_BITS;
    let modes = if requested == 0 { MODES } else { requested };
    let flags = modes | if resumed { RESUMED } else { 0 } | if backlog { HAS_BACKLOG } else { 0 };
    params.retain(|name, _| KNOWN_PARAMS.contains(&name.as_str()));
    ProtocolMessage {
        action: action::ATTACHED,
        channel: Some(attach.channel.to_owned().into()),
        channel_serial: Some(position.to_owned().into()),
        flags: Some(flags),
        params: Some(params.into_iter().map(|(name, value)| (name.into(), value.into())).collect()),
        error: lost.then(|| failure(90003, 404, "Unable to recover channel: messages expired")),
        ..ProtocolMessage::default()
    }
}

/// The messages that a rewind asks for: a number of them, or those of a time.
fn rewound(channel: &Channel, params: &BTreeMap<String, String>, now_ms: u64) -> Result<Vec<String>, Failure> {
    const MOST: usize = 100;
    let Some(rewind) = params.get("rewind") else { return Ok(Vec::new()) };
    let bad = || failure(40003, 400, "Invalid rewind");
    let (digits, unit) = rewind.split_at(rewind.find(|c: char| !c.is_ascii_digit()).unwrap_or(rewind.len()));
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let (count, age_ms) = match unit {
        "" => (usize::try_from(number).unwrap_or(MOST), u64::MAX),
        "s" => (MOST, number.saturating_mul(1_000)),
        "m" => (MOST, number.saturating_mul(60_000)),
        _ => return Err(bad()),
    };
    let limit = params.get("rewindLimit").and_then(|limit| limit.parse().ok()).unwrap_or(MOST);
    let young = |timestamp: Option<u64>| now_ms.saturating_sub(timestamp.unwrap_or(now_ms)) <= age_ms;
    let newest = channel.messages.iter().rev().filter(|(_, stored)| young(stored.latest().timestamp));
    let mut serials: Vec<String> = newest.take(count.min(limit).min(MOST)).map(|(serial, _)| serial.clone()).collect();
    serials.reverse();
    Ok(serials)
}
