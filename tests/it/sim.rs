//! The simulator: seeded schedules of everything that can go wrong, against a model of a channel, in virtual time.
//!
//! Compiled into the library's unit tests, and for mutants into a crate of its own together with a broken copy of the engine;
//! so it uses nothing but the engine and the pure part of the Ably client. One seed is one run: producers write, one life of a
//! process reads, operations meet a server as nasty as Ably's documentation allows, and the invariants are checked at every
//! step and at rest. `TOKENRELAY_SIM_SEEDS` plays more seeds, `TOKENRELAY_SIM_SEED=n` one of them with its trace.

#[path = "sim/budgets.rs"]
mod budgets;
#[path = "sim/checks.rs"]
mod checks;
#[path = "sim/fault.rs"]
mod fault;
#[path = "fleet.rs"]
mod fleet;
#[path = "sim/frames.rs"]
mod frames;
#[path = "sim/given_up.rs"]
mod given_up;
#[path = "sim/link.rs"]
mod link;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/records.rs"]
mod records;
#[path = "sim/requests.rs"]
mod requests;
#[path = "sim/rest.rs"]
mod rest;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/scene.rs"]
mod scene;
#[path = "sim/scripts.rs"]
mod scripts;
#[path = "sim/sends.rs"]
mod sends;
#[path = "sim/server.rs"]
mod server;
#[path = "sim/tokens.rs"]
mod tokens;
#[path = "sim/topic.rs"]
mod topic;
#[path = "sim/whole.rs"]
mod whole;
#[path = "sim/world.rs"]
mod world;

use plan::Plan;

/// Seeds of the test command.
const SEEDS: u64 = if cfg!(debug_assertions) { 10_000 } else { 200_000 };

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays what the environment asks for: one seed with its trace, or many.
#[test]
fn every_text_is_right_at_rest() {
    if let Some(seed) = number("TOKENRELAY_SIM_SEED") {
        return run::play_one(&Plan::draw(seed));
    }
    run::play_all(0..number("TOKENRELAY_SIM_SEEDS").unwrap_or(SEEDS), Plan::draw);
}
