//! What the loop waits for: a commit, while nothing else is done; answers, before partitions leave. And how partitions leave.

use super::Deed;
use super::process::Batch;
use super::world::Fleet;
use super::writer::{Job, Promise};
use crate::engine::{Answer, Doubt, Input, Outcome};
use crate::sim::scene::{Due, Kept, MS, SECOND, note};

/// How long a commit may hold everything else up.
const COMMIT_MAX: u64 = 5 * SECOND;
/// How long answers are waited for before partitions leave.
const LETTING_GO_MAX: u64 = 5 * SECOND;
/// Jobs that may wait for the thread.
const JOBS_MAX: usize = 8;

/// What the loop waits for.
#[derive(Debug)]
pub(super) enum Wait {
    /// Answers to what these partitions, which leave, have sent.
    Answers { partitions: Vec<usize>, deadline: u64 },
    /// A commit; the number of its job, once that is taken. `again`: one more follows it, which says that all is done.
    Commit { number: Option<u64>, partitions: Vec<usize>, last: bool, again: bool, deadline: u64, then: Then },
}

/// What comes after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The loop goes on.
    GoOn,
    /// The partitions are let go.
    Release,
    /// The process ends.
    End,
}

impl Fleet {
    /// Commits what may be committed, a little later.
    pub(super) fn commit_later(&mut self, p: usize) {
        if !std::mem::replace(&mut self.processes[p].committing, true) {
            let time = self.scene.now + self.scene.rng.u64(..self.plan.commit_ms.max(1) * MS);
            self.scene.at(time, Due::Fleet(Deed::Commit(p)));
        }
    }

    /// It is time to commit.
    pub(super) fn commit(&mut self, p: usize) {
        self.processes[p].committing = false;
        self.name_generation(p);
        if self.offer(p, &[]).is_none() {
            self.commit_later(p);
        }
    }

    fn name_generation(&mut self, p: usize) {
        let process = &mut self.processes[p];
        process.writer.generation = process.generation;
    }

    /// The number of the job that commits all there is; none if the thread is behind. `last`: of these partitions nothing more
    /// will be read.
    fn offer(&mut self, p: usize, last: &[usize]) -> Option<u64> {
        let process = &mut self.processes[p];
        let mut changed = Vec::new();
        for (partition, owned) in &mut process.stays {
            let mark = owned.stay.mark(last.contains(partition), true);
            if process.marks.get(partition) != Some(&mark) {
                changed.push((owned.lane, mark));
            }
        }
        if process.batch.reports.is_empty() && process.batch.letters.is_empty() && changed.is_empty() {
            return Some(process.offered);
        }
        if process.writer.jobs.len() >= JOBS_MAX {
            return None;
        }
        process.offered += 1;
        for (lane, mark) in &changed {
            if process.marks.insert(lane.partition, mark.clone()).is_none() {
                process.first.push((*lane, process.offered));
            }
        }
        let Batch { reports, letters } = std::mem::take(&mut process.batch);
        let marks = changed.into_iter().map(|(lane, (offset, metadata))| Promise { lane, offset, metadata }).collect();
        process.writer.jobs.push_back(Job { reports, letters, marks, number: process.offered });
        let number = process.offered;
        self.write_soon(p);
        Some(number)
    }

    /// Commits and waits until that is confirmed, but not for ever.
    pub(super) fn commit_now(&mut self, p: usize, partitions: &[usize], last: bool, then: Then) {
        self.name_generation(p);
        let mut stays = partitions.iter().filter_map(|n| self.processes[p].stays.get(n));
        let again = last && !stays.all(|owned| owned.stay.engine.is_durable());
        let number = self.offer(p, if last { partitions } else { &[] });
        let deadline = self.scene.now + COMMIT_MAX;
        let partitions = partitions.to_vec();
        self.processes[p].wait = Some(Wait::Commit { number, partitions, last, again, deadline, then });
        self.scene.at(deadline, Due::Fleet(Deed::Look(p)));
    }

    /// Looks whether what the loop waits for is there, or will not come.
    pub(super) fn look(&mut self, p: usize) -> Kept {
        if !self.processes[p].alive {
            return Ok(());
        }
        match self.processes[p].wait.take() {
            None => Ok(()),
            Some(Wait::Answers { partitions, deadline }) => {
                if self.processes[p].in_flight_of(&partitions) > 0 && self.scene.now < deadline {
                    self.processes[p].wait = Some(Wait::Answers { partitions, deadline });
                    return Ok(());
                }
                self.answered(p, &partitions);
                self.look(p)
            }
            Some(Wait::Commit { number, partitions, last, again, deadline, then }) => {
                let number = number.or_else(|| self.offer(p, if last { &partitions } else { &[] }));
                let is_done = number.is_some_and(|number| self.processes[p].committed >= number);
                if is_done && again {
                    let number = self.offer(p, &partitions);
                    self.processes[p].wait =
                        Some(Wait::Commit { number, partitions, last, again: false, deadline, then });
                    return self.look(p);
                }
                if !is_done && self.scene.now < deadline {
                    self.processes[p].wait = Some(Wait::Commit { number, partitions, last, again, deadline, then });
                    return Ok(());
                }
                if !is_done {
                    note!(self.scene, "p{p}: a commit is not confirmed in time");
                }
                self.waited(p, &partitions, then)
            }
        }
    }

