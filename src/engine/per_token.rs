//! `message-per-token`: what a response sends next whose tokens are messages of their own.
//!
//! start → tokens, not waiting for each other → when it has ended and everything is answered, the full text if anything went
//! wrong → stop. Every message says which tokens it holds, so readers put them in order and drop what comes twice; a hole
//! stays until the full text replaces all. So a piece that was refused, or is in doubt, is not sent again as it was: the full
//! text (in numbered parts where it is too long for one message) is naturally repeatable, and sent until it is taken. Like the
//! stop, it keeps its id for as long as the server would recognise it, so that a try that was taken without an answer is not
//! published twice.

mod answers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::event::Offset;
use super::next::{IDEMPOTENCY_WINDOW, Next};
use super::op::{
    Batch, ConnectionId, OpId, OpKind, Operation, Pattern, Piece, Publish, PublishName, Sender, Status, Sum,
};
use super::reconcile::Due;
use super::record::Cause;
use super::response::{InFlight, Pending, Response};
use super::segment::{LIMIT_MIN, cut};
use super::settings::ReconcileSettings;
use super::time::Time;

/// Messages of one publish. Ably does not say how many it takes.
const ARRAY_MAX: usize = 50;

/// What a further message of a publish takes besides its text and the names of its response, at most.
const PIECE_OVERHEAD: usize = 256;

/// So many tokens in a row may fail before the next ones wait.
const FAILURES_MAX: u32 = 2;

/// What a response has whose tokens are messages.
#[derive(Debug, Clone)]
pub(super) struct PerToken {
    batch: Batch,
    /// The number of this owner of the partition.
    epoch: u64,
    /// Tokens whose text is not sent: the record of each, and its bytes.
    waiting: VecDeque<(Offset, usize)>,
    started: bool,
    /// Tokens may be missing on the channel.
    doubtful: bool,
    /// A full text was published.
    repaired: bool,
    stopped: bool,
    /// The full text that is being published.
    round: Option<Round>,
    /// What is repeated until it is taken, as it was last sent.
    attempt: Option<Attempt>,
    /// Tokens that failed since the last one that did not.
    failures: u32,
    not_before: Time,
    /// Bytes that one publish takes.
    room: usize,
    /// The server takes less than it says.
    room_max: usize,
}

/// A full text on its way.
#[derive(Debug, Clone, Copy)]
struct Round {
    begun: Time,
    /// Bytes of one part, at most.
    limit: usize,
    /// The part that is next, and where in the text it begins.
    part: u32,
    from: usize,
    parts: u32,
}

/// A part of a full text, or a stop.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// The operation whose number is in its id, and when that was sent.
    number: u32,
    first_at: Time,
    /// The operation that carried it last.
    last: u32,
    /// What it covers.
    span: (Offset, Offset),
    tokens: u32,
}

/// What a publish is to carry.
#[derive(Debug, Clone, Copy)]
struct Plan {
    name: PublishName,
    /// Which bytes of the text.
    from: usize,
    to: usize,
    /// How many of the tokens that wait.
    tokens: usize,
}

/// What an operation in flight has published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) name: PublishName,
    /// With it, all of the text is published again.
    pub(super) completes: bool,
}

impl PerToken {
    pub(super) fn new(batch: Batch, epoch: u64) -> Self {
        Self {
            batch,
            epoch,
            waiting: VecDeque::new(),
            started: false,
            doubtful: false,
            repaired: false,
            stopped: false,
            round: None,
            attempt: None,
            failures: 0,
            not_before: Time::default(),
            room: 0,
            room_max: usize::MAX,
        }
    }

    /// A token came.
    pub(super) fn take(&mut self, offset: Offset, bytes: usize) {
        self.waiting.push_back((offset, bytes));
    }

    /// What waits is not sent as tokens.
    pub(super) fn skip(&mut self) {
        self.waiting.clear();
    }

    /// Tokens may be missing on the channel: the full text is wanted.
    pub(super) fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// It goes on, though it was about to stop or had stopped. Whether tokens may be missing for that: what a stop or a full
    /// text has carried is not repeated, though it may not have been taken.
    pub(super) fn go_on(&mut self) -> bool {
        self.doubtful |= self.attempt.is_some_and(|attempt| attempt.tokens > 0);
        (self.stopped, self.round, self.attempt) = (false, None, None);
        self.doubtful
    }

