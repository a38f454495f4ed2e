//! What a response sends next, if anything: the rules of its life in one place.
//!
//! create (with the first text) → appends, not waiting for each other → the last one carries the terminal marker → settled.
//! A taint, a move or a doubtful create leads to a full text instead, and only when everything in flight is answered.

use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;

use super::event::Offset;
use super::flow::{Takes, Trial};
use super::op::{ConnectionId, OpId, OpKind, Operation, Sender, Status};
use super::reconcile::Due;
use super::record::Cause;
use super::response::{InFlight, Pending, Response};
use super::settings::{ReconcileSettings, Settings};
use super::shared::Shared;
use super::time::Time;

/// What a frame adds to its text, at the most: names, ids, headers, serials. Keeps a margin below the server's limit.
pub(super) const FRAME_OVERHEAD: usize = 1_024;

/// How long the server recognises a create by its id (documented: two minutes), less a margin for the way there.
pub(super) const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(100);

/// What a response wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until something happens.
    Nothing,
    /// To be asked again then.
    At(Time),
    /// To be asked again when that may be tried in its namespace.
    Turn(Trial),
    /// Its dropped text.
    Reload,
    /// To know whether its create, long in doubt, made a message.
    LookUp,
    /// To send an operation of that kind.
    Send(OpKind),
    /// To begin anew: its message is gone.
    Remake,
    /// To have its message looked at before it is written.
    Look,
    /// To have its message read back.
    ReadBack,
    /// To go back to its first message: the text is another one.
    Rewind,
    /// To go on with its next message.
    Continue,
    /// To know whether there are messages that should not be there: a former owner's, or a second one of a create.
    LookBehind,
    /// To be settled.
    Settle,
}

impl Response {
    /// What it wants now.
    pub(super) fn next(&self, now: Time, policy: &ReconcileSettings, takes: Takes) -> Next {
        let quiet = self.in_flight.is_empty();
        if let Some(given_up) = &self.given_up {
            return self.next_last_word(now, given_up, takes);
        }
        if let Some(tokens) = &self.per_token {
            return self.next_publish(now, tokens, policy);
        }
        if self.create.search && self.cut_off.is_none() {
            return self.next_search(now);
        }
        if self.gone {
            let remake = || self.next_look(now, now).unwrap_or(Next::Remake);
            return if quiet { remake() } else { Next::Nothing };
        }
        if self.must_rewind() && (self.is_made() || self.create.bytes.is_none()) {
            return self.next_rewind();
        }
        if takes.is_whole() || self.create.unnamed {
            return self.next_whole(now, policy, takes);
        }
        if self.serial.is_none() {
            return self.next_create(now);
        }
        if self.repair.needs_full_text() {
            return if quiet { self.next_update(now, policy) } else { Next::Nothing };
        }
        match self.has_more_to_send() {
            true if self.text.dropped() > self.sent => self.next_reload(),
            true => Next::Send(OpKind::Append),
            false if quiet && self.terminal_sent => self.next_check(now, policy),
            false => Next::Nothing,
        }
    }

    pub(super) fn next_create(&self, now: Time) -> Next {
        if self.cut_off.is_some() && self.in_flight.is_empty() {
            return self.next_without_message();
        }
        let not_before = self.repair.not_before();
        let anything = self.text.len() > 0 || self.end.is_some();
        if !self.in_flight.is_empty() || !anything {
            Next::Nothing
        } else if now < not_before && self.repair.failures() > 0 {
            Next::At(not_before)
        } else if self.lacks_text() {
            self.next_reload()
        } else if self.create.sent_at.is_some_and(|first| now.since(first) >= IDEMPOTENCY_WINDOW) {
            if self.looking_up { Next::Nothing } else { Next::LookUp }
        } else {
            Next::Send(OpKind::Create)
        }
    }

    /// The text is another one than its messages were made for.
    fn next_rewind(&self) -> Next {
        if !self.in_flight.is_empty() || self.looking_up || self.reloading {
            return Next::Nothing;
        }
        let is_lost = !self.is_made() && self.create.sent_at.is_some() && !self.finds_orphans();
        if is_lost { Next::LookUp } else { Next::Rewind }
    }

