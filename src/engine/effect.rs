//! Everything that can happen to a partition, and everything its engine can ask for.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::event::{Offset, Record};
use super::inherit::Inheritance;
use super::op::{ConnectionId, Head, OpId, OpKind, Operation, Status, remade, segment_of};
use super::outcome::{Answer, Class, Rejection, Serial};
use super::record::json::LastSecond;
use super::record::{Cause, OperationOutcome, ResponseOutcome};
use super::time::Time;

/// Counts the reports of one engine, from 0 and without a hole. Durability is told by it: "all reports up to this one".
pub type ReportSeq = u64;

/// Everything that can happen to a partition.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// An owner before us has left this; before anything else. Nothing is sent until [`Input::Announced`].
    Inherited(Box<Inheritance>),
    /// That the partition is ours is committed: owners after us know that we may have begun something.
    Announced,
    /// A record was read and decoded.
    Record(Record<'a>),
    /// A record was read and could not be decoded.
    Undecodable {
        /// Where it is.
        offset: Offset,
    },
    /// Records are gone from the topic before they were read: those between the last one and this offset.
    Lost {
        /// Where reading goes on.
        begins: Offset,
    },
    /// An operation was answered, or never will be.
    Answer(Answer),
    /// A connection was lost and not resumed. What was unanswered on it has been answered as unknown before this; what
    /// else was pinned to it must begin with a full text.
    Moved(ConnectionId),
    /// Every report up to and including this one is durable.
    Durable(ReportSeq),
    /// The dead letter of this offset is durable.
    DeadLetterDurable(Offset),
    /// Whether the partition has been read to its end and intake is running: only then does idle time pass by the clock.
    CaughtUp(bool),
    /// The answer to [`Effect::Reload`]; `None` when the records are gone from the topic.
    Reloaded {
        /// The operation id that the reload was asked under.
        id: OpId,
        /// The concatenated token texts of the range.
        text: Option<&'a str>,
    },
    /// The answer to [`Effect::LookUp`].
    LookedUp {
        /// The operation id that the look-up was asked under.
        id: OpId,
        /// What the channel's history holds.
        found: Found,
    },
    /// The answer to [`Effect::ReadBack`].
    ReadBack {
        /// The operation id that it was asked under.
        id: OpId,
        /// What the message is.
        latest: Latest,
    },
    /// Time has passed; also the tick that heals a lost wake-up.
    Tick,
    /// No more operations: answers are awaited, nothing new is sent.
    Drain,
}

/// Everything the engine can ask for. The shell matches this without a `_` arm.
#[derive(Debug)]
pub enum Effect {
    /// Send this to Ably, after everything sent before on its connection.
    Send(Operation),
    /// Write this record to the results topic.
    Report(Report),
    /// Write the record that was just applied to the dead-letter topic, unchanged.
    DeadLetter {
        /// Which record; always the one of the input that caused it.
        offset: Offset,
        /// Why.
        reason: Refusal,
    },
    /// Read these records of the partition again and give back the text of one part of one response.
    Reload(Box<Reload>),
    /// Look in the channel's history for a message that nobody has told us of.
    LookUp(Box<LookUp>),
    /// Read a message, to compare it with what it should be.
    ReadBack(Box<ReadBack>),
    /// Something that an operator is to know, once per cause. The shell logs and counts it.
    Notice(Notice),
}

/// A record for the results topic. Key and value stand in [`Effects::bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its number.
    pub seq: ReportSeq,
    /// The record's key: the response id.
    pub key: Range<usize>,
    /// The record's value: JSON.
    pub value: Range<usize>,
    /// What it says, for headers and counters.
    pub fact: Fact,
    /// W3C `traceparent` of the response's first record.
    pub traceparent: Option<Arc<str>>,
}

/// What a report says, without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// An operation has its outcome.
    Operation {
        /// What it did.
        op: OpKind,
        /// Why it was sent.
        cause: Cause,
        /// What became of it.
        outcome: OperationOutcome,
        /// What its refusal is about.
        class: Option<Class>,
        /// How long it was in flight.
        latency: Duration,
        /// How many token events it carried.
        tokens: u32,
    },
    /// A response is over.
    Response {
        /// How it ended.
        outcome: ResponseOutcome,
        /// It began without its beginning.
        headless: bool,
        /// Events that never came.
        gaps: u64,
        /// Events that came again.
        duplicates: u64,
    },
}

impl Fact {
    /// The header `kind`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Operation { .. } => "operation",
            Self::Response { .. } => "response",
        }
    }

    /// The header `outcome`.
    #[must_use]
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Operation { outcome, .. } => outcome.as_str(),
            Self::Response { outcome, .. } => outcome.as_str(),
        }
    }
}

/// Which text is wanted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// Comes back with the answer.
    pub id: OpId,
    /// Whose text.
    pub response_id: Box<str>,
    /// Which part of it.
    pub part: u32,
    /// The first and the last offset that hold some of it.
    pub offsets: (Offset, Offset),
}

/// Which message is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUp {
    /// Comes back with the answer.
    pub id: OpId,
    /// Its channel, and its create id, which its header `createId` repeats.
    pub head: Arc<Head>,
    /// It was not published before this.
    pub since: Time,
    /// With none, the message of the create is looked for. Else one that should not be there beside these (segment and
    /// serial): a further one of a segment, or of one after the last.
    pub known: Vec<(u32, Serial)>,
}

