//! One part of a response: what is known of it, and what changes that.
//!
//! This file takes events and answers in; [`next`](super::next) decides what leaves. Nothing here sends, and nothing here
//! knows of other responses.

mod books;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::event::{Event, EventKind, Offset, Record};
use super::flow::{ChannelKey, Claim, NO_RULE, Takes};
use super::give_up::GivenUp;
use super::ledger::Hold;
use super::line::Ticket;
use super::look::Look;
use super::op::{ConnectionId, Head, OpKind, Status};
use super::outcome::{Answer, Class, Doubt, Outcome, Rejection, Serial};
use super::per_token::PerToken;
use super::reconcile::{Repair, settling_time};
use super::record::{Reopens, Stamp};
use super::segment::Segments;
use super::settings::Settings;
use super::text::Text;
use super::time::Time;
use super::turns::Turn;
use super::verify::Check;
use super::whole::judge_name;
pub(super) use books::{Counts, Create, InFlight, Pending, Takeover};

/// Ably's code for a message that is larger than it takes.
pub(super) const TOO_LARGE: u32 = 40_009;

/// One part of a response that is not settled.
#[derive(Debug, Clone)]
pub(super) struct Response {
    pub(super) head: Arc<Head>,
    pub(super) channel: ChannelKey,
    pub(super) hold: Hold,
    pub(super) text: Text,
    pub(super) segments: Segments,
    /// Bytes of the text that operations have carried.
    pub(super) sent: usize,
    pub(super) pending: Pending,
    /// From the first record to the last.
    pub(super) span: (Offset, Offset),
    /// The last record whose text was dropped from memory.
    pub(super) dropped_through: Offset,
    pub(super) serial: Option<Serial>,
    /// What it has if its tokens are messages of their own.
    pub(super) per_token: Option<Box<PerToken>>,
    /// The greatest version serial known for the message.
    pub(super) version: String,
    pub(super) create: Create,
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) end: Option<Status>,
    /// The terminal marker has been sent.
    pub(super) terminal_sent: bool,
    /// It was too old to be begun: `given_up` says so, and it does not fail but is skipped.
    pub(super) skipped: bool,
    /// Nothing more is sent but a last word; it fails when it ends.
    pub(super) given_up: Option<Box<GivenUp>>,
    /// The message does not exist any more; a new one takes its place.
    pub(super) gone: bool,
    pub(super) reloading: bool,
    pub(super) looking_up: bool,
    pub(super) repair: Repair,
    /// The last record that a former owner's operations are known to have carried.
    pub(super) through: Option<Offset>,
    /// A former owner did not leave in order: until a full text is taken, nobody knows what became of its last operations.
    pub(super) takeover: Option<Takeover>,
    /// Nothing is sent before all that a former owner had read has been read again.
    pub(super) waiting: bool,
    /// It ends as failed, with this reason, once readers can see it.
    pub(super) cut_off: Option<&'static str>,
    /// What was said since makes the full text in flight wrong: when it is taken, the message is tainted all the same.
    pub(super) outdated: bool,
    /// How it stood when it was abandoned, before it was opened again.
    pub(super) reopens: Option<Box<Reopens>>,
    /// A look at its message before it is written.
    pub(super) look: Option<Box<Look>>,
    /// What is to be read back before it settles.
    pub(super) check: Option<Box<Check>>,
    /// Whether its text was read back and was right, if it was to be.
    pub(super) verified: Option<bool>,
    pub(super) counts: Counts,
    pub(super) headless: bool,
    /// Its beginning was in the topic once.
    pub(super) beginning_lost: bool,
    expected_seq: Option<u64>,
    pub(super) started_at: Time,
    pub(super) last_event_at: Time,
    /// When the last event reached us.
    pub(super) arrived: Time,
    pub(super) first_ack_at: Option<Time>,
    /// When the server publishes, or has published, the last append that counted against the rates.
    pub(super) published_at: Option<Time>,
    /// The connection that carried its last operation.
    pub(super) connection: Option<ConnectionId>,
    /// It waits for its connection.
    pub(super) blocked: bool,
    /// Its place among all who wait for a budget.
    pub(super) ticket: Option<Ticket>,
    /// Its place among those who wait until something may be tried in their namespace.
    pub(super) turn: Option<Turn>,
    /// What it is about to try there.
    pub(super) claim: Option<Claim>,
    /// The earliest moment for which a timer stands.
    pub(super) timer: Option<Time>,
    pub(super) traceparent: Option<Arc<str>>,
}

