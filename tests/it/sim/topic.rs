//! The tokens topic: what producers of many tempers wrote into it, made in advance.

use std::borrow::Cow;
use std::sync::OnceLock;

use super::fault::Fault;
use super::plan::Plan;
use super::scene::{MS, SECOND, START};
use crate::engine::{Event, EventKind, Offset, Time};

/// A record of a partition.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) offset: Offset,
    /// When it was written.
    pub(super) written: u64,
    /// The timestamp that the topic has for it.
    pub(super) stamped: Time,
    pub(super) key: &'static str,
    pub(super) decodable: bool,
    pub(super) events: Vec<Event<'static>>,
}

/// The records of a partition, in order.
pub(super) type Log = Vec<Logged>;

struct Draft {
    partition: usize,
    record: Logged,
}

/// Writes what the producers of a plan write.
pub(super) fn write(plan: &Plan) -> Vec<Log> {
    let mut drafts = Vec::new();
    for index in 0..64 {
        if plan.kept >> index & 1 == 1 {
            Producer::new(plan, index).write(&mut drafts);
        }
    }
    drafts.sort_by_key(|draft| draft.record.written);
    let mut logs: Vec<Log> = (0..plan.partitions).map(|_| Vec::new()).collect();
    let mut rng = fastrand::Rng::with_seed(plan.seed ^ 0x6c6f_6773);
    let first: Vec<Offset> = logs.iter().map(|_| rng.i64(0..3)).collect();
    for Draft { partition, mut record } in drafts {
        let log = &mut logs[partition];
        // Transactions and compaction leave holes.
        let hole = if rng.u8(..8) == 0 { rng.i64(1..4) } else { 0 };
        record.offset = log.last().map_or(first[partition], |last| last.offset + 1) + hole;
        log.push(record);
    }
    logs
}

/// One producer: it writes one response, and perhaps something after it.
struct Producer<'a> {
    plan: &'a Plan,
    rng: fastrand::Rng,
    index: usize,
    partition: usize,
    id: &'static str,
    channel: Option<Cow<'static, str>>,
    now: u64,
    words: usize,
    gap: std::ops::Range<u64>,
    counts: bool,
}

