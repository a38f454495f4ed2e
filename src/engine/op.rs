//! Operations: what the engine asks to be sent to Ably. Each is complete in itself (a reader that sees only this one has
//! every header), and none is ever sent twice by the engine: a retry is a new operation.

use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::outcome::Serial;

/// One of the pool's connections, by position. A reconnect keeps the number.
pub type ConnectionId = u32;

/// Names an operation for as long as it is in flight, and forever after within its response (`seq`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpId {
    /// The tokens partition whose engine asked for it.
    pub partition: i32,
    /// Where the engine keeps the response.
    pub slot: u32,
    /// Tells one tenant of a slot from the next.
    pub generation: u32,
    /// The response's count of operations, from 0.
    pub seq: u32,
}

/// The kinds of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OpKind {
    /// Makes the message.
    Create,
    /// Adds to its text.
    Append,
    /// Replaces its text.
    Update,
    /// Makes messages that nothing is added to: `message-per-token`.
    Publish,
}

impl OpKind {
    /// The word for records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Append => "append",
            Self::Update => "update",
            Self::Publish => "publish",
        }
    }
}

/// The header `status`: what a reader is to make of the text so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// More may come.
    Streaming,
    /// All is there.
    Complete,
    /// It was stopped; this is all.
    Cancelled,
    /// The producer failed; this is all.
    Error,
    /// Nothing came for too long. May open again.
    Abandoned,
    /// The relay has given it up; there may have been more.
    Failed,
    /// This message is full; the text goes on in the next one.
    Continued,
    /// This message is left over: the text needs fewer.
    Superseded,
}

impl Status {
    /// The value of the header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
            Self::Abandoned => "abandoned",
            Self::Failed => "failed",
            Self::Continued => "continued",
            Self::Superseded => "superseded",
        }
    }

    /// Whether a reader need not wait for more in this message.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Streaming)
    }
}

/// What every operation of one message repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The channel, by its exact name.
    pub channel: Arc<str>,
    /// Header `responseId`.
    pub response_id: Box<str>,
    /// Header `part`.
    pub part: u32,
    /// Header `segment`.
    pub segment: u32,
    /// Header `createId`, and the `id` of the create without its `:0`. Two messages never share one.
    pub create_id: Box<str>,
    /// Header `supersedes`: the serial of a message that is gone and that this one stands in for.
    pub supersedes: Option<Serial>,
    /// Header `prev`: the serial of the message that holds the text before.
    pub prev: Option<Serial>,
}

impl Head {
    /// The name of another message of the same response, after the one with serial `prev`.
    pub(super) fn of_segment(&self, segment: u32, prev: Option<Serial>) -> Self {
        let (base, ..) = split(&self.create_id);
        Self { segment, create_id: format!("{base}.{segment}").into(), supersedes: None, prev, ..self.clone() }
    }

    /// The name of the message that takes the place of this one, of serial `gone`, for the `remade`th time.
    pub(super) fn remade(&self, remade: u32, gone: Option<Serial>) -> Self {
        let (base, segment, _) = split(&self.create_id);
        let supersedes = gone.or_else(|| self.supersedes.clone());
        Self { create_id: format!("{base}.{segment}~{remade}").into(), supersedes, ..self.clone() }
    }

    /// Whether a message of that create id belongs to the same response.
    pub(super) fn is_of_same_response(&self, create_id: &str) -> bool {
        split(create_id).0 == split(&self.create_id).0
    }
}

/// A create id ends with the number of its segment, behind a `.`, and then how often it was made anew, behind a `~`.
fn split(create_id: &str) -> (&str, &str, &str) {
    let (base, end) = create_id.rsplit_once('.').unwrap_or(("", create_id));
    let (segment, remade) = end.split_once('~').unwrap_or((end, ""));
    (base, segment, remade)
}

/// Which of its response's messages a create makes.
pub(super) fn segment_of(create_id: &str) -> Option<u32> {
    split(create_id).1.parse().ok()
}

