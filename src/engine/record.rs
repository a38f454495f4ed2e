//! Results: one record per operation and one per response, as JSON on the results topic.
//!
//! Names and meanings are a contract with whoever reads the topic: the JSON Schema under `deploy/` is generated from these
//! types and compared by a test. A record never holds text, only lengths and a hash.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::event::Offset;
use super::op::OpKind;
use super::outcome::{Class, Doubt};
use super::time::Time;

pub(super) mod json;

/// The version of the records' shape: field `v` and header `schema-version`.
pub const SCHEMA_VERSION: u8 = 1;

/// A record of the results topic.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ResultRecord<'a> {
    /// What became of one operation.
    Operation(OperationRecord<'a>),
    /// What became of one part of a response.
    Response(ResponseRecord<'a>),
}

/// What became of one operation.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationRecord<'a> {
    /// The version of this shape.
    pub v: u8,
    /// The response.
    pub response_id: &'a str,
    /// Which of its parts.
    pub part: u32,
    /// The channel that the operation went to.
    pub channel: &'a str,
    /// How the response is put on the channel.
    pub pattern: &'a str,
    /// What the operation did.
    pub op: OpKind,
    /// Publishes: the `name` of the messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// Its number within the part, from 0.
    pub op_seq: u32,
    /// Why it was sent.
    pub cause: Cause,
    /// What became of it.
    pub outcome: OperationOutcome,
    /// The token records whose text it carried.
    pub covered: Covered<'a>,
    /// How many token events it carried.
    pub tokens: u32,
    /// Length of its text in bytes of UTF-8.
    pub bytes: usize,
    /// Which message of the response.
    pub segment: u32,
    /// The message's serial, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<&'a str>,
    /// The serial of the version that the operation made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_serial: Option<&'a str>,
    /// The name of the message that a create makes; the message's header `createId` repeats it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_id: Option<&'a str>,
    /// Its frame was written again after a connection was resumed: it may have been applied twice, or not at all.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub resent: bool,
    /// Why it was refused, or is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo<'a>>,
    /// 1 for a first try; a create or update that repeats an unsuccessful one counts on.
    pub attempt: u32,
    /// When it was handed to the connection.
    pub sent_at: Stamp,
    /// When its outcome was known.
    pub settled_at: Stamp,
    /// The time between the two, in milliseconds.
    pub latency_ms: f64,
    /// How long its oldest token waited before it was sent, in milliseconds.
    pub queued_ms: f64,
    /// The process.
    pub instance: &'a str,
    /// The process's version.
    pub relay_version: &'a str,
    /// The owner's number, one higher with each owner of the partition.
    pub epoch: u64,
    /// Ably's name for the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<&'a str>,
    /// Creates: who we are for Ably, as far as the connection has said. Under `message-update-own` nobody else may change the
    /// message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a str>,
    /// Takeovers: the records whose outcomes died with the former owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<Covered<'a>>,
    /// Creates: the serial of the message that this one takes the place of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<&'a str>,
    /// Creates and updates: which part of the text the message holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// Creates and updates of a response that had ended as `abandoned` before: how it stood then. Its record of that end may
    /// lie too far back for the next owner to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reopens: Option<Reopens>,
}

/// Which part of a response's text a message holds.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The byte of the text that the message begins with.
    pub from: usize,
    /// Bytes of text in one message, at the most.
    pub limit: usize,
    /// The message is left over, and empty: the text needs fewer than were made.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub superseded: bool,
}

/// How a response stood when it ended as `abandoned`, before it was opened again.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reopens {
    /// Its first record.
    pub first: Offset,
    /// Its last record.
    pub last: Offset,
    /// How many token events it had.
    pub tokens: u64,
    /// Length of its text in bytes of UTF-8.
    pub bytes: usize,
    /// How many times it had been opened again by then.
    pub reopened: u32,
    /// Time of its first record.
    pub started_at: Stamp,
}

