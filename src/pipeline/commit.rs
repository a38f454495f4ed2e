//! Commits: what is done with, told to Kafka; with the results in one transaction, or behind them.
//!
//! The group's coordinator takes offsets only from members. So when there is nothing to commit for a while, the same is
//! committed again: a member that was expelled, or whose name somebody else has, finds out. That does not renew the
//! [lease](crate::ably::lease) on Ably: it does not say for how much longer we are a member. Heartbeats do.

use std::collections::{HashMap, VecDeque};

use tokio::time::{Duration, Instant, timeout_at};

use super::Error;
use super::relay::Relay;
use crate::ably::{Lease, Moment};
use crate::engine::Input;
use crate::kafka::results::{Lane, Mark};
use crate::kafka::source::Item;

/// How often it is looked who we are in the group, while a commit is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// What was last offered to be committed, and since when the group has not confirmed us.
#[derive(Debug)]
pub(super) struct Committing {
    /// For exactly-once delivery.
    marks: HashMap<i32, (i64, String)>,
    /// The number of the last job.
    offered: u64,
    /// Stays of which no owner after us knows yet, and the job that is to tell.
    unannounced: Vec<(Lane, Option<u64>)>,
    /// Jobs without an answer, and since when.
    asked: VecDeque<(u64, Moment)>,
    /// The last commit that was taken was asked for then.
    taken: Moment,
    /// How long ago that may become before the same is committed again.
    again_after: Duration,
    lease: Lease,
    /// The group has counted us as a member after that.
    proven: Moment,
    was_held: bool,
}

impl Committing {
    /// Renews this lease, which the group gives out for `session`.
    pub(super) fn new(lease: Lease, session: Duration) -> Self {
        Self {
            marks: HashMap::new(),
            offered: 0,
            unannounced: Vec::new(),
            asked: VecDeque::new(),
            taken: Moment::now(),
            again_after: session / 4,
            lease,
            proven: Moment::now(),
            was_held: false,
        }
    }

    /// How long the group's word is good for: a member that falls silent after it is expelled a session later. A fifth of that
    /// is for the way, and for clocks that do not run alike.
    pub(super) fn term(session: Duration) -> Duration {
        session * 4 / 5
    }

    /// Whether operations may leave.
    pub(super) fn may_send(&self) -> bool {
        self.lease.is_held()
    }

    /// The group has counted us as a member after that.
    pub(super) fn prove(&mut self, proof: Moment) {
        self.proven = proof;
        self.lease.renew(proof);
    }

    fn is_due_again(&self) -> bool {
        self.asked.is_empty() && self.taken.elapsed() >= self.again_after
    }

    fn ask(&mut self, number: u64) {
        if self.asked.back().is_none_or(|(asked, _)| *asked < number) {
            self.asked.push_back((number, Moment::now()));
        }
    }

    /// Everything up to the job of this number was taken.
    pub(super) fn confirmed(&mut self, number: u64) {
        while let Some((_, asked)) = self.asked.pop_front_if(|(asked, _)| *asked <= number) {
            self.taken = asked;
        }
    }
}

