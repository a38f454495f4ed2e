//! What the results topic tells a new owner of a partition: its records, oldest first, folded into what is known of each
//! response. Records that were seen before change nothing, so reading too much does no harm.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use jiff::Timestamp;
use serde::Deserialize;

use super::event::Offset;
use super::op::{OpKind, Pattern, PublishName, RESPONSE_COMPLETE};
use super::outcome::Serial;
use super::record::Cause;
use super::segment::Place;
use super::time::Time;

/// What a partition's results say of its responses.
#[derive(Debug, Clone, Default)]
pub struct History {
    parts: HashTable<Past>,
    hasher: RandomState,
    epoch: u64,
    unreadable: u64,
}

/// What is known of one part of a response.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    pub(super) response_id: Box<str>,
    pub(super) part: u32,
    pub(super) channel: Box<str>,
    pub(super) pattern: Pattern,
    /// The first and the last record that any operation carried.
    pub(super) span: Option<(Offset, Offset)>,
    /// The last record that a taken operation carried.
    pub(super) through: Option<Offset>,
    /// One more than the greatest number of an operation.
    pub(super) operations: u32,
    pub(super) rejected: u32,
    pub(super) unknown: u32,
    pub(super) repairs: u32,
    pub(super) serial: Option<Serial>,
    pub(super) version: String,
    pub(super) create: Option<PastCreate>,
    /// Which of its messages the fields above speak of: the one that its last operation was about.
    pub(super) segment: u32,
    /// Where that message is in the text.
    pub(super) place: Place,
    /// The other ones.
    pub(super) others: BTreeMap<u32, PastMessage>,
    /// Messages that others have taken the place of, by segment.
    pub(super) replaced: Vec<(u32, Serial)>,
    /// The text on the channel may differ from what was sent.
    pub(super) tainted: bool,
    pub(super) ever_tainted: bool,
    pub(super) first_ack_at: Option<Time>,
    pub(super) settled: Option<Settled>,
}

/// The create of the response's latest message, as it was first sent.
#[derive(Debug, Clone)]
pub(super) struct PastCreate {
    pub(super) id: Box<str>,
    pub(super) bytes: usize,
    pub(super) span: (Offset, Offset),
    pub(super) tokens: u32,
    pub(super) sent_at: Time,
    pub(super) doubtful: bool,
    /// It was taken, and the answer named no message.
    pub(super) unnamed: bool,
    /// The message that its own takes the place of.
    pub(super) replaces: Option<Serial>,
    /// Who its sender was for Ably, if it said.
    client_id: Option<Box<str>>,
}

/// One of several messages of a response.
#[derive(Debug, Clone, Default)]
pub(super) struct PastMessage {
    pub(super) serial: Option<Serial>,
    pub(super) version: String,
    pub(super) create: Option<PastCreate>,
}

/// How a response ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    /// It may open again.
    pub(super) abandoned: bool,
    /// From its first record to its last.
    pub(super) span: (Offset, Offset),
    pub(super) tokens: u64,
    pub(super) bytes: usize,
    pub(super) reopened: u32,
    pub(super) started_at: Time,
}

/// A text that is borrowed from the record, which serde does not do with one that is optional.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A record as far as it matters here. Fields of later versions are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    response_id: Cow<'a, str>,
    part: u32,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow)]
    covered: Range<'a>,
    tokens: u64,
    bytes: usize,
    epoch: u64,
    #[serde(borrow)]
    settled_at: Cow<'a, str>,
    #[serde(borrow, default)]
    serial: Option<Text<'a>>,
    #[serde(borrow, default)]
    cause: Option<Text<'a>>,
    op: Option<OpKind>,
    op_seq: Option<u32>,
    #[serde(borrow, default)]
    version_serial: Option<Text<'a>>,
    #[serde(borrow, default)]
    create_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    client_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    replaces: Option<Text<'a>>,
    #[serde(borrow, default)]
    sent_at: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pattern: Cow<'a, str>,
    #[serde(default)]
    resent: bool,
    #[serde(borrow, default)]
    started_at: Option<Text<'a>>,
    #[serde(default)]
    reopened: u32,
    #[serde(borrow, default)]
    reopens: Option<Before<'a>>,
    #[serde(default)]
    segment: u32,
    #[serde(default)]
    cut: Option<Cut>,
}

