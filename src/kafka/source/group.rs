//! The consumer's context: rebalances wait here until the pipeline answers them, and commits until it looks at them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use super::membership::{Membership, Statistics};
use crate::kafka::context::{Log, Stranded, lock};

/// A rebalance that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rebalanced {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Lost(Vec<i32>),
}

/// The broker's word about the offset of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) partition: i32,
    pub(super) offset: Option<i64>,
    pub(super) done: bool,
}

/// What librdkafka waits for, and how it would be answered if nobody did.
#[derive(Debug)]
enum Unanswered {
    Assign,
    Revoke(TopicPartitionList),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) log: Log,
    events: Mutex<VecDeque<Rebalanced>>,
    unanswered: Mutex<Option<Unanswered>>,
    commits: Mutex<Vec<Committed>>,
    confirmed: AtomicU64,
    closing: AtomicBool,
    membership: Mutex<Membership>,
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.log.line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.event(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics<'_>>(statistics) {
            Ok(statistics) => {
                self.log.brokers(statistics.sources());
                self.membership().statistics(&statistics);
            }
            Err(error) => tracing::error!(%error, "kafka: librdkafka's statistics cannot be read"),
        }
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if assigned {
            self.membership().assigned();
        }
        if list.count() == 0 || self.is_closing() {
            // Nothing to decide. (While closing, librdkafka takes an assign for an unassign.)
            let answer = if assigned { give(consumer, list, list) } else { take_back(consumer, list) };
            if let Err(error) = answer {
                tracing::warn!(%error, "kafka: answering a rebalance failed");
            }
            return;
        }
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        let event = match (assigned, consumer.assignment_lost()) {
            (true, _) => Rebalanced::Assigned(partitions),
            (false, false) => Rebalanced::Revoked(partitions),
            (false, true) => Rebalanced::Lost(partitions),
        };
        tracing::info!(?event, "kafka: the group rebalances");
        *lock(&self.unanswered) = Some(if assigned { Unanswered::Assign } else { Unanswered::Revoke(list.clone()) });
        lock(&self.events).push_back(event);
    }
}

impl Group {
    pub(super) fn new(stranded: &Stranded) -> Self {
        Self {
            log: Log::new("tokens", stranded),
            events: Mutex::default(),
            unanswered: Mutex::default(),
            commits: Mutex::default(),
            confirmed: AtomicU64::default(),
            closing: AtomicBool::new(false),
            membership: Mutex::new(Membership::new()),
        }
    }

    /// Since when the group has counted us as a member.
    pub(super) fn membership(&self) -> MutexGuard<'_, Membership> {
        lock(&self.membership)
    }

    /// The broker's word about a commit.
    pub(super) fn committed(&self, number: u64, result: &KafkaResult<()>, offsets: &TopicPartitionList) {
        match result {
            Ok(()) => {
                self.confirmed.fetch_max(number, Ordering::AcqRel);
                self.log.well();
            }
            Err(error) => self.log.say("commit", || format!("commit: {error}")),
        }
        let committed = offsets.elements().into_iter().map(|element| Committed {
            partition: element.partition(),
            offset: element.offset().to_raw(),
            done: result.is_ok(),
        });
        lock(&self.commits).extend(committed);
    }

    /// The number of the last commit that was taken.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }

    pub(super) fn next_event(&self) -> Option<Rebalanced> {
        lock(&self.events).pop_front()
    }

    pub(super) fn has_event(&self) -> bool {
        !lock(&self.events).is_empty()
    }

    /// Partitions were taken, which answers an assignment if there is one.
    pub(super) fn assigned(&self) {
        lock(&self.unanswered).take_if(|unanswered| matches!(unanswered, Unanswered::Assign));
    }

    /// Partitions were given away, which answers a revocation.
    pub(super) fn revoked(&self) {
        lock(&self.unanswered).take_if(|unanswered| matches!(unanswered, Unanswered::Revoke(_)));
    }

    /// Whether librdkafka waits for an answer; what we do with partitions meanwhile would be taken for it.
    pub(super) fn is_waiting(&self) -> bool {
        lock(&self.unanswered).is_some()
    }

    pub(super) fn commits(&self) -> Vec<Committed> {
        std::mem::take(&mut lock(&self.commits))
    }

    /// From now on rebalances answer themselves.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// Whether the group gives all partitions anew each time (`range`, `roundrobin`), so that everybody has to let go of all first.
pub(super) fn is_eager<C: ConsumerContext>(consumer: &impl Consumer<C>) -> bool {
    matches!(consumer.rebalance_protocol(), RebalanceProtocol::Eager)
}

/// Reads these partitions, too: `more`, of which and of those before there are `all`.
pub(super) fn give<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    more: &TopicPartitionList,
    all: &TopicPartitionList,
) -> KafkaResult<()> {
    if is_eager(consumer) { consumer.assign(all) } else { consumer.incremental_assign(more) }
}

/// Reads these partitions no more. A group that gives all anew takes all back.
pub(super) fn take_back<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    partitions: &TopicPartitionList,
) -> KafkaResult<()> {
    if is_eager(consumer) { consumer.unassign() } else { consumer.incremental_unassign(partitions) }
}

/// Answers what nobody will answer any more: a consumer cannot leave while librdkafka waits for an answer.
pub(super) fn abandon(consumer: &impl Consumer<Group>) {
    let Some(unanswered) = lock(&consumer.context().unanswered).take() else { return };
    let answer = match unanswered {
        Unanswered::Assign => give(consumer, &TopicPartitionList::new(), &TopicPartitionList::new()),
        Unanswered::Revoke(list) => take_back(consumer, &list),
    };
    if let Err(error) = answer {
        tracing::warn!(%error, "kafka: answering a rebalance failed");
    }
}
