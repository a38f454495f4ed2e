//! The frames between the two sides: what the client writes is read as the server would, and what the server says is
//! written so that a client that is not careful misreads it.

use std::borrow::Cow;

use serde::Deserialize;

use super::fault::Fault;
use super::scene::{Broken, Kept, Scene, hold};
use super::server::Verdict;
use crate::ably::wire::{ConnectionDetails, Encoding, ErrorInfo, ProtocolMessage, PublishResult, action};
use crate::engine::{MESSAGE_NAME, OpKind, Serial, Status};

/// A frame of the client, as the server reads it.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) number: usize,
    pub(super) kind: OpKind,
    pub(super) response_id: Box<str>,
    pub(super) create_id: Box<str>,
    pub(super) channel: Box<str>,
    pub(super) serial: Option<Serial>,
    pub(super) text: Box<str>,
    pub(super) status: Status,
    pub(super) segment: u32,
    /// It was written before the connection was resumed.
    pub(super) resent: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    action: u8,
    msg_serial: usize,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    messages: [Message<'a>; 1],
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    serial: Option<Cow<'a, str>>,
    action: u8,
    name: &'a str,
    #[serde(borrow)]
    data: Cow<'a, str>,
    #[serde(borrow)]
    extras: Extras<'a>,
}

#[derive(Deserialize)]
struct Extras<'a> {
    #[serde(borrow)]
    headers: Headers<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Headers<'a> {
    response_id: &'a str,
    create_id: &'a str,
    status: &'a str,
    segment: &'a str,
}

/// Reads a frame of the client.
pub(super) fn read(encoding: Encoding, bytes: &[u8]) -> Kept<Frame> {
    let frame: Written<'_> = encoding.decode(bytes).map_err(|error| Broken(format!("a frame: {error}")))?;
    let [message] = frame.messages;
    let kind = match message.action {
        0 => OpKind::Create,
        1 => OpKind::Update,
        5 => OpKind::Append,
        other => return Err(Broken(format!("a message with action {other}"))),
    };
    let headers = &message.extras.headers;
    let named = message.id.as_deref().and_then(|id| id.strip_suffix(":0"));
    hold!(frame.action == action::MESSAGE && message.name == MESSAGE_NAME, "R18: a frame without its name");
    hold!(named == (kind == OpKind::Create).then_some(headers.create_id), "R3: the id of a create is {named:?}");
    Ok(Frame {
        number: frame.msg_serial,
        kind,
        response_id: headers.response_id.into(),
        create_id: headers.create_id.into(),
        channel: frame.channel.into(),
        serial: message.serial.as_deref().map(Into::into),
        text: message.data.into(),
        status: match headers.status {
            "streaming" => Status::Streaming,
            "complete" => Status::Complete,
            "cancelled" => Status::Cancelled,
            "error" => Status::Error,
            "abandoned" => Status::Abandoned,
            "failed" => Status::Failed,
            "continued" => Status::Continued,
            "superseded" => Status::Superseded,
            other => return Err(Broken(format!("R18: status {other:?}"))),
        },
        segment: headers.segment.parse().map_err(|_| Broken(format!("R18: segment {:?}", headers.segment)))?,
        resent: false,
    })
}

/// What the server says first: that the client is connected, as which connection, and how it may come back.
pub(super) fn connected(encoding: Encoding, connection: usize, times: u32, refused: bool, size: usize) -> Vec<u8> {
    let key = format!("{connection}!{times}");
    let details = ConnectionDetails {
        connection_key: Some(key.into()),
        max_message_size: Some(size as u64),
        connection_state_ttl: Some(120_000),
        ..ConnectionDetails::default()
    };
    write(
        encoding,
        &ProtocolMessage {
            action: action::CONNECTED,
            connection_id: Some(format!("c{connection}").into()),
            connection_details: Some(details),
            error: refused.then(|| info(80_018)),
            ..ProtocolMessage::default()
        },
    )
}

/// The server ends a transport.
pub(super) fn disconnected(encoding: Encoding, code: u32) -> Vec<u8> {
    let error = Some(info(code));
    write(encoding, &ProtocolMessage { action: action::DISCONNECTED, error, ..ProtocolMessage::default() })
}

/// The connection that a key resumes.
pub(super) fn of_key(key: &str) -> Option<usize> {
    key.split_once('!')?.0.parse().ok()
}

/// Writes answers, in order: runs of one kind together or apart, and sometimes in ways that name less than they should.
pub(super) fn answers(scene: &mut Scene, encoding: Encoding, given: &[(usize, Verdict)]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some((first, verdict)) = given.get(at) {
        let goes_on = |other: usize| match (verdict, given.get(other)) {
            (Verdict::Nack(code), Some((number, Verdict::Nack(other_code)))) => {
                code == other_code && *number == first + (other - at)
            }
            (Verdict::Ack(_), Some((number, Verdict::Ack(_)))) => *number == first + (other - at),
            _ => false,
        };
        let mut end = at + 1;
        while goes_on(end) && scene.rng.u8(..4) > 0 {
            end += 1;
        }
        match verdict {
            Verdict::Ack(_) => {
                // It may repeat what was answered before.
                let repeats = at > 0 && given[at - 1].0 + 1 == *first && scene.strikes(Fault::Garbled);
                let run = &given[at - usize::from(repeats)..end];
                frames.push(ack(scene, encoding, run));
            }
            Verdict::Nack(code) => frames.push(nack(scene, encoding, *first, end - at, *code)),
            Verdict::Pending => {}
        }
        at = end;
    }
    frames
}

fn ack(scene: &mut Scene, encoding: Encoding, run: &[(usize, Verdict)]) -> Vec<u8> {
    let given = |verdict: &Verdict| match verdict {
        Verdict::Ack(Some(serial)) => Some(Cow::Owned(serial.to_string())),
        Verdict::Ack(None) | Verdict::Nack(_) | Verdict::Pending => None,
    };
    let results: Vec<_> = run.iter().map(|(_, verdict)| PublishResult { serials: vec![given(verdict)] }).collect();
    let from = run.first().map(|(number, _)| *number as u64);
    let (nameless, bare) = (scene.strikes(Fault::Garbled), scene.strikes(Fault::Garbled));
    write(
        encoding,
        &ProtocolMessage {
            action: action::ACK,
            msg_serial: from.filter(|_| !nameless),
            count: Some(results.len() as u32),
            res: (!bare).then_some(results),
            ..ProtocolMessage::default()
        },
    )
}

fn nack(scene: &mut Scene, encoding: Encoding, from: usize, count: usize, code: u32) -> Vec<u8> {
    let (countless, wordless) = (count == 1 && scene.strikes(Fault::Garbled), scene.strikes(Fault::Garbled));
    write(
        encoding,
        &ProtocolMessage {
            action: action::NACK,
            msg_serial: Some(from as u64),
            count: (!countless).then_some(count as u32),
            error: (!wordless).then(|| info(code)),
            ..ProtocolMessage::default()
        },
    )
}

pub(super) fn info(code: u32) -> ErrorInfo<'static> {
    let status_code = match code {
        40_400 => 404,
        42_900..=42_999 => 429,
        40_100..=40_199 => 401,
        50_000..=50_999 => 500,
        _ => 400,
    };
    ErrorInfo { code, status_code, ..ErrorInfo::default() }
}

fn write(encoding: Encoding, message: &ProtocolMessage<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    let written = encoding.encode(message, &mut bytes);
    assert!(written.is_ok(), "a frame of the server can be written");
    bytes
}
