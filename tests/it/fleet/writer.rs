//! The thread of transactions: results, dead letters and offsets become visible together. Between any two of its steps others
//! may act, and the process may die.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::Deed;
use super::broker::{Mark, Producer, Refused};
use super::process::{Lane, Reported};
use super::world::Fleet;
use crate::engine::{Input, Offset, ReportSeq};
use crate::sim::fault::Fault;
use crate::sim::scene::{Due, Kept, MS, SECOND, note};

/// How long after a failure it is tried again.
const RETRY: u64 = 100 * MS;
/// A producer that was fenced is made anew, but not twice within this time.
const FENCED_TWICE: u64 = 60 * SECOND;

/// An offset that is to be committed for a stay.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    pub(super) lane: Lane,
    pub(super) offset: Offset,
    pub(super) metadata: String,
}

/// What becomes visible together.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) reports: Vec<Reported>,
    pub(super) letters: Vec<(Lane, Offset)>,
    pub(super) marks: Vec<Promise>,
    pub(super) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    /// It has not said its name.
    #[default]
    Nameless,
    /// Nothing is open.
    Idle,
    /// Everything is produced, the offsets are not added.
    Produced,
    /// All is in the transaction.
    Complete,
    /// It is committed; nobody has said so yet.
    Committed,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) jobs: VecDeque<Job>,
    /// As which member of the group offsets are committed.
    pub(super) generation: u32,
    /// Stays that are over.
    pub(super) gone: HashSet<Lane>,
    producer: Option<Producer>,
    step: Step,
    scheduled: bool,
    reports: Vec<Reported>,
    letters: Vec<(Lane, Offset)>,
    marks: BTreeMap<Lane, Promise>,
    number: u64,
    pending: bool,
    /// The generation when the transaction was begun.
    named: u32,
    written: BTreeMap<Lane, (ReportSeq, Offset)>,
    fenced_at: Option<u64>,
}

impl Writer {
    fn gather(&mut self) {
        for job in self.jobs.drain(..) {
            self.reports.extend(job.reports);
            self.letters.extend(job.letters);
            self.marks.extend(job.marks.into_iter().map(|mark| (mark.lane, mark)));
            self.number = job.number;
            self.pending = true;
        }
    }
}

impl Fleet {
    /// The thread has something to do.
    pub(super) fn write_soon(&mut self, p: usize) {
        let slow = self.scene.strikes(Fault::SlowResults);
        let delay = if slow { 5 * SECOND } else { self.scene.pick([MS, 5 * MS, 100 * MS]) };
        let delay = self.scene.rng.u64(..delay);
        self.write_after(p, delay);
    }

    fn write_after(&mut self, p: usize, delay: u64) {
        if !std::mem::replace(&mut self.processes[p].writer.scheduled, true) {
            self.scene.at(self.scene.now + delay, Due::Fleet(Deed::Write(p)));
        }
    }

    /// The next step of the thread.
    pub(super) fn write(&mut self, p: usize) -> Kept {
        self.processes[p].writer.scheduled = false;
        if !self.hears(p) {
            self.write_after(p, RETRY);
            return Ok(());
        }
        match (self.processes[p].writer.step, self.processes[p].writer.producer) {
            (Step::Idle, Some(producer)) => self.produce(p, producer),
            (Step::Produced, Some(producer)) => self.add_offsets(p, producer),
            (Step::Complete, Some(producer)) => self.commit_transaction(p, producer),
            (Step::Committed, Some(_)) => self.confirm(p),
            _ => {
                if self.burns(p) {
                    return Ok(());
                }
                let producer = self.broker.introduce(self.processes[p].name);
                note!(self.scene, "p{p} writes as {producer:?}");
                let writer = &mut self.processes[p].writer;
                (writer.producer, writer.step) = (Some(producer), Step::Idle);
                self.write_soon(p);
                Ok(())
            }
        }
    }

    fn produce(&mut self, p: usize, producer: Producer) -> Kept {
        let writer = &mut self.processes[p].writer;
        writer.gather();
        if !writer.pending {
            return Ok(());
        }
        writer.named = writer.generation;
        let gone = &writer.gone;
        writer.letters.retain(|(lane, _)| !gone.contains(lane));
        writer.marks.retain(|lane, _| !gone.contains(lane));
        writer.reports.retain(|report| !gone.contains(&report.lane));
        writer.written.clear();
        let (reports, letters) = (writer.reports.clone(), writer.letters.clone());
        self.expire_later();
        for Reported { lane, seq, value } in reports {
            if self.burns(p) {
                return Ok(());
            }
            match self.broker.produce(self.scene.now, producer, lane.partition, value) {
                Ok(offset) => _ = self.processes[p].writer.written.insert(lane, (seq, offset + 1)),
                Err(refused) => return self.refused(p, producer, refused),
            }
        }
        for (lane, offset) in letters {
            if self.burns(p) {
                return Ok(());
            }
            if let Err(refused) = self.broker.letter(self.scene.now, producer, (lane.partition, offset)) {
                return self.refused(p, producer, refused);
            }
        }
        self.processes[p].writer.step = Step::Produced;
        self.write_soon(p);
        Ok(())
    }