/// Which part of the text a message holds.
#[derive(Deserialize)]
struct Cut {
    from: usize,
    limit: usize,
    #[serde(default)]
    superseded: bool,
}

/// How a response stood when it was abandoned, before it was opened again.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Before<'a> {
    first: Offset,
    last: Offset,
    tokens: u64,
    bytes: usize,
    reopened: u32,
    #[serde(borrow)]
    started_at: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Range<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    first: Offset,
    last: Offset,
}

impl History {
    /// Takes in a record's value. What cannot be read is counted: then nothing is known for sure. Several relays may share a
    /// results topic; what speaks of another tokens topic than `topic` is none of ours.
    pub fn add(&mut self, topic: &str, value: &[u8]) {
        let line = serde_json::from_slice::<Line<'_>>(value).ok();
        if line.as_ref().is_none_or(|line| line.covered.topic == topic) {
            self.unreadable += u64::from(line.and_then(|line| self.line(&line)).is_none());
        }
    }

    /// The greatest epoch of any record.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Records that are not of a shape that we know.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// How many responses it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Who the messages that may still be changed were made by, where that is known.
    #[must_use]
    pub fn makers(&self) -> BTreeSet<&str> {
        let open = self.parts.iter().filter(|past| past.settled.is_none());
        open.filter_map(|past| past.create.as_ref()?.client_id.as_deref()).collect()
    }

    pub(super) fn into_parts(self) -> impl Iterator<Item = Past> {
        self.parts.into_iter()
    }

    fn line(&mut self, line: &Line<'_>) -> Option<()> {
        self.epoch = self.epoch.max(line.epoch);
        let Self { parts, hasher, .. } = self;
        let hash = hasher.hash_one((&*line.response_id, line.part));
        let is_it = |past: &Past| past.part == line.part && *past.response_id == *line.response_id;
        let entry = parts.entry(hash, is_it, |past| hasher.hash_one((&*past.response_id, past.part)));
        let past = entry.or_insert_with(|| Past::begin(line)).into_mut();
        if *past.channel != *line.channel {
            past.channel = line.channel.as_ref().into();
        }
        match &*line.kind {
            "operation" => past.operation(line),
            "response" => past.response(line),
            _ => None,
        }
    }
}

impl Past {
    fn begin(line: &Line<'_>) -> Self {
        let pattern = match &*line.pattern {
            "message-per-token" => Pattern::MessagePerToken,
            _ => Pattern::MessagePerResponse,
        };
        Self { response_id: line.response_id.as_ref().into(), part: line.part, pattern, ..Self::default() }
    }

    fn operation(&mut self, line: &Line<'_>) -> Option<()> {
        let (op, seq) = (line.op?, line.op_seq?);
        if seq < self.operations {
            return Some(());
        }
        self.operations = seq + 1;
        if let Some(before) = &line.reopens {
            self.settled = Some(before.settled()?);
        }
        if line.covered.first <= line.covered.last {
            let (first, last) = self.span.unwrap_or((line.covered.first, line.covered.last));
            self.span = Some((first.min(line.covered.first), last.max(line.covered.last)));
        }
        if line.segment != self.segment {
            self.turn_to(line.segment);
        }
        if let Some(Cut { from, limit, superseded }) = line.cut {
            self.place = Place { from, limit: Some(limit), superseded };
        }
        let is_last_word = op == OpKind::Update && line.cause.as_deref() == Some(Cause::Final.as_str());
        self.repairs += u32::from((op == OpKind::Update && !is_last_word) || line.is_full_text());
        if op == OpKind::Create {
            self.created(line)?;
        }
        match &*line.outcome {
            "acked" => self.acked(op, line),
            "rejected" => self.rejected += 1,
            "unknown" => self.unknown += 1,
            _ => return None,
        }
        // What an owner before that one created may be there, too.
        let taken_over = op == OpKind::Create && line.cause.as_deref() == Some(Cause::Takeover.as_str());
        let doubtful = line.resent || &*line.outcome != "acked" || taken_over;
        if doubtful && let Some(create) = self.create.as_mut().filter(|_| op == OpKind::Create) {
            create.doubtful = true;
        }
        self.tainted |= doubtful;
        self.ever_tainted |= self.tainted;
        Some(())
    }

