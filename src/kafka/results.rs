//! Makes results and dead letters durable, on a thread of its own.
//!
//! The pipeline fills a [`Batch`] and offers it; the thread produces it, and says through [`Progress`] up to where each
//! partition's reports are durable, which is what the watermark waits for. Nothing on a channel waits for it.
//!
//! Bounded: at most [`BATCHES_WAITING_MAX`] batches wait; what librdkafka holds is bounded by its
//! `queue.buffering.max.*`. When both are full the pipeline's batch grows until [`Batch::is_full`], and intake pauses.
//!
//! Nothing is given up: librdkafka retries for as long as a broker is away, and what a broker refuses is kept here and
//! tried again until somebody has mended it ([`Progress::trouble`] says what). Dead letters that are too long get shorter
//! instead, because one of them must not stop a partition: first our headers go, then a pointer takes their place.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use rdkafka::consumer::ConsumerGroupMetadata;
use tokio::sync::Notify;

use super::client::Clients;
use super::context::lock;
use super::error::Error;
use crate::engine::{Offset, ReportSeq};

mod batch;
mod lanes;
mod letter;
mod outbox;
mod renamed;
mod thread;
mod transaction;

use super::pulse::Pulse;
pub use batch::{BATCH_BYTES_MAX, Batch, Lane};

/// Batches that may wait for the thread.
pub const BATCHES_WAITING_MAX: usize = 8;

/// What has become durable since it was last asked.
#[derive(Debug, Default)]
pub struct Progress {
    /// For each partition, the last report up to which all are durable.
    pub durable: HashMap<Lane, ReportSeq, RandomState>,
    /// For each of these, where its results partition ended then: what is written later is there or behind.
    pub ends: HashMap<Lane, i64, RandomState>,
    /// The records whose dead letters are durable.
    pub letters: Vec<(Lane, Offset)>,
    /// What a person must mend before anything more can become durable.
    pub trouble: Option<String>,
    /// The last job that is committed with its offsets; none while every record stands for itself.
    pub committed: u64,
    /// How long the transactions took that were committed since it was last asked.
    pub commit_times: Vec<Duration>,
    /// What was done since it was last asked.
    pub counts: Counts,
}

/// Counts of records.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Results made durable.
    pub results: u64,
    /// Dead letters made durable, in whatever form.
    pub letters: u64,
    /// Of these, those that lost our headers because the topic does not take records of their length.
    pub bare: u64,
    /// Of these, those that only point to their record, for the same reason.
    pub pointers: u64,
    /// Records that a broker refused and that were kept to be tried again.
    pub refused: u64,
}

/// An offset that is committed with what was offered before it.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Whose.
    pub lane: Lane,
    /// Everything below is done with.
    pub offset: Offset,
    /// For the next owner.
    pub metadata: String,
}

/// Records and offsets that become durable together.
#[derive(Debug)]
struct Job {
    batch: Batch,
    marks: Vec<Mark>,
    number: u64,
}

/// Who we are in the group, and which stays of partitions with us are over. Always read and written together.
#[derive(Clone, Default)]
struct Membership {
    group: Option<Arc<ConsumerGroupMetadata>>,
    gone: HashSet<Lane>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("gone", &self.gone).finish_non_exhaustive()
    }
}

/// What the pipeline and the thread share.
#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    /// Batches that have been used, for their buffers; as many as can be on their way, at most.
    empties: Mutex<Vec<Batch>>,
    changed: Notify,
    /// The thread has ended; the error says why, if it should not have.
    ended: Mutex<Option<Result<(), Error>>>,
    /// When the thread is to end even if not all is durable.
    deadline: Mutex<Option<Instant>>,
    abandoned: AtomicBool,
    membership: Mutex<Membership>,
    pulse: Pulse,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
            || lock(&self.deadline).is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Makes a call that librdkafka should come back from within seconds.
    fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        self.pulse.beat();
        let returned = call();
        self.pulse.rest();
        returned
    }

    fn end(&self, ended: Result<(), Error>) {
        *lock(&self.ended) = Some(ended);
        self.changed.notify_one();
    }

    /// Its memory is used again.
    fn give_back(&self, mut batch: Batch) {
        batch.clear();
        let mut empties = lock(&self.empties);
        if empties.len() <= BATCHES_WAITING_MAX {
            empties.push(batch);
        }
    }

    fn tell_trouble(&self, trouble: Option<String>) {
        let mut progress = lock(&self.progress);
        if progress.trouble != trouble {
            match &trouble {
                Some(trouble) => tracing::error!("kafka: {trouble}; trying again until that is mended"),
                None => tracing::info!("kafka: records are taken again"),
            }
            progress.trouble = trouble;
        }
        drop(progress);
        self.changed.notify_one();
    }
}