    fn add_offsets(&mut self, p: usize, producer: Producer) -> Kept {
        if self.burns(p) {
            return Ok(());
        }
        let writer = &self.processes[p].writer;
        let marks: Vec<Mark> = writer
            .marks
            .values()
            .map(|promise| Mark {
                by: (p, promise.lane.life),
                partition: promise.lane.partition,
                offset: promise.offset,
                metadata: promise.metadata.clone(),
            })
            .collect();
        if !marks.is_empty() {
            let is_known = self.group.knows(p, writer.named);
            if let Err(refused) = self.broker.add_offsets(self.scene.now, producer, is_known, marks) {
                return self.refused(p, producer, refused);
            }
            self.expire_later();
        }
        let writer = &mut self.processes[p].writer;
        if writer.gone.iter().any(|lane| writer.written.contains_key(lane)) {
            return self.abort(p, producer, 0);
        }
        writer.step = Step::Complete;
        self.write_soon(p);
        Ok(())
    }

    fn commit_transaction(&mut self, p: usize, producer: Producer) -> Kept {
        if self.burns(p) {
            return Ok(());
        }
        match self.broker.commit(producer) {
            Ok(committed) => {
                note!(
                    self.scene,
                    "p{p} commits {} results, {} letters, {:?}",
                    committed.results.len(),
                    committed.letters.len(),
                    committed.marks.iter().map(|m| (m.partition, m.offset, &*m.metadata)).collect::<Vec<_>>()
                );
                self.audit.committed(&self.tokens, &committed)?;
                self.processes[p].writer.step = Step::Committed;
                self.write_soon(p);
            }
            Err(_) => {
                note!(self.scene, "p{p}: whether it was committed nobody can tell");
                self.die(p);
            }
        }
        Ok(())
    }

    /// The commit is known. The loop hears of it.
    fn confirm(&mut self, p: usize) -> Kept {
        let writer = &mut self.processes[p].writer;
        let written = std::mem::take(&mut writer.written);
        let letters = std::mem::take(&mut writer.letters);
        writer.reports.clear();
        writer.marks.clear();
        writer.pending = false;
        writer.step = Step::Idle;
        let number = self.processes[p].writer.number;
        self.processes[p].committed = number;
        for (lane, _) in self.processes[p].first.extract_if(.., |(_, first)| *first <= number).collect::<Vec<_>>() {
            if self.has(p, lane) {
                self.apply(p, lane.partition, Input::Announced);
            }
        }
        for (lane, (seq, end)) in written {
            if self.has(p, lane) {
                self.apply(p, lane.partition, Input::Durable(seq));
                if let Some(owned) = self.processes[p].stays.get_mut(&lane.partition) {
                    owned.stay.written(end);
                }
            }
        }
        for (lane, offset) in letters {
            if self.has(p, lane) {
                self.apply(p, lane.partition, Input::DeadLetterDurable(offset));
            }
        }
        if !self.processes[p].writer.jobs.is_empty() {
            self.write_soon(p);
        }
        self.look(p)?;
        self.act(p)
    }

    fn has(&self, p: usize, lane: Lane) -> bool {
        self.processes[p].stays.get(&lane.partition).is_some_and(|owned| owned.lane == lane)
    }

    fn refused(&mut self, p: usize, producer: Producer, refused: Refused) -> Kept {
        note!(self.scene, "p{p} is refused: {refused:?}");
        match refused {
            Refused::Stale => {
                // The loop says who we are in the group whenever it commits.
                self.commit_later(p);
                self.abort(p, producer, RETRY)
            }
            Refused::Fenced => {
                let now = self.scene.now;
                let writer = &mut self.processes[p].writer;
                let again = writer.fenced_at.replace(now).is_some_and(|at| now < at + FENCED_TWICE);
                if again {
                    self.die(p);
                    return Ok(());
                }
                writer.step = Step::Nameless;
                self.write_after(p, RETRY);
                Ok(())
            }
        }
    }

    fn abort(&mut self, p: usize, producer: Producer, again_after: u64) -> Kept {
        if self.broker.abort(producer).is_err() {
            return self.refused(p, producer, Refused::Fenced);
        }
        self.processes[p].writer.step = Step::Idle;
        self.write_after(p, again_after);
        Ok(())
    }

    fn expire_later(&mut self) {
        let time = self.scene.now + self.plan.transaction;
        self.scene.at(time, Due::Fleet(Deed::Expire));
    }
}