    fn waited(&mut self, p: usize, partitions: &[usize], then: Then) -> Kept {
        for due in std::mem::take(&mut self.processes[p].deferred) {
            self.scene.at(self.scene.now, due);
        }
        match then {
            Then::GoOn => {}
            Then::Release => {
                note!(self.scene, "p{p} lets go of {partitions:?}");
                self.forget(p, partitions)?;
                self.released(p, partitions);
            }
            Then::End => {
                note!(self.scene, "p{p} ends");
                self.die(p);
                self.leave(p);
                return Ok(());
            }
        }
        self.read_on(p);
        self.act(p)
    }

    /// A process hears which partitions it has.
    pub(super) fn told(&mut self, p: usize) -> Kept {
        if !self.group.members.contains(&p) {
            if self.processes[p].alive && !self.processes[p].stopping {
                self.lose_all(p)?;
                self.join(p);
            }
            return Ok(());
        }
        let mine = self.group.of(p);
        let process = &mut self.processes[p];
        process.generation = self.group.generation;
        process.taking.retain(|partition, _| mine.contains(partition));
        let leaving: Vec<usize> = process.stays.keys().copied().filter(|partition| !mine.contains(partition)).collect();
        let coming: Vec<usize> = mine
            .into_iter()
            .filter(|partition| !process.stays.contains_key(partition) && !process.taking.contains_key(partition))
            .collect();
        for partition in coming {
            if !self.processes[p].stopping {
                self.begin_to_take(p, partition);
            }
        }
        // What it never took it has let go.
        let free: Vec<usize> = (0..self.plan.partitions).filter(|n| !self.processes[p].stays.contains_key(n)).collect();
        self.released(p, &free);
        if leaving.is_empty() {
            return Ok(());
        }
        self.let_go(p, leaving)
    }

    /// Partitions are about to leave: what they have sent is answered first.
    pub(super) fn let_go(&mut self, p: usize, partitions: Vec<usize>) -> Kept {
        note!(self.scene, "p{p} is to let go of {partitions:?}");
        for partition in &partitions {
            self.apply(p, *partition, Input::Drain);
        }
        let deadline = self.scene.now + LETTING_GO_MAX;
        self.processes[p].wait = Some(Wait::Answers { partitions, deadline });
        self.scene.at(deadline, Due::Fleet(Deed::Look(p)));
        self.act(p)
    }

    fn answered(&mut self, p: usize, partitions: &[usize]) {
        if self.processes[p].stopping {
            self.close(p);
        }
        let then = if self.processes[p].stopping { Then::End } else { Then::Release };
        self.commit_now(p, partitions, true, then);
    }

    /// The connections are closed: what is unanswered will not be answered.
    fn close(&mut self, p: usize) {
        let mut left: Vec<_> = self.net.operations.iter().filter(|((owner, _), _)| *owner == p).collect();
        left.sort_unstable_by_key(|((_, op), _)| (op.partition, op.slot, op.seq));
        let answer = |operation: &crate::engine::Operation| Answer {
            op: operation.id,
            connection: operation.connection,
            outcome: Outcome::Unknown(Doubt::Stopped),
            resent: false,
        };
        let answers: Vec<Answer> = left.into_iter().map(|(_, operation)| answer(operation)).collect();
        self.net.kill(&mut self.scene, p, self.plan.late());
        for answer in answers {
            self.apply(p, answer.op.partition as usize, Input::Answer(answer));
        }
    }

    /// Partitions have left: nothing of theirs is committed any more.
    pub(super) fn forget(&mut self, p: usize, partitions: &[usize]) -> Kept {
        let process = &mut self.processes[p];
        let mut carrying = Vec::new();
        for partition in partitions {
            process.marks.remove(partition);
            process.taking.remove(partition);
            process.operations.retain(|operation| operation.id.partition as usize != *partition);
            if let Some(owned) = process.stays.remove(partition) {
                process.writer.gone.insert(owned.lane);
                carrying.extend(owned.stay.engine.leave(&mut process.shared));
            }
        }
        for connection in carrying {
            let l = self.processes[p].links[connection as usize];
            self.net.abandon(&mut self.scene, l)?;
        }
        Ok(())
    }

    /// The process has not been heard from in time: its partitions are somebody else's.
    pub(super) fn lose_all(&mut self, p: usize) -> Kept {
        note!(self.scene, "p{p} has lost its partitions");
        let partitions: Vec<usize> = (0..self.plan.partitions).collect();
        self.processes[p].wait = None;
        self.forget(p, &partitions)?;
        for due in std::mem::take(&mut self.processes[p].deferred) {
            self.scene.at(self.scene.now, due);
        }
        Ok(())
    }
}
