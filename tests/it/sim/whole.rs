//! Channels whose rule for updates and appends is off, for ever or for a while: responses are published whole there.
//!
//! What was begun before that was known is replaced, so a message is not the response's only one. What counts is what readers
//! make of them all.

use std::collections::HashSet;

use super::checks::Instance;
use super::fault::{Fault, Odds};
use super::plan::Plan;
use super::run;
use super::scene::{Kept, SECOND, START, Scene, hold};
use super::server::{Message, Server};
use crate::engine::{OpKind, Operation, Status};

/// Seeds of the test command.
const SEEDS: u64 = if cfg!(debug_assertions) { 2_000 } else { 40_000 };

/// When the rule for changes is off, and whether the answers to creates name their messages then.
#[derive(Debug, Clone, Copy)]
pub(in crate::sim) struct NoRule {
    from: u64,
    until: u64,
    /// Within that it is turned on and off again whenever so much time has passed.
    every: u64,
    names: bool,
}

impl NoRule {
    /// Off from the start or from later on, for a while or for ever.
    pub(in crate::sim) fn draw(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x6e6f_7275_6c65);
        let from = START + [0, 0, SECOND, 20 * SECOND][rng.usize(..4)];
        let until = from.saturating_add([u64::MAX, u64::MAX, 2 * SECOND, 40 * SECOND, 300 * SECOND][rng.usize(..5)]);
        Self { from, until, every: u64::MAX, names: rng.bool() }
    }

    /// Off and on by turns, in the end on or off for ever.
    pub(in crate::sim) fn flips(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x666c_6970);
        let every = [SECOND / 5, SECOND, 5 * SECOND, 40 * SECOND][rng.usize(..4)];
        let from = START + rng.u64(..2 * every);
        let until = if rng.bool() { from + rng.u64(2..8) * every } else { u64::MAX };
        Self { from, until, every, names: rng.bool() }
    }

    /// Never on.
    pub(in crate::sim) fn for_ever(seed: u64) -> Self {
        Self { from: 0, until: u64::MAX, ..Self::draw(seed) }
    }

    /// Off for so long, from the start.
    const fn during(time: u64, names: bool) -> Self {
        Self { from: 0, until: START + time, every: u64::MAX, names }
    }

    fn is_off(self, now: u64) -> bool {
        (self.from..self.until).contains(&now) && ((now - self.from) / self.every).is_multiple_of(2)
    }
}

/// Without what cannot be where nothing is changed; without serials that no message has, since a text that nobody can read is
/// waited for as long as these runs last; and with ids that are recognised, since nobody can empty what was made twice and has
/// no name.
pub(in crate::sim) fn possible(odds: Odds) -> Odds {
    let impossible =
        [Fault::Edited, Fault::Deleted, Fault::UpdateSuperseded, Fault::Gone, Fault::Phantom, Fault::Twice];
    impossible.into_iter().fold(odds, |odds, fault| odds.with(fault, 0))
}

impl Server {
    /// With the rule off at times.
    pub(in crate::sim) fn with_rule(mut self, no_rule: Option<NoRule>) -> Self {
        self.no_rule = no_rule;
        self
    }

    /// Whether messages cannot be changed now.
    pub(super) fn changes_nothing(&self, scene: &Scene) -> bool {
        self.no_rule.is_some_and(|no_rule| no_rule.is_off(scene.now))
    }

    /// Whether a create is answered without a name because of that.
    pub(super) fn names_nothing(&self, scene: &Scene) -> bool {
        self.no_rule.is_some_and(|no_rule| no_rule.is_off(scene.now) && !no_rule.names)
    }