/// The pipeline's end of the thread.
#[derive(Debug)]
pub struct Writer {
    jobs: Option<SyncSender<Job>>,
    offered: AtomicU64,
    transactional: bool,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Whether transactions may be begun under names like ours, before anything begins: with one that no process has. Blocks.
///
/// # Errors
/// When they may not, or no broker says.
pub fn check(clients: &Clients, timeout: Duration) -> Result<(), Error> {
    transaction::try_out(&clients.clone().in_transactions("check", timeout))
}

impl Writer {
    /// Makes the producer and starts the thread.
    ///
    /// # Errors
    /// When librdkafka does not accept the settings, or there is no thread to be had.
    pub fn start(clients: &Clients) -> Result<Self, Error> {
        let transactional = clients.is_transactional();
        let shared = Arc::new(Shared::default());
        let (jobs, waiting) = sync_channel(BATCHES_WAITING_MAX);
        let builder = std::thread::Builder::new().name("kafka-results".to_owned());
        let thread = if transactional {
            let thread = transaction::Thread::new(clients, Arc::clone(&shared))?;
            builder.spawn(move || thread.run(waiting))
        } else {
            let thread = thread::Thread::new(clients, Arc::clone(&shared))?;
            builder.spawn(move || thread.run(waiting))
        };
        let thread = thread.map_err(|_| Error::Ended { role: "results" })?;
        Ok(Self { jobs: Some(jobs), offered: AtomicU64::new(0), transactional, shared, thread: Some(thread) })
    }

    /// Whether librdkafka does not come back from a call. `rd_kafka_send_offsets_to_transaction` does not when its client has
    /// lost the broker that the group's coordinator was on, whatever time it is given.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.shared.pulse.is_stuck()
    }

    /// Hands the batch over and leaves an empty one in its place. When too many batches wait already, nothing happens
    /// and the batch can go on being filled until it is full.
    pub fn offer(&self, batch: &mut Batch) -> bool {
        batch.is_empty() || self.commit(batch, Vec::new()).is_some()
    }

    /// The same, with offsets that are committed in one transaction with it. The number by which
    /// [`Progress::committed`] tells that it is done.
    pub fn commit(&self, batch: &mut Batch, marks: Vec<Mark>) -> Option<u64> {
        let jobs = self.jobs.as_ref()?;
        let empty = lock(&self.shared.empties).pop().unwrap_or_default();
        let number = self.offered.load(Ordering::Relaxed) + 1;
        match jobs.try_send(Job { batch: std::mem::replace(batch, empty), marks, number }) {
            Ok(()) => {
                self.offered.store(number, Ordering::Relaxed);
                Some(number)
            }
            // The thread is behind, or gone; if gone, `progress` says so.
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => {
                *batch = back.batch;
                None
            }
        }
    }

    /// Whether offsets are committed here, in transactions.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.transactional
    }

    /// Who we are in the group now. To be told whenever it may have changed, and after [`Writer::forget`].
    pub fn member(&self, group: Option<ConsumerGroupMetadata>) {
        lock(&self.shared.membership).group = group.map(Arc::new);
    }

    /// These stays are over: nothing of theirs that is not committed will be.
    pub fn forget(&self, lanes: impl IntoIterator<Item = Lane>) {
        lock(&self.shared.membership).gone.extend(lanes);
    }

    /// Waits until something has become durable, or trouble has come or gone. May be dropped before: nothing is lost.
    ///
    /// # Errors
    /// When the thread has ended, with the reason.
    pub async fn progress(&self, progress: &mut Progress) -> Result<(), Error> {
        loop {
            let changed = self.shared.changed.notified();
            if self.take(progress) {
                return Ok(());
            }
            let ended = lock(&self.shared.ended).take();
            if ended.is_some() || self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err(ended.and_then(Result::err).unwrap_or(Error::Ended { role: "results" }));
            }
            changed.await;
        }
    }

    /// What has become durable since it was last asked, without waiting; false if nothing has.
    pub fn take(&self, progress: &mut Progress) -> bool {
        let mut shared = lock(&self.shared.progress);
        let trouble = shared.trouble.clone();
        let news = !shared.durable.is_empty()
            || !shared.letters.is_empty()
            || shared.counts != Counts::default()
            || shared.committed != progress.committed
            || trouble != progress.trouble;
        progress.durable.clear();
        progress.ends.clear();
        progress.letters.clear();
        progress.commit_times.clear();
        progress.counts = Counts::default();
        if news {
            std::mem::swap(progress, &mut shared);
            shared.trouble.clone_from(&trouble);
            shared.committed = progress.committed;
            progress.trouble = trouble;
        }
        news
    }

    /// Waits until everything that was offered is durable, and ends the thread. [`Writer::take`] has the last progress.
    ///
    /// # Errors
    /// When it was not all durable in time.
    pub async fn finish(&mut self, within: Duration) -> Result<(), Error> {
        *lock(&self.shared.deadline) = Instant::now().checked_add(within);
        self.jobs = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(Error::Ended { role: "results" });
        }
        // If it is not there, `progress` has told it: the thread had ended before.
        lock(&self.shared.ended).take().unwrap_or(Err(Error::Ended { role: "results" }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without `finish` nobody cares any more.
        self.shared.abandoned.store(true, Ordering::Release);
    }
}