    /// It is over, and no message is made for it any more; if one was, it is to say so.
    const fn next_without_message(&self) -> Next {
        match (self.looking_up, self.create.sent_at) {
            (true, _) => Next::Nothing,
            (false, Some(_)) => Next::LookUp,
            (false, None) => Next::Settle,
        }
    }

    fn next_update(&self, now: Time, policy: &ReconcileSettings) -> Next {
        match self.repair.due(now, policy.when, self.end.is_some(), self.has_more_to_send()) {
            Due::At(time) => self.next_look(now, time).unwrap_or(Next::At(time)),
            Due::Later => self.next_after_all_is_said(now, policy),
            Due::Never if self.end.is_some() => Next::Settle,
            Due::Never => Next::Nothing,
            Due::Now if self.lacks_text() => self.next_reload(),
            Due::Now => self.next_look(now, now).unwrap_or(Next::Send(OpKind::Update)),
        }
    }

    /// A connection may be lost after the terminal marker was taken: then there is nothing left to do.
    fn next_after_all_is_said(&self, now: Time, policy: &ReconcileSettings) -> Next {
        let is_said = self.terminal_sent && !self.repair.is_tainted();
        if is_said { self.next_check(now, policy) } else { Next::Nothing }
    }

    pub(super) const fn next_reload(&self) -> Next {
        if self.reloading { Next::Nothing } else { Next::Reload }
    }

    /// Bytes of text that a message of it may have; none until its connection has said so, or if it gets no more text.
    pub(super) fn room(&self, shared: &Shared) -> Option<usize> {
        if self.given_up.is_some() {
            return None;
        }
        let overhead = FRAME_OVERHEAD + self.head.response_id.len() + self.head.create_id.len();
        Some(shared.flow.message_bytes_max(self.channel)?.saturating_sub(overhead))
    }

    /// Whether its message has room for an operation of that kind. If not, it wants something else now.
    pub(super) fn fits(&mut self, now: Time, kind: OpKind, shared: &mut Shared) -> bool {
        let Some(room) = self.room(shared) else { return true };
        if kind == OpKind::Publish {
            return self.fix_room(now, room);
        }
        let fits = self.fix_limit(room);
        if !fits {
            self.give_up("message-too-large");
            self.forget_if_given_up(shared);
        }
        fits
    }

    /// Bytes that the next operation of that kind would count for in flight.
    pub(super) fn bytes_of(&self, kind: OpKind) -> usize {
        let text = match kind {
            _ if self.given_up.is_some() => 0,
            OpKind::Create => self.create_text().len(),
            OpKind::Append => self.shown() - self.sent,
            OpKind::Update => self.shown() - self.segments.from,
            OpKind::Publish => self.publish_bytes(),
        };
        text + FRAME_OVERHEAD
    }

    /// Whether an operation sent now counts against the rates: not when the server will roll it up with the one before.
    pub(super) fn is_charged(&self, now: Time, kind: OpKind) -> bool {
        kind != OpKind::Append || self.published_at.is_none_or(|published| now >= published)
    }

    /// Notes an operation that was charged. The server publishes the first append at once. What comes within its window goes out
    /// together at the window's end, which begins the next one; a full text takes the place of what waits for that.
    pub(super) fn charge(&mut self, now: Time, kind: OpKind, settings: &Settings) {
        let window = settings.append_rollup;
        self.published_at = match self.published_at.filter(|published| now < *published + window) {
            _ if kind != OpKind::Append => None,
            Some(published) => Some(published + window),
            None => Some(now),
        };
    }

    /// Makes the next operation of that kind and notes it as in flight.
    pub(super) fn operate(
        &mut self,
        now: Time,
        kind: OpKind,
        id: OpId,
        connection: ConnectionId,
        sender: Arc<Sender>,
    ) -> Option<Operation> {
        match kind {
            _ if self.given_up.is_some() => Some(self.last_word(now, id, connection, sender)),
            OpKind::Publish => self.publish(now, id, connection, sender),
            OpKind::Create | OpKind::Append | OpKind::Update => Some(self.send(now, kind, id, connection, sender)),
        }
    }

