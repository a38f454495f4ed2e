//! The thread of `results.delivery = "exactly-once"`: results, dead letters and offsets in one transaction.
//!
//! What was offered is gathered and then written at once: begin, produce, wait for every delivery, add the offsets, commit, see
//! it ([`seen`]). So a transaction is open for milliseconds, and a process that is killed seldom leaves one behind for others to
//! wait for.
//!
//! Records stay here until the commit is seen. An aborted transaction is written again whole, less what belongs to
//! partitions that have left since: their next owner has begun without it. The broker refuses offsets of a stale generation,
//! but it does not check whether a partition is ours; so the group's metadata are taken before it is looked which partitions
//! have left ([`Membership`]), and no offset of those goes in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::batch::{Batch, Lane};
use super::letter::{Form, Letter};
use super::outbox::{Outbox, Sent};
use super::renamed::{Patience, Renamed, renaming};
use super::{Job, Mark, Membership, Shared};
use crate::engine::ReportSeq;
use crate::kafka::client::Clients;
use crate::kafka::context::lock;
use crate::kafka::error::{Error, Kind, is_refusal};
use seen::{Aborted, Missing, Sight, Unseen};

mod fill;
mod seen;

/// How long the thread sleeps between two looks while something is on its way.
const LOOK: Duration = Duration::from_millis(1);
/// How long it sleeps while there is nothing to write.
const IDLE: Duration = Duration::from_secs(1);
/// How long one call may take before it is made again.
const CALL: Duration = Duration::from_secs(5);
/// How long after a failure it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Bytes that are gathered while nothing can be written.
const PENDING_BYTES_MAX: usize = 16 << 20;

/// What a transaction holds.
#[derive(Debug, Default)]
struct Written {
    /// Of each stay, up to which report, and where the results partition ends then.
    lanes: HashMap<Lane, (ReportSeq, i64)>,
    /// Where partitions of the dead-letter topic end then.
    letters: HashMap<i32, i64>,
    /// The marks are in it.
    offsets: bool,
    /// Stays whose results are gone while the group has their offsets: nobody will write them again but us, even if their
    /// partitions have left us.
    owed: HashSet<Lane>,
}

/// See the module.
pub(super) struct Thread {
    clients: Clients,
    outbox: Outbox,
    shared: Arc<Shared>,
    batches: Vec<Batch>,
    letters: Vec<Letter>,
    marks: HashMap<Lane, Mark>,
    /// The last job that was taken.
    number: u64,
    /// Something was taken that is not committed, or not seen to be.
    pending: bool,
    /// What was committed and not seen yet. Nothing else is taken meanwhile.
    unseen: Option<Unseen>,
    /// What is to be written once more of what is pending, if not all; and what stays as it was written.
    again: Option<(Missing, Written)>,
    /// A transaction was aborted, and nobody has seen that since.
    aborted: Option<Aborted>,
    /// Up to where the group was seen to have the offsets of each stay.
    settled: HashMap<Lane, i64>,
    sight: Sight,
    /// Records are produced one at a time, so that it shows which one is too long.
    carefully: bool,
    retry_at: Instant,
    backoff: Duration,
    /// When the producer was made anew because the one before was fenced.
    anew_at: Option<Instant>,
    renamed: Renamed,
    closing: bool,
}

/// Why a transaction did not come to its end.
enum Failure {
    /// It was aborted; later, again.
    Aborted(String),
    /// It was aborted and can be written again at once.
    AtOnce,
    /// It was aborted because the group is about to give us another name.
    Renamed(String),
    /// It was given up, and the producer with it; later, again with another.
    Broken(String),
    /// A newer producer has our name, or the broker has lost sight of us.
    Fenced(String),
    /// The process must end.
    Fatal(Error),
}

impl Written {
    /// It was written after that, some of it perhaps again.
    fn follow(&mut self, before: Self) {
        for (lane, (seq, end)) in before.lanes {
            let last = self.lanes.entry(lane).or_default();
            *last = (last.0.max(seq), last.1.max(end));
        }
        self.offsets |= before.offsets;
        self.owed.extend(before.owed);
        for (partition, end) in before.letters {
            let last = self.letters.entry(partition).or_default();
            *last = (*last).max(end);
        }
    }
}

