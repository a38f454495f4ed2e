//! What is kept of a response's text on its way, and of its operations.

use std::time::Duration;

use crate::engine::event::Offset;
use crate::engine::op::{OpKind, PublishName, Status};
use crate::engine::per_token::Published;
use crate::engine::record::Cause;
use crate::engine::time::Time;

/// What waits to be sent.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Pending {
    /// The records that it came with, if any.
    pub(in crate::engine) span: Option<(Offset, Offset)>,
    pub(in crate::engine) tokens: u32,
    /// Since when its oldest token has been waiting.
    pub(in crate::engine) since: Time,
}

/// The create, as it was first sent: a retry is identical.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Create {
    /// Bytes of text that it carried, once it was sent.
    pub(in crate::engine) bytes: Option<usize>,
    /// Its text, kept when the response's own text was replaced.
    pub(in crate::engine) text: Option<Box<str>>,
    pub(in crate::engine) status: Option<Status>,
    pub(in crate::engine) span: (Offset, Offset),
    pub(in crate::engine) tokens: u32,
    /// When its id was first used; none if the channel's history has been searched in vain since.
    pub(in crate::engine) sent_at: Option<Time>,
    /// One try was not taken or its outcome is unknown: whether the message shows its text, nobody knows.
    pub(in crate::engine) doubtful: bool,
    /// Its message was made, and is to be looked for.
    pub(in crate::engine) search: bool,
    /// How often it was looked for in vain.
    pub(in crate::engine) searched: u8,
    /// When it is looked for again.
    pub(in crate::engine) search_from: Time,
    /// Its message was made, and no answer says which it is.
    pub(in crate::engine) unnamed: bool,
    /// Its message may have been made by an owner before us, and shows whatever that one had.
    pub(in crate::engine) unread: bool,
    /// Its message was looked for and found.
    pub(in crate::engine) found: bool,
    /// What was sent first was larger than the server takes.
    pub(in crate::engine) resized: bool,
    /// How many messages were made for this response before this one and are gone.
    pub(in crate::engine) remade: u32,
}

/// An operation that has not been answered.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct InFlight {
    pub(in crate::engine) seq: u32,
    pub(in crate::engine) kind: OpKind,
    /// What it publishes, if it does.
    pub(in crate::engine) published: Option<Published>,
    pub(in crate::engine) cause: Cause,
    /// It says what its message says already: whatever becomes of it, that is right.
    pub(in crate::engine) repeats: bool,
    pub(in crate::engine) span: (Offset, Offset),
    pub(in crate::engine) tokens: u32,
    pub(in crate::engine) bytes: usize,
    pub(in crate::engine) attempt: u32,
    pub(in crate::engine) sent_at: Time,
    pub(in crate::engine) queued: Duration,
}

/// A former owner may have sent what is below an offset.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Takeover {
    pub(in crate::engine) before: Offset,
}

/// What the response's record sums up.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Counts {
    pub(in crate::engine) tokens: u64,
    pub(in crate::engine) operations: u32,
    pub(in crate::engine) rejected: u32,
    pub(in crate::engine) unknown: u32,
    pub(in crate::engine) repairs: u32,
    pub(in crate::engine) gaps: u64,
    pub(in crate::engine) duplicates: u64,
    pub(in crate::engine) reopened: u32,
}

impl Create {
    /// The create of a message that is there.
    pub(in crate::engine) fn answered(remade: u32) -> Self {
        Self { bytes: Some(0), remade, ..Self::default() }
    }

    /// What was sent first is larger than the server takes, and made nothing: the next try is another one.
    pub(in crate::engine) fn resize(&mut self) {
        (self.bytes, self.text, self.status, self.resized) = (None, None, None, true);
        self.sent_at = self.sent_at.filter(|_| self.doubtful);
    }

    /// A create that a former owner sent.
    pub(in crate::engine) fn first_sent(
        bytes: usize,
        span: (Offset, Offset),
        tokens: u32,
        sent_at: Time,
        remade: u32,
    ) -> Self {
        Self { bytes: Some(bytes), span, tokens, sent_at: Some(sent_at), remade, ..Self::default() }
    }
}

impl InFlight {
    /// Whether readers see some text with it.
    pub(in crate::engine) fn is_text(&self) -> bool {
        self.published.is_none_or(|published| published.name != PublishName::Start)
    }

    /// Whether it changes a message that is there.
    pub(in crate::engine) const fn changes(&self) -> bool {
        matches!(self.kind, OpKind::Append | OpKind::Update)
    }

    /// Whether it carries all of the text.
    pub(in crate::engine) fn is_whole(&self) -> bool {
        self.kind == OpKind::Update || self.published.is_some_and(|published| published.completes)
    }
}

impl Pending {
    pub(super) fn extend(&mut self, now: Time, offset: Offset) {
        match &mut self.span {
            Some((_, last)) => *last = offset,
            None => {
                self.span = Some((offset, offset));
                self.since = now;
            }
        }
    }
}