impl Response {
    /// A response of which `record` brings the first event.
    pub(super) fn new(
        now: Time,
        record: &Record<'_>,
        begins: Option<bool>,
        head: Head,
        channel: ChannelKey,
        hold: Hold,
    ) -> Self {
        Self {
            head: Arc::new(head),
            channel,
            hold,
            text: Text::new(),
            segments: Segments::default(),
            sent: 0,
            pending: Pending::default(),
            span: (record.offset, record.offset),
            dropped_through: record.offset,
            serial: None,
            per_token: None,
            version: String::new(),
            create: Create::default(),
            in_flight: VecDeque::new(),
            end: None,
            terminal_sent: false,
            skipped: false,
            given_up: None,
            gone: false,
            reloading: false,
            looking_up: false,
            repair: Repair::default(),
            through: None,
            takeover: None,
            waiting: false,
            cut_off: None,
            outdated: false,
            reopens: None,
            look: None,
            check: None,
            verified: None,
            counts: Counts::default(),
            headless: begins == Some(false),
            beginning_lost: false,
            expected_seq: None,
            started_at: record.time.min(now),
            last_event_at: record.time.min(now),
            arrived: now,
            first_ack_at: None,
            published_at: None,
            connection: None,
            blocked: false,
            ticket: None,
            turn: None,
            claim: None,
            timer: None,
            traceparent: record.traceparent.map(Arc::from),
        }
    }

    /// Whether an event may still be taken in: its producer has not ended it, nor have we given it up for its silence.
    pub(super) fn takes_events(&self) -> bool {
        match self.end {
            None => true,
            Some(Status::Abandoned) => self.given_up.is_none(),
            Some(Status::Complete | Status::Cancelled | Status::Error | Status::Failed)
            | Some(Status::Streaming | Status::Continued | Status::Superseded) => false,
        }
    }

    /// Whether nobody knows what a former owner has sent of it.
    pub(super) const fn is_taken_over(&self) -> bool {
        self.takeover.is_some()
    }

    /// Takes an event in.
    pub(super) fn event(&mut self, now: Time, record: &Record<'_>, event: &Event<'_>, settings: &Settings) {
        if self.end.is_some() {
            self.go_on(now, settings);
        }
        self.arrived = now;
        self.last_event_at = record.time.min(now);
        self.span.1 = record.offset;
        self.count(event.seq);
        self.pending.extend(now, record.offset);
        match &event.kind {
            EventKind::Start => {}
            EventKind::Token(text) => {
                self.counts.tokens += 1;
                self.pending.tokens += 1;
                self.text.push(text);
                self.segments.grown(record.offset, self.text.len());
                if let Some(tokens) = &mut self.per_token {
                    tokens.take(record.offset, text.len());
                }
            }
            EventKind::End { final_text } => {
                self.end = Some(Status::Complete);
                if let Some(text) = final_text {
                    self.decide_text(now, text, settings);
                }
            }
            EventKind::Cancel => self.end = Some(Status::Cancelled),
            EventKind::Error => self.end = Some(Status::Error),
        }
        if self.is_behind_us(record.offset) {
            self.sent = self.text.len();
            self.pending = Pending::default();
            self.per_token.iter_mut().for_each(|tokens| tokens.skip());
        }
    }

    /// Whether a record only rebuilds the text: a former owner has sent it, or may have sent it as tokens that cannot be told
    /// from ours.
    fn is_behind_us(&self, offset: Offset) -> bool {
        let in_doubt = self.takeover.is_some_and(|takeover| offset < takeover.before && self.per_token.is_some());
        in_doubt || self.through.is_some_and(|through| offset <= through)
    }

    /// Takes the answer to an operation in and gives the operation back; none if it was answered before.
    pub(super) fn answer(
        &mut self,
        now: Time,
        answer: &mut Answer,
        takes: Takes,
        settings: &Settings,
    ) -> Option<InFlight> {
        let position = self.in_flight.iter().position(|operation| operation.seq == answer.op.seq)?;
        let operation = self.in_flight.remove(position)?;
        if self.hears_last_word(&answer.outcome) {
            return Some(operation);
        }
        if operation.kind == OpKind::Create {
            judge_name(answer, takes);
        }
        if answer.resent {
            // What the broken transport still held may land behind what was written again.
            self.doubt(now, true, &settings.reconcile);
        }
        match &answer.outcome {
            Outcome::Acked { serial } if operation.kind == OpKind::Create => {
                self.first_ack_at.get_or_insert(now);
                self.created(now, serial.as_ref(), answer.resent, takes, settings);
            }
            Outcome::Acked { serial } => self.acked(now, operation, serial.as_ref(), answer.resent, settings),
            Outcome::Rejected(rejection) => self.rejected(now, operation, rejection, takes, settings),
            Outcome::Unknown(doubt) => self.unknown(now, operation, *doubt, settings),
        }
        Some(operation)
    }