impl LookUp {
    /// Whether a message of the channel is looked for, by its serial and its headers `createId` and `status`. One that was
    /// emptied for being left over is not.
    #[must_use]
    pub fn seeks(&self, serial: &str, create_id: &str, status: &str) -> bool {
        if status == Status::Superseded.as_str() {
            return false;
        }
        let Some(last) = self.known.iter().map(|(segment, _)| *segment).max() else {
            return *create_id == *self.head.create_id;
        };
        let is_known = self.known.iter().any(|(_, known)| **known == *serial);
        let is_segment = |segment| segment > last || self.known.iter().any(|(known, _)| *known == segment);
        !is_known && self.head.is_of_same_response(create_id) && segment_of(create_id).is_some_and(is_segment)
    }
}

impl Found {
    /// A message that was looked for: its create id, its serial, the serial of its latest version, and whose place it takes.
    #[must_use]
    pub fn of(
        look_up: &LookUp,
        create_id: &str,
        serial: Serial,
        version: Option<Serial>,
        supersedes: Option<&str>,
    ) -> Self {
        let of = look_up.known.iter().find(|(_, known)| Some(&**known) == supersedes);
        match of {
            Some((_, of)) => Self::Successor { serial, version, of: of.clone(), remade: remade(create_id) },
            None => Self::Message { serial, version },
        }
    }
}

/// What a channel's history holds of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    Message {
        /// Its serial.
        serial: Serial,
        /// The serial of its latest version.
        version: Option<Serial>,
    },
    /// Beside those that are known there is one that takes the place of one of them: readers have forgotten that.
    Successor {
        /// Its serial.
        serial: Serial,
        /// The serial of its latest version.
        version: Option<Serial>,
        /// The serial of the one that is known.
        of: Serial,
        /// How many messages before it are gone: not only that one, if others took its place of which nobody knows.
        remade: u32,
    },
    /// It is there, and somebody else has changed it or deleted it.
    Others,
    /// It is not there.
    Nothing,
    /// The history could not be read; later, again.
    Unreadable,
    /// The channel refuses that it is read.
    Refused(Rejection),
}

/// Which message is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// Comes back with the answer.
    pub id: OpId,
    /// Its channel.
    pub head: Arc<Head>,
    /// Its serial.
    pub serial: Serial,
}

/// What a message is by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Latest {
    /// This.
    Message {
        /// The serial of its latest version.
        version: Option<Serial>,
        /// Its text.
        text: String,
        /// Its header `status`.
        status: String,
        /// Relays made that version, and all before it that are known.
        ours: bool,
    },
    /// Somebody has deleted it.
    Deleted,
    /// It could not be read, or is not there yet; later, again.
    Unreadable,
    /// The channel refuses that it is read.
    Refused(Rejection),
}

impl Latest {
    /// Whether somebody who is no relay has changed it or deleted it.
    #[must_use]
    pub(super) const fn is_others(&self) -> bool {
        matches!(self, Self::Deleted | Self::Message { ours: false, .. })
    }
}

/// Why a record went to the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its value is in no format that we know.
    Undecodable,
    /// Its response is over.
    AfterEnd,
    /// Its channel is not on the allow-list.
    ChannelNotAllowed,
    /// Its channel's name is not one that Ably accepts.
    ChannelInvalid,
    /// It names no response: no key, and no id in the value.
    NoResponseId,
    /// Its response id is longer than `RESPONSE_ID_BYTES_MAX`.
    ResponseIdTooLong,
}

impl Refusal {
    /// The word for headers and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::AfterEnd => "after-end",
            Self::ChannelNotAllowed => "channel-not-allowed",
            Self::ChannelInvalid => "channel-invalid",
            Self::NoResponseId => "no-response-id",
            Self::ResponseIdTooLong => "response-id-too-long",
        }
    }
}

/// Something for the log and the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An operation was refused.
    Rejected {
        /// The channel of the operation.
        channel: Arc<str>,
        /// Why.
        rejection: Rejection,
    },
    /// Messages on the channels of a namespace cannot be changed: responses are published whole there.
    Whole {
        /// One of the channels.
        channel: Arc<str>,
    },
    /// Texts cannot be read back: responses settle unverified.
    Unverified {
        /// The channel.
        channel: Arc<str>,
        /// Why, if the channel said so.
        rejection: Option<Rejection>,
    },
    /// Responses are skipped because they are too old. Said once for a partition.
    TooOld {
        /// The partition.
        partition: i32,
        /// What was produced later is not.
        below: Offset,
        /// They began before this.
        before: Time,
    },
    /// A response was given up on.
    Failed {
        /// Its channel.
        channel: Arc<str>,
        /// Its id.
        response_id: Box<str>,
        /// Why.
        reason: Box<str>,
    },
}

/// A buffer of effects, reused from batch to batch.
#[derive(Debug, Default)]
pub struct Effects {
    /// What is asked for, in order.
    pub list: Vec<Effect>,
    /// Keys and values of the reports.
    pub bytes: Vec<u8>,
    pub(super) last_second: LastSecond,
}

impl Effects {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
    }
}