    /// Whether readers wait for its stop.
    pub(super) const fn awaits_stop(&self) -> bool {
        self.started && !self.stopped
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Response {
    /// How it is put on its channel.
    pub(super) fn pattern(&self) -> Pattern {
        if self.per_token.is_some() { Pattern::MessagePerToken } else { Pattern::MessagePerResponse }
    }

    /// What it wants now.
    pub(super) fn next_publish(&self, now: Time, tokens: &PerToken, policy: &ReconcileSettings) -> Next {
        let quiet = self.in_flight.is_empty();
        let Some(name) = self.due_name(tokens) else {
            return if quiet && self.end.is_some() { Next::Settle } else { Next::Nothing };
        };
        let wait = match name {
            PublishName::Start | PublishName::Token if now < tokens.not_before => Some(tokens.not_before),
            PublishName::Start | PublishName::Token => None,
            PublishName::ResponseComplete | PublishName::Stop if !quiet => return Next::Nothing,
            PublishName::ResponseComplete => match self.repair.due(now, policy.when, true, true) {
                Due::Now => None,
                Due::At(time) => Some(time),
                Due::Later => return Next::Nothing,
                Due::Never => return Next::Settle,
            },
            PublishName::Stop => Some(self.repair.not_before()).filter(|at| now < *at && self.repair.failures() > 0),
        };
        let lacks = match name {
            PublishName::Start => false,
            PublishName::Token => self.text.dropped() > self.sent,
            PublishName::ResponseComplete => self.lacks_text(),
            // Its length and hash are those of the whole.
            PublishName::Stop => self.text.is_unknown() && self.cut_off.is_none(),
        };
        match wait {
            Some(time) => Next::At(time),
            None if lacks => self.next_reload(),
            None => Next::Send(OpKind::Publish),
        }
    }

    /// What is due next, if anything, whenever that may be sent.
    fn due_name(&self, tokens: &PerToken) -> Option<PublishName> {
        let ended = self.end.is_some();
        if !tokens.started {
            return Some(PublishName::Start);
        }
        if self.sent < self.text.len() && !tokens.waiting.is_empty() {
            return Some(PublishName::Token);
        }
        // Of what was cut off nobody knows the text.
        if ended && tokens.doubtful && self.cut_off.is_none() {
            return Some(PublishName::ResponseComplete);
        }
        (ended && !tokens.stopped).then_some(PublishName::Stop)
    }

    /// How many bytes one publish takes. Tokens that are longer are left to the full text. Whether what is due is as before.
    pub(super) fn fix_room(&mut self, now: Time, bytes: usize) -> bool {
        let Some(tokens) = &mut self.per_token else { return true };
        tokens.room = bytes.min(tokens.room_max).max(LIMIT_MIN);
        if tokens.round.is_some_and(|round| round.limit > tokens.room) {
            (tokens.round, tokens.attempt) = (None, None);
        }
        let mut is_as_before = true;
        while let Some((_, bytes)) = tokens.waiting.pop_front_if(|(_, bytes)| *bytes > tokens.room) {
            self.sent += bytes;
            self.pending.tokens -= 1;
            tokens.doubtful = true;
            self.repair.taint(now, Duration::ZERO);
            is_as_before = false;
        }
        is_as_before
    }

    /// Bytes of text that the next publish carries.
    pub(super) fn publish_bytes(&self) -> usize {
        self.per_token.as_ref().and_then(|tokens| self.plan(tokens)).map_or(0, |plan| plan.to - plan.from)
    }

    fn plan(&self, tokens: &PerToken) -> Option<Plan> {
        let name = self.due_name(tokens)?;
        let nothing = Plan { name, from: self.sent, to: self.sent, tokens: 0 };
        Some(match name {
            PublishName::Start | PublishName::Stop => nothing,
            PublishName::Token => self.plan_tokens(tokens),
            PublishName::ResponseComplete => {
                let (from, limit) = tokens.round.map_or((0, tokens.room), |round| (round.from, round.limit));
                let to = cut(&self.text, from, limit).unwrap_or(self.text.len());
                Plan { from, to, ..nothing }
            }
        })
    }

    /// What each further token of a publish takes besides its text.
    fn further(&self, tokens: &PerToken) -> usize {
        match tokens.batch {
            Batch::Array => PIECE_OVERHEAD + self.head.response_id.len() + self.head.create_id.len(),
            Batch::Joined => 0,
        }
    }

    /// As many of the tokens that wait as one publish takes.
    fn plan_tokens(&self, tokens: &PerToken) -> Plan {
        let further = self.further(tokens);
        let count_max = if tokens.batch == Batch::Array { ARRAY_MAX } else { usize::MAX };
        let (mut bytes, mut size, mut count) = (0, 0, 0);
        for (_, token) in tokens.waiting.iter().take(count_max) {
            size += token + if count > 0 { further } else { 0 };
            if size > tokens.room && count > 0 {
                break;
            }
            (bytes, count) = (bytes + token, count + 1);
        }
        Plan { name: PublishName::Token, from: self.sent, to: self.sent + bytes, tokens: count }
    }

    /// Makes the next publish and notes it as in flight.
    pub(super) fn publish(
        &mut self,
        now: Time,
        id: OpId,
        connection: ConnectionId,
        sender: Arc<Sender>,
    ) -> Option<Operation> {
        let plan = self.plan(self.per_token.as_ref()?)?;
        let mut tokens = self.per_token.take()?;
        let (publish, carried) = match plan.name {
            PublishName::Start | PublishName::Token => self.make_tokens(now, &mut tokens, plan, id.seq),
            PublishName::ResponseComplete => self.make_complete(now, &mut tokens, plan, id.seq),
            PublishName::Stop => self.make_stop(now, &mut tokens, id.seq),
        };
        let status = match plan.name {
            PublishName::Start | PublishName::Token => Status::Streaming,
            PublishName::ResponseComplete | PublishName::Stop => self.end.unwrap_or(Status::Streaming),
        };
        self.terminal_sent |= plan.name == PublishName::Stop;
        self.counts.operations += 1;
        self.in_flight.push_back(InFlight {
            seq: id.seq,
            kind: OpKind::Publish,
            published: Some(Published { name: plan.name, completes: carried.completes }),
            cause: carried.cause,
            repeats: false,
            span: carried.span,
            tokens: carried.tokens,
            bytes: plan.to - plan.from,
            attempt: carried.attempt,
            sent_at: now,
            queued: now.since(carried.since),
        });
        self.per_token = Some(tokens);
        let (head, data) = (Arc::clone(&self.head), self.text_between(plan.from, plan.to).into());
        let publish = Some(Box::new(publish));
        let (kind, serial, keeps_text, segments) = (OpKind::Publish, None, false, None);
        Some(Operation { id, connection, kind, sender, head, serial, data, keeps_text, status, segments, publish })
    }

    fn text_between(&self, from: usize, to: usize) -> &str {
        if from == to { "" } else { self.text.slice(from, to) }
    }

    fn make_tokens(&mut self, now: Time, tokens: &mut PerToken, plan: Plan, number: u32) -> (Publish, Carried) {
        let seq = self.counts.tokens - u64::from(self.pending.tokens);
        let mut pieces: Vec<Piece> = Vec::with_capacity(plan.tokens.max(1));
        let mut last = None;
        for (offset, bytes) in tokens.waiting.drain(..plan.tokens) {
            last = Some(offset);
            match pieces.last_mut() {
                Some(piece) if tokens.batch == Batch::Joined || bytes == 0 || piece.bytes == 0 => {
                    (piece.bytes, piece.tokens) = (piece.bytes + bytes, piece.tokens + 1);
                }
                _ => pieces.push(Piece { bytes, tokens: 1 }),
            }
        }
        if pieces.is_empty() {
            pieces.push(Piece::default());
        }
        tokens.started = true;
        self.sent = plan.to;
        let next = tokens.waiting.front().map(|(offset, _)| *offset);
        let count = u32::try_from(plan.tokens).unwrap_or(u32::MAX);
        let carried = self.carry_some(next, last, count);
        let id = self.publish_id(tokens.epoch, now, number);
        let (epoch, name) = (tokens.epoch, plan.name);
        (Publish { name, id, epoch, seq, pieces, round: None, segment: None, sum: None }, carried)
    }

    /// Of what waits, `count` tokens up to the record `last` are on their way; the next one is of the record `next`.
    fn carry_some(&mut self, next: Option<Offset>, last: Option<Offset>, count: u32) -> Carried {
        let cause = if self.end.is_some() { Cause::Final } else { Cause::Stream };
        let Pending { span, tokens, since } = self.pending;
        let (first, end) = span.unwrap_or((self.span.1 + 1, self.span.1));
        let since = if span.is_some() && count > 0 { since } else { Time(u64::MAX) };
        let covered = match next {
            None => {
                self.pending = Pending::default();
                (first, end)
            }
            Some(next) => {
                self.pending = Pending { span: Some((next, end)), tokens: tokens - count, since: self.pending.since };
                // A record of which tokens are left is not covered yet.
                (first, last.unwrap_or(first - 1).min(next - 1))
            }
        };
        if next.is_some() && last.is_none() {
            self.pending.span = span;
        }
        Carried { cause, span: covered, tokens: count, since, attempt: 1, completes: false }
    }

    fn make_complete(&mut self, now: Time, tokens: &mut PerToken, plan: Plan, number: u32) -> (Publish, Carried) {
        let round = *tokens.round.get_or_insert_with(|| {
            let (limit, mut parts, mut from) = (tokens.room, 1, 0);
            while let Some(at) = cut(&self.text, from, limit) {
                (from, parts) = (at, parts + 1);
            }
            Round { begun: now, limit, part: 0, from: 0, parts }
        });
        let completes = plan.to == self.text.len();
        let all = u32::try_from(self.counts.tokens).unwrap_or(u32::MAX);
        let (span, count) = match completes {
            true => (self.span, all),
            false => ((self.span.1 + 1, self.span.1), 0),
        };
        // What waits has no text.
        tokens.skip();
        self.pending = Pending::default();
        self.counts.repairs += u32::from(completes);
        let cause = if self.takeover.is_some() { Cause::Takeover } else { Cause::Repair };
        let attempt = tokens.try_again(now, number, span, count);
        let publish = Publish {
            name: plan.name,
            id: self.publish_id(tokens.epoch, attempt.first_at, attempt.number),
            epoch: tokens.epoch,
            seq: 0,
            pieces: vec![Piece { bytes: plan.to - plan.from, tokens: self.counts.tokens }],
            round: Some(round.begun.0),
            segment: Some((round.part, round.parts)),
            sum: None,
        };
        let attempt = self.repair.failures() + 1;
        (publish, Carried { cause, span, tokens: count, since: now, attempt, completes })
    }

    fn make_stop(&mut self, now: Time, tokens: &mut PerToken, number: u32) -> (Publish, Carried) {
        let is_first = tokens.attempt.is_none();
        tokens.skip();
        let mut carried = self.carry_some(None, None, self.pending.tokens);
        let attempt = tokens.try_again(now, number, carried.span, carried.tokens);
        if !is_first {
            (carried.cause, carried.span, carried.tokens) = (Cause::Repair, attempt.span, attempt.tokens);
        }
        carried.attempt = self.repair.failures() + 1;
        let sum = Sum {
            tokens: self.counts.tokens,
            length: if self.text.is_unknown() { 0 } else { self.text.len() },
            sha256: self.text.sha256().into(),
            repair: tokens.repaired,
        };
        let publish = Publish {
            name: PublishName::Stop,
            id: self.publish_id(tokens.epoch, attempt.first_at, attempt.number),
            epoch: tokens.epoch,
            // Tokens without text need no message before.
            seq: self.counts.tokens - u64::from(attempt.tokens),
            pieces: vec![Piece { bytes: 0, tokens: u64::from(attempt.tokens) }],
            round: Some(attempt.first_at.0),
            segment: None,
            sum: Some(sum),
        };
        (publish, carried)
    }

    /// The stop of what is given up on: it carries nothing.
    pub(super) fn last_stop(&mut self, now: Time, number: u32) -> Option<Publish> {
        let mut tokens = self.per_token.take()?;
        tokens.attempt = None;
        self.pending = Pending::default();
        let (publish, _) = self.make_stop(now, &mut tokens, number);
        self.per_token = Some(tokens);
        Some(publish)
    }

    /// Numbers of operations come again after a takeover, and those of owners when somebody has set offsets back; the time of
    /// the first try does not.
    fn publish_id(&self, epoch: u64, first_at: Time, number: u32) -> Box<str> {
        format!("{}.{epoch}.{}.{number}", self.head.create_id, first_at.0).into()
    }
}

impl PerToken {
    /// The attempt that the operation `number` makes: of the same id for as long as that is recognised.
    fn try_again(&mut self, now: Time, number: u32, span: (Offset, Offset), tokens: u32) -> Attempt {
        let anew = Attempt { number, first_at: now, last: number, span, tokens };
        let attempt = match self.attempt {
            None => anew,
            Some(before) if now.since(before.first_at) < IDEMPOTENCY_WINDOW => Attempt { last: number, ..before },
            Some(before) => Attempt { span: before.span, tokens: before.tokens, ..anew },
        };
        self.attempt = Some(attempt);
        attempt
    }
}

/// What a publish carries of the response.
struct Carried {
    cause: Cause,
    span: (Offset, Offset),
    tokens: u32,
    since: Time,
    attempt: u32,
    completes: bool,
}
