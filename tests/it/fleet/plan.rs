//! What a run plays, drawn from its seed. All of it is here, so that a failing run can be made smaller.

use std::sync::Arc;
use std::time::Duration;

use super::world::Fleet;
use crate::ably::wire::Encoding;
use crate::engine::{Batch, Limits, Pattern, Pipelining, ReconcileSettings, ReconcileWhen, Settings, Verify};
use crate::sim::fault::{Fault, Odds};
use crate::sim::link::Terms;
use crate::sim::plan::{VERIFY_TIMEOUT, channel_rules, overhead};
use crate::sim::run::Plans;
use crate::sim::scene::{MS, SECOND, Trace};
use crate::sim::server::{LANDED, LATE};
use crate::sim::whole::NoRule;

/// More refusals than there are where everything passes.
const PATIENT: u32 = 8;

/// What somebody or something does to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A process is killed, after so many more effects.
    Kill(u32),
    /// A process stands still for a time, and does not know it.
    Freeze(u64),
    /// A process does not hear from Kafka for a time.
    Isolate(u64),
    /// A process ends in order.
    Stop,
    /// Another process joins.
    Join,
    /// No broker answers for a time.
    Away(u64),
    /// All processes are gone for a moment, and meanwhile somebody or something changes what Kafka holds.
    Meddle(Meddling),
}

/// What becomes of what Kafka holds of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meddling {
    /// The committed offset is set to an older one, without a word.
    Older,
    /// The committed offset loses its word.
    Wordless,
    /// The oldest results are gone.
    Retained,
    /// The newest results are gone, and the committed offset is as it was then, or before.
    Rewound,
}

/// An act: when, to which of the processes, what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Act {
    pub(super) at: u64,
    pub(super) whom: usize,
    pub(super) what: What,
}

