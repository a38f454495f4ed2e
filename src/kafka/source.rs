//! Token records and rebalances, in order, through one door; offsets back.
//!
//! One polled consumer. A rebalance is not answered in librdkafka's callback but handed out as an [`Item`] and answered
//! by the pipeline: [`Intake::start`] after [`Item::Assigned`], [`Intake::release`] after [`Item::Revoked`]. Until then
//! the group waits: the partitions that are to leave are still ours alone, so what is in flight can be answered,
//! made durable and committed first. librdkafka stops fetching *every* partition of ours while it waits (seen in its
//! source: `rd_kafka_assignment_pause`), so an answer must not take longer than work in flight needs.
//!
//! Offsets are committed as marks: the last one of each partition is sent, and sent again with the next commit until a
//! broker has confirmed it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context as Waking, Poll, Waker};
use std::time::Duration;

use rdkafka::consumer::stream_consumer::MessageStream;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerGroupMetadata, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;

use super::assignment::{self, Assigned, Policy};
use super::client::Clients;
use super::error::Error;
use super::handover::METADATA_BYTES_MAX;
use super::pulse::Pulse;
use group::Group;
use held::Held;
use offsets::Offsets;
use poll::Answer;

mod group;
mod held;
mod membership;
mod offsets;
mod poll;

pub use held::Waiting;

type Consuming = StreamConsumer<Group>;

/// What comes out of Kafka.
#[derive(Debug)]
pub enum Item<'a> {
    /// The next record of one of our partitions.
    Record(BorrowedMessage<'a>),
    /// There is nothing more in this partition for now.
    End(i32),
    /// These partitions are ours as soon as [`Intake::start`] is called with them; it must be.
    Assigned(Vec<Assigned>),
    /// These partitions leave us as soon as [`Intake::release`] is called with them; it must be. No record of theirs
    /// comes any more.
    Revoked(Vec<i32>),
    /// These partitions have left us already; somebody else may have them. Nothing of theirs can be committed.
    Lost(Vec<i32>),
    /// These partitions of ours, all that there are, wait; nothing of them is read until they come as [`Item::Assigned`].
    /// Empty when none waits any more.
    Held(Waiting),
    /// A partition of ours does not hold any more what we were to read next: reading goes on at a later offset.
    Gap {
        /// The partition.
        partition: i32,
        /// Where reading should have gone on.
        expected: i64,
        /// Where it goes on.
        begins: i64,
    },
    /// Reading cannot go on.
    Failed(Error),
}

/// How far a partition has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// The partition.
    pub partition: i32,
    /// The next offset to be read.
    pub position: i64,
    /// The offset that the next record produced to it will have.
    pub end: i64,
}

/// The consumer. [`Source::intake`] reads from it.
pub struct Source {
    consumer: Arc<Consuming>,
    policy: Policy,
    clients: Clients,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Source {
    /// Joins the group. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When librdkafka does not accept the settings.
    pub fn open(clients: &Clients) -> Result<Self, Error> {
        let group = Group::new(clients.stranded());
        let consumer: Consuming =
            clients.consumer().create_with_context(group).map_err(Error::client("make the consumer"))?;
        let policy = clients.policy();
        consumer.subscribe(&[&policy.topic]).map_err(Error::client("subscribe to the tokens topic"))?;
        Ok(Self { consumer: Arc::new(consumer), policy, clients: clients.clone() })
    }

    /// The one reader of this consumer.
    #[must_use]
    pub fn intake(&self) -> Intake<'_> {
        Intake {
            source: self,
            stream: self.consumer.stream(),
            offsets: Offsets::default(),
            committing: None,
            commits: 0,
            asking: None,
            pulse: Pulse::default(),
            held: Held::default(),
            offered: false,
            astray: false,
            found: VecDeque::new(),
            paused: false,
            repeated: 0,
        }
    }

    /// Leaves the group. Whatever was not committed is read again by the next owner.
    pub async fn close(self) {
        // Leaving takes round trips and blocks.
        if let Err(error) = tokio::task::spawn_blocking(move || drop(self)).await {
            tracing::error!(%error, "kafka: leaving the group failed");
        }
    }

    /// What keeps the consumer from its brokers, if anything does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.consumer.context().log.trouble().map(|trouble| trouble.reason)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // The consumer's own drop polls until it has left, and would wait for ever for answers that nobody gives.
        self.consumer.context().close();
        group::abandon(&*self.consumer);
    }
}

