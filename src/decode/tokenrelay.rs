//! Our own format: one JSON object an event.
//!
//! `{"type":"token","responseId":"r1","text":" world","seq":7}`. The older names `event` (`delta`, `done`) and `delta` are
//! understood as well.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Error, malformed};
use crate::engine::{self, Event, EventKind};

const FORMAT: &str = "tokenrelay event";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Value<'a> {
    #[serde(rename = "type", alias = "event")]
    kind: Kind,
    #[serde(borrow)]
    response_id: Option<Text<'a>>,
    #[serde(borrow, alias = "delta")]
    text: Option<Text<'a>>,
    seq: Option<u64>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    part: Option<u32>,
    #[serde(borrow)]
    final_text: Option<Text<'a>>,
    pattern: Option<Pattern>,
    /// What has these is something else, unless it says that it is ours.
    choices: Option<IgnoredAny>,
}

/// Text that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Start,
    #[serde(alias = "delta")]
    Token,
    #[serde(alias = "done")]
    End,
    Cancel,
    Error,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Pattern {
    MessagePerResponse,
    MessagePerToken,
}

/// Adds the one event of a value.
pub(super) fn decode<'a>(value: &'a [u8], key: &'a str, events: &mut Vec<Event<'a>>) -> Result<(), Error> {
    let value: Value<'a> = serde_json::from_slice(value).map_err(malformed(FORMAT))?;
    events.push(event(value, key)?);
    Ok(())
}

/// The same for a value that may be of another format, or of none: then it adds nothing and gives `false`.
pub(super) fn recognise<'a>(value: &'a [u8], key: &'a str, events: &mut Vec<Event<'a>>) -> bool {
    let value = serde_json::from_slice(value).ok().filter(|value: &Value<'a>| value.choices.is_none());
    let event = value.and_then(|value| event(value, key).ok());
    let is_ours = event.is_some();
    events.extend(event);
    is_ours
}

fn event<'a>(value: Value<'a>, key: &'a str) -> Result<Event<'a>, Error> {
    let kind = match value.kind {
        Kind::Start => EventKind::Start,
        Kind::Token => EventKind::Token(value.text.ok_or(Error::Missing { format: FORMAT, field: "text" })?.0),
        Kind::End => EventKind::End { final_text: value.final_text.map(|text| text.0) },
        Kind::Cancel => EventKind::Cancel,
        Kind::Error => EventKind::Error,
    };
    let begins = match (value.kind, value.seq) {
        (Kind::Start, _) | (_, Some(0)) => Some(true),
        (_, Some(_)) => Some(false),
        (_, None) => None,
    };
    Ok(Event {
        response_id: value.response_id.map_or(Cow::Borrowed(key), |id| id.0),
        part: value.part.unwrap_or(0),
        kind,
        seq: value.seq,
        begins,
        channel: value.channel.map(|channel| channel.0),
        pattern: value.pattern.map(|pattern| match pattern {
            Pattern::MessagePerResponse => engine::Pattern::MessagePerResponse,
            Pattern::MessagePerToken => engine::Pattern::MessagePerToken,
        }),
    })
}