/// What a run plays.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Another course of chance for the same plan.
    pub(super) salt: u64,
    pub(super) odds: Odds,
    pub(super) encoding: Encoding,
    /// Which responses there are, by bit.
    pub(super) kept: u64,
    /// Token events of a response, at the most.
    pub(super) tokens_max: usize,
    pub(super) partitions: usize,
    /// Processes at the start.
    pub(super) processes: usize,
    pub(super) acts: Vec<Act>,
    pub(super) debounce_ms: u64,
    /// Refusals after which a response is given up on. So few that there are any only where operations are refused for good.
    pub(super) attempts: u32,
    pub(super) rollup_ms: u64,
    pub(super) idle_s: u64,
    pub(super) commit_ms: u64,
    pub(super) session: u64,
    pub(super) transaction: u64,
    pub(super) verify: Verify,
    /// How long bytes of a process that is dead may be under way, and are waited for.
    pub(super) late_check_s: u64,
    /// How long a process is away before it starts again.
    pub(super) restart: u64,
    /// It has the same name then.
    pub(super) is_static: bool,
    pub(super) remember: usize,
    /// Records that cannot be decoded, in percent.
    pub(super) hostile: u8,
    /// Bytes of text that a message may have.
    pub(super) text_max: usize,
    /// The same from the first death of a process on.
    pub(super) text_max_then: usize,
    /// Off: operations are requests of their own.
    pub(super) pipelining: Pipelining,
    pub(super) pattern: Pattern,
    pub(super) batch: Batch,
    /// Every second process joins tokens in the other way.
    pub(super) regroups: bool,
    /// Responses are published whole where the rule for changes is off, and it is at times.
    pub(super) whole: Option<NoRule>,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn draw(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0066_6c65_6574);
        let rng = &mut rng;
        let responses = [1, 1, 1, 2, 2, 3, 5][rng.usize(..7)];
        let span = [200 * MS, SECOND, 5 * SECOND, 40 * SECOND][rng.usize(..4)];
        let acts = [0, 1, 1, 1, 2, 2, 3, 5][rng.usize(..8)];
        let plan = Self {
            seed,
            salt: 0,
            odds: odds(rng),
            encoding: if rng.bool() { Encoding::Json } else { Encoding::Msgpack },
            kept: (1 << responses) - 1,
            tokens_max: [1, 2, 3, 5, 8][rng.usize(..5)],
            partitions: [1, 1, 2, 3][rng.usize(..4)],
            processes: [1, 1, 2, 3][rng.usize(..4)],
            acts: (0..acts).map(|_| Act::draw(rng, span)).collect(),
            debounce_ms: [0, 50, 250, 1_000][rng.usize(..4)],
            attempts: PATIENT,
            rollup_ms: [0, 40, 40, 500][rng.usize(..4)],
            idle_s: [20, 600][rng.usize(..2)],
            commit_ms: [5, 50, 1_000][rng.usize(..3)],
            session: [6 * SECOND, 45 * SECOND][rng.usize(..2)],
            transaction: [10 * SECOND, 60 * SECOND][rng.usize(..2)],
            verify: [Verify::Never, Verify::AfterUnknown, Verify::AfterUnknown, Verify::Always][rng.usize(..4)],
            late_check_s: [5, 10, 30][rng.usize(..3)],
            restart: [10 * MS, SECOND, 20 * SECOND, 130 * SECOND][rng.usize(..4)],
            is_static: rng.bool(),
            remember: 100,
            hostile: [0, 0, 10][rng.usize(..3)],
            text_max: [4_096, 4_096, 4_096, 30, 12][rng.usize(..5)],
            pipelining: if rng.u8(..5) == 0 { Pipelining::Off } else { Pipelining::On },
            pattern: if seed % 5 == 3 { Pattern::MessagePerToken } else { Pattern::MessagePerResponse },
            batch: if rng.bool() { Batch::Array } else { Batch::Joined },
            text_max_then: 0,
            regroups: seed.is_multiple_of(2),
            whole: None,
        };
        Self { text_max_then: plan.text_max, ..plan }.or_gives_up()
    }

    /// Of some seeds operations are refused for good now and then, and few refusals are enough. Drawn by itself, so that all
    /// others stay as they are.
    fn or_gives_up(self) -> Self {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6769_7665_7375_7021);
        if rng.u8(..6) > 0 {
            return self;
        }
        let odds = self.odds.with(Fault::Permanent, [5, 20, 60][rng.usize(..3)]);
        Self { attempts: [1, 2, 3][rng.usize(..3)], odds, ..self }
    }

    /// The odds of its faults. Who never reads cannot know what is there twice.
    pub(super) fn odds(&self) -> Odds {
        if self.verify == Verify::Never { self.odds.with(Fault::Twice, 0) } else { self.odds }
    }

    /// A plan in which nothing goes wrong, for scripts to start from.
    pub(super) fn quiet(seed: u64) -> Self {
        Self {
            odds: Odds::NONE,
            kept: 0b11,
            tokens_max: 8,
            processes: 1,
            acts: Vec::new(),
            attempts: PATIENT,
            pipelining: Pipelining::On,
            pattern: Pattern::MessagePerResponse,
            ..Self::draw(seed)
        }
    }

    /// With one kind of fault at these odds.
    pub(super) fn with(self, fault: Fault, percent: u8) -> Self {
        Self { odds: self.odds.with(fault, percent), ..self }
    }

    /// What the engines of a process are told, the `number`th that there is.
    pub(super) fn settings(&self, name: usize, number: usize) -> Settings {
        let batch = match self.batch {
            Batch::Array if self.regroups && number % 2 == 1 => Batch::Joined,
            Batch::Joined if self.regroups && number % 2 == 1 => Batch::Array,
            batch => batch,
        };
        Settings {
            topic: "tokens".into(),
            id_namespace: "fleet".into(),
            instance: format!("p{name}").into(),
            relay_version: "0",
            channels: channel_rules(),
            idle: Duration::from_secs(self.idle_s),
            remember: self.remember,
            reconcile: ReconcileSettings {
                when: ReconcileWhen::Eager,
                debounce: Duration::from_millis(self.debounce_ms),
                attempts: self.attempts,
                verify: self.verify,
                late_check: Duration::from_secs(self.late_check_s),
                verify_timeout: VERIFY_TIMEOUT,
            },
            refused_hold: Duration::from_secs(600),
            whole: self.whole.is_some(),
            append_rollup: Duration::from_millis(self.rollup_ms),
            pattern: self.pattern,
            batch,
        }
    }

    /// Whether results are lost.
    pub(super) fn forgets(&self) -> bool {
        let forgets = |act: &Act| matches!(act.what, What::Meddle(Meddling::Retained | Meddling::Rewound));
        self.acts.iter().any(forgets)
    }

    /// What is decided for the net.
    pub(super) const fn terms(&self) -> Terms {
        Terms {
            encoding: self.encoding,
            pipelining: self.pipelining,
            seed: self.seed,
            size: overhead() + self.text_max,
            outage: SECOND,
            late: self.late(),
        }
    }

    /// How long bytes of a connection that is gone live, rollup not counted: for no longer than somebody looks.
    pub(super) const fn late(&self) -> u64 {
        match self.verify {
            Verify::Never => LATE,
            Verify::AfterUnknown | Verify::Always => self.late_check_s * SECOND - self.rollup_ms * MS - LANDED,
        }
    }

    /// Generous limits: the first storey plays the tight ones.
    pub(super) const fn limits(&self) -> Limits {
        Limits {
            open_max: 1_000,
            stub_max: 1_000,
            text_bytes_max: 1 << 20,
            connections_max: 2,
            openings: 0,
            connection_idle: Duration::from_secs(60),
            connection_rate: 1_000_000,
            frame_rate: 0,
            channel_rate: 1_000_000,
            channel_bandwidth: 0,
            account_rate: 0,
            request_rate: 0,
            account_bandwidth: 0,
            refused_rate_hold: Duration::from_secs(600),
            read_back_rate: 0,
            in_flight_operations: 200,
            in_flight_bytes: 1 << 22,
            message_bytes_max: overhead()
                + if self.text_max > self.text_max_then { self.text_max } else { self.text_max_then },
        }
    }
}