    /// What readers make of the messages of a response: what another one stands in for is left out, the rest is joined. Those
    /// that others have gone on after may say that they were given up on: readers do not look at that.
    pub(in crate::sim) fn reads_as(
        &self,
        name: &str,
        base: &str,
        (text, status): (&str, Status),
        gave_up: impl Fn(&Message) -> bool,
    ) -> Kept {
        let is_its = |message: &&Message| message.create_id.rsplit_once('.').is_some_and(|(of, _)| of == base);
        let all = || self.messages.iter().filter(is_its).filter(|message| !message.gone);
        let replaced: HashSet<_> = all().filter_map(|message| message.supersedes.clone()).collect();
        let current =
            all().filter(|message| !replaced.contains(&message.serial) && message.status != Status::Superseded);
        let mut current: Vec<_> = current.collect();
        current.sort_by_key(|message| message.segment);
        let is_one_each = (0..).zip(&current).all(|(segment, message)| message.segment == segment);
        hold!(is_one_each, "I1: {name} has {} messages where others should be", current.len());
        let shown: String = current.iter().map(|message| message.text.as_str()).collect();
        hold!(shown == text, "I1: {name} reads {shown:?}, but is {text:?}");
        let said: Vec<_> = current.iter().map(|message| message.status).collect();
        let goes_on = |message: &&Message| match message.status {
            Status::Failed => gave_up(message),
            status => status == Status::Continued,
        };
        let goes_on = current.iter().rev().skip(1).all(goes_on);
        hold!(goes_on && said.last() == Some(&status), "I1: {name} says {said:?}, not {status:?}");
        Ok(())
    }
}

impl Instance {
    /// What is left of the rules for operations where messages are replaced instead of changed.
    pub(super) fn sends_whole(&mut self, now: u64, operation: &Operation) -> Kept {
        let name = self.name();
        let number = operation.id.seq;
        hold!(number == self.operations, "I4: operation {} of {name} has number {number}", self.operations);
        if operation.kind != OpKind::Create {
            return Ok(());
        }
        hold!(self.in_flight.is_empty(), "R9: a create of {name} with operations in flight");
        match self.wholes.iter_mut().find(|(_, first, _)| first.head.create_id == operation.head.create_id) {
            None => {
                let is_its = self.text.contains(&*operation.data);
                hold!(is_its, "{name}: created with another text: {:?}", operation.data);
                self.wholes.push((now, operation.clone(), false));
            }
            Some((_, first, too_large)) if *too_large => (*first, *too_large) = (operation.clone(), false),
            Some((_, first, _)) => {
                let same =
                    first.head == operation.head && first.data == operation.data && first.status == operation.status;
                hold!(same, "R9: {name}: the create is repeated with a difference");
            }
        }
        self.create = Some(operation.clone());
        Ok(())
    }
}

fn draw(seed: u64) -> Plan {
    let plan = Plan::draw(seed);
    Plan { odds: possible(plan.odds), whole: Some(NoRule::draw(seed)), ..plan }
}

#[test]
fn every_text_is_right_where_nothing_can_be_changed() {
    if let Some(seed) = super::number("TOKENRELAY_SIM_WHOLE_SEED") {
        return run::play_one(&draw(seed));
    }
    run::play_all(0..super::number("TOKENRELAY_SIM_SEEDS").unwrap_or(SEEDS), draw);
}

#[test]
fn every_text_is_right_where_the_rule_is_turned_on_and_off() {
    let draw = |seed| Plan { whole: Some(NoRule::flips(seed)), ..draw(seed) };
    if let Some(seed) = super::number("TOKENRELAY_SIM_WHOLE_SEED") {
        return run::play_one(&draw(seed));
    }
    run::play_all(0..super::number("TOKENRELAY_SIM_SEEDS").unwrap_or(SEEDS), draw);
}

/// Story 22: the rule is off for five minutes, then on. What is left behind unfinished is no more than was tried.
#[test]
fn no_more_is_left_behind_than_was_tried() {
    for names in [true, false] {
        let plan = |seed| Plan {
            whole: Some(NoRule::during(300 * SECOND, names)),
            kept: 0xff,
            gap_ms: Some((1_000, 40_000)),
            tried_every_s: 30,
            ..Plan::quiet(seed)
        };
        run::play_all(0..SEEDS / 40, plan);
    }
}
