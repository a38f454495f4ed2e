//! The simulator's second storey: many processes between a model of Kafka and the first storey's model of Ably.
//!
//! A process is, for each of its partitions, the real engine and the real decisions of a takeover (which offset, which
//! results, what is committed), driven in the pipeline's order; its loop, the thread of its transactions and the group are
//! played. One seed is one run: processes are killed between any two effects, freeze, lose their partitions without knowing
//! it, come back, and hand over; transactions are left open; somebody moves offsets. What a reader of committed results sees
//! is checked at every commit, the texts on the channels at rest. `TOKENRELAY_SIM_SEEDS` and `TOKENRELAY_SIM_SEED` are as in
//! the first storey.

#[path = "fleet/audit.rs"]
mod audit;
#[path = "fleet/broker.rs"]
mod broker;
#[path = "fleet/group.rs"]
mod group;
#[path = "fleet/intake.rs"]
mod intake;
#[path = "fleet/plan.rs"]
mod plan;
#[path = "fleet/process.rs"]
mod process;
#[path = "fleet/rest.rs"]
mod rest;
#[path = "fleet/scripts.rs"]
mod scripts;
#[path = "fleet/tokens.rs"]
mod tokens;
#[path = "fleet/wait.rs"]
mod wait;
#[path = "fleet/world.rs"]
mod world;
#[path = "fleet/writer.rs"]
mod writer;

use super::whole::{NoRule, possible};
use super::{number, run};
use crate::engine::Verify;
use plan::Plan;

/// Seeds of the test command.
const SEEDS: u64 = if cfg!(debug_assertions) { 2_000 } else { 100_000 };

/// The same where the rule for changes is off.
const WHOLE_SEEDS: u64 = if cfg!(debug_assertions) { 1_000 } else { 20_000 };

/// Something that is to happen among many processes. The first number is the process, if it is not said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// The plan's act of that number.
    Act(usize),
    /// A process of that name starts.
    Start(usize),
    /// A process hears which partitions it has.
    Told(usize),
    /// The group does not wait any longer for a process.
    Evict(usize),
    /// A process has not heard from the group for too long.
    Lease(usize),
    /// A process that was frozen goes on.
    Wake(usize),
    /// A partition may have records to be read.
    Read(usize, usize),
    /// A takeover takes its next step.
    Take(usize, usize),
    /// All that a takeover needs to know is known.
    Taken(usize, usize),
    /// It is time to commit.
    Commit(usize),
    /// The thread of transactions takes its next step.
    Write(usize),
    /// What the loop waits for may be there, or will not come.
    Look(usize),
    /// A question of a partition's engine is answered.
    Reply(usize, usize),
    /// Transactions may have been open for too long.
    Expire,
}

/// Plays what the environment asks for: one seed with its trace, or many.
#[test]
fn every_text_is_right_whoever_dies() {
    if let Some(seed) = number("TOKENRELAY_SIM_SEED") {
        return run::play_one(&Plan::draw(seed));
    }
    run::play_all(0..number("TOKENRELAY_SIM_SEEDS").unwrap_or(SEEDS), Plan::draw);
}

/// A plan that plays the rule for changes.
fn with_rule(seed: u64, no_rule: NoRule) -> Plan {
    let plan = Plan::draw(seed);
    // Who never reads believes in what an owner before has made anew.
    let verify = if plan.verify == Verify::Never { Verify::AfterUnknown } else { plan.verify };
    Plan { odds: possible(plan.odds), whole: Some(no_rule), verify, ..plan }
}

fn play_with_rule(no_rule: impl Fn(u64) -> NoRule + Sync) {
    let draw = |seed| with_rule(seed, no_rule(seed));
    if let Some(seed) = number("TOKENRELAY_SIM_WHOLE_SEED") {
        return run::play_one(&draw(seed));
    }
    run::play_all(0..number("TOKENRELAY_SIM_SEEDS").unwrap_or(WHOLE_SEEDS), draw);
}

#[test]
fn every_text_is_right_where_nothing_can_be_changed() {
    play_with_rule(NoRule::for_ever);
}

#[test]
fn every_text_is_right_where_the_rule_is_turned_on_and_off() {
    play_with_rule(NoRule::flips);
}
