//! Giving up: a response whose text cannot be made right any more ends as failed, and its readers are told.
//!
//! The last word is one operation of status `failed`, so that nobody waits for ever for a text to go on. It leaves the text as
//! it is (Ably keeps what an update leaves out), because text may be what was refused, and need not be here any more. Nothing
//! hangs on it: it is sent once, if it can be sent soon, and whatever becomes of it the response settles. Nothing is said over
//! what somebody else has written, where messages are not changed, or when too many responses are what is wrong.

use std::sync::Arc;
use std::time::Duration;

use super::flow::Takes;
use super::next::Next;
use super::op::{ConnectionId, Head, OpId, OpKind, Operation, PublishName, Sender, Status};
use super::outcome::{Outcome, Serial};
use super::per_token::Published;
use super::record::Cause;
use super::response::{InFlight, Response};
use super::shared::{Shared, Weight};
use super::time::Time;

/// How long a last word waits for a budget or a connection. Meanwhile it holds the watermark.
const PATIENCE: Duration = Duration::from_secs(5);

/// That a response is given up on.
#[derive(Debug, Clone)]
pub(super) struct GivenUp {
    /// Why it fails.
    pub(super) reason: Box<str>,
    last_word: LastWord,
}

/// What readers are told of it.
#[derive(Debug, Clone)]
enum LastWord {
    /// Nothing.
    None,
    /// That nothing more comes, unless that cannot be said until then; no time as long as that holds nothing up.
    Due(Option<Time>),
    /// That was sent.
    Said(Target),
}

/// A message that says it.
#[derive(Debug, Clone)]
struct Target {
    head: Arc<Head>,
    serial: Option<Serial>,
}

impl Response {
    /// Nothing more is sent of it but a last word. What it was given up for first stays the reason.
    pub(super) fn give_up(&mut self, reason: &str) {
        self.give_up_with(reason, LastWord::Due(None));
    }

    /// Nothing more is sent of it at all.
    pub(super) fn give_up_silently(&mut self, reason: &str) {
        self.give_up_with(reason, LastWord::None);
        if let Some(given_up) = &mut self.given_up {
            given_up.last_word = LastWord::None;
        }
    }

    fn give_up_with(&mut self, reason: &str, last_word: LastWord) {
        self.given_up.get_or_insert_with(|| Box::new(GivenUp { reason: reason.into(), last_word }));
    }

    /// Nobody wants the text of what is given up: its end may stand behind a pause that the text is the reason of. Nor does it
    /// try anything any more.
    pub(super) fn forget_if_given_up(&mut self, shared: &mut Shared) {
        if self.given_up.is_some() {
            shared.flow.unclaim(self.channel, self.claim.take());
            let before = Weight::of(self);
            self.drop_text();
            shared.usage.change(before, Weight::of(self));
        }
    }

    /// What it wants that is given up on.
    pub(super) fn next_last_word(&self, now: Time, given_up: &GivenUp, takes: Takes) -> Next {
        if !self.in_flight.is_empty() {
            return Next::Nothing;
        }
        let is_there = match &self.per_token {
            Some(tokens) => tokens.awaits_stop(),
            None => !takes.is_whole() && self.last_target().is_some(),
        };
        let is_due = match given_up.last_word {
            LastWord::Due(until) => is_there && until.is_none_or(|until| now < until),
            LastWord::None | LastWord::Said(_) => false,
        };
        match is_due {
            false if self.end.is_some() => Next::Settle,
            false => Next::Nothing,
            // What is on its way would come after it.
            true if now < self.repair.quiet_from() => Next::At(self.repair.quiet_from()),
            true => self.next_look(now, now).unwrap_or(Next::Send(self.last_kind())),
        }
    }

    /// Until when its last word waits, if that is what holds it up.
    pub(super) fn last_word_waits(&mut self, now: Time) -> Option<Time> {
        self.end?;
        match &mut self.given_up.as_mut()?.last_word {
            LastWord::Due(until) => Some(*until.get_or_insert(now + PATIENCE)),
            LastWord::None | LastWord::Said(_) => None,
        }
    }

    /// Whether it is over but for a last word that was not sent.
    pub(super) fn lacks_last_word(&self) -> bool {
        self.given_up.is_some() && self.end.is_some() && self.in_flight.is_empty()
    }

    /// The message whose status readers take for that of the whole. Another than the present one only when nothing else is
    /// said of the response any more.
    fn last_target(&self) -> Option<Target> {
        let present = self.serial.as_ref().filter(|_| self.has_message());
        let (head, serial) = match self.last_of_others(present.is_none()).filter(|_| self.end.is_some()) {
            Some(other) => other,
            None => (&self.head, present?),
        };
        Some(Target { head: Arc::clone(head), serial: Some(serial.clone()) })
    }

    /// The message that an operation of its was about, and its serial.
    pub(super) fn target<'a>(&'a self, operation: &InFlight) -> (&'a Head, Option<&'a Serial>) {
        match self.given_up.as_deref().map(|given_up| &given_up.last_word) {
            Some(LastWord::Said(target)) if operation.seq + 1 == self.counts.operations => {
                (&target.head, target.serial.as_ref())
            }
            _ => (&self.head, self.serial.as_ref()),
        }
    }

    const fn last_kind(&self) -> OpKind {
        if self.per_token.is_some() { OpKind::Publish } else { OpKind::Update }
    }

    /// Makes the last word and notes it as in flight.
    pub(super) fn last_word(
        &mut self,
        now: Time,
        id: OpId,
        connection: ConnectionId,
        sender: Arc<Sender>,
    ) -> Operation {
        let kind = self.last_kind();
        let here = Target { head: Arc::clone(&self.head), serial: self.serial.clone() };
        let target = self.last_target().filter(|_| kind == OpKind::Update).unwrap_or(here);
        // One that is left over must not be read any more; what is before it has ended.
        let is_left_over = self.segments.is_surplus() && target.head.segment == self.head.segment;
        let status = if is_left_over { Status::Superseded } else { Status::Failed };
        let publish = self.last_stop(now, id.seq);
        let published = publish.as_ref().map(|_| Published { name: PublishName::Stop, completes: false });
        self.counts.operations += 1;
        self.in_flight.push_back(InFlight {
            seq: id.seq,
            kind,
            published,
            cause: Cause::Final,
            repeats: false,
            span: (self.span.1 + 1, self.span.1),
            tokens: 0,
            bytes: 0,
            attempt: 1,
            sent_at: now,
            queued: Duration::ZERO,
        });
        let Target { head, serial } = target.clone();
        if let Some(given_up) = &mut self.given_up {
            given_up.last_word = LastWord::Said(target);
        }
        let (keeps_text, publish) = (publish.is_none(), publish.map(Box::new));
        Operation {
            id,
            connection,
            kind,
            sender,
            head,
            serial,
            data: "".into(),
            keeps_text,
            status,
            segments: None,
            publish,
        }
    }

    /// Takes in what became of the last word: nothing is done about it. Whether it was one.
    pub(super) fn hears_last_word(&mut self, outcome: &Outcome) -> bool {
        if !self.given_up.as_ref().is_some_and(|given_up| matches!(given_up.last_word, LastWord::Said(_))) {
            return false;
        }
        match outcome {
            Outcome::Acked { .. } => {}
            Outcome::Rejected(_) => self.counts.rejected += 1,
            Outcome::Unknown(_) => self.counts.unknown += 1,
        }
        true
    }
}
