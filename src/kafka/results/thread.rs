//! The thread: owns the producer, produces batches, and learns what has become durable.
//!
//! Producing and making durable are one place ([`Thread::produce`], [`Thread::settle`]): a transaction around a batch
//! would begin before the one and end after the other.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::batch::{Batch, Reported};
use super::lanes::Lanes;
use super::letter::Form;
use super::outbox::{Kept, Outbox, Place, Sent};
use super::{Job, Shared};
use crate::kafka::client::Clients;
use crate::kafka::context::lock;
use crate::kafka::error::Error;

/// How long the thread sleeps between two looks while something is on its way.
const LOOK: Duration = Duration::from_millis(5);
/// How long it sleeps while nothing is on its way, to hand on what librdkafka has to say.
const IDLE: Duration = Duration::from_secs(1);
/// How long after a refusal it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// See the module.
pub(super) struct Thread {
    outbox: Outbox,
    lanes: Lanes,
    shared: Arc<Shared>,
    kept: Vec<Kept>,
    retry_at: Instant,
    backoff: Duration,
    /// The batches' senders are gone: what is here is the last.
    closing: bool,
}

impl Thread {
    pub(super) fn new(clients: &Clients, shared: Arc<Shared>) -> Result<Self, Error> {
        Ok(Self {
            outbox: Outbox::new(clients)?,
            lanes: Lanes::default(),
            shared,
            kept: Vec::new(),
            retry_at: Instant::now(),
            backoff: RETRY.0,
            closing: false,
        })
    }

    pub(super) fn run(mut self, jobs: Receiver<Job>) {
        let ended = self.work(&jobs);
        // Nothing more is taken from here on; the end of the clients takes its time.
        drop(jobs);
        if let Err(error) = &ended {
            tracing::error!(%error, "kafka: the writer of results has ended");
        }
        self.shared.end(ended);
    }

    fn work(&mut self, jobs: &Receiver<Job>) -> Result<(), Error> {
        loop {
            if self.kept.is_empty() {
                self.take(jobs);
            }
            let left = self.outbox.on_its_way() + self.kept.len();
            if left == 0 && self.closing {
                return Ok(());
            }
            if self.shared.is_over() {
                return Err(Error::NotDurable { records: left });
            }
            self.outbox.wait(LOOK);
            self.settle();
            if let Some(reason) = self.outbox.fatal() {
                return Err(Error::Fatal { role: "results", reason });
            }
            if !self.kept.is_empty() && Instant::now() >= self.retry_at {
                self.retry();
            }
        }
    }

    /// Produces every batch that is there; waits for one while nothing is on its way.
    fn take(&mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match jobs.try_recv() {
                Err(TryRecvError::Empty) if self.outbox.on_its_way() == 0 => match jobs.recv_timeout(IDLE) {
                    Err(RecvTimeoutError::Timeout) => return self.outbox.look(),
                    Err(RecvTimeoutError::Disconnected) => Err(TryRecvError::Disconnected),
                    Ok(job) => Ok(job),
                },
                other => other,
            };
            match job {
                Ok(Job { mut batch, .. }) => {
                    self.produce(&mut batch);
                    self.shared.give_back(batch);
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
            }
            if !self.kept.is_empty() {
                return;
            }
        }
    }

    fn produce(&mut self, batch: &mut Batch) {
        for report in batch.reports.drain(..) {
            let Reported { lane, seq, .. } = report;
            self.lanes.sent(lane, seq);
            self.make_room();
            self.outbox.report(&report, &batch.bytes);
        }
        for letter in batch.letters.drain(..) {
            self.make_room();
            self.outbox.resend(Sent::Letter(Box::new(letter)));
        }
    }

    /// Waits while librdkafka holds as much as it may.
    fn make_room(&mut self) {
        while self.outbox.is_full() && !self.shared.is_over() {
            self.outbox.wait(LOOK);
            self.settle();
        }
    }

    /// Looks at what was delivered and what was refused, and says so.
    fn settle(&mut self) {
        let deliveries = self.outbox.delivered();
        if deliveries.is_empty() {
            return;
        }
        let mut progress = lock(&self.shared.progress);
        for delivery in deliveries {
            match delivery {
                Ok((Sent::Report { lane, seq, .. }, Place { offset, .. })) => {
                    progress.counts.results += 1;
                    if let Some(last) = self.lanes.durable(lane, seq) {
                        progress.durable.insert(lane, last);
                        let end = progress.ends.entry(lane).or_default();
                        *end = (*end).max(offset + 1);
                    }
                }
                Ok((Sent::Letter(letter), _)) => {
                    progress.counts.letters += 1;
                    progress.counts.bare += u64::from(letter.form == Form::Bare);
                    progress.counts.pointers += u64::from(letter.form == Form::Pointer);
                    progress.letters.push((letter.lane, letter.offset));
                }
                Err(kept) => {
                    progress.counts.refused += 1;
                    if self.kept.is_empty() {
                        // One that is too long is seen to at once, the others give somebody time.
                        let pause = if kept.is_too_long() { Duration::ZERO } else { self.backoff };
                        self.retry_at = Instant::now() + pause;
                    }
                    self.kept.push(kept);
                }
            }
        }
        drop(progress);
        self.shared.changed.notify_one();
    }

    /// Tries again what was refused. In order, and one at a time until one is taken: what has refused one record will
    /// refuse the others.
    fn retry(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.sort_by_key(Kept::order);
        let (alone, together): (Vec<_>, Vec<_>) = kept.into_iter().partition(Kept::is_too_long);
        let mut together = together.into_iter();
        if let Some(first) = together.next() {
            self.resend_alone(first);
            if self.kept.is_empty() {
                together.for_each(|kept| self.resend(kept));
            } else {
                self.kept.extend(together);
            }
        }
        for kept in alone {
            self.resend_alone(kept);
        }
        self.tell_trouble();
    }

    fn resend(&mut self, kept: Kept) {
        self.make_room();
        self.outbox.resend(kept.sent);
    }

    /// Sends a record with nothing beside it, so that an answer about the length of a batch is about this record. A dead
    /// letter that is too long by itself gets shorter until it is taken.
    fn resend_alone(&mut self, kept: Kept) {
        let by_itself = kept.is_too_long();
        self.drain();
        let others = self.kept.len();
        self.resend(kept);
        self.drain();
        if self.kept.len() == others || !by_itself {
            return;
        }
        let Some(mut kept) = self.kept.pop() else { return };
        if kept.is_too_long()
            && let Sent::Letter(letter) = &mut kept.sent
            && letter.shorten()
        {
            return self.resend_alone(kept);
        }
        self.kept.push(kept);
    }

    /// Waits until nothing is on its way.
    fn drain(&mut self) {
        while self.outbox.on_its_way() > 0 && !self.shared.is_over() {
            self.outbox.wait(LOOK);
            self.settle();
        }
    }

    fn tell_trouble(&mut self) {
        let trouble = self.kept.first().map(|kept| kept.trouble(&self.outbox));
        if trouble.is_some() {
            self.retry_at = Instant::now() + self.backoff;
            self.backoff = (self.backoff * 2).min(RETRY.1);
        } else {
            self.backoff = RETRY.0;
        }
        self.shared.tell_trouble(trouble);
    }
}

/// Whether the record itself, or what was sent along with it, is longer than the topic takes.
pub(super) fn is_too_long(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge)
}