impl Thread {
    pub(super) fn new(clients: &Clients, shared: Arc<Shared>) -> Result<Self, Error> {
        Ok(Self {
            clients: clients.clone(),
            outbox: Outbox::new(clients)?,
            shared,
            batches: Vec::new(),
            letters: Vec::new(),
            marks: HashMap::new(),
            number: 0,
            pending: false,
            unseen: None,
            again: None,
            aborted: None,
            settled: HashMap::new(),
            sight: Sight::new(clients)?,
            carefully: false,
            retry_at: Instant::now(),
            backoff: RETRY.0,
            anew_at: None,
            renamed: Renamed::default(),
            closing: false,
        })
    }

    pub(super) fn run(mut self, jobs: Receiver<Job>) {
        let ended = self.work(&jobs);
        // Nothing more is taken from here on; the end of the clients takes its time.
        drop(jobs);
        // A refusal is the program's last word, and said once.
        if let Err(error) = &ended
            && error.kind() != Kind::Refused
        {
            tracing::error!(%error, "kafka: the writer of results has ended");
        }
        self.shared.end(ended);
    }

    fn work(&mut self, jobs: &Receiver<Job>) -> Result<(), Error> {
        self.introduce()?;
        loop {
            self.take(jobs);
            if self.pending && Instant::now() >= self.retry_at {
                self.write()?;
            }
            if !self.pending && self.closing {
                return Ok(());
            }
            if self.shared.is_over() {
                return if self.pending { Err(self.not_durable()) } else { Ok(()) };
            }
        }
    }

    fn again_later(&mut self, reason: String) {
        self.retry_at = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(RETRY.1);
        self.tell_trouble(Some(reason));
    }

    /// With another producer: the one before is beyond help. At the start of the process a right that is missing is a reason to
    /// end; by now somebody may mend it.
    fn begin_anew(&mut self) -> Result<(), Error> {
        loop {
            self.outbox = Outbox::new(&self.clients)?;
            match self.introduce() {
                Err(error) if error.kind() == Kind::Refused && !self.shared.is_over() => {
                    std::thread::sleep(self.backoff);
                    self.again_later(error.to_string());
                }
                ended => return ended,
            }
        }
    }

