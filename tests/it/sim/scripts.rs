//! Schedules with a name: one kind of trouble each, so dense that every run meets it. Nothing may fail in any of them, and
//! each trouble must have struck.

use super::fault::Fault;
use super::plan::{Plan, overhead};
use super::run;
use crate::engine::{Limits, Pattern, Verify};

/// Seeds of one script.
const SEEDS: u64 = if cfg!(debug_assertions) { 60 } else { 1_000 };

/// A script: its name, what must strike in it, and its plans.
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) strikes: &'static [Fault],
    pub(super) plan: fn(u64) -> Plan,
}

/// Appends are taken, the connection drops before they are answered, and is resumed.
fn resumed(seed: u64) -> Plan {
    Plan::quiet(seed).with(Fault::LoseAck, 25).with(Fault::Drop, 50)
}

/// Every update is refused for 70 minutes.
fn refused(seed: u64, update_code: u32) -> Plan {
    let plan = Plan::quiet(seed).with(Fault::UpdatesRefused, 100).with(Fault::Transient, 20);
    // One every 30 s, and those before the pauses are that long.
    Plan { update_code, faults_s: 4_200, updates_max: 160, ..plan }
}

/// Every third operation is refused, and what it carried may appear all the same.
fn rejected(seed: u64) -> Plan {
    Plan::quiet(seed).with(Fault::Transient, 15).with(Fault::Rate, 10)
}

/// Who always reads sees all that others have done.
fn others_too(seed: u64) -> Plan {
    Plan { verify: Verify::Always, must_deliver: false, ..Plan::quiet(seed) }
}

