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

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::client::Clients;
use super::context::lock;
use super::error::Error;
use crate::engine::{Offset, ReportSeq};

mod batch;
mod lanes;
mod letter;
mod outbox;
mod thread;

pub use batch::{BATCH_BYTES_MAX, Batch, Lane};

/// Batches that may wait for the thread.
pub const BATCHES_WAITING_MAX: usize = 8;

/// What has become durable since it was last asked.
#[derive(Debug, Default)]
pub struct Progress {
    /// For each partition, the last report up to which all are durable.
    pub durable: HashMap<Lane, ReportSeq>,
    /// For each of these, where its results partition ended then: what is written later is there or behind.
    pub ends: HashMap<Lane, i64>,
    /// The records whose dead letters are durable.
    pub letters: Vec<(Lane, Offset)>,
    /// What a person must mend before anything more can become durable.
    pub trouble: Option<String>,
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
}

/// The pipeline's end of the thread.
#[derive(Debug)]
pub struct Writer {
    batches: Option<SyncSender<Batch>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes the producer and starts the thread.
    ///
    /// # Errors
    /// When librdkafka does not accept the settings, or there is no thread to be had.
    pub fn start(clients: &Clients) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let (batches, waiting) = sync_channel(BATCHES_WAITING_MAX);
        let thread = thread::Thread::new(clients, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("kafka-results".to_owned())
            .spawn(move || thread.run(&waiting))
            .map_err(|_| Error::Ended { role: "results" })?;
        Ok(Self { batches: Some(batches), shared, thread: Some(thread) })
    }

    /// Hands the batch over and leaves an empty one in its place. When too many batches wait already, nothing happens
    /// and the batch can go on being filled until it is full.
    pub fn offer(&self, batch: &mut Batch) -> bool {
        let Some(batches) = &self.batches else { return false };
        if batch.is_empty() {
            return true;
        }
        let empty = lock(&self.shared.empties).pop().unwrap_or_default();
        match batches.try_send(std::mem::replace(batch, empty)) {
            Ok(()) => true,
            // The thread is behind, or gone; if gone, `progress` says so.
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => {
                *batch = back;
                false
            }
        }
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
            || trouble != progress.trouble;
        progress.durable.clear();
        progress.ends.clear();
        progress.letters.clear();
        progress.counts = Counts::default();
        if news {
            std::mem::swap(progress, &mut shared);
            shared.trouble.clone_from(&trouble);
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
        self.batches = None;
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
