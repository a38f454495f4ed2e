//! Dead letters, by the record that they stand for. Of their bytes only a hash is kept.
//!
//! A letter that was too long for its topic with our headers has none of them: it says not of which record it is, and is
//! recognised by its bytes.

use std::collections::HashMap;

use rdkafka::message::{BorrowedMessage, Message};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::kafka;

/// The first of the headers that are added to a letter.
const FIRST_HEADER: &str = "__connect.errors.topic";

/// Why a record could not be relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Undecodable,
    NoResponseId,
    ResponseIdTooLong,
    ChannelInvalid,
    ChannelNotAllowed,
    AfterEnd,
    Other,
}

impl Reason {
    fn of(word: &[u8]) -> Self {
        match word {
            b"undecodable" => Self::Undecodable,
            b"no-response-id" => Self::NoResponseId,
            b"response-id-too-long" => Self::ResponseIdTooLong,
            b"channel-invalid" => Self::ChannelInvalid,
            b"channel-not-allowed" => Self::ChannelNotAllowed,
            b"after-end" => Self::AfterEnd,
            _ => Self::Other,
        }
    }

    /// The word for people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::NoResponseId => "no-response-id",
            Self::ResponseIdTooLong => "response-id-too-long",
            Self::ChannelInvalid => "channel-invalid",
            Self::ChannelNotAllowed => "channel-not-allowed",
            Self::AfterEnd => "after-end",
            Self::Other => "a reason that is not known",
        }
    }
}

/// Half of a SHA-256.
type Half = [u8; 16];

/// All letters of one tokens topic.
#[derive(Debug, Default)]
pub(super) struct Letters {
    of: HashMap<(i32, i64), Letter>,
    bare: HashMap<Half, u32>,
}

/// What there is for one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letter {
    pub(super) reason: Reason,
    pub(super) count: u32,
    /// All of them hold the same.
    alike: bool,
    content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The record's bytes.
    Whole(Half),
    /// A description of them.
    Pointer { key_bytes: Option<usize>, value_bytes: Option<usize>, value: Option<Half> },
    /// Neither.
    Broken,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PointerLine {
    key_bytes: Option<usize>,
    value_bytes: Option<usize>,
    value_sha256: Option<String>,
}

impl Letters {
    /// Takes a record of the dead-letter topic in. Those of other tokens topics are passed over.
    pub(super) fn add(&mut self, topic: &str, message: &BorrowedMessage<'_>) {
        let header = |name| kafka::header(message, name);
        let number = |name| std::str::from_utf8(header(name)?).ok()?.parse::<i64>().ok();
        let place = (number("__connect.errors.partition"), number("__connect.errors.offset"));
        let (Some(reason), (Some(partition), Some(offset))) = (header("tokenrelay.reason"), place) else {
            *self.bare.entry(bytes_of(message, 0)).or_default() += 1;
            return;
        };
        if header(FIRST_HEADER) != Some(topic.as_bytes()) {
            return;
        }
        let content = match header("tokenrelay.form") {
            Some(b"pointer") => pointer(message.payload().unwrap_or_default()),
            _ => Content::Whole(bytes_of(message, added_headers(message))),
        };
        let place = (i32::try_from(partition).unwrap_or(-1), offset);
        let first = Letter { reason: Reason::of(reason), count: 0, alike: true, content };
        let letter = self.of.entry(place).or_insert(first);
        letter.count += 1;
        letter.alike &= letter.content == content;
    }

    /// Why a record has a letter, if it has one.
    pub(super) fn reason(&self, partition: i32, offset: i64) -> Option<Reason> {
        self.of.get(&(partition, offset)).map(|letter| letter.reason)
    }

    /// Takes the letter of a record out.
    pub(super) fn take(&mut self, partition: i32, offset: i64) -> Option<Letter> {
        self.of.remove(&(partition, offset))
    }

    /// Takes a letter out that does not say of which record it is, but has its bytes.
    pub(super) fn take_bare(&mut self, message: &BorrowedMessage<'_>) -> bool {
        if self.bare.is_empty() {
            return false;
        }
        match self.bare.get_mut(&bytes_of(message, 0)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }

    /// What has not been taken out, of offsets for which `wanted` holds.
    pub(super) fn left(&self, wanted: impl Fn(i32, i64) -> bool) -> Vec<(i32, i64)> {
        let mut left: Vec<_> =
            self.of.keys().copied().filter(|(partition, offset)| wanted(*partition, *offset)).collect();
        left.sort_unstable();
        left
    }
}

impl Letter {
    /// Whether it holds what the record holds.
    pub(super) fn is_of(&self, message: &BorrowedMessage<'_>) -> bool {
        let same = match self.content {
            Content::Whole(bytes) => bytes == bytes_of(message, 0),
            Content::Pointer { key_bytes, value_bytes, value } => {
                key_bytes == message.key().map(<[u8]>::len)
                    && value_bytes == message.payload().map(<[u8]>::len)
                    && value == message.payload().map(|value| half(&Sha256::digest(value)))
            }
            Content::Broken => false,
        };
        same && self.alike
    }
}

/// How many headers at the end are ours.
fn added_headers(message: &BorrowedMessage<'_>) -> usize {
    let names: Vec<_> = kafka::headers(message).map(|header| header.key == FIRST_HEADER).collect();
    names.iter().rposition(|first| *first).map_or(0, |place| names.len() - place)
}

/// A hash of a record's key, value and headers but for the last few. Each is preceded by its length, so that none can be
/// taken for part of its neighbour.
fn bytes_of(message: &BorrowedMessage<'_>, without: usize) -> Half {
    let mut hash = Sha256::new();
    let mut add = |bytes: Option<&[u8]>| {
        hash.update(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    add(message.key());
    add(message.payload());
    let headers: Vec<_> = kafka::headers(message).collect();
    for header in &headers[..headers.len() - without] {
        add(Some(header.key.as_bytes()));
        add(header.value);
    }
    half(&hash.finalize())
}

fn pointer(value: &[u8]) -> Content {
    let Ok(PointerLine { key_bytes, value_bytes, value_sha256 }) = serde_json::from_slice(value) else {
        return Content::Broken;
    };
    let value = value_sha256.map(|hex| super::claims::from_hex(&hex).map(|hash| half(&hash)));
    match value {
        Some(None) => Content::Broken,
        Some(Some(value)) => Content::Pointer { key_bytes, value_bytes, value: Some(value) },
        None => Content::Pointer { key_bytes, value_bytes, value: None },
    }
}

fn half(hash: &[u8]) -> Half {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}