impl Act {
    fn draw(rng: &mut fastrand::Rng, span: u64) -> Self {
        let time = [3 * SECOND, 20 * SECOND, 60 * SECOND][rng.usize(..3)];
        let what = match rng.u8(..10) {
            0..4 => What::Kill(rng.u32(..12)),
            4 => What::Freeze(rng.u64(..time)),
            5 => What::Isolate(rng.u64(..time)),
            6 | 7 => What::Stop,
            8 => What::Join,
            _ if rng.bool() => What::Meddle(match rng.u8(..4) {
                0 => Meddling::Older,
                1 => Meddling::Wordless,
                2 => Meddling::Retained,
                _ => Meddling::Rewound,
            }),
            _ => What::Away(rng.u64(..time)),
        };
        Self { at: rng.u64(..span), whom: rng.usize(..8), what }
    }
}

/// Faults of Ably that pass: nothing may fail for them but what somebody else has changed.
fn odds(rng: &mut fastrand::Rng) -> Odds {
    const PASSING: [Fault; 15] = [
        Fault::Rate,
        Fault::Transient,
        Fault::FoldNext,
        Fault::FoldLater,
        Fault::Drop,
        Fault::LoseAck,
        Fault::RefuseResume,
        Fault::ResentNotApplied,
        Fault::ResentTwice,
        Fault::Lag,
        Fault::AckEarly,
        Fault::Late,
        Fault::CreateNull,
        Fault::Twice,
        Fault::SlowAnswers,
    ];
    let share = [0, 0, 1, 3][rng.usize(..4)];
    let mut odds = Odds::NONE;
    for fault in PASSING {
        if rng.u8(..10) < share {
            odds = odds.with(fault, [5, 20, 60][rng.usize(..3)]);
        }
    }
    odds = match rng.u8(..16) {
        0 => odds.with(Fault::Edited, 20),
        1 => odds.with(Fault::Deleted, 20),
        _ => odds,
    };
    if rng.bool() { odds.with(Fault::SlowAnswers, 60).with(Fault::Late, 60) } else { odds }
}

impl Plans for Plan {
    type World = Fleet;

    fn seed(&self) -> u64 {
        self.seed
    }

    fn world(&self, trace: Option<Trace>) -> Fleet {
        Fleet::new(self, trace)
    }

    fn salted(&self, by: u64) -> Self {
        Self { salt: self.salt.wrapping_add(by), ..self.clone() }
    }

    fn smaller(&self) -> Vec<Self> {
        let mut plans = Vec::new();
        for bit in (0..64).filter(|bit| self.kept >> bit & 1 == 1) {
            plans.push(Self { kept: self.kept & !(1 << bit), ..self.clone() });
        }
        for n in 0..self.acts.len() {
            let mut acts = self.acts.clone();
            acts.remove(n);
            plans.push(Self { acts, ..self.clone() });
        }
        for fault in Fault::ALL.into_iter().filter(|fault| self.odds.of(*fault) > 0) {
            plans.push(Self { odds: self.odds.with(fault, 0), ..self.clone() });
        }
        for tokens_max in [self.tokens_max / 2, self.tokens_max.saturating_sub(1)] {
            plans.push(Self { tokens_max, ..self.clone() });
        }
        plans.push(Self { partitions: 1, ..self.clone() });
        plans.push(Self { processes: 1, ..self.clone() });
        plans.push(Self { hostile: 0, ..self.clone() });
        plans.push(Self { text_max: 4_096, text_max_then: 4_096, ..self.clone() });
        plans.push(Self { text_max_then: self.text_max, regroups: false, ..self.clone() });
        plans.push(self.clone());
        plans
    }
}

/// Shared by the processes of one name.
pub(super) fn settings_of(plan: &Plan, name: usize, number: usize) -> Arc<Settings> {
    Arc::new(plan.settings(name, number))
}