/// What became of one part of a response.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResponseRecord<'a> {
    /// The version of this shape.
    pub v: u8,
    /// The response.
    pub response_id: &'a str,
    /// Which of its parts.
    pub part: u32,
    /// Its channel.
    pub channel: &'a str,
    /// How it was put on the channel.
    pub pattern: &'a str,
    /// How it ended.
    pub outcome: ResponseOutcome,
    /// Why, where the outcome needs a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// From its first record to its last.
    pub covered: Covered<'a>,
    /// How many token events it had.
    pub tokens: u64,
    /// Length of its text in bytes of UTF-8.
    pub bytes: u64,
    /// How many operations were sent for it.
    pub operations: u32,
    /// How many of them were refused.
    pub rejected: u32,
    /// How many of them have no known outcome.
    pub unknown: u32,
    /// How many full texts were sent to mend it.
    pub repairs: u32,
    /// How many messages it took.
    pub segments: u32,
    /// SHA-256 of its text, in hexadecimal; empty when the text could not be read again.
    pub text_sha256: &'a str,
    /// The message's serial, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<&'a str>,
    /// Time of its first record.
    pub started_at: Stamp,
    /// Time of its last record.
    pub last_event_at: Stamp,
    /// When Ably first took some of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ack_at: Option<Stamp>,
    /// When it was over.
    pub settled_at: Stamp,
    /// From the first record's time to the first acknowledgement, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first_ack_ms: Option<f64>,
    /// How long the text on the channel may have differed from ours, in milliseconds, all such times together.
    pub dirty_ms: f64,
    /// Events that the producer counted and that never came.
    pub gaps: u64,
    /// Events whose number had been seen before.
    pub duplicates: u64,
    /// It began without its beginning: what came before is not in the topic.
    pub headless: bool,
    /// How many times it had ended as `abandoned` before and was opened again.
    pub reopened: u32,
    /// Whether its text was read back from the channel and was right; absent when it was not to be read back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// The process.
    pub instance: &'a str,
    /// The process's version.
    pub relay_version: &'a str,
    /// The owner's number, one higher with each owner of the partition.
    pub epoch: u64,
}

/// A range of records in one partition of the tokens topic, both ends included.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Covered<'a> {
    /// The tokens topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// The first offset.
    pub first: Offset,
    /// The last offset.
    pub last: Offset,
}

/// Why an operation was refused or is unknown.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorInfo<'a> {
    /// Ably's error code; absent when the outcome is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// The HTTP status that goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// What it is about.
    pub class: ErrorClass,
    /// The server's words, or ours.
    pub message: &'a str,
}

/// What an error is about.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ErrorClass {
    /// A refusal.
    Refused(Class),
    /// A doubt.
    Doubtful(Doubt),
}

/// Why an operation was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Tokens came.
    Stream,
    /// The text on the channel may have differed from ours.
    Repair,
    /// The response ended; an update of that cause says that it was given up on, and leaves the text as it is.
    Final,
    /// Another process had the partition before.
    Takeover,
    /// A range of the topic is driven again.
    Replay,
}

impl Cause {
    /// The word for records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Repair => "repair",
            Self::Final => "final",
            Self::Takeover => "takeover",
            Self::Replay => "replay",
        }
    }
}

/// The outcome of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationOutcome {
    /// The server took it.
    Acked,
    /// The server refused it.
    Rejected,
    /// Nobody will ever tell.
    Unknown,
}

impl OperationOutcome {
    /// The word for headers and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResponseOutcome {
    /// Every operation was taken; the text on the channel is the text in the topic.
    Delivered,
    /// Something failed, a full text mended it; the text on the channel is the text in the topic.
    Reconciled,
    /// Given up on; see the reason.
    Failed,
    /// It was stopped, and the text up to there is on the channel.
    Cancelled,
    /// Nothing came for too long; the text up to there is on the channel.
    Abandoned,
    /// Not sent at all; see the reason.
    Skipped,
}

impl ResponseOutcome {
    /// The word for headers and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Reconciled => "reconciled",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::Skipped => "skipped",
        }
    }
}

/// A moment as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, JsonSchema)]
#[schemars(transparent)]
pub struct Stamp(#[schemars(with = "String", extend("format" = "date-time"))] pub Time);

impl Stamp {
    fn to_text(self) -> String {
        const MILLIS: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        let micros = i64::try_from(self.0.0).unwrap_or(i64::MAX);
        let timestamp = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
        let mut text = String::with_capacity(24);
        let printed = MILLIS.print_timestamp(&timestamp, &mut text);
        assert!(printed.is_ok(), "a string takes any moment");
        text
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}
