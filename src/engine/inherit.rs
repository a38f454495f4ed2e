//! Taking over from an owner before us: what it has settled is over, what it left open goes on.
//!
//! Records from the watermark on are read again. Those that are known to be taken only rebuild the text; those of responses
//! that are over are passed over. A response that was open begins with its full text (its connection has changed, whatever
//! else has), and nothing is sent for it before everything that the former owner may have read has been read again: the text
//! on the channel must not shrink.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Engine;
use super::effect::{Effects, Notice, Refusal};
use super::event::{Event, Offset, Record};
use super::flow::ChannelKey;
use super::history::{History, Past, PastCreate, PastMessage, Settled};
use super::op::{Head, Pattern, Sender, Status, remade};
use super::per_token::PerToken;
use super::reconcile::settling_time;
use super::remember::{self, Key, Memory};
use super::response::{Create, Response, Takeover};
use super::segment::{Made, Orphans, Place};
use super::settings::{ReconcileSettings, Settings};
use super::shared::{Shared, Weight};
use super::slots::{Order, SlotId};
use super::text::Text;
use super::time::Time;

/// Why a response fails that somebody has moved the offset past.
const SKIPPED: &str = "skipped";
/// Why a response fails of which records are gone.
pub(super) const INPUT_LOST: &str = "input-lost";

/// What an owner before us has left behind.
#[derive(Debug, Clone)]
pub struct Inheritance {
    /// Our own number, greater than that of any owner before.
    pub epoch: u64,
    /// A former owner may have begun to send what is below this offset, and nothing else.
    pub begun_below: Offset,
    /// It left in order: everything that it sent was answered, and the answers are in the results.
    pub clean: bool,
    /// Records at or above the watermark whose dead letters are written, as ranges with both ends included.
    pub letters: Vec<(Offset, Offset)>,
    /// Where the beginnings are of responses that do not begin here.
    pub beginnings: Beginnings,
    /// Until when in the partition's time they may be missing, if an owner before us knew it.
    pub missing_until: Option<Time>,
    /// What is too old to be begun.
    pub stale: Option<Stale>,
    /// What the results say.
    pub history: History,
}

/// Where the beginnings are of responses that do not begin in what is read. Until those that had begun must be over, whatever
/// does not show that it begins may lack its beginning, and is not called delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Beginnings {
    /// There are none: what is read begins here.
    #[default]
    Here,
    /// Records from the watermark on are gone.
    Lost,
    /// The partition was added: keys have come from others.
    Elsewhere,
}

/// What is old when reading begins anew: after a new group, a reset, or a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// What was produced later is never too old, however it is stamped.
    pub below: Offset,
    /// Responses whose first event is older are not sent any more.
    pub before: Time,
}

/// What is left of an inheritance while records are read again.
#[derive(Debug)]
pub(super) struct Legacy {
    begun_below: Offset,
    clean: bool,
    beginnings: Beginnings,
    /// Until when in the partition's time beginnings may be missing; set by the first record.
    missing_until: Option<Time>,
    stale: Option<Stale>,
    /// Somebody was told that there is something too old.
    stale_told: bool,
    /// What is known of responses that were open, until they are read again.
    open: HashMap<Key, Past, RandomState>,
    /// Responses that wait until all of it has been read again.
    waiting: bool,
}

impl Default for Legacy {
    fn default() -> Self {
        Self {
            begun_below: 0,
            clean: true,
            beginnings: Beginnings::Here,
            missing_until: None,
            stale: None,
            stale_told: false,
            open: HashMap::default(),
            waiting: false,
        }
    }
}

impl Legacy {
    /// Owners before us may have begun to send what is below this offset.
    pub(super) const fn begun_below(&self) -> Offset {
        self.begun_below
    }

    /// What owners before us have sent is answered and known.
    pub(super) const fn is_clean(&self) -> bool {
        self.clean
    }

    /// Whether a former owner may have begun to send this record, and nobody knows of it. One that has left in order has told
    /// of all that it sent.
    pub(super) fn may_have_begun(&self, offset: Offset) -> bool {
        !self.clean && offset < self.begun_below
    }

    /// A former owner may have begun this response, and nothing is known of it.
    pub(super) fn doubt(&self, now: Time, response: &mut Response, policy: &ReconcileSettings) {
        response.doubt_create();
        response.segments.doubt_twins(now, policy);
        response.take_over(now, self.begun_below, policy);
        response.waiting = self.waiting;
    }

    /// What is too old to be begun.
    pub(super) const fn stale(&self) -> Option<Stale> {
        self.stale
    }

