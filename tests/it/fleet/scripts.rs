//! Schedules with a name: one kind of trouble each, so dense that most runs meet it.

use super::plan::{Act, Plan, What};
use crate::engine::{Batch, Pattern};
use crate::sim::fault::Fault;
use crate::sim::run;
use crate::sim::scene::{MS, SECOND};

/// Seeds of one script.
const SEEDS: u64 = if cfg!(debug_assertions) { 100 } else { 2_000 };

/// A script: its name and its plans.
type Script = (&'static str, fn(u64) -> Plan);

/// A process dies within its first effects.
fn killed(seed: u64) -> Act {
    Act { at: seed % 7 * 300 * MS, whom: 0, what: What::Kill((seed % 12) as u32) }
}

/// One process dies, another of its name is there at once.
fn replaced(seed: u64) -> Plan {
    Plan { acts: vec![killed(seed)], restart: 10 * MS, is_static: true, ..Plan::quiet(seed) }
}

/// The message of a create that nobody has recorded is taken over when it is so old.
fn taken_over_after(seed: u64, age: u64) -> Plan {
    Plan { restart: age, ..replaced(seed) }.with(Fault::SlowAnswers, 100)
}

/// A process dies among the operations that end one message and begin the next; who comes after it sees another limit.
fn cut_otherwise(seed: u64, text_max: usize, text_max_then: usize) -> Plan {
    Plan { text_max, text_max_then, tokens_max: 8, kept: 0b111, ..replaced(seed) }.with(Fault::SlowAnswers, 50)
}

/// Tokens are published and not answered, and their process dies; who comes after it joins tokens in another way.
fn regrouped(seed: u64, restart: u64) -> Plan {
    let batch = if seed.is_multiple_of(2) { Batch::Array } else { Batch::Joined };
    let plan = Plan { pattern: Pattern::MessagePerToken, batch, regroups: true, restart, ..replaced(seed) };
    // A stop is refused now and then, and taken or not.
    plan.with(Fault::LoseAck, 40).with(Fault::Transient, 20)
}

const SCRIPTS: &[Script] = &[
    ("6: answers are held, the partition is taken away, and what is resumed writes everything again", |seed| {
        let acts = (0..4).map(|n| Act { at: (n + 1) * 400 * MS, whom: n as usize, what: What::Join }).collect();
        let plan = Plan { acts, ..Plan::quiet(seed) };
        plan.with(Fault::SlowAnswers, 100).with(Fault::LoseAck, 30).with(Fault::ResentTwice, 100)
    }),
    ("6: a partition is lost with everything unanswered", |seed| {
        let lost = Act { at: seed % 5 * 300 * MS, whom: 0, what: What::Isolate(30 * SECOND) };
        let plan = Plan { acts: vec![lost], processes: 2, session: 6 * SECOND, ..Plan::quiet(seed) };
        plan.with(Fault::SlowAnswers, 100).with(Fault::LoseAck, 30).with(Fault::ResentTwice, 100)
    }),
    ("7: killed with appends on their way, which are applied late", |seed| replaced(seed).with(Fault::Late, 100)),
    ("11: creates are applied, their answers are lost, and so is the process", |seed| {
        replaced(seed).with(Fault::LoseAck, 60)
    }),
    ("12: the answers to creates name no message", |seed| replaced(seed).with(Fault::CreateNull, 100)),
    ("13: a create that nobody recorded is 5 s old", |seed| taken_over_after(seed, 5 * SECOND)),
    ("13: it is 119 s old", |seed| taken_over_after(seed, 119 * SECOND)),
    ("13: it is 121 s old", |seed| taken_over_after(seed, 121 * SECOND)),
    ("13: it is 10 min old", |seed| taken_over_after(seed, 600 * SECOND)),
    ("17: the next owner sees a higher limit", |seed| cut_otherwise(seed, 12, 30)),
    ("17: the next owner sees a lower limit", |seed| cut_otherwise(seed, 30, 12)),
    ("23: an array was applied, its answer is lost; 10 s later it is joined otherwise", |seed| {
        regrouped(seed, 10 * SECOND)
    }),
    ("23: 130 s later", |seed| regrouped(seed, 130 * SECOND)),
    ("23: ids are not recognised, 10 s later", |seed| regrouped(seed, 10 * SECOND).with(Fault::IdsForgotten, 100)),
    ("23: ids are not recognised, 130 s later", |seed| regrouped(seed, 130 * SECOND).with(Fault::IdsForgotten, 100)),
    ("25: somebody else has edited a message before it is taken over", |seed| {
        replaced(seed).with(Fault::Edited, 20).with(Fault::SlowAnswers, 50)
    }),
    ("25: somebody else has deleted a message before it is taken over", |seed| {
        replaced(seed).with(Fault::Deleted, 20).with(Fault::LoseAck, 20)
    }),
];

#[test]
fn scripts_end_well() {
    for (name, plan) in SCRIPTS {
        if let Err(seed) = run::try_all(0..SEEDS, plan) {
            eprintln!("{name}");
            run::play_all(seed..seed + 1, plan);
        }
    }
}
