//! The tokens topic, made in advance, and what is to become of it: the truth that everything is held against.

use std::borrow::Cow;

use super::plan::Plan;
use crate::engine::{Event, EventKind, Offset, Status, Time};
use crate::sim::scene::{MS, SECOND, START};
use crate::sim::topic::vocabulary;

/// A record of a partition.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) offset: Offset,
    pub(super) written: u64,
    pub(super) key: &'static str,
    /// It is no garbage.
    pub(super) decodable: bool,
    pub(super) events: Vec<Event<'static>>,
}

/// One part of a response, as it is to be.
#[derive(Debug, Clone)]
pub(super) struct Truth {
    pub(super) id: &'static str,
    pub(super) part: u32,
    pub(super) partition: usize,
    pub(super) first: Offset,
    pub(super) last: Offset,
    /// Where its records are, and of these those that bring text.
    pub(super) events: Vec<Offset>,
    pub(super) tokens: Vec<Offset>,
    pub(super) text: String,
    /// How it ends; abandoned if its producer does not say.
    pub(super) status: Status,
}

/// The topic and the truth.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) logs: Vec<Vec<Record>>,
    pub(super) truths: Vec<Truth>,
    /// Records that belong to the dead letters.
    pub(super) letters: Vec<(usize, Offset)>,
}

struct Draft {
    partition: usize,
    record: Record,
}

impl Tokens {
    /// What the producers of a plan write.
    pub(super) fn write(plan: &Plan) -> Self {
        let mut drafts = Vec::new();
        for index in (0..64).filter(|index| plan.kept >> index & 1 == 1) {
            produce(plan, index, &mut drafts);
        }
        drafts.sort_by_key(|draft| draft.record.written);
        let mut rng = fastrand::Rng::with_seed(plan.seed ^ 0x6c6f_6773);
        let mut tokens = Self { logs: vec![Vec::new(); plan.partitions], ..Self::default() };
        let first: Vec<Offset> = tokens.logs.iter().map(|_| rng.i64(0..3)).collect();
        for Draft { partition, mut record } in drafts {
            let hole = if rng.u8(..8) == 0 { rng.i64(1..4) } else { 0 };
            let log = &mut tokens.logs[partition];
            record.offset = log.last().map_or(first[partition], |last| last.offset + 1) + hole;
            log.push(record.clone());
            tokens.note(partition, &record);
        }
        tokens
    }

    fn note(&mut self, partition: usize, record: &Record) {
        let mut refused = !record.decodable;
        for event in &record.events {
            let known = |truth: &&mut Truth| truth.id == record.key && truth.part == event.part;
            if self.truths.iter_mut().find(known).is_none() {
                self.truths.push(Truth {
                    id: record.key,
                    part: event.part,
                    partition,
                    first: record.offset,
                    last: record.offset,
                    events: Vec::new(),
                    tokens: Vec::new(),
                    text: String::new(),
                    status: Status::Abandoned,
                });
            }
            let Some(truth) = self.truths.iter_mut().find(known) else { continue };
            if truth.status == Status::Abandoned {
                truth.take(record.offset, &event.kind);
            } else {
                refused = true;
            }
        }
        if refused {
            self.letters.push((partition, record.offset));
        }
    }

    /// Where a partition begins.
    pub(super) fn begins(&self, partition: usize) -> Offset {
        self.logs[partition].first().map_or(0, |record| record.offset)
    }

    /// Where a partition ends at a time.
    pub(super) fn end(&self, partition: usize, now: u64) -> Offset {
        let written = self.logs[partition].iter().take_while(|record| record.written <= now);
        written.last().map_or_else(|| self.begins(partition), |record| record.offset + 1)
    }

    /// When the last record is written.
    pub(super) fn written(&self) -> u64 {
        self.logs.iter().flatten().map(|record| record.written).max().unwrap_or(START)
    }
}

impl Truth {
    fn take(&mut self, offset: Offset, kind: &EventKind<'static>) {
        self.last = offset;
        self.events.push(offset);
        match kind {
            EventKind::Start => {}
            EventKind::Token(text) => {
                self.text.push_str(text);
                self.tokens.push(offset);
            }
            EventKind::End { final_text } => {
                self.status = Status::Complete;
                if let Some(text) = final_text {
                    self.text = text.to_string();
                }
            }
            EventKind::Cancel => self.status = Status::Cancelled,
            EventKind::Error => self.status = Status::Error,
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.id, self.part)
    }

    /// The id of one of its messages.
    pub(super) fn create_id(&self, segment: u32) -> String {
        format!("fleet.tokens.{}.{}.{}.{segment}", self.partition, self.first, self.part)
    }
}

/// One producer writes one response, and perhaps something after it.
fn produce(plan: &Plan, index: usize, drafts: &mut Vec<Draft>) {
    let mut rng = fastrand::Rng::with_seed(plan.seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let later = [1, 200 * MS, 3 * SECOND][rng.usize(..3)];
    let gap = [1, 5 * MS, 60 * MS, SECOND, 10 * SECOND][rng.usize(..5)];
    let (partition, id) = (rng.usize(..plan.partitions), vocabulary().ids[index]);
    let mut now = START + rng.u64(..later);
    let mut write = |now: u64, decodable: bool, events: Vec<(u32, EventKind<'static>)>| {
        let event = |(part, kind)| Event {
            response_id: Cow::Borrowed(id),
            part,
            kind,
            seq: None,
            begins: None,
            channel: None,
            pattern: None,
        };
        let events = events.into_iter().map(event).collect();
        drafts.push(Draft { partition, record: Record { offset: 0, written: now, key: id, decodable, events } });
    };
    let parts = [1, 1, 1, 2][rng.usize(..4)];
    if rng.u8(..4) == 0 {
        write(now, true, (0..parts).map(|part| (part, EventKind::Start)).collect());
        now += rng.u64(..gap);
    }
    let mut word = index * 37;
    let mut token = || {
        word += 1;
        EventKind::Token(vocabulary().words[word % vocabulary().words.len()].into())
    };
    for _ in 0..rng.usize(..=plan.tokens_max) {
        write(now, true, (0..parts).map(|part| (part, token())).collect());
        now += rng.u64(..gap);
        if rng.u8(..100) < plan.hostile {
            write(now, false, Vec::new());
        }
    }
    if rng.u8(..10) > 0 {
        let end = match rng.u8(..10) {
            0 => EventKind::Cancel,
            1 => EventKind::Error,
            2 => EventKind::End { final_text: Some("another text".into()) },
            _ => EventKind::End { final_text: None },
        };
        write(now, true, (0..parts).map(|part| (part, end.clone())).collect());
        // A late event is known for what it is only as long as the results tell.
        if rng.u8(..8) == 0 && !plan.forgets() {
            write(now + rng.u64(..gap), true, vec![(0, token())]);
        }
    }
}

/// A record as an engine is told of it.
pub(super) fn told(record: &Record) -> crate::engine::Record<'_> {
    crate::engine::Record {
        offset: record.offset,
        time: Time(record.written),
        key: record.key,
        traceparent: None,
        events: &record.events,
    }
}