    /// Whether a response that begins with this record is too old; whoever is to know it, once.
    pub(super) fn is_too_old(&mut self, record: &Record<'_>, partition: i32) -> Option<Option<Notice>> {
        let Stale { below, before } = self.stale?;
        let is_old = record.offset < below && record.time < before;
        let told = is_old.then(|| std::mem::replace(&mut self.stale_told, true))?;
        Some((!told).then_some(Notice::TooOld { partition, below, before }))
    }

    /// Where beginnings are that may be missing, and until when.
    pub(super) const fn missing(&self) -> (Beginnings, Option<Time>) {
        (self.beginnings, self.missing_until)
    }
}

impl Engine {
    /// An owner before us has left this. Comes before any record.
    pub(super) fn inherit(&mut self, now: Time, left: Inheritance, shared: &mut Shared, effects: &mut Effects) {
        let next = self.ledger.next();
        self.sender = Arc::new(Sender { instance: self.settings.instance.clone(), epoch: left.epoch });
        self.unannounced = true;
        self.ledger.inherit_letters(left.letters);
        let clean = left.clean && left.history.unreadable() == 0;
        let mut legacy = Legacy {
            begun_below: left.begun_below,
            clean,
            waiting: left.begun_below > next,
            beginnings: left.beginnings,
            missing_until: left.missing_until.map(|until| until.min(now + self.settings.idle)),
            stale: left.stale,
            stale_told: false,
            open: HashMap::default(),
        };
        let (mut passed, mut over) = (Vec::new(), Vec::new());
        for past in left.history.into_parts() {
            let key = remember::key(&past.response_id, past.part);
            match (past.settled, past.span) {
                (Some(settled), _) => over.push((settled.span.1, key, settled.abandoned.then_some(past))),
                (None, Some((first, _))) if first < next => passed.push(past),
                (None, _) => {
                    legacy.open.insert(key, past);
                }
            }
        }
        // The oldest are forgotten first.
        over.sort_unstable_by_key(|(through, key, _)| (*through, *key));
        for (through, key, abandoned) in over {
            let revival = abandoned.map(|past| Memory::Past(Box::new(past)));
            self.remembered.insert(key, through, revival, next);
        }
        self.legacy = legacy;
        let reason = if left.beginnings == Beginnings::Lost { INPUT_LOST } else { SKIPPED };
        for past in passed {
            self.cut_off(now, past, reason, shared, effects);
        }
    }

    /// Owners after us know of us: what we begin they mend.
    pub(super) fn announced(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        self.unannounced = false;
        let ids: Vec<SlotId> = self.responses.ids().collect();
        for id in ids {
            self.advance(now, id, shared, effects);
        }
    }

    /// Records are gone from the topic before they were read: of what is open nobody knows whether some were its own.
    pub(super) fn lose(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        (self.legacy.beginnings, self.legacy.missing_until) = (Beginnings::Lost, None);
        while let Some(id) = self.responses.first(Order::Activity) {
            self.responses.unlink(Order::Activity, id);
            if let Some(response) = self.responses.get_mut(id) {
                response.end = Some(Status::Failed);
                response.cut_off = Some(INPUT_LOST);
            }
            self.advance(now, id, shared, effects);
        }
    }

    /// Marks a new response that does not show that it begins, as long as beginnings may be missing: what had begun and goes
    /// on comes before it would have ended for its silence.
    pub(super) fn look_for_beginning(&mut self, begins: Option<bool>, response: &mut Response) {
        let Legacy { beginnings, missing_until, .. } = &mut self.legacy;
        if *beginnings == Beginnings::Here {
            return;
        }
        // Not later than our own clock, however records are stamped.
        let time = response.started_at;
        let until = *missing_until.get_or_insert(time + self.settings.idle);
        if begins != Some(true) && time <= until {
            response.headless = true;
            response.beginning_lost = *beginnings == Beginnings::Lost;
        }
    }

    /// What a former owner may have read has been read again, or there is no room to wait for the rest of it: its responses
    /// go on.
    pub(super) fn stop_waiting(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        if !std::mem::take(&mut self.legacy.waiting) {
            return;
        }
        let ids: Vec<SlotId> = self.responses.ids().collect();
        for id in ids {
            if self.responses.get_mut(id).is_some_and(|response| std::mem::take(&mut response.waiting)) {
                self.advance(now, id, shared, effects);
            }
        }
    }

    /// Looks whether what a former owner may have read has been read again.
    pub(super) fn look_whether_read(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        if self.ledger.next() >= self.legacy.begun_below {
            self.all_is_read(now, shared, effects);
        }
    }

    /// What a former owner may have read has been read again, as far as it is there: of what is left nothing is.
    pub(super) fn all_is_read(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        self.stop_waiting(now, shared, effects);
        for (_, past) in std::mem::take(&mut self.legacy.open) {
            self.cut_off(now, past, INPUT_LOST, shared, effects);
        }
    }

