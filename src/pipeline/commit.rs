//! Commits: what is done with, told to Kafka; with the results in one transaction, or behind them.

use std::collections::HashMap;

use tokio::time::{Duration, Instant, timeout_at};

use super::Error;
use super::relay::Relay;
use crate::engine::Input;
use crate::kafka::results::{Lane, Mark};

/// What was last offered to be committed, for exactly-once delivery.
#[derive(Debug, Default)]
pub(super) struct Committing {
    marks: HashMap<i32, (i64, String)>,
    /// The number of the last job.
    offered: u64,
    /// Stays of which no owner after us knows yet, and the job that is to tell.
    unannounced: Vec<(Lane, Option<u64>)>,
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
        self.intake.commit();
        Ok(())
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
            let done = timeout_at(deadline, self.intake.commit_now(partitions)).await;
            return Ok(done.map_err(|_| Error::Uncommitted)??);
        }
        self.writer.member(self.intake.group_metadata());
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

    async fn wait_for_results(&mut self, deadline: Instant) -> Result<(), Error> {
        let progress = timeout_at(deadline, self.writer.progress(&mut self.progress)).await;
        progress.map_err(|_| Error::Uncommitted)??;
        self.durable();
        Ok(())
    }

    /// The number of the job that commits all there is; none if the thread is behind.
    fn offer_transaction(&mut self, last: &[i32]) -> Option<u64> {
        let mut changed: Vec<Mark> = Vec::new();
        for mark in self.partitions.marks(last, true) {
            let known = self.committing.marks.get(&mark.lane.partition);
            if known.is_none_or(|(offset, metadata)| (*offset, metadata) != (mark.offset, &mark.metadata)) {
                changed.push(mark);
            }
        }
        if self.out.batch.is_empty() && changed.is_empty() {
            return Some(self.committing.offered);
        }
        let marks = changed.clone();
        let number = self.writer.commit(&mut self.out.batch, changed)?;
        self.committing.offered = number;
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