impl Relay<'_> {
    /// Offers what may be committed, if that has changed or there are results. Does not wait.
    ///
    /// # Errors
    /// When the consumer is beyond help.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        if self.writer.is_transactional() {
            self.writer.member(self.intake.group_metadata());
            self.offer_transaction(&[]);
            return Ok(());
        }
        self.mark(&[])?;
        if self.committing.is_due_again() {
            self.intake.mark_again();
        }
        if let Some(number) = self.intake.commit() {
            self.committing.ask(number);
        }
        self.committing.confirmed(self.intake.confirmed());
        Ok(())
    }

    /// Renews the lease if the group has heard from us.
    pub(super) fn hear(&mut self) {
        if let Some(proof) = self.intake.proof() {
            self.committing.prove(Moment::since_boot(proof));
        }
    }

    /// Hears from the group though nothing more is read: without that the lease would run out.
    pub(super) fn listen(&mut self) {
        while let Some(item) = self.intake.try_next() {
            if let Item::Lost(partitions) = item {
                tracing::warn!(?partitions, "partitions lost: this process was not heard from in time");
                self.forget(&partitions);
            }
        }
    }

    /// Says when the group is silent for so long that operations wait, and when that is over.
    pub(super) fn look_at_lease(&mut self) {
        self.hear();
        let held = self.committing.may_send() || self.partitions.numbers().is_empty();
        if std::mem::replace(&mut self.committing.was_held, held) == held {
            return;
        }
        if held {
            tracing::info!("the consumer group has confirmed us: operations go on");
            return self.health.clear("group");
        }
        let silent = self.committing.proven.elapsed();
        tracing::warn!(?silent, "the consumer group does not confirm us: operations wait until it does");
        self.health.set("group", NOT_CONFIRMED.to_owned());
    }

    /// Hands results over: at once, or, where they wait for the next commit, when there are many.
    pub(super) fn offer(&mut self) {
        if !self.writer.is_transactional() {
            self.writer.offer(&mut self.out.batch);
        } else if self.out.batch.is_full() {
            self.offer_transaction(&[]);
        }
    }

    /// Commits and waits until that is confirmed, but not for ever. `last`: nothing more will be read of these partitions.
    ///
    /// # Errors
    /// When it is not confirmed in time.
    pub(super) async fn commit_now(&mut self, partitions: &[i32], last: bool, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let last = if last { partitions } else { &[] };
        if !self.writer.is_transactional() {
            self.mark(last)?;
            let asked = Moment::now();
            let done = timeout_at(deadline, self.intake.commit_now(partitions)).await;
            if done.map_err(|_| Error::Uncommitted)?? {
                self.committing.taken = asked;
            }
            return Ok(());
        }
        self.writer.member(self.intake.group_metadata());
        let is_seen = self.partitions.is_durable(last);
        self.commit_all(last, deadline).await?;
        // That all is done can be said only once the results have been seen: by itself.
        if !is_seen {
            self.commit_all(last, deadline).await?;
        }
        Ok(())
    }

    /// One transaction with all there is; waits until it is seen.
    async fn commit_all(&mut self, last: &[i32], deadline: Instant) -> Result<(), Error> {
        let number = loop {
            match self.offer_transaction(last) {
                Some(number) => break number,
                None => self.wait_for_results(deadline).await?,
            }
        };
        while self.progress.committed < number {
            self.wait_for_results(deadline).await?;
        }
        Ok(())
    }

    /// Whether a commit has failed because the writer of results has ended. It says why only once.
    pub(super) fn is_end(&self, error: &Error) -> bool {
        self.writer.is_transactional() && !matches!(error, Error::Uncommitted)
    }

    /// Waits until something has become durable. The group may give us another name meanwhile, because others come and go: the
    /// writer must be told, or no broker would take its offsets any more.
    pub(super) async fn wait_for_results(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            let look = deadline.min(Instant::now() + LOOK);
            match timeout_at(look, self.writer.progress(&mut self.progress)).await {
                Ok(progress) => {
                    progress?;
                    self.durable();
                    return Ok(());
                }
                Err(_) if look == deadline => return Err(Error::Uncommitted),
                Err(_) => self.writer.member(self.intake.group_metadata()),
            }
        }
    }

    /// The number of the job that commits all there is; none if the thread is behind.
    fn offer_transaction(&mut self, last: &[i32]) -> Option<u64> {
        let mut changed: Vec<Mark> = Vec::new();
        let is_due_again = self.committing.is_due_again();
        for mark in self.partitions.marks(last, true) {
            let known = self.committing.marks.get(&mark.lane.partition);
            let is_new = known.is_none_or(|(offset, metadata)| (*offset, metadata) != (mark.offset, &mark.metadata));
            if is_new || is_due_again {
                changed.push(mark);
            }
        }
        if self.out.batch.is_empty() && changed.is_empty() {
            return Some(self.committing.offered);
        }
        let marks = changed.clone();
        let number = self.writer.commit(&mut self.out.batch, changed)?;
        self.committing.offered = number;
        // Results alone would be taken from anybody.
        if !marks.is_empty() {
            self.committing.ask(number);
        }
        for mark in marks {
            let told = self.committing.unannounced.iter_mut().filter(|(lane, _)| *lane == mark.lane);
            told.for_each(|(_, job)| _ = job.get_or_insert(number));
            self.committing.marks.insert(mark.lane.partition, (mark.offset, mark.metadata));
        }
        Some(number)
    }

    /// The partition has come: nothing of it is sent before that is committed.
    pub(super) fn announce_later(&mut self, partition: i32) {
        self.committing.unannounced.extend(self.partitions.lane(partition).map(|lane| (lane, None)));
    }

    /// Tells the engines whose stays are committed: whoever owns the partition next knows that they may have begun something.
    pub(super) fn announce(&mut self) {
        let now = self.clock.now();
        for (lane, job) in std::mem::take(&mut self.committing.unannounced) {
            let is_known = match self.writer.is_transactional() {
                true => job.is_some_and(|job| job <= self.progress.committed),
                false => self.intake.is_told(lane.partition),
            };
            match is_known {
                true => self.partitions.apply_in(now, lane, Input::Announced, &mut self.out),
                false => self.committing.unannounced.push((lane, job)),
            }
        }
    }

    /// Partitions have left: nothing of theirs is committed any more.
    pub(super) fn forget(&mut self, partitions: &[i32]) {
        self.committing.asked.clear();
        self.writer.forget(partitions.iter().filter_map(|partition| self.partitions.lane(*partition)));
        self.committing.unannounced.retain(|(lane, _)| !partitions.contains(&lane.partition));
        for partition in partitions {
            self.committing.marks.remove(partition);
            self.out.forget(*partition);
            for connection in self.partitions.revoke(*partition) {
                self.pool.abandon(connection);
            }
            self.metrics.forget_partition(*partition);
        }
        self.share_account();
        if self.partitions.numbers().is_empty() {
            self.health.set("partitions", "no partition is assigned to this process".to_owned());
        }
    }

    fn mark(&mut self, last: &[i32]) -> Result<(), Error> {
        for Mark { lane, offset, metadata } in self.partitions.marks(last, false) {
            self.intake.mark(lane.partition, offset, &metadata)?;
        }
        Ok(())
    }
}

const NOT_CONFIRMED: &str = "the consumer group's coordinator has not taken a heartbeat of ours for most of \
    kafka.session_timeout; nothing is sent until it does, because the partitions may be somebody else's by now";
