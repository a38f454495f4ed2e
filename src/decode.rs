//! Decoding: makes token events of a record's value, whatever its format.
//!
//! Which format: the header `tokenrelay-format`, else the configuration, else what the value looks like. The response id is
//! the record's key, which joins partition by it; a value may name another. Nothing is copied that can be borrowed.

mod openai_chat;
mod tokenrelay;

use std::borrow::Cow;

use crate::engine::{Event, Template};

/// The header that names a record's format.
pub const FORMAT_HEADER: &str = "tokenrelay-format";
/// The header that names a record's channel.
pub const CHANNEL_HEADER: &str = "channel";

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Our own: one JSON object an event.
    Tokenrelay,
    /// Chat-completion chunks, as OpenAI, vLLM and SGLang stream them.
    OpenaiChat,
}

/// What reaches a channel besides nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Include {
    /// The answer.
    pub text: bool,
    /// What the model thought on the way.
    pub reasoning: bool,
    /// Arguments of tool calls.
    pub tool: bool,
    /// Refusals.
    pub refusal: bool,
}

/// Decodes records.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// The format of records that do not name theirs; none means: look.
    pub format: Option<Format>,
    /// What becomes a token.
    pub include: Include,
    /// The channel template, when it needs a record's headers.
    pub template: Option<Template>,
    /// Fills in `{topic}`.
    pub topic: String,
}

/// A record as it comes.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a, H> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Finds a header by name.
    pub header: H,
}

/// Why a record is no token event. Says what is wrong and never quotes the value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No value.
    #[error("the value is null")]
    Null,
    /// The key is no text.
    #[error("the key is not UTF-8")]
    Key,
    /// A header names a format that we do not know.
    #[error("the header tokenrelay-format names an unknown format")]
    Format,
    /// It looks like none of our formats.
    #[error("the value is neither a tokenrelay event nor a chat-completion chunk")]
    Unrecognised,
    /// It is not what its format says.
    #[error("the value is not a valid {format}: {problem}")]
    Malformed {
        /// The format.
        format: &'static str,
        /// Category and place.
        problem: String,
    },
    /// A field is missing.
    #[error("the value is not a valid {format}: {field} is missing")]
    Missing {
        /// The format.
        format: &'static str,
        /// The field.
        field: &'static str,
    },
}

impl Decoder {
    /// Adds a record's events to `events`, and gives its key as text (empty without one).
    ///
    /// # Errors
    /// When the record is no token event.
    pub fn decode<'a, H>(&self, raw: &Raw<'a, H>, events: &mut Vec<Event<'a>>) -> Result<&'a str, Error>
    where
        H: Fn(&str) -> Option<&'a [u8]>,
    {
        let key = std::str::from_utf8(raw.key.unwrap_or_default()).map_err(|_| Error::Key)?;
        let value = trim(raw.value.ok_or(Error::Null)?);
        let first = events.len();
        match self.format_of(raw)? {
            Some(format) => self.decode_as(format, value, key, events)?,
            // Two looks at every value would be one too many; what turns out not to be ours is looked at again.
            None if looks_like_ours(value) && tokenrelay::recognise(value, key, events) => {}
            None => self.decode_as(sniff(value).ok_or(Error::Unrecognised)?, value, key, events)?,
        }
        self.name_channel(raw, key, &mut events[first..]);
        Ok(key)
    }

    fn decode_as<'a>(
        &self,
        format: Format,
        value: &'a [u8],
        key: &'a str,
        events: &mut Vec<Event<'a>>,
    ) -> Result<(), Error> {
        match format {
            Format::Tokenrelay => tokenrelay::decode(value, key, events),
            Format::OpenaiChat => openai_chat::decode(value, key, self.include, events),
        }
    }

    /// The format, if anything names it.
    fn format_of<'a, H>(&self, raw: &Raw<'a, H>) -> Result<Option<Format>, Error>
    where
        H: Fn(&str) -> Option<&'a [u8]>,
    {
        match (raw.header)(FORMAT_HEADER) {
            Some(b"tokenrelay") => Ok(Some(Format::Tokenrelay)),
            Some(b"openai-chat") => Ok(Some(Format::OpenaiChat)),
            Some(_) => Err(Error::Format),
            None => Ok(self.format),
        }
    }

    /// A channel header outranks a field, and both outrank the template; one that needs headers is filled in here.
    fn name_channel<'a, H>(&self, raw: &Raw<'a, H>, key: &str, events: &mut [Event<'a>])
    where
        H: Fn(&str) -> Option<&'a [u8]>,
    {
        let text = |name: &str| (raw.header)(name).and_then(|value| std::str::from_utf8(value).ok());
        if let Some(channel) = text(CHANNEL_HEADER) {
            events.iter_mut().for_each(|event| event.channel = Some(Cow::Borrowed(channel)));
        } else if let Some(template) = &self.template {
            for event in events.iter_mut().filter(|event| event.channel.is_none()) {
                event.channel = Some(Cow::Owned(template.fill_in(key, &self.topic, text)));
            }
        }
    }
}

/// A guess: chat-completion chunks begin with their id.
fn looks_like_ours(value: &[u8]) -> bool {
    value.starts_with(b"{") && !value.starts_with(b"{\"id\"")
}

/// What a value looks like, by the field that only one format has.
fn sniff(value: &[u8]) -> Option<Format> {
    if openai_chat::is_end_of_stream(value) || value.starts_with(b"data:") {
        return Some(Format::OpenaiChat);
    }
    let fields: Fields = serde_json::from_slice(value).ok()?;
    if fields.choices.is_some() {
        Some(Format::OpenaiChat)
    } else if fields.kind.is_some() || fields.event.is_some() {
        Some(Format::Tokenrelay)
    } else {
        None
    }
}

#[derive(serde::Deserialize)]
struct Fields {
    choices: Option<serde::de::IgnoredAny>,
    #[serde(rename = "type")]
    kind: Option<serde::de::IgnoredAny>,
    event: Option<serde::de::IgnoredAny>,
}

fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

/// What is wrong, by category and place: the parser's own words can quote the value.
fn malformed(format: &'static str) -> impl Fn(serde_json::Error) -> Error {
    move |error| {
        let what = match error.classify() {
            serde_json::error::Category::Syntax => "not JSON",
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Data => "a field has a wrong type",
            serde_json::error::Category::Io => "unreadable",
        };
        Error::Malformed { format, problem: format!("{what}, at line {} column {}", error.line(), error.column()) }
    }
}

#[cfg(test)]
mod tests;
