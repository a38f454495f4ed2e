//! Partitions come: what is asked of the brokers, in the order of the real thing, and then the records.

use super::Deed;
use super::process::{Lane, Owned};
use super::tokens::told;
use super::wait::Then;
use super::world::Fleet;
use crate::engine::{History, Input};
use crate::kafka::predecessor::{Assigned, Facts, Stretch};
use crate::pipeline::stay::Stay;
use crate::sim::fault::Fault;
use crate::sim::scene::{Due, Kept, MS, SECOND, note};

/// How long it takes to ask the brokers something again.
const AGAIN: u64 = 20 * MS;

/// How far a takeover has come.
#[derive(Debug)]
pub(super) enum Taking {
    /// The committed offset is asked for.
    Offset,
    /// The end of the results is asked for.
    Results(Box<Assigned>),
    /// Transactions are waited for, and results read.
    History(Box<Assigned>, Stretch),
    /// All is known.
    Known(Box<Assigned>),
}

impl Fleet {
    /// A partition has been given to a process.
    pub(super) fn begin_to_take(&mut self, p: usize, partition: usize) {
        self.processes[p].taking.insert(partition, Taking::Offset);
        self.take_later(p, partition, 5 * MS);
    }

    fn take_later(&mut self, p: usize, partition: usize, within: u64) {
        let time = self.scene.within(0..within);
        self.scene.at(time, Due::Fleet(Deed::Take(p, partition)));
    }

    /// The next step of a takeover.
    pub(super) fn take(&mut self, p: usize, partition: usize) {
        if !self.hears(p) {
            return self.take_later(p, partition, 5 * AGAIN);
        }
        let Some(taking) = self.processes[p].taking.remove(&partition) else { return };
        let next = match taking {
            Taking::Offset => self.ask_for_offset(partition),
            Taking::Results(assigned) => {
                let (low, end) = (self.broker.low(partition), self.broker.high(partition));
                let stretch = Stretch::of(&assigned.before, low, end);
                Taking::History(assigned, stretch)
            }
            Taking::History(assigned, stretch) if self.broker.stable(partition) < stretch.end => {
                self.processes[p].taking.insert(partition, Taking::History(assigned, stretch));
                return self.take_later(p, partition, AGAIN);
            }
            Taking::History(mut assigned, stretch) => {
                let mut history = History::default();
                for value in self.broker.read(partition, stretch.from, stretch.end) {
                    history.add("tokens", value);
                }
                assigned.inherit(history, stretch);
                self.scene.at(self.scene.now, Due::Fleet(Deed::Taken(p, partition)));
                Taking::Known(assigned)
            }
            Taking::Known(assigned) => Taking::Known(assigned),
        };
        let goes_on = !matches!(next, Taking::Known(_));
        self.processes[p].taking.insert(partition, next);
        if goes_on {
            let within = self.scene.pick([MS, 30 * MS]);
            self.take_later(p, partition, within);
        }
    }

    fn ask_for_offset(&self, partition: usize) -> Taking {
        let Some(committed) = self.broker.committed(partition) else { return Taking::Offset };
        let begins = self.tokens.begins(partition);
        let facts =
            Facts { partition: partition as i32, committed, begins, end: self.tokens.end(partition, self.scene.now) };
        Taking::Results(Box::new(facts.place(begins, false, None)))
    }

    /// All is known: the engine begins, and that it does is committed before anything leaves.
    pub(super) fn taken(&mut self, p: usize, partition: usize) -> Kept {
        let Some(Taking::Known(assigned)) = self.processes[p].taking.remove(&partition) else { return Ok(()) };
        note!(
            self.scene,
            "p{p} takes partition {partition} from {}: epoch {}, begun below {}, {}, {} responses known",
            assigned.start,
            assigned.inheritance.epoch,
            assigned.inheritance.begun_below,
            if assigned.inheritance.clean { "clean" } else { "not clean" },
            assigned.inheritance.history.len()
        );
        let read = self.tokens.logs[partition].iter().take_while(|record| record.offset < assigned.start).count();
        let process = &mut self.processes[p];
        process.lives += 1;
        let lane = Lane { partition, life: process.lives };
        let (stay, inheritance) = Stay::begin(process.settings.clone(), process.lives, *assigned);
        let owned = Owned::new(stay, lane, read, self.scene.now, inheritance.clean);
        process.stays.insert(partition, owned);
        self.apply(p, partition, Input::Inherited(Box::new(inheritance)));
        self.read_later(p, partition);
        self.commit_now(p, &[partition], false, Then::GoOn);
        self.look(p)
    }

    fn read_later(&mut self, p: usize, partition: usize) {
        let Some(owned) = self.processes[p].stays.get_mut(&partition).filter(|owned| !owned.scheduled) else { return };
        let next = self.tokens.logs[partition].get(owned.read).map(|record| record.written);
        let Some(time) = next.or((!owned.caught_up).then_some(self.scene.now)) else { return };
        owned.scheduled = true;
        let slow = self.scene.strikes(Fault::SlowIntake);
        let delay = self.scene.rng.u64(..if slow { SECOND } else { 3 * MS });
        self.scene.at(time.max(self.scene.now) + delay, Due::Fleet(Deed::Read(p, partition)));
    }

    /// Reads what there is.
    pub(super) fn read(&mut self, p: usize, partition: usize) -> Kept {
        let Some(owned) = self.processes[p].stays.get_mut(&partition) else { return Ok(()) };
        owned.scheduled = false;
        if self.processes[p].stopping || self.processes[p].wait.is_some() {
            return Ok(());
        }
        if !self.hears(p) {
            let until = self.scene.now + 5 * AGAIN;
            self.scene.at(until, Due::Fleet(Deed::Read(p, partition)));
            return Ok(());
        }
        for _ in 0..self.scene.rng.usize(1..4) {
            let Some(owned) = self.processes[p].stays.get_mut(&partition) else { return Ok(()) };
            let tokens = std::rc::Rc::clone(&self.tokens);
            let record = tokens.logs[partition].get(owned.read).filter(|record| record.written <= self.scene.now);
            let Some(record) = record else {
                if !std::mem::replace(&mut owned.caught_up, true) {
                    self.apply(p, partition, Input::CaughtUp(true));
                }
                break;
            };
            owned.read += 1;
            note!(
                self.scene,
                "p{p} reads {} of partition {partition}: {} {:?}",
                record.offset,
                record.key,
                record.events.iter().map(|event| &event.kind).collect::<Vec<_>>()
            );
            match record.decodable {
                true => self.apply(p, partition, Input::Record(told(record))),
                false => self.apply(p, partition, Input::Undecodable { offset: record.offset }),
            }
        }
        self.read_later(p, partition);
        self.act(p)
    }

    /// Goes on reading after a wait.
    pub(super) fn read_on(&mut self, p: usize) {
        let partitions: Vec<usize> = self.processes[p].stays.keys().copied().collect();
        for partition in partitions {
            self.read_later(p, partition);
        }
    }
}
