//! Token events: what the decoders make of a record's value, whatever its format. They borrow from the record.

use std::borrow::Cow;

use super::op::Pattern;
use super::time::Time;

/// An offset in the tokens partition of an engine.
pub type Offset = i64;

/// One record of the tokens topic, decoded.
///
/// A record may hold several events (a chat chunk with two choices) or none (a usage chunk, `[DONE]`): its offset passes
/// through the ledger all the same.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where the record is.
    pub offset: Offset,
    /// The record's timestamp, as the topic has it; the engine never trusts one from the future.
    pub time: Time,
    /// The record's key as text; empty when it has none. Fills `{key}` in the channel template.
    pub key: &'a str,
    /// W3C `traceparent` of the record, passed on to results.
    pub traceparent: Option<&'a str>,
    /// What it says, in order.
    pub events: &'a [Event<'a>],
}

/// Something that happened to one part of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The response it belongs to.
    pub response_id: Cow<'a, str>,
    /// Which of several texts of one response (`choices[].index`); 0 when there is one.
    pub part: u32,
    /// What happened.
    pub kind: EventKind<'a>,
    /// The producer's own count of events of this part, when its format has one; gaps and repeats are counted.
    pub seq: Option<u64>,
    /// Whether this is how a response of its format begins; `None` when the format does not tell.
    pub begins: Option<bool>,
    /// The channel that the record names (header before field); `None` lets the template decide.
    pub channel: Option<Cow<'a, str>>,
    /// How the record wants its response on the channel; the first one of a response decides. `None` leaves it to the
    /// settings.
    pub pattern: Option<Pattern>,
}

/// What happened to a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind<'a> {
    /// It was announced; no text yet.
    Start,
    /// More text.
    Token(Cow<'a, str>),
    /// It is complete. Some formats repeat the whole text, which then decides.
    End {
        /// The authoritative full text, when the format gives it.
        final_text: Option<Cow<'a, str>>,
    },
    /// It was stopped by whoever asked for it.
    Cancel,
    /// The producer failed.
    Error,
}
