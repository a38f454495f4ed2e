//! Rollup: appends of one connection to one message within a window go out as one.
//!
//! The first goes out at once; what comes within the window after it is joined, the last extras and version metadata win, and
//! goes out at the window's end, whatever has become of the connection by then.

use std::borrow::Cow;
use std::time::Duration;

use crate::ably::wire::Data;

use super::message::Mutation;

/// The appends of one connection to one message.
#[derive(Debug)]
pub(super) struct Rollup {
    /// When the last one went out, in milliseconds.
    published: u64,
    /// What is joined, and the version serial that it will have.
    pending: Option<(Mutation, String)>,
}

/// What becomes of an append.
#[derive(Debug)]
pub(super) enum Rolled {
    /// It goes out at once.
    Now(Box<Mutation>),
    /// It is the first to wait; to be flushed after so long.
    Waits(Duration),
    /// It has joined one that waits, under this version serial.
    Joined(String),
}

impl Rollup {
    pub(super) const fn new() -> Self {
        Self { published: 0, pending: None }
    }

    /// Whether the next append would join one that waits.
    pub(super) const fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |(mutation, _)| mutation.data_len())
    }

    /// Takes an append in. `version` gives the serial of a new version.
    pub(super) fn append(
        &mut self,
        mutation: Mutation,
        now_ms: u64,
        window: Duration,
        version: impl FnOnce() -> String,
    ) -> Rolled {
        if let Some((pending, serial)) = &mut self.pending {
            join(pending, mutation);
            return Rolled::Joined(serial.clone());
        }
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let age = now_ms.saturating_sub(self.published);
        if age >= window_ms {
            self.published = now_ms;
            return Rolled::Now(Box::new(mutation));
        }
        self.pending = Some((mutation, version()));
        Rolled::Waits(Duration::from_millis(window_ms - age))
    }

    /// The version serial of what waits.
    pub(super) fn version(&self) -> Option<&str> {
        self.pending.as_ref().map(|(_, serial)| serial.as_str())
    }

    /// The window has ended: what was joined goes out.
    pub(super) fn flush(&mut self, now_ms: u64) -> Option<(Mutation, String)> {
        self.published = now_ms;
        self.pending.take()
    }

    /// An update or delete supersedes what waits.
    pub(super) fn discard(&mut self) {
        self.pending = None;
    }
}

fn join(pending: &mut Mutation, next: Mutation) {
    pending.data = match (pending.data.take(), next.data) {
        (Some(Data::Text(a)), Some(Data::Text(b))) => Some(Data::Text(Cow::Owned(a.into_owned() + &b))),
        (Some(Data::Binary(a)), Some(Data::Binary(b))) => Some(Data::Binary([a.as_ref(), b.as_ref()].concat().into())),
        (a, b) => b.or(a),
    };
    pending.extras = next.extras.or(pending.extras.take());
    pending.name = next.name.or(pending.name.take());
    pending.version = next.version;
}
