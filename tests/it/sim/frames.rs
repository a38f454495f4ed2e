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
    /// It says nothing of the text, which stays as it is.
    pub(super) keeps_text: bool,
    pub(super) status: Status,
    pub(super) segment: u32,
    /// The message that this one stands in for.
    pub(super) supersedes: Option<Serial>,
    /// It was written before the connection was resumed.
    pub(super) resent: bool,
    /// What a publish makes.
    pub(super) tokens: Vec<Token>,
}

/// A message that nothing is added to, as readers see it.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) name: Box<str>,
    pub(super) text: Box<str>,
    pub(super) create_id: Box<str>,
    pub(super) seq: u64,
    pub(super) n: u64,
    /// The owner's number, and that of a full text or an end.
    pub(super) round: (u64, u64),
    pub(super) segment: u64,
    pub(super) segments: u64,
    pub(super) length: u64,
    pub(super) status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    action: u8,
    msg_serial: usize,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    serial: Option<Cow<'a, str>>,
    action: u8,
    name: &'a str,
    #[serde(borrow, default)]
    data: Option<Cow<'a, str>>,
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
    supersedes: Option<&'a str>,
    seq: Option<&'a str>,
    n: Option<&'a str>,
    epoch: Option<&'a str>,
    round: Option<&'a str>,
    segments: Option<&'a str>,
    length: Option<&'a str>,
}

/// Reads a frame of the client.
pub(super) fn read(encoding: Encoding, bytes: &[u8]) -> Kept<Frame> {
    let frame: Written<'_> = encoding.decode(bytes).map_err(|error| Broken(format!("a frame: {error}")))?;
    hold!(frame.action == action::MESSAGE, "R18: it is no MESSAGE");
    if frame.messages.first().is_some_and(|message| message.name != MESSAGE_NAME) {
        return publish(frame);
    }
    let Ok([message]) = <[Message<'_>; 1]>::try_from(frame.messages) else {
        return Err(Broken("a mutation is alone in its frame".to_owned()));
    };
    let kind = match message.action {
        0 => OpKind::Create,
        1 => OpKind::Update,
        5 => OpKind::Append,
        other => return Err(Broken(format!("a message with action {other}"))),
    };
    hold!(message.data.is_some() || kind == OpKind::Update, "R18: {kind:?} without text");
    let headers = &message.extras.headers;
    let named = message.id.as_deref().and_then(|id| id.strip_suffix(":0"));
    hold!(named == (kind == OpKind::Create).then_some(headers.create_id), "R3: the id of a create is {named:?}");
    Ok(Frame {
        number: frame.msg_serial,
        kind,
        response_id: headers.response_id.into(),
        create_id: headers.create_id.into(),
        channel: frame.channel.into(),
        serial: message.serial.as_deref().map(Into::into),
        keeps_text: message.data.is_none(),
        text: message.data.unwrap_or_default().into(),
        status: status(headers.status)?,
        segment: headers.segment.parse().map_err(|_| Broken(format!("R18: segment {:?}", headers.segment)))?,
        supersedes: headers.supersedes.map(Into::into),
        resent: false,
        tokens: Vec::new(),
    })
}

fn status(word: &str) -> Kept<Status> {
    Ok(match word {
        "streaming" => Status::Streaming,
        "complete" => Status::Complete,
        "cancelled" => Status::Cancelled,
        "error" => Status::Error,
        "abandoned" => Status::Abandoned,
        "failed" => Status::Failed,
        "continued" => Status::Continued,
        "superseded" => Status::Superseded,
        other => return Err(Broken(format!("R18: status {other:?}"))),
    })
}

/// Reads a frame of messages that nothing is added to.
fn publish(frame: Written<'_>) -> Kept<Frame> {
    let Some(first) = frame.messages.first() else { return Err(Broken("a publish of nothing".to_owned())) };
    let id: Box<str> = first.id.as_deref().and_then(|id| id.strip_suffix(":0")).unwrap_or_default().into();
    hold!(!id.is_empty(), "R16: a publish without an id");
    let mut tokens = Vec::with_capacity(frame.messages.len());
    for (index, message) in frame.messages.iter().enumerate() {
        let headers = &message.extras.headers;
        hold!(message.id.as_deref() == Some(&*format!("{id}:{index}")), "R16: the ids of an array are of one shape");
        hold!(message.action == 0, "R16: a publish with action {}", message.action);
        let number = |word: Option<&str>| word.unwrap_or("0").parse().unwrap_or(u64::MAX);
        hold!(headers.seq.is_some() && headers.n.is_some() && headers.epoch.is_some(), "R16: seq, n, epoch");
        tokens.push(Token {
            name: message.name.into(),
            text: message.data.as_deref().unwrap_or_default().into(),
            create_id: headers.create_id.into(),
            seq: number(headers.seq),
            n: number(headers.n),
            round: (number(headers.epoch), number(headers.round)),
            segment: number(Some(headers.segment)),
            segments: number(headers.segments),
            length: number(headers.length),
            status: status(headers.status)?,
        });
    }
    Ok(Frame {
        number: frame.msg_serial,
        kind: OpKind::Publish,
        response_id: first.extras.headers.response_id.into(),
        create_id: id,
        channel: frame.channel.into(),
        serial: None,
        text: tokens.iter().map(|token| &*token.text).collect::<String>().into(),
        keeps_text: false,
        status: Status::Streaming,
        segment: 0,
        supersedes: None,
        resent: false,
        tokens,
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