pub(super) const SCRIPTS: &[Script] = &[
    Script {
        name: "2a: frames that are written again are acknowledged, but not applied",
        strikes: &[Fault::ResentNotApplied],
        plan: |seed| resumed(seed).with(Fault::ResentNotApplied, 100),
    },
    Script {
        name: "2b: frames that are written again are applied again",
        strikes: &[Fault::ResentTwice],
        plan: |seed| resumed(seed).with(Fault::ResentTwice, 100),
    },
    Script {
        name: "2c: frames that are written again are dropped silently",
        strikes: &[Fault::ResentSilent],
        plan: |seed| resumed(seed).with(Fault::ResentSilent, 100),
    },
    Script {
        name: "2d: frames that are written again are refused",
        strikes: &[Fault::ResentRefused],
        plan: |seed| resumed(seed).with(Fault::ResentRefused, 100),
    },
    Script {
        name: "4: every update gets 50003 for 70 minutes, applied or not by turns",
        strikes: &[Fault::UpdatesRefused, Fault::Transient],
        plan: |seed| refused(seed, 50_003),
    },
    Script {
        name: "4: every update gets 42911 for 70 minutes",
        strikes: &[Fault::UpdatesRefused],
        plan: |seed| refused(seed, 42_911),
    },
    Script {
        name: "4: every update gets 42914 for 70 minutes",
        strikes: &[Fault::UpdatesRefused],
        plan: |seed| refused(seed, 42_914),
    },
    Script {
        name: "4: every update gets 42917 for 70 minutes",
        strikes: &[Fault::UpdatesRefused],
        plan: |seed| refused(seed, 42_917),
    },
    Script {
        name: "5: no connections for 30 minutes while producers go on",
        strikes: &[Fault::Outage],
        plan: |seed| {
            let plan = Plan::quiet(seed).with(Fault::Outage, 100).with(Fault::Drop, 100);
            Plan { outage_s: 1_800, faults_s: 2_000, gap_ms: Some((1_000, 300_000)), ..plan }
        },
    },
    Script {
        name: "5: producers that are silent for eleven minutes, then go on",
        strikes: &[],
        plan: |seed| Plan { silent: 100, ..Plan::quiet(seed) },
    },
    Script {
        name: "8: the acknowledged update has an older version than what was there",
        strikes: &[Fault::UpdateLost],
        plan: |seed| Plan::quiet(seed).with(Fault::UpdateLost, 60).with(Fault::Transient, 20),
    },
    Script {
        name: "9: somebody else's append supersedes the update",
        strikes: &[Fault::UpdateSuperseded],
        plan: |seed| Plan::quiet(seed).with(Fault::UpdateSuperseded, 60).with(Fault::Transient, 20),
    },
    Script {
        name: "10: acknowledged at once, flushed when the socket is gone",
        strikes: &[Fault::AckEarly, Fault::RefuseResume, Fault::Late],
        plan: |seed| {
            let plan = Plan::quiet(seed).with(Fault::AckEarly, 100).with(Fault::Drop, 100).with(Fault::Late, 100);
            Plan { rollup_ms: 500, ..plan.with(Fault::RefuseResume, 100) }
        },
    },
    Script {
        name: "14: a frame is never answered while others are",
        strikes: &[Fault::Skip],
        plan: |seed| Plan::quiet(seed).with(Fault::Skip, 20).with(Fault::SlowAnswers, 20),
    },
    Script {
        name: "14: nothing is answered for two minutes",
        strikes: &[Fault::Skip],
        plan: |seed| Plan { faults_s: 120, ..Plan::quiet(seed).with(Fault::Skip, 100) },
    },
    Script {
        name: "14: answers without a number, without a count, for more than was asked",
        strikes: &[Fault::Garbled],
        plan: |seed| Plan::quiet(seed).with(Fault::Garbled, 30).with(Fault::Transient, 10),
    },
    Script {
        name: "16: tokens that go on after a silence, some of them without text, while there is room for one response",
        strikes: &[Fault::Transient],
        plan: |seed| {
            let plan = Plan::quiet(seed).with(Fault::Transient, 20);
            let limits = Limits { open_max: 1, ..plan.limits };
            Plan { pattern: Pattern::MessagePerToken, idle_s: 2, silent: 100, limits, ..plan }
        },
    },
    Script {
        name: "18: the final text takes fewer messages than the tokens did, as many, or more",
        strikes: &[Fault::SlowAnswers],
        plan: |seed| {
            let plan = Plan::quiet(seed).with(Fault::SlowAnswers, 50).with(Fault::Transient, 5);
            let limits = Limits { message_bytes_max: overhead() + [12, 30][seed as usize % 2], ..plan.limits };
            Plan { finals: 80, limits, ..plan }
        },
    },
    Script {
        name: "24: a rejected append appears in the next one",
        strikes: &[Fault::FoldNext],
        plan: |seed| rejected(seed).with(Fault::FoldNext, 100),
    },
    Script {
        name: "24: a rejected append appears in all later ones",
        strikes: &[Fault::FoldLater],
        plan: |seed| rejected(seed).with(Fault::FoldLater, 100),
    },
    Script { name: "24: a rejected append never appears", strikes: &[Fault::Transient], plan: rejected },
    Script {
        name: "24: a rejection hits all appends that were rolled up, the last one too",
        strikes: &[Fault::NackGroup, Fault::FoldLater],
        plan: |seed| {
            let plan = Plan { rollup_ms: 100, gap_ms: Some((0, 60)), ..Plan::quiet(seed) };
            plan.with(Fault::NackGroup, 50).with(Fault::FoldLater, 50)
        },
    },
    Script {
        name: "25: somebody else edits messages while they are written",
        strikes: &[Fault::Edited],
        plan: |seed| others_too(seed).with(Fault::Edited, 10),
    },
    Script {
        name: "25: somebody else deletes messages while they are written",
        strikes: &[Fault::Deleted],
        plan: |seed| others_too(seed).with(Fault::Deleted, 10),
    },
    Script {
        name: "25: somebody else edits and deletes what refuses to be written",
        strikes: &[Fault::Edited, Fault::Deleted, Fault::Permanent],
        plan: |seed| {
            let plan = others_too(seed).with(Fault::Permanent, 30).with(Fault::Transient, 30);
            plan.with(Fault::Edited, 10).with(Fault::Deleted, 10)
        },
    },
];

#[test]
fn scripts_end_well() {
    for script in SCRIPTS {
        let struck = run::play_all(0..SEEDS, script.plan);
        for fault in script.strikes {
            assert!(struck[*fault as usize] > SEEDS / 4, "{}: {fault:?} hardly strikes", script.name);
        }
    }
}
