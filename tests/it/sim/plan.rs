//! What a run plays, drawn from its seed. All of it is here, so that a failing run can be made smaller.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::fault::{Fault, Odds};
use super::link::Terms;
use super::run::Plans;
use super::scene::{MS, SECOND, Trace};
use super::server::{LANDED, LATE};
use super::whole::NoRule;
use super::world::World;
use crate::ably::wire::Encoding;
use crate::engine::{
    Batch, ChannelRules, Limits, Pattern, Pipelining, ReconcileSettings, ReconcileWhen, Settings, Template, Verify,
};

/// Longer than any fault: nothing settles unverified.
pub(super) const VERIFY_TIMEOUT: Duration = Duration::from_secs(86_400);

/// What a run plays.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Another course of chance for the same plan.
    pub(super) salt: u64,
    pub(super) odds: Odds,
    /// The records of operations are read, which takes as long as the rest. Those of responses always are.
    pub(super) audits: bool,
    pub(super) encoding: Encoding,
    /// Which responses there are, by bit.
    pub(super) kept: u64,
    /// Token events of a response, at the most.
    pub(super) tokens_max: usize,
    pub(super) partitions: usize,
    pub(super) channels: usize,
    pub(super) when: ReconcileWhen,
    pub(super) debounce_ms: u64,
    pub(super) attempts: u32,
    pub(super) rollup_ms: u64,
    pub(super) idle_s: u64,
    pub(super) remember: usize,
    pub(super) limits: Limits,
    pub(super) verify: Verify,
    /// How long bytes of a connection that is gone may be under way, and are waited for.
    pub(super) late_check_s: u64,
    /// How long an outage lasts.
    pub(super) outage_s: u64,
    /// How long faults go on after the last record.
    pub(super) faults_s: u64,
    /// The code of every refused update.
    pub(super) update_code: u32,
    /// No response may fail.
    pub(super) must_deliver: bool,
    /// Full texts that one response may take.
    pub(super) updates_max: u32,
    /// How long producers take from one event to the next, in milliseconds, if not as they please.
    pub(super) gap_ms: Option<(u64, u64)>,
    /// Producers that are silent for longer than `idle_s` and then go on, in percent.
    pub(super) silent: u8,
    /// Responses that end with another text than that of their tokens, shorter, as long or longer, in percent; as it comes if 0.
    pub(super) finals: u8,
    /// Off: operations are requests of their own.
    pub(super) pipelining: Pipelining,
    pub(super) pattern: Pattern,
    pub(super) batch: Batch,
    /// Responses are published whole where the rule for changes is off, and it is at times.
    pub(super) whole: Option<NoRule>,
    /// Messages are begun no more often than that while the rule is off from the start; 0 if that is not looked at.
    pub(super) tried_every_s: u64,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn draw(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x7072_6f64);
        let rng = &mut rng;
        let responses = [1, 1, 1, 2, 2, 3, 4, 8][rng.usize(..8)];
        let rollup_ms = [0, 20, 40, 40, 100, 500][rng.usize(..6)];
        Self {
            seed,
            salt: 0,
            odds: Odds::draw(rng),
            audits: seed.is_multiple_of(4),
            encoding: if rng.bool() { Encoding::Json } else { Encoding::Msgpack },
            kept: (1 << responses) - 1,
            tokens_max: [2, 3, 4, 6, 10, 20][rng.usize(..6)],
            partitions: [1, 1, 1, 2, 3][rng.usize(..5)],
            channels: [1, 2, 4, 10][rng.usize(..4)],
            when: match rng.u8(..40) {
                0 => ReconcileWhen::Never,
                1..=10 => ReconcileWhen::AtEnd,
                _ => ReconcileWhen::Eager,
            },
            debounce_ms: [0, 50, 250, 250, 1_000][rng.usize(..5)],
            attempts: [1, 2, 3, 8][rng.usize(..4)],
            rollup_ms,
            idle_s: [2, 20, 600, 600][rng.usize(..4)],
            remember: [0, 1, 2, 100, 100][rng.usize(..5)],
            limits: limits(rng),
            verify: [Verify::Never, Verify::AfterUnknown, Verify::AfterUnknown, Verify::Always][rng.usize(..4)],
            late_check_s: [5, 10][rng.usize(..2)],
            outage_s: [1, 60, 130, 1_800][rng.usize(..4)],
            faults_s: [0, 2, 30, 300][rng.usize(..4)],
            update_code: [50_003, 42_911, 42_914, 42_917, 50_001][rng.usize(..5)],
            must_deliver: false,
            updates_max: u32::MAX,
            gap_ms: None,
            silent: [0, 0, 10, 40][rng.usize(..4)],
            finals: 0,
            pipelining: if rng.u8(..5) == 0 { Pipelining::Off } else { Pipelining::On },
            pattern: if seed % 5 == 3 { Pattern::MessagePerToken } else { Pattern::MessagePerResponse },
            batch: if rng.bool() { Batch::Array } else { Batch::Joined },
            whole: None,
            tried_every_s: 0,
        }
    }

    /// The odds of its faults. Who never reads cannot know what is there twice.
    pub(super) fn odds(&self) -> Odds {
        if self.verify == Verify::Never { self.odds.with(Fault::Twice, 0) } else { self.odds }
    }

    /// A plan in which nothing goes wrong and no limit is tight, for scripts to start from.
    pub(super) fn quiet(seed: u64) -> Self {
        let limits = Limits {
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
            message_bytes_max: 65_536,
        };
        Self {
            odds: Odds::NONE,
            kept: 0b111,
            tokens_max: 12,
            partitions: 2,
            channels: 2,
            when: if seed.is_multiple_of(4) { ReconcileWhen::AtEnd } else { ReconcileWhen::Eager },
            attempts: 8,
            idle_s: 600,
            remember: 100,
            limits,
            faults_s: 60,
            must_deliver: true,
            silent: 0,
            pipelining: Pipelining::On,
            pattern: Pattern::MessagePerResponse,
            ..Self::draw(seed)
        }
    }

    /// With one kind of fault at these odds.
    pub(super) fn with(self, fault: Fault, percent: u8) -> Self {
        Self { odds: self.odds.with(fault, percent), ..self }
    }

    /// What the engines are told.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            topic: "tokens".into(),
            id_namespace: "sim".into(),
            instance: "one".into(),
            relay_version: "0",
            channels: channel_rules(),
            idle: Duration::from_secs(self.idle_s),
            remember: self.remember,
            reconcile: ReconcileSettings {
                when: self.when,
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
            batch: self.batch,
        }
    }

    /// Bytes of text that the server takes in one message.
    pub(super) const fn text_max(&self) -> usize {
        let room = self.limits.message_bytes_max - overhead();
        if self.odds.of(Fault::TooLarge) > 0 { room / 2 + 4 } else { room }
    }

    /// What is decided for the net.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            encoding: self.encoding,
            pipelining: self.pipelining,
            seed: self.seed,
            size: self.limits.message_bytes_max,
            outage: self.outage_s * SECOND,
            late: self.late(),
        }
    }

    /// The server's rollup window.
    pub(super) const fn rollup(&self) -> u64 {
        self.rollup_ms * MS
    }

    /// How long bytes of a connection that is gone live, rollup not counted: for no longer than somebody looks.
    const fn late(&self) -> u64 {
        match self.verify {
            Verify::Never => LATE,
            Verify::AfterUnknown | Verify::Always => self.late_check_s * SECOND - self.rollup() - LANDED,
        }
    }

    /// How long after the end of a connection its messages are left alone.
    pub(super) fn settling(&self) -> u64 {
        self.debounce_ms.max(self.rollup_ms + 250) * MS
    }

    /// How long a silent response goes on.
    pub(super) const fn idle(&self) -> u64 {
        self.idle_s * SECOND
    }
}

