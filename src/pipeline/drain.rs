//! The end, in order: nothing new is read or sent, what is in flight is answered or declared unknown, what that gives is made
//! durable, and then committed. All of it within `shutdown.drain`.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::partitions::Partitions;
use super::relay::Relay;
use super::{Error, Stop};
use crate::ably::Event;
use crate::engine::Input;

/// What the end needs for itself: answering connections, flushing results, committing.
const RESERVED: Duration = Duration::from_secs(3);
/// Of this, how long connections may take to close: the rest is for the results of what they say then.
const CLOSING_MAX: Duration = Duration::from_secs(1);
/// How often the group is listened to meanwhile.
const LISTEN_EVERY: Duration = Duration::from_millis(100);
/// How long a rebalance waits for answers.
const LETTING_GO_MAX: Duration = Duration::from_secs(5);

impl Relay<'_> {
    /// Ends in order, or at once when asked to.
    pub(super) async fn drain(mut self, mut stop: watch::Receiver<Stop>) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.shutdown.drain;
        let answered_by = deadline.checked_sub(RESERVED).unwrap_or(deadline).max(Instant::now());
        self.health.set("stopping", "draining".to_owned());
        self.partitions.apply_all(self.clock.now(), || Input::Drain, &mut self.out);
        tracing::info!(in_flight = self.partitions.in_flight(), "draining");
        self.intake.pause()?;
        while self.partitions.in_flight() > 0 && *stop.borrow() != Stop::Now {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.ably(event),
                progress = self.writer.progress(&mut self.progress) => {
                    progress?;
                    self.durable();
                }
                _ = stop.changed() => {}
                () = sleep(LISTEN_EVERY) => self.listen(),
                () = sleep_until(answered_by) => break,
            }
            self.act();
        }
        let unanswered = self.partitions.in_flight();
        let at_once = async {
            if stop.wait_for(|stop| *stop == Stop::Now).await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(RESERVED).await;
        };
        tokio::select! {
            finished = self.finish(deadline) => finished?,
            () = at_once => return Err(Error::Uncommitted),
        }
        if unanswered > 0 {
            return Err(Error::Undrained { operations: unanswered });
        }
        tracing::info!("drained");
        Ok(())
    }

    /// Partitions are about to leave: what is in flight for them is answered first, so that nothing of ours lands behind what
    /// the next owner sends. Bounded, because librdkafka fetches nothing for any partition meanwhile.
    pub(super) async fn let_go(&mut self, partitions: &[i32]) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.shutdown.drain.min(LETTING_GO_MAX);
        let now = self.clock.now();
        for partition in partitions {
            self.partitions.apply(now, *partition, Input::Drain, &mut self.out);
        }
        // What the records just before have led to must be on its way, or its answer would be waited for in vain.
        self.act();
        // In a transaction results become durable with the offsets, else they must be before.
        let in_transactions = self.writer.is_transactional();
        let is_done = |partitions: &Partitions, leaving: &[i32]| {
            partitions.in_flight_of(leaving) == 0 && (in_transactions || partitions.is_durable(leaving))
        };
        while !is_done(&self.partitions, partitions) {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.ably(event),
                progress = self.writer.progress(&mut self.progress) => {
                    progress?;
                    self.durable();
                }
                () = sleep_until(deadline) => {
                    tracing::warn!(?partitions, "operations have no answer or no durable result yet; the next owner mends their texts");
                    break;
                }
            }
            self.act();
        }
        Ok(())
    }

    /// Closes the connections, makes durable what that tells us, and commits.
    async fn finish(mut self, deadline: Instant) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut closing = pin!(self.pool.close(left.min(CLOSING_MAX)));
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.last_answers(event),
                () = &mut closing => break,
                () = sleep_until(deadline) => break,
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.last_answers(event);
        }
        let (left, numbers) = (deadline.saturating_duration_since(Instant::now()), self.partitions.numbers());
        if self.writer.is_transactional() {
            self.commit_now(&numbers, true, left).await?;
            return Ok(self.writer.finish(left).await?);
        }
        while !self.writer.offer(&mut self.out.batch) {
            self.wait_for_results(deadline).await?;
        }
        let flushed = self.writer.finish(left).await;
        self.writer.take(&mut self.progress);
        self.durable();
        self.commit_now(&numbers, true, deadline.saturating_duration_since(Instant::now())).await?;
        Ok(flushed?)
    }

    fn last_answers(&mut self, event: Event) {
        let Event::Answers(answers) = event else { return };
        let now = self.clock.now();
        for answer in answers {
            self.partitions.apply(now, answer.op.partition, Input::Answer(answer), &mut self.out);
        }
    }
}
