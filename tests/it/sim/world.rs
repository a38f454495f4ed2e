//! The world around the engines of one process: it carries effects out and brings inputs in, in virtual time.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::checks::Checks;
use super::fault::Fault;
use super::link::{Event, Net};
use super::plan::Plan;
use super::run::Plays;
use super::scene::{Due, Kept, MS, SECOND, START, Scene, Struck, Trace, hold, note};
use super::server::Server;
use super::topic::{self, Log};
use crate::engine::{
    Effect, Effects, Engine, EventKind, Fact, Found, Input, LookUp, ReadBack, Record, Reload, Shared, Time,
};

/// Steps that a run may take; more is a livelock.
const STEPS_MAX: u64 = 200_000;

/// The world.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) scene: Scene,
    pub(super) engines: Vec<Engine>,
    pub(super) shared: Shared,
    pub(super) net: Net,
    pub(super) checks: Checks,
    logs: Rc<Vec<Log>>,
    intakes: Vec<Intake>,
    deadlines: Vec<Option<Time>>,
    effects: Effects,
    steps: u64,
}

/// What a partition's shell knows.
#[derive(Debug, Default)]
struct Intake {
    read: usize,
    scheduled: bool,
    paused: bool,
    caught_up: bool,
    reports: u64,
    durable: u64,
    writing: bool,
    questions: VecDeque<Question>,
}

#[derive(Debug)]
enum Question {
    Reload(Box<Reload>),
    LookUp(Box<LookUp>),
    ReadBack(Box<ReadBack>),
}