    /// Opens a response that a former owner may have begun; none if nothing is known of it.
    pub(super) fn open_inherited(
        &mut self,
        now: Time,
        record: &Record<'_>,
        event: &Event<'_>,
        shared: &mut Shared,
    ) -> Result<Option<SlotId>, Refusal> {
        if self.legacy.open.is_empty() {
            return Ok(None);
        }
        let Some(past) = self.legacy.open.remove(&remember::key(&event.response_id, event.part)) else {
            return Ok(None);
        };
        let (head, channel) = self.head_of(now, record.offset, &past, shared)?;
        let hold = self.ledger.hold(record.offset);
        let mut response = Response::new(now, record, event.begins, head, channel, hold);
        self.look_for_beginning(event.begins, &mut response);
        response.per_token = self.per_token(Some(past.pattern));
        let takeover = (!self.legacy.clean).then_some(Takeover { before: self.legacy.begun_below });
        response.inherit(now, past, takeover, &self.settings);
        response.waiting = self.legacy.waiting;
        shared.usage.add(Weight::of(&response));
        Ok(Some(self.insert(response)))
    }

    /// Opens a response again that a former owner had abandoned.
    pub(super) fn revive(
        &mut self,
        now: Time,
        record: &Record<'_>,
        event: &Event<'_>,
        past: Past,
        shared: &mut Shared,
    ) -> Result<SlotId, Refusal> {
        let Some(settled) = past.settled else { return Err(Refusal::AfterEnd) };
        let first = settled.span.0;
        let (head, channel) = self.head_of(now, first, &past, shared)?;
        let hold = self.ledger.hold(record.offset);
        let mut response = Response::new(now, record, event.begins, head, channel, hold);
        response.per_token = self.per_token(Some(past.pattern));
        response.remember(settled);
        let takeover =
            self.legacy.may_have_begun(record.offset).then_some(Takeover { before: self.legacy.begun_below });
        response.inherit(now, past, takeover, &self.settings);
        response.reopen(now, channel, hold, &self.settings);
        response.waiting = self.legacy.waiting;
        shared.usage.add(Weight::of(&response));
        Ok(self.insert(response))
    }

    /// Somebody has moved the offset past a response that was open: it ends so that readers see it. When its records are gone
    /// its text is, too, and only the results can say so.
    fn cut_off(&mut self, now: Time, past: Past, reason: &'static str, shared: &mut Shared, effects: &mut Effects) {
        let Some((first, last)) = past.span else { return };
        let Ok((head, channel)) = self.head_of(now, first, &past, shared) else { return };
        let next = self.ledger.next();
        let hold = self.ledger.hold(next);
        let record = Record { offset: first, time: now, key: "", traceparent: None, events: &[] };
        let mut response = Response::new(now, &record, None, head, channel, hold);
        response.per_token = self.per_token(Some(past.pattern));
        response.span = (first, last);
        response.dropped_through = last;
        response.text = Text::unknown(1);
        response.end = Some(Status::Failed);
        response.cut_off = Some(reason);
        if reason == INPUT_LOST {
            response.give_up(reason);
        }
        response.inherit(now, past, Some(Takeover { before: next }), &self.settings);
        shared.usage.add(Weight::of(&response));
        let id = self.insert(response);
        self.responses.unlink(Order::Activity, id);
        self.advance(now, id, shared, effects);
    }

    fn head_of(
        &self,
        now: Time,
        first: Offset,
        past: &Past,
        shared: &mut Shared,
    ) -> Result<(Head, ChannelKey), Refusal> {
        let channel: Arc<str> = self.settings.channels.resolve(Some(&past.channel), "")?;
        let key = shared.flow.open(now, &channel);
        let create_id = match &past.create {
            Some(create) => create.id.clone(),
            None => self.create_id(first, past.part, past.segment),
        };
        let (response_id, part, segment) = (past.response_id.clone(), past.part, past.segment);
        let prev = segment.checked_sub(1).and_then(|before| past.others.get(&before)?.serial.clone());
        let supersedes = past.create.as_ref().and_then(|create| create.replaces.clone());
        let head = Head { channel, response_id, part, segment, create_id, supersedes, prev };
        Ok((head, key))
    }

    /// What a response has whose tokens are messages of their own; its record says so, or else the settings.
    pub(super) fn per_token(&self, pattern: Option<Pattern>) -> Option<Box<PerToken>> {
        let is_per_token = pattern.unwrap_or(self.settings.pattern) == Pattern::MessagePerToken;
        is_per_token.then(|| Box::new(PerToken::new(self.settings.batch, self.sender.epoch)))
    }

    pub(super) fn create_id(&self, first: Offset, part: u32, segment: u32) -> Box<str> {
        let Settings { id_namespace, topic, .. } = &*self.settings;
        format!("{id_namespace}.{topic}.{}.{first}.{part}.{segment}", self.partition).into()
    }
}