/// Reads from a [`Source`].
pub struct Intake<'a> {
    source: &'a Source,
    stream: MessageStream<'a, Group>,
    offsets: Offsets,
    /// A commit that waits for the broker's word.
    committing: Option<JoinHandle<()>>,
    /// How many there were.
    commits: u64,
    asking: Option<JoinHandle<Result<Answer, Error>>>,
    /// Of the thread that asks.
    pulse: Pulse,
    held: Held,
    /// Held partitions were handed out and not started yet: whether they leave us is looked at after that.
    offered: bool,
    astray: bool,
    found: VecDeque<Item<'a>>,
    paused: bool,
    repeated: u64,
}

impl std::fmt::Debug for Intake<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("offsets", &self.offsets).field("paused", &self.paused).finish_non_exhaustive()
    }
}

impl<'a> Intake<'a> {
    /// The next item. May be dropped before it is ready: nothing is lost.
    pub async fn next(&mut self) -> Item<'a> {
        self.source.consumer.context().membership().ask();
        std::future::poll_fn(|waking| self.poll(waking)).await
    }

    /// If that was not told before: a moment after which the group has counted us as a member, as the time since the machine
    /// was started. No later than a session after it our partitions may be somebody else's.
    #[must_use]
    pub fn proof(&self) -> Option<Duration> {
        self.source.consumer.context().membership().proof()
    }

    /// Whether a question to the brokers does not come back.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.pulse.is_stuck()
    }

    /// The next item, if one is ready.
    pub fn try_next(&mut self) -> Option<Item<'a>> {
        match self.poll(&mut Waking::from_waker(Waker::noop())) {
            Poll::Ready(item) => Some(item),
            Poll::Pending => None,
        }
    }

    /// The answer to [`Item::Assigned`]: reads these partitions from these offsets on. When intake is paused, so are they.
    ///
    /// # Errors
    /// When librdkafka refuses, which it does only after a fatal error.
    pub fn start(&mut self, partitions: &[(i32, i64)]) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (partition, offset) in partitions {
            list.add_partition_offset(&self.source.policy.topic, *partition, Offset::Offset(*offset))
                .map_err(Error::client("take the partitions"))?;
            self.offsets.start(*partition, *offset);
        }
        let all = self.places().map_err(Error::client("take the partitions"))?;
        group::give(&*self.source.consumer, &list, &all).map_err(Error::client("take the partitions"))?;
        self.source.consumer.context().assigned();
        self.offered = false;
        if self.paused {
            self.source.consumer.pause(&all).map_err(Error::client("pause the partitions"))?;
        }
        Ok(())
    }

    /// The answer to [`Item::Revoked`]: gives these partitions away.
    ///
    /// # Errors
    /// When librdkafka refuses, which it does only after a fatal error.
    pub fn release(&mut self, partitions: &[i32]) -> Result<(), Error> {
        // Held ones were never taken.
        let partitions: Vec<i32> =
            partitions.iter().copied().filter(|partition| self.offsets.has(*partition)).collect();
        let partitions = &partitions[..];
        let list = self.list(partitions);
        for partition in partitions {
            self.offsets.end(*partition);
        }
        if self.paused {
            // The mark of a pause outlives the assignment; it must not be there when the partition comes back. Nothing is
            // fetched by this, because librdkafka itself holds all partitions until it has our answer.
            self.source.consumer.resume(&list).map_err(Error::client("resume the partitions"))?;
        }
        self.source.consumer.context().membership().let_go();
        group::take_back(&*self.source.consumer, &list).map_err(Error::client("give the partitions away"))?;
        self.source.consumer.context().revoked();
        Ok(())
    }

    /// Stops fetching. What librdkafka holds is thrown away and fetched again on [`Intake::resume`], so this is not for
    /// moments; a record that was on its way may still come.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn pause(&mut self) -> Result<(), Error> {
        if !std::mem::replace(&mut self.paused, true) {
            let list = self.list(&self.offsets.partitions());
            self.source.consumer.pause(&list).map_err(Error::client("pause the partitions"))?;
        }
        Ok(())
    }

    /// Fetches again.
    ///
    /// # Errors
    /// When librdkafka refuses.
    pub fn resume(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.paused, false) {
            let list = self.list(&self.offsets.partitions());
            self.source.consumer.resume(&list).map_err(Error::client("resume the partitions"))?;
        }
        Ok(())
    }

    /// Who we are in the group, for offsets that are committed elsewhere. A rebalance that was not answered yet does not show
    /// in it.
    #[must_use]
    pub fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.source.consumer.group_metadata()
    }

    /// Whether intake is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Records that came again after they had been handed out, and were passed over.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Everything below `offset` is done with. It is committed by the next [`Intake::commit`].
    ///
    /// # Errors
    /// When the metadata is longer than [`METADATA_BYTES_MAX`].
    pub fn mark(&mut self, partition: i32, offset: i64, metadata: &str) -> Result<(), Error> {
        if metadata.len() > METADATA_BYTES_MAX {
            return Err(Error::MetadataTooLong { partition, bytes: metadata.len() });
        }
        self.offsets.mark(partition, offset, metadata);
        Ok(())
    }

    /// Marks are to be committed once more, though nothing has changed: the group's coordinator takes them only from members.
    pub fn mark_again(&mut self) {
        self.offsets.mark_again();
    }

    /// Sends every mark that no broker has confirmed, unless some are on their way, and gives the number by which
    /// [`Intake::confirmed`] tells that a broker has taken them. Does not wait; a commit that fails is logged, counted, and
    /// sent again by a later call. Must be called in a tokio runtime.
    pub fn commit(&mut self) -> Option<u64> {
        if self.committing.as_ref().is_some_and(|committing| !committing.is_finished()) {
            return None;
        }
        self.learn();
        let list = self.offsets.unsent(&self.source.policy.topic);
        if list.count() == 0 {
            return None;
        }
        self.commits += 1;
        let number = self.commits;
        // Nobody is told what becomes of librdkafka's own asynchronous commit: it reports to a callback that rdkafka,
        // which takes events, does not set.
        let consumer = Arc::clone(&self.source.consumer);
        self.committing = Some(tokio::task::spawn_blocking(move || {
            let result = consumer.commit(&list, CommitMode::Sync);
            consumer.context().committed(number, &result, &list);
        }));
        Some(number)
    }

    /// The number of the last commit that a broker has taken.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.source.consumer.context().confirmed()
    }

    /// Commits the marks of these partitions and waits for the broker's word: before they are released. `false` when there
    /// was nothing to ask the broker.
    ///
    /// # Errors
    /// When the broker does not confirm.
    pub async fn commit_now(&mut self, partitions: &[i32]) -> Result<bool, Error> {
        // An older commit must not come after this one.
        if let Some(committing) = self.committing.take() {
            committing.await.map_err(|_| Error::Ended { role: "commits" })?;
        }
        self.learn();
        let list = self.offsets.unconfirmed(&self.source.policy.topic, partitions);
        if list.count() == 0 {
            return Ok(false);
        }
        let consumer = Arc::clone(&self.source.consumer);
        let sent = list.clone();
        let done = tokio::task::spawn_blocking(move || consumer.commit(&sent, CommitMode::Sync)).await;
        done.map_err(|_| Error::Ended { role: "commits" })?.map_err(Error::client("commit offsets"))?;
        self.offsets.confirm(&list);
        Ok(true)
    }

    /// Whether a broker has confirmed a mark of this partition since it was started.
    pub fn is_told(&mut self, partition: i32) -> bool {
        self.learn();
        self.offsets.is_told(partition)
    }

    /// How many commits have failed.
    #[must_use]
    pub fn commits_failed(&self) -> u64 {
        self.offsets.failed()
    }

    /// Asks how far each partition is behind; without any, whether a broker answers at all. The future does not borrow: it can
    /// be polled beside [`Intake::next`].
    pub fn lag(&self) -> impl Future<Output = Result<Vec<Lag>, Error>> + Send + use<> {
        let positions = self.offsets.positions();
        let (consumer, policy) = (Arc::clone(&self.source.consumer), self.source.policy.clone());
        async move {
            let partitions: Vec<i32> = positions.iter().map(|(partition, _)| *partition).collect();
            let ask = move || {
                let ends = match partitions.is_empty() {
                    true => policy.results_partitions(&*consumer).map(|_| Vec::new())?,
                    false => assignment::edges(&*consumer, &policy.topic, &partitions, Offset::End)?,
                };
                consumer.context().log.well();
                Ok(ends)
            };
            let ends = tokio::task::spawn_blocking(ask).await.map_err(|_| Error::Ended { role: "lag" })??;
            let lags = positions.into_iter().zip(ends);
            Ok(lags.map(|((partition, position), (_, end))| Lag { partition, position, end }).collect())
        }
    }

    fn learn(&mut self) {
        let commits = self.source.consumer.context().commits();
        self.offsets.learn(commits);
    }

    /// All partitions of ours, and where each is to be read on.
    fn places(&self) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, position) in self.offsets.positions() {
            list.add_partition_offset(&self.source.policy.topic, partition, Offset::Offset(position))?;
        }
        Ok(list)
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        assignment::list(&self.source.policy.topic, partitions)
    }
}