    /// From here on another message is spoken of.
    fn turn_to(&mut self, segment: u32) {
        let (serial, create) = (self.serial.take(), self.create.take());
        let left = PastMessage { serial, version: std::mem::take(&mut self.version), create };
        self.others.insert(self.segment, left);
        self.segment = segment;
        self.tainted = false;
        let PastMessage { serial, version, create } = self.others.remove(&segment).unwrap_or_default();
        (self.serial, self.version, self.create) = (serial, version, create);
    }

    fn created(&mut self, line: &Line<'_>) -> Option<()> {
        let id = line.create_id.as_deref()?;
        if self.create.as_ref().is_some_and(|create| *create.id == *id) {
            return Some(());
        }
        if self.create.is_some() {
            // Another message takes the place of one that is gone.
            (self.serial, self.through, self.tainted) = (None, None, false);
            self.version.clear();
        }
        let replaces: Option<Serial> = line.replaces.as_deref().map(Into::into);
        self.replaced.extend(replaces.clone().map(|serial| (line.segment, serial)));
        self.create = Some(PastCreate {
            id: id.into(),
            bytes: line.bytes,
            span: (line.covered.first, line.covered.last),
            tokens: u32::try_from(line.tokens).unwrap_or(u32::MAX),
            sent_at: time(line.sent_at.as_deref()?)?,
            doubtful: false,
            unnamed: false,
            replaces,
            client_id: line.client_id.as_deref().map(Into::into),
        });
        Some(())
    }

    fn acked(&mut self, op: OpKind, line: &Line<'_>) {
        if self.first_ack_at.is_none() && line.name.as_deref() != Some(PublishName::Start.as_str()) {
            self.first_ack_at = time(&line.settled_at);
        }
        if line.covered.first <= line.covered.last {
            self.through = self.through.max(Some(line.covered.last));
        }
        if let Some(serial) = &line.serial {
            self.serial = Some((&**serial).into());
        }
        let version = line.version_serial.as_deref().unwrap_or_default();
        let newest = version > self.version.as_str();
        if newest {
            version.clone_into(&mut self.version);
        }
        match op {
            OpKind::Create => {
                if let Some(create) = &mut self.create {
                    create.unnamed = line.serial.is_none();
                    self.tainted |= create.doubtful;
                }
            }
            OpKind::Append => {}
            // A last word leaves the text as it is.
            OpKind::Update => self.tainted = !newest || line.cause.as_deref() == Some(Cause::Final.as_str()),
            OpKind::Publish if line.is_full_text() => self.tainted = false,
            OpKind::Publish => {}
        }
    }

    fn response(&mut self, line: &Line<'_>) -> Option<()> {
        self.settled = Some(Settled {
            abandoned: line.outcome == "abandoned",
            span: (line.covered.first, line.covered.last),
            tokens: line.tokens,
            bytes: line.bytes,
            reopened: line.reopened,
            started_at: time(line.started_at.as_deref()?)?,
        });
        Some(())
    }
}

impl PastMessage {
    /// Whether it is there, for all that is known.
    pub(super) fn is_made(&self) -> bool {
        self.serial.is_some() || self.create.as_ref().is_some_and(|create| create.unnamed)
    }
}

impl Line<'_> {
    /// Whether a publish carried all of the text, or the last of its parts.
    fn is_full_text(&self) -> bool {
        self.name.as_deref() == Some(RESPONSE_COMPLETE) && self.covered.first <= self.covered.last
    }
}

impl Before<'_> {
    fn settled(&self) -> Option<Settled> {
        let Self { first, last, tokens, bytes, reopened, .. } = *self;
        let started_at = time(&self.started_at)?;
        Some(Settled { abandoned: true, span: (first, last), tokens, bytes, reopened, started_at })
    }
}

fn time(text: &str) -> Option<Time> {
    let micros = text.parse::<Timestamp>().ok()?.as_microsecond();
    Some(Time(u64::try_from(micros).ok()?))
}