impl World {
    pub(super) fn new(plan: &Plan, trace: Option<Trace>) -> Self {
        let logs = topic::write(plan);
        let last = logs.iter().filter_map(|log| log.last()).map(|record| record.written).max().unwrap_or(START);
        let rng = fastrand::Rng::with_seed(plan.seed ^ plan.salt.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let settings = Arc::new(plan.settings());
        let first = |log: &Log| log.first().map_or(0, |record| record.offset);
        Self {
            scene: Scene::new(rng, plan.odds(), last + plan.faults_s * SECOND, trace),
            engines: (0..).zip(&logs).map(|(p, log)| Engine::new(settings.clone(), p, first(log))).collect(),
            shared: Shared::new(plan.limits, settings.append_rollup),
            net: Net::new(
                Server::new(plan.rollup(), plan.update_code, plan.text_max()).with_rule(plan.whole),
                plan.terms(),
            ),
            checks: Checks::new(plan),
            intakes: logs.iter().map(|_| Intake::default()).collect(),
            deadlines: vec![None; logs.len()],
            effects: Effects::default(),
            plan: plan.clone(),
            logs: Rc::new(logs),
            steps: 0,
        }
    }

    /// Lets the next thing happen. Whether there was one.
    fn step(&mut self) -> Kept<bool> {
        let tick = (0..).zip(&self.deadlines).filter_map(|(p, time)| time.map(|time| (time.0, p))).min();
        let next = self.scene.next_time();
        let link = (0..).zip(&self.net.links).filter_map(|(l, link)| link.deadline.map(|time| (time.0, l))).min();
        if let Some((time, l)) = link
            && next.is_none_or(|next| time < next)
            && tick.is_none_or(|(tick, _)| time < tick)
        {
            self.scene.now = self.scene.now.max(time);
            self.net.tick_link(&mut self.scene, l)?;
            return Ok(true);
        }
        match tick {
            Some((time, p)) if next.is_none_or(|next| time < next) => {
                self.scene.now = self.scene.now.max(time);
                self.apply(p, Input::Tick)?;
                let spins = self.deadlines[p].is_some_and(|deadline| deadline.0 <= self.scene.now);
                hold!(!spins, "I12: partition {p} asks for a tick at a time that has passed");
                return Ok(true);
            }
            _ => {}
        }
        let Some(due) = self.scene.pop() else { return Ok(false) };
        self.happen(due)?;
        Ok(true)
    }

    fn happen(&mut self, due: Due) -> Kept {
        match due {
            Due::Intake(p) => self.read(p)?,
            Due::Arrive(c) => {
                if self.net.server.arrive(&mut self.scene, c) {
                    self.net.break_off(&mut self.scene, c);
                }
            }
            Due::Flush(m) => self.net.server.flush(&mut self.scene, m),
            Due::Answers(c) => self.net.answers(&mut self.scene, c)?,
            Due::Break(l) => self.net.break_link(&mut self.scene, l),
            Due::Noticed(l, transport) => self.net.noticed(&mut self.scene, l, transport)?,
            Due::Opened(l, transport) => self.net.opened(&mut self.scene, l, transport)?,
            Due::Overdue(c) => self.net.overdue(&mut self.scene, c),
            Due::Told(l) => self.net.told(&mut self.scene, l)?,
            Due::Heard(l) => self.heard(l)?,
            Due::Durable(p) => self.durable(p)?,
            Due::DeadLetter(p, offset) => {
                self.checks.dead_letter_durable(p, offset);
                self.apply(p, Input::DeadLetterDurable(offset))?;
            }
            Due::Reply(p) => self.reply(p)?,
            Due::Fleet(_) => {}
        }
        Ok(())
    }

    /// Gives an engine an input, and does what it asks for.
    pub(super) fn apply(&mut self, p: usize, input: Input<'_>) -> Kept {
        let now = Time(self.scene.now);
        let mut effects = std::mem::take(&mut self.effects);
        self.engines[p].apply(now, input, &mut self.shared, &mut effects);
        self.open_links()?;
        for effect in effects.list.drain(..) {
            self.perform(p, effect, &effects.bytes)?;
        }
        effects.clear();
        self.effects = effects;
        self.checks.watermark(p, self.engines[p].watermark())?;
        self.deadlines[p] = self.engines[p].next_deadline();
        for p in 0..self.intakes.len() {
            if self.intakes[p].paused && self.shared.intake_open() {
                self.read_later(p);
            }
        }
        Ok(())
    }

    fn perform(&mut self, p: usize, effect: Effect, bytes: &[u8]) -> Kept {
        match effect {
            Effect::Send(operation) => {
                note!(
                    self.scene,
                    "send {}/{}#{} {:?} {:?} {:?} on link {}",
                    operation.head.response_id,
                    operation.head.part,
                    operation.id.seq,
                    operation.kind,
                    operation.data,
                    operation.status,
                    operation.connection
                );
                self.checks.sent(&self.scene, &operation)?;
                self.net.transmit(&mut self.scene, operation.connection as usize, operation)
            }
            Effect::Report(report) => {
                let value = &bytes[report.value];
                self.intakes[p].reports += 1;
                self.write_later(p);
                self.checks.numbered(p, report.seq)?;
                match report.fact {
                    Fact::Operation { .. } if !self.plan.audits => return Ok(()),
                    Fact::Operation { .. } => {}
                    Fact::Response { .. } => note!(self.scene, "settled {}", String::from_utf8_lossy(value)),
                }
                self.checks.report(&self.scene, p, value)
            }
            Effect::DeadLetter { offset, reason } => {
                note!(self.scene, "dead letter {offset} of partition {p}: {reason:?}");
                let slow = self.scene.strikes(Fault::SlowResults);
                let time = self.scene.within(0..if slow { 5 * SECOND } else { 50 * MS });
                self.scene.at(time, Due::DeadLetter(p, offset));
                self.checks.dead_letter(p, offset)
            }
            Effect::Reload(reload) => self.ask(p, Question::Reload(reload)),
            Effect::LookUp(look_up) => self.ask(p, Question::LookUp(look_up)),
            Effect::ReadBack(read_back) => self.ask(p, Question::ReadBack(read_back)),
            Effect::Notice(_) => Ok(()),
        }
    }

    fn ask(&mut self, p: usize, question: Question) -> Kept {
        note!(self.scene, "partition {p} asks {question:?}");
        self.intakes[p].questions.push_back(question);
        let time = self.scene.within(0..200 * MS);
        self.scene.at(time, Due::Reply(p));
        Ok(())
    }

    fn reply(&mut self, p: usize) -> Kept {
        match self.intakes[p].questions.pop_front() {
            None => Ok(()),
            Some(Question::Reload(reload)) => {
                let lost = self.scene.strikes(Fault::InputLost);
                let text = (!lost).then(|| self.reread(p, &reload));
                if lost {
                    self.checks.input_lost(self.scene.now, &reload.response_id, reload.part);
                }
                note!(self.scene, "reloaded {}: {text:?}", reload.response_id);
                self.apply(p, Input::Reloaded { id: reload.id, text: text.as_deref() })
            }
            Some(Question::LookUp(look_up)) => {
                let found = self.net.server.look_up(&mut self.scene, &look_up);
                if let Found::Message { serial, version } | Found::Successor { serial, version, .. } = &found {
                    self.checks.found(&look_up, serial, version.as_ref());
                }
                if found == Found::Others {
                    self.checks.is_others(&look_up.head);
                }
                note!(self.scene, "looked up {}: {found:?}", look_up.head.response_id);
                self.apply(p, Input::LookedUp { id: look_up.id, found })
            }
            Some(Question::ReadBack(read_back)) => {
                let latest = self.net.server.read(&mut self.scene, &read_back.serial);
                self.checks.read(&read_back, &latest);
                note!(self.scene, "read back {}: {latest:?}", read_back.head.response_id);
                self.apply(p, Input::ReadBack { id: read_back.id, latest })
            }
        }
    }

    fn reread(&self, p: usize, reload: &Reload) -> String {
        let (first, last) = reload.offsets;
        let records = self.logs[p].iter().filter(|record| (first..=last).contains(&record.offset));
        let events = records.flat_map(|record| &record.events);
        let mut text = String::new();
        for event in events.filter(|event| *event.response_id == *reload.response_id && event.part == reload.part) {
            if let EventKind::Token(token) = &event.kind {
                text.push_str(token);
            }
        }
        text
    }

    /// Reads what there is, as long as there is room.
    fn read(&mut self, p: usize) -> Kept {
        self.intakes[p].scheduled = false;
        let logs = Rc::clone(&self.logs);
        while let Some(record) = logs[p].get(self.intakes[p].read).filter(|record| record.written <= self.scene.now) {
            if !self.shared.intake_open() {
                self.tick_all()?;
            }
            if !self.shared.intake_open() {
                self.intakes[p].paused = true;
                return self.tell_caught_up(p, false);
            }
            self.intakes[p].paused = false;
            self.intakes[p].read += 1;
            note!(self.scene, "read {} of partition {p}: {} {:?}", record.offset, record.key, said(&record.events));
            self.checks.record(self.scene.now, p, record);
            if record.decodable {
                self.apply(
                    p,
                    Input::Record(Record {
                        offset: record.offset,
                        time: record.stamped,
                        key: record.key,
                        traceparent: None,
                        events: &record.events,
                    }),
                )?;
            } else {
                self.apply(p, Input::Undecodable { offset: record.offset })?;
            }
            self.checks.applied(p)?;
        }
        self.intakes[p].paused = false;
        self.tell_caught_up(p, true)?;
        self.read_later(p);
        Ok(())
    }

    fn tell_caught_up(&mut self, p: usize, caught_up: bool) -> Kept {
        if self.intakes[p].caught_up == caught_up {
            return Ok(());
        }
        self.intakes[p].caught_up = caught_up;
        self.checks.caught_up(self.scene.now, p, caught_up);
        self.apply(p, Input::CaughtUp(caught_up))
    }

    fn read_later(&mut self, p: usize) {
        let Some(record) = self.logs[p].get(self.intakes[p].read).filter(|_| !self.intakes[p].scheduled) else {
            return;
        };
        self.intakes[p].scheduled = true;
        let slow = self.scene.strikes(Fault::SlowIntake);
        let delay = self.scene.rng.u64(..if slow { SECOND } else { 3 * MS });
        self.scene.at(record.written.max(self.scene.now) + delay, Due::Intake(p));
    }

    fn write_later(&mut self, p: usize) {
        if !self.intakes[p].writing {
            self.intakes[p].writing = true;
            let slow = self.scene.strikes(Fault::SlowResults);
            let time = self.scene.within(0..if slow { 5 * SECOND } else { 50 * MS });
            self.scene.at(time, Due::Durable(p));
        }
    }

    fn durable(&mut self, p: usize) -> Kept {
        let intake = &mut self.intakes[p];
        intake.writing = false;
        let all = intake.reports - intake.durable;
        intake.durable += if self.scene.rng.bool() { all } else { self.scene.rng.u64(1..=all) };
        let durable = intake.durable;
        if durable < intake.reports {
            self.write_later(p);
        }
        self.checks.durable(p, durable);
        self.apply(p, Input::Durable(durable - 1))
    }

    /// There are as many links as the engines want connections.
    fn open_links(&mut self) -> Kept {
        let wanted = self.shared.flow.connections();
        (self.net.links.len() as u32..wanted).try_for_each(|n| self.net.open_link(&mut self.scene, 0, n).map(drop))
    }

    /// The engines hear what happened on a link.
    fn heard(&mut self, l: usize) -> Kept {
        for event in self.net.heard(l) {
            match event {
                Event::Answer(answer) => {
                    let operation = self.net.asked(&mut self.scene, 0, &answer)?;
                    self.checks.answered(&self.scene, &operation, &answer.outcome, answer.resent)?;
                    self.apply(operation.id.partition as usize, Input::Answer(answer))?;
                }
                Event::Up(details) => {
                    note!(self.scene, "link {l}: up as {}", details.ably_id);
                    let bytes = usize::try_from(details.max_message_size).unwrap_or(usize::MAX);
                    self.checks.reach.link(self.scene.now, l, true);
                    self.shared.flow.up(l as u32, details.ably_id, self.plan.pipelining, bytes, None);
                }
                Event::Down => {
                    note!(self.scene, "link {l}: down");
                    self.checks.reach.link(self.scene.now, l, false);
                    self.shared.flow.down(l as u32);
                }
                Event::Lost => {
                    note!(self.scene, "link {l}: lost");
                    self.checks.moved(self.scene.now, l as u32);
                    (0..self.engines.len()).try_for_each(|p| self.apply(p, Input::Moved(l as u32)))?;
                }
            }
        }
        self.tick_blocked()
    }

    /// A tick for everybody: connections or memory have become free.
    pub(super) fn tick_all(&mut self) -> Kept {
        (0..self.engines.len()).try_for_each(|p| self.apply(p, Input::Tick))
    }

    /// A tick for those that wait for a connection, or for room.
    pub(super) fn tick_blocked(&mut self) -> Kept {
        for p in 0..self.engines.len() {
            if self.engines[p].is_blocked(&self.shared) || !self.shared.intake_open() {
                self.apply(p, Input::Tick)?;
            }
        }
        Ok(())
    }
}

impl Plays for World {
    /// Plays until nothing is due, and looks at what there is.
    fn run(&mut self) -> Kept {
        self.open_links()?;
        for p in 0..self.engines.len() {
            self.checks.partitions[p].next = self.engines[p].next_offset();
            self.checks.partitions[p].watermark = self.engines[p].watermark();
            self.read_later(p);
        }
        while self.step()? {
            self.steps += 1;
            hold!(self.steps < STEPS_MAX, "I12: it does not come to rest");
        }
        note!(self.scene, "at rest");
        hold!(self.net.operations.is_empty(), "I12: an operation is never answered");
        self.checks.at_rest(&self.net.server, &self.logs)?;
        let usage = self.shared.usage();
        hold!(usage == crate::engine::Usage::default(), "I9: at rest there is still {usage:?}");
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn struck(&self) -> Struck {
        self.scene.struck
    }
}

fn said<'a>(events: &'a [crate::engine::Event<'static>]) -> Vec<(u32, &'a EventKind<'static>)> {
    events.iter().map(|event| (event.part, &event.kind)).collect()
}
