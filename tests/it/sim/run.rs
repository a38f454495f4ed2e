//! Runs: many seeds on two threads, a failing one made smaller and told.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::Fault;
use super::scene::{Kept, Struck, Trace};

/// Seeds that a worker takes at once.
const BATCH: u64 = 64;

/// What can be played, and made smaller.
pub(super) trait Plans: Clone + std::fmt::Debug {
    /// What it is played in.
    type World: Plays;

    fn seed(&self) -> u64;
    fn world(&self, trace: Option<Trace>) -> Self::World;
    /// The same with another course of chance.
    fn salted(&self, by: u64) -> Self;
    /// Plans that lack something of this one.
    fn smaller(&self) -> Vec<Self>;
}

/// What plays a plan.
pub(super) trait Plays {
    fn run(&mut self) -> Kept;
    fn steps(&self) -> u64;
    fn struck(&self) -> Struck;
}

/// Why a run failed, and how long it was.
#[derive(Debug, Clone)]
struct Failure {
    words: String,
    steps: u64,
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the panics of runs off the terminal; their words are kept for the report.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match QUIET.get() {
            true => PANIC.set(info.to_string()),
            false => loud(info),
        }));
    });
}

fn play(plan: &impl Plans, trace: Option<Trace>) -> Result<Struck, Failure> {
    let mut world = plan.world(trace);
    QUIET.set(true);
    let played = catch_unwind(AssertUnwindSafe(|| world.run()));
    QUIET.set(false);
    let words = match played {
        Ok(Ok(())) => return Ok(world.struck()),
        Ok(Err(broken)) => broken.0,
        Err(_) => PANIC.take(),
    };
    Err(Failure { words, steps: world.steps() })
}

/// Plays seeds, on two threads. Gives how often each fault has struck, or the first seed that failed.
pub(super) fn try_all<P: Plans>(seeds: Range<u64>, plan: impl Fn(u64) -> P + Sync) -> Result<Struck, u64> {
    keep_panics_quiet();
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(u64::MAX);
    let worker = || {
        let mut struck = [0; Fault::ALL.len()];
        loop {
            let batch = next.fetch_add(BATCH, Ordering::Relaxed);
            if batch >= seeds.end || failed.load(Ordering::Relaxed) <= batch {
                return struck;
            }
            for seed in batch..(batch + BATCH).min(seeds.end) {
                match play(&plan(seed), None) {
                    Ok(some) => struck.iter_mut().zip(some).for_each(|(all, some)| *all += some),
                    Err(_) => _ = failed.fetch_min(seed, Ordering::Relaxed),
                }
            }
        }
    };
    let [mut struck, others] = std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        workers.map(|worker| worker.join().expect("a worker catches what the runs throw"))
    });
    struck.iter_mut().zip(others).for_each(|(all, some)| *all += some);
    match failed.into_inner() {
        u64::MAX => Ok(struck),
        seed => Err(seed),
    }
}

/// Plays seeds; the first that fails is made smaller and told.
pub(super) fn play_all<P: Plans>(seeds: Range<u64>, plan: impl Fn(u64) -> P + Sync) -> Struck {
    match try_all(seeds, &plan) {
        Ok(struck) => struck,
        Err(seed) => panic!("{}", tell(&plan(seed))),
    }
}

/// Plays one seed and tells every step.
pub(super) fn play_one(plan: &impl Plans) {
    keep_panics_quiet();
    let trace = Trace::default();
    let played = play(plan, Some(Rc::clone(&trace)));
    eprintln!("{plan:#?}\n{}", trace.borrow().join("\n"));
    assert!(played.is_ok(), "{}", tell(plan));
}

/// A failing run, as short as it could be made, step by step; with `TOKENRELAY_SIM_BRIEF` only its seed and what was broken.
fn tell(plan: &impl Plans) -> String {
    if std::env::var_os("TOKENRELAY_SIM_BRIEF").is_some() {
        let words = play(plan, None).map_or_else(|failure| failure.words, |_| String::new());
        return format!("seed {}: {words}", plan.seed());
    }
    let (plan, failure) = shrink(plan);
    let trace = Trace::default();
    let _again = play(&plan, Some(Rc::clone(&trace)));
    let steps = trace.borrow().join("\n");
    let (seed, words) = (plan.seed(), failure.words);
    format!("seed {seed}: {words}\nthe shortest history found:\n{plan:?}\n{steps}\nseed {seed}: {words}")
}

/// Takes away what a failure does not need: responses, kinds of fault, tokens, partitions, the rest of the course of chance.
fn shrink<P: Plans>(plan: &P) -> (P, Failure) {
    let mut best = plan.clone();
    let Err(mut failure) = play(&best, None) else {
        return (best, Failure { words: "it did not fail again".into(), steps: 0 });
    };
    loop {
        let before = failure.steps;
        for smaller in best.smaller() {
            for salt in 0..40 {
                let candidate = smaller.salted(salt);
                match play(&candidate, None) {
                    Err(found) if found.steps < failure.steps && kind(&found) == kind(&failure) => {
                        (best, failure) = (candidate, found);
                        break;
                    }
                    _ => {}
                }
            }
        }
        if failure.steps >= before {
            return (best, failure);
        }
    }
}

/// The name of the rule that was broken, or where the engine panicked.
fn kind(failure: &Failure) -> &str {
    failure.words.split([':', ' ']).next().unwrap_or_default()
}