    fn send(&mut self, now: Time, kind: OpKind, id: OpId, connection: ConnectionId, sender: Arc<Sender>) -> Operation {
        let closing = self.closing();
        let status = closing.unwrap_or(Status::Streaming);
        let (retry, repeats) = (self.repair.failures(), kind == OpKind::Update && self.is_said());
        let (operation, status, data) = match kind {
            OpKind::Create => self.make_create(now, status),
            OpKind::Append => {
                let data = CompactString::from(self.text.slice(self.sent, self.shown()));
                (self.carry_pending(), status, data)
            }
            OpKind::Update | OpKind::Publish => {
                self.counts.repairs += 1;
                let carried = if repeats { self.carry_nothing(now) } else { self.carry_all(now) };
                (carried, status, self.message_text().into())
            }
        };
        // What an owner before us has carried cannot be told from what this carries.
        self.create.unread &= kind == OpKind::Create;
        self.terminal_sent |= closing == Some(status);
        self.counts.operations += 1;
        self.in_flight.push_back(InFlight {
            seq: id.seq,
            kind,
            published: None,
            cause: operation.cause,
            repeats,
            span: operation.span,
            tokens: operation.tokens,
            bytes: data.len(),
            attempt: if kind == OpKind::Append { 1 } else { retry + 1 },
            sent_at: now,
            queued: now.since(operation.since),
        });
        let (head, serial, keeps_text) = (Arc::clone(&self.head), self.serial.clone(), false);
        let is_last = head.segment > 0 && status.is_terminal() && closing == self.end;
        let segments = is_last.then_some(head.segment + 1);
        Operation { id, connection, kind, sender, head, serial, data, keeps_text, status, segments, publish: None }
    }

    /// The first create carries what there is; a retry carries what the first did.
    fn make_create(&mut self, now: Time, status: Status) -> (Carried, Status, CompactString) {
        if self.create.bytes.is_none() {
            let again = self.create.remade > 0 || self.create.resized || self.takeover.is_some();
            let carried = if again { self.carry_all(now) } else { self.carry_pending() };
            self.create.bytes = Some(self.message_text().len());
            self.create.status = Some(status);
            self.create.span = carried.span;
            self.create.tokens = carried.tokens;
            // An owner before us may have used its id already.
            self.create.sent_at.get_or_insert(now);
            self.outdated = false;
            return (carried, status, self.message_text().into());
        }
        self.create.sent_at.get_or_insert(now);
        let carried =
            Carried { cause: Cause::Repair, span: self.create.span, tokens: self.create.tokens, since: Time(u64::MAX) };
        (carried, self.create.status.unwrap_or(status), self.create_text().into())
    }

    fn create_text(&self) -> &str {
        match (&self.create.text, self.create.bytes) {
            (Some(text), _) => text,
            // What a former owner created may not be here any more in just those bytes.
            (None, Some(bytes)) => {
                let text = self.text.from(self.segments.from.min(self.text.len()));
                text.get(..bytes).unwrap_or_else(|| self.message_text())
            }
            (None, None) => self.message_text(),
        }
    }

    /// What its present message is to show.
    pub(super) fn message_text(&self) -> &str {
        self.text.slice(self.segments.from, self.shown())
    }

    /// A full text covers all that there ever was.
    fn carry_all(&mut self, now: Time) -> Carried {
        self.carry_pending();
        self.outdated = false;
        let tokens = u32::try_from(self.counts.tokens).unwrap_or(u32::MAX);
        let cause = if self.takeover.is_some() { Cause::Takeover } else { Cause::Repair };
        Carried { cause, span: self.span, tokens, since: now }
    }

    /// What its message says already was carried before; what waits is for the next one.
    fn carry_nothing(&self, now: Time) -> Carried {
        Carried { cause: Cause::Repair, span: (self.span.1 + 1, self.span.1), tokens: 0, since: now }
    }

    /// Everything that waits is on its way now. Without a record behind it (an idle end) it covers an empty range.
    fn carry_pending(&mut self) -> Carried {
        let Pending { span, tokens, since } = std::mem::take(&mut self.pending);
        self.sent = self.shown();
        let empty: (Offset, Offset) = (self.span.1 + 1, self.span.1);
        let cause = if self.end.is_some() { Cause::Final } else { Cause::Stream };
        let since = if span.is_some() { since } else { Time(u64::MAX) };
        Carried { cause, span: span.unwrap_or(empty), tokens, since }
    }
}

/// What an operation carries of the response.
struct Carried {
    cause: Cause,
    span: (Offset, Offset),
    tokens: u32,
    since: Time,
}