impl Response {
    /// Takes in what is known of it from before.
    fn inherit(&mut self, now: Time, past: Past, takeover: Option<Takeover>, settings: &Settings) {
        self.counts.operations = past.operations;
        self.counts.rejected = past.rejected;
        self.counts.unknown = past.unknown;
        self.counts.repairs = past.repairs;
        self.first_ack_at = past.first_ack_at;
        self.through = past.through;
        if let Some(takeover) = takeover {
            self.take_over(now, takeover.before, &settings.reconcile);
        }
        if self.per_token.is_some() {
            return self.inherit_publishes(now, &past, settings);
        }
        if settings.whole && takeover.is_some() {
            // A message may have been made anew by an owner that told nobody.
            self.segments.doubt_twins(now, &settings.reconcile);
        }
        let missing = (0..past.segment).any(|n| past.others.get(&n).is_none_or(|other| !other.is_made()));
        if missing {
            // Their results are gone: they are looked for when they are needed.
            let (before, check) = (Offset::MAX, self.check.clone());
            self.segments.doubt(Orphans { before, check, reach: usize::MAX });
        }
        let doubtful = |create: &Option<PastCreate>| create.as_ref().is_none_or(|create| create.doubtful);
        if doubtful(&past.create) || past.others.values().any(|other| doubtful(&other.create)) {
            self.segments.doubt_twins(now, &settings.reconcile);
        }
        self.inherit_messages(past.segment, past.place, past.others);
        past.replaced.iter().for_each(|(segment, serial)| self.segments.replaced(*segment, Some(serial)));
        self.version = past.version;
        if let Some(create) = past.create {
            let remade = remade(&create.id);
            self.create = Create::first_sent(create.bytes, create.span, create.tokens, create.sent_at, remade);
            self.create.unnamed = create.unnamed && past.serial.is_none();
            if past.place.limit.is_some_and(|limit| create.bytes > limit) {
                // The server takes less than it said.
                self.create.resize();
            }
        }
        self.serial = past.serial;
        if !self.is_made() {
            self.doubt_create();
            self.segments.doubt_twins(now, &settings.reconcile);
            return;
        }
        // Where nothing can be changed it is read, or made anew.
        self.create.unread = !past.tainted;
        let wait = settling_time(settings.reconcile.debounce, settings.append_rollup);
        self.repair.moved(now, wait);
        if past.ever_tainted {
            self.repair.taint(now, wait);
            if !past.tainted {
                self.repair.cleaned(now);
                self.repair.moved(now, wait);
            }
        }
        if takeover.is_some() {
            self.repair.taint(now, wait);
        }
    }

    /// Nobody knows what a former owner did with what is below `before`; it has read nothing else.
    fn take_over(&mut self, now: Time, before: Offset, policy: &ReconcileSettings) {
        self.takeover = Some(Takeover { before });
        if let Some(tokens) = &mut self.per_token {
            tokens.doubt();
            return self.repair.taint(now, policy.debounce);
        }
        self.doubt(now, true, policy);
        self.look_first(now, policy);
        self.segments.doubt(Orphans { before, check: self.check.clone(), reach: 0 });
    }

    /// Takes in what is known of its messages besides the one that its last operation was about.
    fn inherit_messages(&mut self, present: u32, place: Place, others: BTreeMap<u32, PastMessage>) {
        let (mut former, mut beyond) = (Vec::new(), VecDeque::new());
        for (segment, other) in others {
            if !other.is_made() {
                continue;
            }
            let (serial, version) = (other.serial, other.version);
            let prev = former.last().and_then(|made: &Made| made.serial.clone());
            let mut head = self.head.of_segment(segment, prev);
            let (id, supersedes) =
                other.create.map_or_else(|| (head.create_id.clone(), None), |create| (create.id, create.replaces));
            (head.create_id, head.supersedes) = (id.clone(), supersedes);
            let (head, check) = (Arc::new(head), self.check.clone());
            let made = Made { head, is_there: true, serial, version, remade: remade(&id), check };
            if segment < present { former.push(made) } else { beyond.push_back(made) }
        }
        self.segments.inherit(place, former, beyond);
    }

    /// It had ended; its text is not in memory.
    fn remember(&mut self, settled: Settled) {
        self.span.0 = settled.span.0;
        self.dropped_through = settled.span.1;
        self.text = Text::unknown(settled.bytes);
        self.sent = settled.bytes;
        self.counts.tokens = settled.tokens;
        self.counts.reopened = settled.reopened;
        self.started_at = settled.started_at;
        self.headless = false;
        self.end = Some(Status::Abandoned);
        self.terminal_sent = true;
    }
}