impl Plans for Plan {
    type World = World;

    fn seed(&self) -> u64 {
        self.seed
    }

    fn world(&self, trace: Option<Trace>) -> World {
        World::new(self, trace)
    }

    fn salted(&self, by: u64) -> Self {
        Self { salt: self.salt.wrapping_add(by), ..self.clone() }
    }

    fn smaller(&self) -> Vec<Self> {
        let plan = self;
        let mut plans = Vec::new();
        for bit in (0..64).filter(|bit| plan.kept >> bit & 1 == 1) {
            plans.push(Self { kept: plan.kept & !(1 << bit), ..plan.clone() });
        }
        for fault in Fault::ALL.into_iter().filter(|fault| plan.odds.of(*fault) > 0) {
            plans.push(Self { odds: plan.odds.with(fault, 0), ..plan.clone() });
        }
        for tokens_max in [plan.tokens_max / 2, plan.tokens_max.saturating_sub(1)] {
            plans.push(Self { tokens_max, ..plan.clone() });
        }
        plans.push(Self { partitions: 1, ..plan.clone() });
        plans.push(Self { channels: 1, ..plan.clone() });
        plans.push(Self { silent: 0, ..plan.clone() });
        plans.push(Self { pipelining: Pipelining::On, ..plan.clone() });
        plans.push(Self { faults_s: 0, ..plan.clone() });
        plans.push(Self { verify: Verify::Never, ..plan.clone() });
        plans.push(plan.clone());
        plans
    }
}