    /// Ends what a former process of our name has left open, and fences it.
    fn introduce(&mut self) -> Result<(), Error> {
        loop {
            match self.shared.call(|| self.outbox.introduce(CALL)) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !self.shared.is_over() => {
                    self.tell_trouble(Some(format!("transactions cannot begin yet: {error}")));
                    std::thread::sleep(self.backoff);
                }
                Err(source) => return Err(forbidden(&self.clients, source)),
            }
        }
    }

    /// Takes what was offered; waits for it while there is nothing to write.
    fn take(&mut self, jobs: &Receiver<Job>) {
        let wait = match self.pending {
            true => self.retry_at.saturating_duration_since(Instant::now()),
            false => IDLE,
        };
        let bytes: usize = self.batches.iter().map(Batch::bytes).sum();
        if bytes >= PENDING_BYTES_MAX || self.closing || self.unseen.is_some() || self.again.is_some() {
            std::thread::sleep(wait.min(RETRY.0));
            return;
        }
        match jobs.recv_timeout(wait) {
            Ok(job) => {
                self.add(job);
                while let Ok(job) = jobs.try_recv() {
                    self.add(job);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                self.outbox.look();
                self.sight.attend();
            }
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
    }

    fn add(&mut self, Job { mut batch, marks, number }: Job) {
        self.letters.append(&mut batch.letters);
        self.batches.push(batch);
        self.marks.extend(marks.into_iter().map(|mark| (mark.lane, mark)));
        self.number = number;
        self.pending = true;
    }

    fn write(&mut self) -> Result<(), Error> {
        match self.attempt() {
            Ok(None) => {}
            Ok(Some(unseen)) => {
                self.committed(unseen);
                self.backoff = RETRY.0;
                self.renamed = Renamed::default();
                self.tell_trouble(None);
            }
            Err(Failure::AtOnce) => {}
            // Part of every rebalance, and nobody's to mend. Then the last commit of a partition that leaves waits for this.
            Err(Failure::Renamed(reason)) => {
                self.retry_at = Instant::now() + RETRY.0;
                match self.renamed.again(RETRY.0) {
                    Patience::Quiet => {}
                    Patience::Trouble => self.tell_trouble(Some(reason)),
                    Patience::Over => return Err(Error::Fatal { role: "tokens", reason }),
                }
            }
            Err(Failure::Aborted(reason)) => self.again_later(reason),
            Err(Failure::Broken(reason)) => {
                self.again_later(reason);
                self.begin_anew()?;
            }
            Err(Failure::Fenced(reason)) => {
                // Brokers fence us off, too, when they end what was open for too long: while they are away, or we are frozen.
                // A producer that is younger than that was fenced by another process of our name.
                let lifetime = self.clients.transaction_timeout();
                if self.anew_at.is_some_and(|at| at.elapsed() < lifetime) {
                    return Err(Error::Fenced { name: self.clients.transactional_id(), reason });
                }
                tracing::warn!(reason, "kafka: our transactions were fenced off; beginning anew");
                self.begin_anew()?;
                self.anew_at = Some(Instant::now());
            }
            Err(Failure::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    /// The next step to a commit that is seen; the commit once it is.
    fn attempt(&mut self) -> Result<Option<Unseen>, Failure> {
        let begun = Instant::now();
        if let Some(unseen) = self.unseen.take() {
            return self.see(unseen);
        }
        if !self.is_clear()? {
            return Ok(None);
        }
        // Until it is committed it counts as aborted.
        self.aborted = Some(Aborted::default());
        let written = self.transaction()?;
        self.aborted = None;
        self.see(Unseen::new(written, begun))
    }

    /// One transaction with all that is pending. What it holds.
    fn transaction(&mut self) -> Result<Written, Failure> {
        let Membership { group, mut gone } = lock(&self.shared.membership).clone();
        self.letters.retain(|letter| !gone.contains(&letter.lane));
        self.marks.retain(|lane, _| !gone.contains(lane));
        self.settled.retain(|lane, _| !gone.contains(lane));
        gone.retain(|lane| !self.is_owed(*lane));
        let mut written = self.fill(group, &gone)?;
        let left = lock(&self.shared.membership).gone.clone();
        if left.iter().any(|lane| written.lanes.contains_key(lane) && !self.is_owed(*lane)) {
            return Err(self.abort(None));
        }
        self.commit()?;
        if let Some((_, before)) = self.again.take() {
            written.follow(before);
        }
        Ok(written)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        loop {
            let error = match self.shared.call(|| self.outbox.commit(CALL)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                KafkaError::Transaction(reason) if reason.txn_requires_abort() => return Err(self.failure(error)),
                // Whether it was committed nobody can tell here; a new process reads it from the topics.
                KafkaError::Transaction(reason) if reason.is_fatal() => {
                    return Err(Failure::Fatal(Error::Fatal { role: "results", reason: reason.to_string() }));
                }
                _ if self.shared.is_over() => return Err(Failure::Fatal(self.not_durable())),
                _ => self.tell_trouble(Some(format!("a commit is not confirmed: {error}"))),
            }
        }
    }

    fn failure(&mut self, error: KafkaError) -> Failure {
        match &error {
            KafkaError::Transaction(reason) if reason.is_fatal() => {
                self.recover_letters();
                Failure::Fenced(reason.to_string())
            }
            _ => match self.abort(Some(error.to_string())) {
                Failure::Aborted(reason) => renaming(&error).map_or(Failure::Aborted(reason), Failure::Renamed),
                failure => failure,
            },
        }
    }

    /// Aborts, and takes back what was on its way.
    fn abort(&mut self, reason: Option<String>) -> Failure {
        loop {
            match self.shared.call(|| self.outbox.abort(CALL)) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_fatal() => {
                    self.recover_letters();
                    return match reason {
                        // For the broker there is nothing to abort, because it has refused all of it.
                        Some(reason) if error.code() == RDKafkaErrorCode::InvalidTransactionalState => {
                            Failure::Broken(reason)
                        }
                        _ => Failure::Fenced(error.to_string()),
                    };
                }
                Err(_) if self.shared.is_over() => return Failure::Fatal(self.not_durable()),
                Err(error) => tracing::debug!(%error, "kafka: a transaction cannot be aborted yet"),
            }
        }
        self.recover_letters();
        reason.map_or(Failure::AtOnce, Failure::Aborted)
    }

    fn recover_letters(&mut self) {
        while self.outbox.on_its_way() > 0 && !self.shared.is_over() {
            self.outbox.wait(LOOK);
            for delivery in self.outbox.delivered() {
                match delivery {
                    Ok((Sent::Letter(letter), _)) => self.letters.push(*letter),
                    Ok((Sent::Report { .. }, _)) => {}
                    Err(mut kept) => self.letters.extend(kept.take_letter().map(|letter| *letter)),
                }
            }
        }
    }

    fn offsets(&self, of: impl Fn(Lane) -> bool) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(self.marks.len());
        for mark in self.marks.values().filter(|mark| of(mark.lane)) {
            let mut element = list.add_partition(&self.clients.settings().tokens_topic, mark.lane.partition);
            if element.set_offset(Offset::Offset(mark.offset)).is_ok() {
                element.set_metadata(&mark.metadata);
            }
        }
        list
    }

    fn committed(&mut self, unseen: Unseen) {
        let Unseen { written, begun, .. } = unseen;
        let mut progress = lock(&self.shared.progress);
        progress.commit_times.push(begun.elapsed());
        for (lane, (seq, end)) in written.lanes {
            progress.durable.insert(lane, seq);
            progress.ends.insert(lane, end);
        }
        progress.counts.results += self.batches.iter().map(|batch| batch.reports.len() as u64).sum::<u64>();
        for letter in self.letters.drain(..) {
            progress.counts.letters += 1;
            progress.counts.bare += u64::from(letter.form == Form::Bare);
            progress.counts.pointers += u64::from(letter.form == Form::Pointer);
            progress.letters.push((letter.lane, letter.offset));
        }
        progress.committed = self.number;
        drop(progress);
        for batch in self.batches.drain(..) {
            self.shared.give_back(batch);
        }
        let marks = self.marks.drain().map(|(lane, mark)| (lane, mark.offset));
        if written.offsets {
            self.settled.extend(marks);
        }
        self.pending = false;
        self.carefully = false;
        self.shared.changed.notify_one();
    }

    fn tell_trouble(&self, trouble: Option<String>) {
        self.shared.tell_trouble(trouble);
    }

    fn not_durable(&self) -> Error {
        let reports: usize = self.batches.iter().map(|batch| batch.reports.len()).sum();
        Error::NotDurable { records: reports + self.letters.len() + self.outbox.on_its_way() }
    }
}

/// Whether transactions may be begun under a name like ours. Blocks.
///
/// # Errors
/// When they may not, or no broker says.
pub(super) fn try_out(clients: &Clients) -> Result<(), Error> {
    Outbox::new(clients)?.introduce(CALL).map_err(|source| forbidden(clients, source))
}

fn forbidden(clients: &Clients, source: KafkaError) -> Error {
    match source.rdkafka_error_code() {
        Some(code) if is_refusal(code) => Error::TransactionsForbidden {
            name: clients.transactional_id(),
            group: clients.settings().group_id.clone(),
            reason: code.to_string(),
        },
        _ => Error::client("begin with transactions")(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_again_ends_where_it_ends_last() {
        let lane = |partition| Lane { partition, life: 1 };
        let before = Written {
            lanes: HashMap::from([(lane(0), (7, 10)), (lane(1), (3, 20))]),
            letters: HashMap::from([(0, 5)]),
            offsets: true,
            owed: HashSet::from([lane(1)]),
        };
        let mut again = Written { lanes: HashMap::from([(lane(0), (7, 15))]), ..Written::default() };
        again.follow(before);
        assert_eq!(again.lanes, HashMap::from([(lane(0), (7, 15)), (lane(1), (3, 20))]));
        assert_eq!(
            (again.letters, again.offsets, again.owed),
            (HashMap::from([(0, 5)]), true, HashSet::from([lane(1)]))
        );
    }
}
