//! Reads a range of records once more, for texts that were dropped from memory.
//!
//! One long-lived consumer on a thread of its own. It takes its partitions itself, without the group, so it disturbs
//! nobody; it never commits.

use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::assignment::QUESTION;
use super::client::Clients;
use super::context::{Log, Plain};
use super::error::Error;

/// Ranges that may wait for their turn.
pub const WAITING_MAX: usize = 64;

/// How long a range may take without a record before it is given up on; the caller may ask again.
const SILENCE: Duration = Duration::from_secs(10);

/// Says whether the consumer did its work.
type Job = Box<dyn FnOnce(&BaseConsumer<Plain>) -> bool + Send>;

/// A handle to the thread. The thread ends with the last handle.
#[derive(Debug, Clone)]
pub struct Reader {
    jobs: SyncSender<Job>,
    topic: String,
}

impl Reader {
    /// Starts the thread.
    ///
    /// # Errors
    /// When librdkafka does not accept the settings, or there is no thread to be had.
    pub fn start(clients: &Clients) -> Result<Self, Error> {
        let config = clients.rereader();
        let stranded = clients.stranded().clone();
        let make = move || {
            let context = Plain { log: Log::new("reader", &stranded) };
            BaseConsumer::from_config_and_context(&config, context).map_err(Error::client("make the reader"))
        };
        let consumer = make()?;
        let (jobs, waiting) = sync_channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || serve(consumer, make, &waiting))
            .map_err(|_| Error::Ended { role: "the reader" })?;
        Ok(Self { jobs, topic: clients.settings().tokens_topic.clone() })
    }

    /// Reads the records of `offsets` in a partition of the tokens topic and folds each into `state`, on the reader's
    /// thread. `None` when [`WAITING_MAX`] ranges are waiting already: ask again later.
    pub fn read<T, F>(
        &self,
        partition: i32,
        offsets: RangeInclusive<i64>,
        state: T,
        each: F,
    ) -> Option<impl Future<Output = Result<T, Error>> + Send + use<T, F>>
    where
        T: Send + 'static,
        F: FnMut(&mut T, &BorrowedMessage<'_>) + Send + 'static,
    {
        let (done, answer) = oneshot::channel();
        let range = Range { topic: self.topic.clone(), partition, offsets };
        let job: Job = Box::new(move |consumer| {
            let read = range.read(consumer, state, each);
            let works = !matches!(read, Err(Error::Client { .. }));
            // Whoever asked may be gone by now.
            let _ = done.send(read);
            works
        });
        match self.jobs.try_send(job) {
            Err(TrySendError::Full(_)) => return None,
            // If the thread has ended, the answer's sender is gone, and that is the answer.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
        Some(async move { answer.await.unwrap_or(Err(Error::Ended { role: "the reader" })) })
    }
}

/// A consumer that has failed once is replaced: others wait behind whatever it waits for.
fn serve(
    mut consumer: BaseConsumer<Plain>,
    make: impl Fn() -> Result<BaseConsumer<Plain>, Error>,
    jobs: &Receiver<Job>,
) {
    while let Ok(job) = jobs.recv() {
        let works = job(&consumer);
        if works && consumer.unassign().is_ok() {
            continue;
        }
        match make() {
            Ok(another) => consumer = another,
            Err(error) => tracing::warn!(%error, "kafka: the reader stays as it is"),
        }
    }
}

struct Range {
    topic: String,
    partition: i32,
    offsets: RangeInclusive<i64>,
}

impl Range {
    fn read<T>(
        &self,
        consumer: &BaseConsumer<Plain>,
        mut state: T,
        mut each: impl FnMut(&mut T, &BorrowedMessage<'_>),
    ) -> Result<T, Error> {
        self.seat(consumer)?;
        let last = *self.offsets.end();
        let mut heard = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                // What is left of a former range.
                Some(Ok(message)) if message.partition() != self.partition => {}
                Some(Ok(message)) if message.offset() > last => return Ok(state),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    each(&mut state, &message);
                    if message.offset() == last {
                        return Ok(state);
                    }
                }
                // The rest of the range is what transactions and compaction leave.
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == self.partition => return Ok(state),
                Some(Err(_)) | None if heard.elapsed() < SILENCE => {}
                Some(Err(source)) => return Err(Error::Client { doing: "read records again", source }),
                None => {
                    let source = KafkaError::NoMessageReceived;
                    return Err(Error::Client { doing: "read records again", source });
                }
            }
        }
    }

    fn seat(&self, consumer: &BaseConsumer<Plain>) -> Result<(), Error> {
        let first = *self.offsets.start();
        let (begins, _) = consumer
            .fetch_watermarks(&self.topic, self.partition, QUESTION)
            .map_err(Error::client("read records again"))?;
        if begins > first {
            return Err(Error::Gone {
                topic: self.topic.clone(),
                partition: self.partition,
                first,
                last: *self.offsets.end(),
                begins,
            });
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, self.partition, Offset::Offset(first))
            .and_then(|()| consumer.assign(&list))
            .map_err(Error::client("read records again"))
    }
}
