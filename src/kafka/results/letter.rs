//! Dead letters: a record that we could not use, unchanged, with headers that say why.
//!
//! The first headers have the names that Kafka Connect gives them, because tools know those. A topic may not take a
//! record of this length; the [`Form`]s are tried in turn until one is taken.

use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Message, OwnedHeaders};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::batch::Lane;
use crate::engine::{Offset, Refusal};

/// How a dead letter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Unchanged, with our headers behind its own.
    Whole,
    /// Unchanged, without our headers.
    Bare,
    /// Without its value; a description of it instead.
    Pointer,
}

impl Form {
    fn shorter(self) -> Option<Self> {
        match self {
            Self::Whole => Some(Self::Bare),
            Self::Bare => Some(Self::Pointer),
            Self::Pointer => None,
        }
    }
}

/// A dead letter on its way. It stays with us until it is durable.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) lane: Lane,
    pub(super) offset: Offset,
    pub(super) form: Form,
    topic: String,
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Option<OwnedHeaders>,
    reason: Refusal,
    detail: String,
}

/// What a letter looks like in its form.
pub(super) struct Written {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Option<OwnedHeaders>,
}

/// The value of a pointer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pointer<'a> {
    v: u8,
    kind: &'a str,
    topic: &'a str,
    partition: i32,
    offset: Offset,
    key_bytes: Option<usize>,
    value_bytes: Option<usize>,
    value_sha256: Option<String>,
}

impl Letter {
    pub(super) fn new(lane: Lane, message: &BorrowedMessage<'_>, reason: Refusal, detail: &str) -> Self {
        Self {
            lane,
            offset: message.offset(),
            form: Form::Whole,
            topic: message.topic().to_owned(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: message.headers().map(BorrowedHeaders::detach),
            reason,
            detail: detail.to_owned(),
        }
    }

    /// Takes its next shorter form. Whether there is one.
    pub(super) fn shorten(&mut self) -> bool {
        let Some(form) = self.form.shorter() else { return false };
        tracing::warn!(
            partition = self.lane.partition,
            offset = self.offset,
            ?form,
            "kafka: the dead-letter topic does not take a record of this length"
        );
        self.form = form;
        true
    }

    pub(super) fn write(&self) -> Written {
        match self.form {
            Form::Whole => Written {
                key: self.key.clone(),
                value: self.value.clone(),
                headers: Some(self.explain(self.headers.clone().unwrap_or_default())),
            },
            Form::Bare => Written { key: self.key.clone(), value: self.value.clone(), headers: self.headers.clone() },
            Form::Pointer => Written {
                key: None,
                value: serde_json::to_vec(&self.pointer()).ok(),
                headers: Some(self.explain(OwnedHeaders::new())),
            },
        }
    }

    fn pointer(&self) -> Pointer<'_> {
        let sha256 = |value: &Vec<u8>| Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect();
        Pointer {
            v: 1,
            kind: "pointer",
            topic: &self.topic,
            partition: self.lane.partition,
            offset: self.offset,
            key_bytes: self.key.as_ref().map(Vec::len),
            value_bytes: self.value.as_ref().map(Vec::len),
            value_sha256: self.value.as_ref().map(sha256),
        }
    }

    fn explain(&self, headers: OwnedHeaders) -> OwnedHeaders {
        let (partition, offset) = (self.lane.partition.to_string(), self.offset.to_string());
        let form = if self.form == Form::Pointer { "pointer" } else { "whole" };
        let time = self.timestamp.map(|millis| millis.to_string());
        let ours = [
            ("__connect.errors.topic", Some(self.topic.as_str())),
            ("__connect.errors.partition", Some(&partition)),
            ("__connect.errors.offset", Some(&offset)),
            ("__connect.errors.connector.name", Some("tokenrelay")),
            ("__connect.errors.exception.class.name", Some(self.reason.as_str())),
            ("__connect.errors.exception.message", Some(&self.detail)),
            ("tokenrelay.reason", Some(self.reason.as_str())),
            ("tokenrelay.form", Some(form)),
            ("tokenrelay.timestamp", time.as_deref()),
            ("tokenrelay.version", Some(env!("CARGO_PKG_VERSION"))),
        ];
        ours.into_iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value }))
    }
}