/// How many messages before the one of this name are gone.
pub(super) fn remade(create_id: &str) -> u32 {
    split(create_id).2.parse().unwrap_or(0)
}

/// Who sends operations. It stands in the metadata of every version that they make, so that a version of a relay's is told
/// from one of somebody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sender {
    /// Operation metadata `instance`: the process.
    pub instance: Arc<str>,
    /// Operation metadata `epoch`: the number of this owner of the partition.
    pub epoch: u64,
}

/// The `name` of every message that the relay makes under `message-per-response`.
pub const MESSAGE_NAME: &str = "response";

/// Something to be sent to Ably, in order, on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// How its answer names it.
    pub id: OpId,
    /// The connection that must carry it.
    pub connection: ConnectionId,
    /// What it does.
    pub kind: OpKind,
    /// Who sends it.
    pub sender: Arc<Sender>,
    /// The message that it is about.
    pub head: Arc<Head>,
    /// The message's serial; none for a create.
    pub serial: Option<Serial>,
    /// The text: the first, a further piece, or all of it.
    pub data: CompactString,
    /// An update that leaves the text as it is: it says nothing of `data`.
    pub keeps_text: bool,
    /// Header `status` from this operation on.
    pub status: Status,
    /// Header `segments`: how many messages the text has, said by the last of several.
    pub segments: Option<u32>,
    /// What a publish has besides.
    pub publish: Option<Box<Publish>>,
}

/// How responses are put on channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pattern {
    /// A message that is created, appended to, and replaced when it must be mended.
    #[default]
    MessagePerResponse,
    /// A message for each token, framed by one that starts and one that stops.
    MessagePerToken,
}

impl Pattern {
    /// The word for records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MessagePerResponse => "message-per-response",
            Self::MessagePerToken => "message-per-token",
        }
    }
}

/// How tokens leave that wait together, under `message-per-token`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Batch {
    /// Each as a message, all in one publish.
    #[default]
    Array,
    /// As one message.
    Joined,
}

/// What a publish has besides what every operation has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The messages' `name`.
    pub name: PublishName,
    /// The messages' ids, without the `:0`, `:1`, … at their ends. No two publishes share one, unless they are the same.
    pub id: Box<str>,
    /// Header `epoch`: the owner's number.
    pub epoch: u64,
    /// Header `seq`: the number of the first token, counted from 0 within the part.
    pub seq: u64,
    /// How the data is shared out; one for each message.
    pub pieces: Vec<Piece>,
    /// Header `round`: tells one full text, or one end, from the next. It is a time, and so rises even if somebody has set the
    /// epochs back.
    pub round: Option<u64>,
    /// Headers `segment` and `segments` of a full text: which of how many messages.
    pub segment: Option<(u32, u32)>,
    /// What the end says of the whole.
    pub sum: Option<Sum>,
}

/// One message of a publish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of its data.
    pub bytes: usize,
    /// Header `n`: how many tokens it holds.
    pub tokens: u64,
}

/// What the end of a response says of all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Header `tokens`.
    pub tokens: u64,
    /// Header `length`, in bytes of UTF-8.
    pub length: usize,
    /// Header `sha256`; empty if the text is not known.
    pub sha256: Box<str>,
    /// Header `repair`: the full text was published.
    pub repair: bool,
}

/// The `name` of a message under `message-per-token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishName {
    /// The response begins.
    Start,
    /// Tokens of it.
    Token,
    /// All of its text, or a numbered part of that: readers replace what they have.
    ResponseComplete,
    /// It is over.
    Stop,
}

impl PublishName {
    /// The value of `name`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Token => "token",
            Self::ResponseComplete => RESPONSE_COMPLETE,
            Self::Stop => "stop",
        }
    }
}

/// The `name` of messages that hold a full text.
pub(super) const RESPONSE_COMPLETE: &str = "response-complete";