    /// The connection that carried it was lost and not resumed.
    pub(super) fn moved(&mut self, now: Time, settings: &Settings) {
        if self.serial.is_some() || self.head.segment > 0 {
            self.repair.moved(now, settling_time(settings.reconcile.debounce, settings.append_rollup));
        }
    }

    /// Its channel has gone to another connection. Whether it did not know yet.
    pub(super) fn changes_connection(&mut self, now: Time, settings: &Settings) -> bool {
        if self.repair.has_moved() {
            return false;
        }
        self.moved(now, settings);
        self.repair.has_moved()
    }

    /// Opens an abandoned response again for an event that came after all.
    pub(super) fn reopen(&mut self, now: Time, channel: ChannelKey, hold: Hold, settings: &Settings) {
        self.channel = channel;
        self.hold = hold;
        // What was arranged for it before went by its former place.
        (self.timer, self.blocked, self.reloading, self.looking_up) = (None, false, false, false);
        self.reopens = Some(Box::new(Reopens {
            first: self.span.0,
            last: self.dropped_through,
            tokens: self.counts.tokens,
            bytes: self.text.len(),
            reopened: self.counts.reopened,
            started_at: Stamp(self.started_at),
        }));
        self.counts.reopened += 1;
        // Nobody has had an eye on its message since.
        self.look_first(now, &settings.reconcile);
        self.go_on(now, settings);
    }

    /// It was about to end, or had ended, for its silence. What tells readers so must be replaced.
    fn go_on(&mut self, now: Time, settings: &Settings) {
        self.verified = None;
        if let Some(tokens) = &mut self.per_token {
            // What comes after a stop says by itself that there is more.
            (self.end, self.terminal_sent) = (None, false);
            if tokens.go_on() {
                self.repair.taint(now, settings.reconcile.debounce);
            }
            return;
        }
        // It may be found by now, if it has to be replaced.
        self.create.searched = 0;
        if self.segments.is_surplus() {
            self.recut();
        }
        let told = self.closing() == self.end && std::mem::take(&mut self.terminal_sent);
        self.end = None;
        if told {
            self.outdated = true;
            self.repair.taint(now, settings.reconcile.debounce);
        }
    }

    /// Whether it has something that no operation has carried.
    pub(super) fn has_more_to_send(&self) -> bool {
        self.sent < self.shown() || (self.closing().is_some() && !self.terminal_sent)
    }

    /// Drops its text from memory.
    pub(super) fn drop_text(&mut self) {
        self.text.drop_from_memory();
        self.dropped_through = self.span.1;
    }

    fn acked(&mut self, now: Time, operation: InFlight, serial: Option<&Serial>, resent: bool, settings: &Settings) {
        if operation.is_text() {
            self.first_ack_at.get_or_insert(now);
        }
        let debounce = settings.reconcile.debounce;
        match operation.kind {
            OpKind::Create | OpKind::Append => {
                self.raise_version(serial);
                if operation.kind == OpKind::Append {
                    self.repair.appended(now, settings.append_rollup);
                }
                if resent {
                    self.repair.taint(now, debounce);
                }
            }
            OpKind::Update => {
                let newest = self.raise_version(serial);
                match (newest, resent) {
                    (true, false) => self.repair.cleaned(now),
                    // Doubt about a resume is nobody's refusal: the next try need not wait longer for it.
                    (true, true) => self.repair.taint(now, debounce),
                    (false, _) => self.repair.failed(now, debounce),
                }
                if self.outdated {
                    self.repair.taint(now, debounce);
                }
            }
            OpKind::Publish => self.published(now, &operation, resent, &settings.reconcile),
        }
    }

    /// How long to wait with the full text that a doubtful create is followed by: what an owner before us has appended to its
    /// message may be on its way.
    pub(super) fn quiet_time(&self, settings: &Settings) -> Duration {
        let debounce = settings.reconcile.debounce;
        if self.takeover.is_some() { settling_time(debounce, settings.append_rollup) } else { debounce }
    }