impl<'a> Producer<'a> {
    fn new(plan: &'a Plan, index: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let gap = match (plan.gap_ms, rng.u8(..8)) {
            (Some((least, most)), _) => least * MS..most * MS,
            (None, 0) => 0..1,
            (None, 1) => 0..5 * MS,
            (None, 2) => 500 * MS..3 * SECOND,
            (None, _) => 5 * MS..60 * MS,
        };
        let hostile = rng.u8(..100) < plan.odds.of(Fault::Hostile) / 4;
        let channel = match rng.usize(..3) {
            _ if hostile => Some(["secret:x", "", ":ai", "ai:\n"][rng.usize(..4)]),
            0 => None,
            _ => Some(CHANNELS[rng.usize(..plan.channels.min(CHANNELS.len()))]),
        };
        let later = [1, 200 * MS, 3 * SECOND][rng.usize(..3)];
        Self {
            now: START + rng.u64(..later),
            partition: rng.usize(..plan.partitions),
            id: vocabulary().ids[index],
            channel: channel.map(Cow::Borrowed),
            words: index * 37,
            counts: rng.bool(),
            plan,
            rng,
            index,
            gap,
        }
    }

    fn write(mut self, drafts: &mut Vec<Draft>) {
        self.response(drafts);
        match self.rng.u8(..10) {
            0 => {
                let late = if self.rng.bool() { self.token() } else { EventKind::Cancel };
                self.pass_time();
                self.record(drafts, &[(0, late, None)]);
            }
            1 => {
                self.now += self.rng.u64(..5 * SECOND);
                self.response(drafts);
            }
            _ => {}
        }
    }

    fn response(&mut self, drafts: &mut Vec<Draft>) {
        let parts = [1, 1, 1, 1, 2, 3][self.rng.usize(..6)];
        let begins = [None, Some(true), Some(self.rng.u8(..10) > 0)][self.rng.usize(..3)];
        let mut texts = vec![String::new(); parts as usize];
        let mut first = begins;
        if self.rng.u8(..3) == 0 {
            let events: Vec<_> = (0..parts).map(|part| (part, EventKind::Start, first.take())).collect();
            self.record(drafts, &events);
            self.pass_time();
        }
        let tokens = self.rng.usize(..=self.plan.tokens_max);
        let pause = (self.rng.u8(..100) < self.plan.silent).then(|| self.rng.usize(..=tokens));
        for n in 0..tokens {
            if pause == Some(n) {
                self.now += self.plan.idle() + self.rng.u64(..self.plan.idle() / 10);
            }
            let mut events = Vec::with_capacity(parts as usize);
            for part in 0..parts {
                if parts == 1 || self.rng.u8(..3) > 0 {
                    let token = self.token();
                    if let EventKind::Token(text) = &token {
                        texts[part as usize].push_str(text);
                    }
                    events.push((part, token, first.take()));
                }
            }
            self.record(drafts, &events);
            self.pass_time();
        }
        if pause == Some(tokens) {
            self.now += self.plan.idle() + self.rng.u64(..self.plan.idle() / 10);
        }
        self.end(drafts, texts);
    }

    /// Ends all parts at once or one after the other, or says no more.
    fn end(&mut self, drafts: &mut Vec<Draft>, texts: Vec<String>) {
        if self.rng.u8(..12) == 0 {
            return;
        }
        let mut ends = Vec::new();
        for (part, text) in (0..).zip(texts) {
            let is_other = self.plan.finals > 0 && self.rng.u8(..100) < self.plan.finals;
            let kind = match self.rng.u8(..10) {
                _ if is_other => EventKind::End { final_text: Some(self.other(text).into()) },
                0 => EventKind::Cancel,
                1 => EventKind::Error,
                2 => EventKind::End { final_text: Some(text.into()) },
                3 => EventKind::End {
                    final_text: Some(["", "another text", &text[..0]][self.rng.usize(..3)].to_owned().into()),
                },
                _ => EventKind::End { final_text: None },
            };
            ends.push((part, kind, None));
        }
        if self.rng.bool() {
            return self.record(drafts, &ends);
        }
        for end in ends {
            self.record(drafts, &[end]);
            self.pass_time();
        }
    }

    /// Another text: half as long, as long, or longer.
    fn other(&mut self, text: String) -> String {
        let chars = text.chars().count();
        match self.rng.u8(..3) {
            0 => text.chars().skip(chars / 2).collect(),
            1 => text.chars().rev().collect(),
            _ => text + LONG + LONG,
        }
    }

    fn token(&mut self) -> EventKind<'static> {
        self.words += 1;
        let text = match self.rng.u8(..30) {
            0 => "",
            1 => LONG,
            _ => {
                let words = &vocabulary().words;
                words[self.words % words.len()]
            }
        };
        EventKind::Token(text.into())
    }

    fn pass_time(&mut self) {
        self.now += self.rng.u64(self.gap.clone());
    }

    fn record(&mut self, drafts: &mut Vec<Draft>, events: &[(u32, EventKind<'static>, Option<bool>)]) {
        let hostile = self.rng.u8(..200) < self.plan.odds.of(Fault::Hostile);
        let stamped = match self.rng.u8(..12) {
            0 => self.now.saturating_sub(self.rng.u64(..SECOND)),
            1 => self.now + self.rng.u64(..2 * SECOND),
            _ => self.now,
        };
        let events = events.iter().map(|(part, kind, begins)| Event {
            response_id: Cow::Borrowed(self.id),
            part: *part,
            kind: kind.clone(),
            seq: self.counts.then_some(self.words as u64),
            begins: *begins,
            channel: self.channel.clone(),
            pattern: None,
        });
        let record = Logged {
            offset: 0,
            written: self.now,
            stamped: Time(stamped),
            key: self.id,
            decodable: true,
            events: events.collect(),
        };
        if hostile {
            let garbage = Logged { events: Vec::new(), decodable: self.index.is_multiple_of(2), ..record.clone() };
            drafts.push(Draft { partition: self.partition, record: garbage });
        }
        drafts.push(Draft { partition: self.partition, record });
    }
}

const CHANNELS: [&str; 4] = ["ai:one", "ai:two", "ai:three", "ai:four"];
const LONG: &str = "a long one, of which a few fill what small limits leave; \u{1f680}\u{e9}\n";

/// Ids and words, made once: a run has no time to make them.
pub(super) struct Vocabulary {
    pub(super) ids: Vec<&'static str>,
    pub(super) words: Vec<&'static str>,
}

pub(super) fn vocabulary() -> &'static Vocabulary {
    static VOCABULARY: OnceLock<Vocabulary> = OnceLock::new();
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    VOCABULARY.get_or_init(|| Vocabulary {
        ids: (0..64).map(|n| leak(format!("r{n}"))).collect(),
        words: (0..509).map(|n| leak(format!("{}{n} ", ["a", "\u{e9}", "\u{6f22}", "z"][n % 4]))).collect(),
    })
}