/// What a frame takes besides its text, at the most: 1,024 bytes and two ids.
pub(in crate::sim) const fn overhead() -> usize {
    1_024 + "r00".len() + "fleet.tokens.0.9999.0.99".len()
}

/// Limits, most of them generous, some of them so tight that they are reached.
fn limits(rng: &mut fastrand::Rng) -> Limits {
    let tight = |rng: &mut fastrand::Rng, wide: usize, choices: [usize; 3]| match rng.u8(..6) {
        n @ 0..=2 => choices[usize::from(n)],
        _ => wide,
    };
    let rate = |rng: &mut fastrand::Rng| [1_000_000, 1_000_000, 50, 10, 3][rng.usize(..5)];
    Limits {
        open_max: tight(rng, 1_000, [1, 2, 4]),
        stub_max: match rng.u8(..20) {
            0 => 1,
            _ => 1_000,
        },
        text_bytes_max: tight(rng, 1 << 20, [8, 40, 200]),
        connections_max: [1, 1, 2, 4][rng.usize(..4)],
        openings: [0, 0, 1][rng.usize(..3)],
        connection_idle: Duration::from_secs(60),
        connection_rate: rate(rng),
        frame_rate: [0, 0, 100, 20][rng.usize(..4)],
        channel_rate: rate(rng),
        channel_bandwidth: [0, 0, 10_000, 2_000][rng.usize(..4)],
        account_rate: [0, 0, 0, 20][rng.usize(..4)],
        request_rate: [0, 0, 10][rng.usize(..3)],
        account_bandwidth: [0, 0, 0, 5_000][rng.usize(..4)],
        refused_rate_hold: Duration::from_secs([10, 600][rng.usize(..2)]),
        read_back_rate: [0, 0, 5][rng.usize(..3)],
        in_flight_operations: u32::try_from(tight(rng, 200, [1, 2, 5])).unwrap_or(1),
        in_flight_bytes: tight(rng, 1 << 22, [1, 3_000, 10_000]),
        message_bytes_max: match rng.u8(..6) {
            0 => overhead() + [8, 16, 40, 100, 400][rng.usize(..5)],
            _ => 65_536,
        },
    }
}

thread_local! {
    static RULES: RefCell<Option<ChannelRules>> = const { RefCell::new(None) };
}

/// Made once per thread: globs take longer to build than a run takes.
pub(super) fn channel_rules() -> ChannelRules {
    RULES.with_borrow_mut(|rules| {
        let make = || {
            let template = Template::parse("ai:{key}").expect("a template");
            ChannelRules::new(template, Arc::from("tokens"), &["ai:*".to_owned()]).expect("rules")
        };
        rules.get_or_insert_with(make).clone()
    })
}