    fn rejected(&mut self, now: Time, operation: InFlight, rejection: &Rejection, takes: Takes, settings: &Settings) {
        self.counts.rejected += 1;
        if operation.kind == OpKind::Publish {
            return self.publish_refused(now, &operation, rejection, settings);
        }
        let is_trial = takes.is_whole() && rejection.class == Class::Channel;
        let refuses_changes = operation.changes() && (is_trial || (settings.whole && rejection.code == NO_RULE));
        if rejection.class != Class::MessageGone && self.forgives(now, &operation, refuses_changes) {
            return;
        }
        if rejection.code == TOO_LARGE && self.lower_limit(&operation) {
            return match operation.kind {
                OpKind::Append => self.repair.taint(now, settings.reconcile.debounce),
                OpKind::Create | OpKind::Update | OpKind::Publish => {
                    self.repair.failed(now, settings.reconcile.debounce);
                }
            };
        }
        if rejection.class == Class::MessageGone && self.serial.is_some() {
            if self.segments.is_surplus() {
                // It was left over: that nobody sees it any more is what was wanted.
                (self.terminal_sent, self.check) = (true, None);
                return self.repair.cleaned(now);
            }
            self.create.search = self.is_misled();
            self.gone = !self.create.search;
        }
        let policy = &settings.reconcile;
        if matches!(rejection.class, Class::Operation | Class::MessageGone) && self.serial.is_some() {
            self.look_first(now, policy);
        }
        match operation.kind {
            OpKind::Append if rejection.class != Class::Channel => self.repair.taint(now, policy.debounce),
            OpKind::Create if rejection.class == Class::Channel && !self.create.doubtful => {
                // It made nothing, so there is nothing to look for however long the channel refuses.
                self.create.sent_at = None;
                self.refused(now, rejection, settings);
            }
            OpKind::Append | OpKind::Create | OpKind::Update | OpKind::Publish => {
                self.create.doubtful |= operation.kind == OpKind::Create;
                if operation.kind == OpKind::Create && rejection.class == Class::Transient {
                    self.segments.doubt_twins(now, &settings.reconcile);
                }
                self.refused(now, rejection, settings);
            }
        }
    }

    pub(super) fn refused(&mut self, now: Time, rejection: &Rejection, settings: &Settings) {
        match self.repair.refused(now, rejection, &settings.reconcile, settings.refused_hold) {
            // Where messages are not changed nothing can be said either.
            Some(reason) if rejection.code == NO_RULE => self.give_up_silently(&reason),
            Some(reason) => self.give_up(&reason),
            None => {}
        }
    }

    fn unknown(&mut self, now: Time, operation: InFlight, doubt: Doubt, settings: &Settings) {
        self.counts.unknown += 1;
        let may_land = matches!(doubt, Doubt::ConnectionLost | Doubt::NoAnswer | Doubt::Stopped);
        self.doubt(now, may_land, &settings.reconcile);
        if self.forgives(now, &operation, false) {
            return;
        }
        let wait = settling_time(settings.reconcile.debounce, settings.append_rollup);
        match operation.kind {
            OpKind::Append => self.repair.taint(now, wait),
            OpKind::Publish => self.publish_unknown(now, &operation, settings),
            OpKind::Create => {
                self.create.doubtful = true;
                self.create.search |= doubt == Doubt::NoSerial;
                self.segments.doubt_twins(now, &settings.reconcile);
                self.repair.failed(now, wait);
            }
            OpKind::Update => self.repair.failed(now, wait),
        }
    }

    /// Whether `serial` is greater than every version serial known before.
    pub(super) fn raise_version(&mut self, serial: Option<&Serial>) -> bool {
        let Some(serial) = serial.filter(|serial| ***serial > *self.version) else { return false };
        self.version.clear();
        self.version.push_str(serial);
        true
    }

    /// The producer says what the text is.
    fn decide_text(&mut self, now: Time, text: &str, settings: &Settings) {
        if self.text.equals(text) {
            return;
        }
        if let (Some(bytes), None, false, None) = (self.create.bytes, &self.create.text, self.is_made(), &self.given_up)
        {
            let text = self.text.from(self.segments.from.min(self.text.len()));
            self.create.text = Some(text.get(..bytes).unwrap_or(text).into());
        }
        self.text.replace(text);
        if let Some(tokens) = &mut self.per_token {
            self.sent = self.text.len();
            tokens.skip();
            tokens.doubt();
            return self.repair.taint(now, settings.reconcile.debounce);
        }
        self.sent = self.segments.from.min(self.text.len());
        self.recut();
        if self.create.bytes.is_some() {
            self.outdated = true;
            self.repair.taint(now, settings.reconcile.debounce);
        }
    }

    fn count(&mut self, seq: Option<u64>) {
        let Some(seq) = seq else { return };
        match self.expected_seq {
            Some(expected) if seq < expected => self.counts.duplicates += 1,
            Some(expected) => self.counts.gaps += seq - expected,
            None => {}
        }
        self.expected_seq = Some(self.expected_seq.unwrap_or(0).max(seq.saturating_add(1)));
    }
}
