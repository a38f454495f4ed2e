//! Where a partition that was just given to us is to be read from.
//!
//! The committed offset decides. A group that has none on the whole topic is new, and then `kafka.start` decides, for all
//! partitions at once: what it decides is committed before anything is read, so that a partition whose first response
//! has not settled yet is not taken for one that was added later. A partition that was added later has no committed
//! offset while others have: nothing of it was ever read, so it is read from its beginning.
//!
//! An offset that the topic does not hold any more (or, after the topic was made anew, does not hold yet) is replaced by
//! the first one that it holds, and the [`Gap`] is reported.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::error::Error;
use super::handover::Handover;
use super::predecessor::{Committed, Facts};
use crate::config::Start;
use crate::engine::{Stale, Time};

pub use super::predecessor::{Assigned, Before, Gap};

/// How long one question to the brokers may take.
pub(super) const QUESTION: Duration = Duration::from_secs(10);

/// What the decision needs to know of us.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) topic: String,
    pub(super) results: String,
    pub(super) group: String,
    pub(super) start: Start,
    /// Where reading begins anew, older responses are not begun.
    pub(super) max_age: Duration,
}

impl Policy {
    /// Whether the group may begin at all; asked before joining, so that a refusal reaches a person and not a group.
    ///
    /// # Errors
    /// [`Error::NoStart`], or that the brokers do not say.
    pub(super) fn check<C: ConsumerContext>(
        &self,
        consumer: &impl Consumer<C>,
        partitions: i32,
        within: Duration,
    ) -> Result<(), Error> {
        let all: Vec<i32> = (0..partitions).collect();
        let committed = committed(consumer, &self.topic, &self.group, &all, within)?;
        if self.start == Start::Error && committed.iter().all(|(_, offset)| offset.is_none()) {
            return Err(Error::NoStart { group: self.group.clone(), topic: self.topic.clone() });
        }
        Ok(())
    }

    /// Decides for the partitions that were given to us. Blocks.
    ///
    /// # Errors
    /// [`Error::NoStart`], or that the brokers do not say (then it is worth asking again).
    pub(super) fn decide<C: ConsumerContext>(
        &self,
        consumer: &impl Consumer<C>,
        partitions: &[i32],
    ) -> Result<Vec<Assigned>, Error> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let facts = self.facts(consumer, partitions)?;
        if facts.iter().all(|facts| facts.committed.is_some()) {
            return Ok(facts.into_iter().map(|facts| self.place(facts, false)).collect());
        }
        let all = all_partitions(consumer, &self.topic)?;
        let everywhere = self.facts(consumer, &all)?;
        let new_group = everywhere.iter().all(|facts| facts.committed.is_none());
        if new_group {
            self.begin(consumer, &everywhere)?;
        }
        let ours = everywhere.into_iter().filter(|facts| partitions.contains(&facts.partition));
        Ok(ours.map(|facts| self.place(facts, new_group)).collect())
    }

    /// How many partitions the results topic has.
    ///
    /// # Errors
    /// That the brokers do not say.
    pub(super) fn results_partitions<C: ConsumerContext>(&self, consumer: &impl Consumer<C>) -> Result<i32, Error> {
        let count = all_partitions(consumer, &self.results)?.len();
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }

    /// Commits where a new group begins, for every partition.
    fn begin<C: ConsumerContext>(&self, consumer: &impl Consumer<C>, facts: &[Facts]) -> Result<(), Error> {
        if self.start == Start::Error {
            return Err(Error::NoStart { group: self.group.clone(), topic: self.topic.clone() });
        }
        let mut list = TopicPartitionList::with_capacity(facts.len());
        for facts in facts {
            let read = self.first(facts, true);
            let first = Handover { stale: self.stale(facts.end), ..Handover::first(read) };
            let mut element = list.add_partition(&self.topic, facts.partition);
            element.set_offset(Offset::Offset(read)).map_err(Error::client("commit where the group begins"))?;
            element.set_metadata(first.to_metadata(read));
        }
        tracing::info!(group = self.group, topic = self.topic, start = ?self.start, "a new group begins");
        consumer.commit(&list, CommitMode::Sync).map_err(Error::client("commit where the group begins"))
    }

    fn first(&self, facts: &Facts, new_group: bool) -> i64 {
        if new_group && self.start == Start::Latest { facts.end } else { facts.begins }
    }

    fn place(&self, facts: Facts, new_group: bool) -> Assigned {
        let (first, stale) = (self.first(&facts, new_group), self.stale(facts.end));
        if let Some((offset, metadata)) = facts.foreign() {
            foreign(facts.partition, offset, metadata);
        }
        facts.place(first, new_group, stale)
    }

    /// What of a partition that is read anew is too old now.
    fn stale(&self, end: i64) -> Option<Stale> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let before = now.checked_sub(self.max_age)?;
        Some(Stale { below: end, before: Time::from_millis(u64::try_from(before.as_millis()).ok()?) })
    }

    fn facts<C: ConsumerContext>(&self, consumer: &impl Consumer<C>, partitions: &[i32]) -> Result<Vec<Facts>, Error> {
        let committed = committed(consumer, &self.topic, &self.group, partitions, QUESTION)?;
        let begins = edges(consumer, &self.topic, partitions, Offset::Beginning)?;
        let ends = edges(consumer, &self.topic, partitions, Offset::End)?;
        let facts = committed.into_iter().zip(begins).zip(ends);
        Ok(facts
            .map(|(((partition, committed), (_, begins)), (_, end))| Facts { partition, committed, begins, end })
            .collect())
    }
}

/// Says what is done about an offset that bears no word that we understand.
fn foreign(partition: i32, offset: i64, metadata: &str) {
    const RULE: &str =
        "all results that there are say what is settled, and whatever else was open begins with its full text";
    if metadata.is_empty() {
        tracing::warn!(partition, offset, "the offset was set by somebody else: {RULE}");
    } else {
        // Their length, not their words: who knows whose they are.
        let bytes = metadata.len();
        tracing::warn!(
            partition,
            offset,
            bytes,
            "the offset bears metadata of another version, or of another program: {RULE}"
        );
    }
}

/// The committed offsets with their metadata, in the order asked for.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    group: &str,
    partitions: &[i32],
    within: Duration,
) -> Result<Vec<(i32, Option<Committed>)>, Error> {
    let list = list(topic, partitions);
    let list = consumer.committed_offsets(list, within).map_err(|error| match error.rdkafka_error_code() {
        Some(code) if super::error::is_refusal(code) => {
            Error::GroupForbidden { group: group.to_owned(), reason: code.to_string() }
        }
        _ => Error::Client { doing: "read the group's offsets", source: error },
    })?;
    in_order(&list, partitions, "read the group's offsets", |element| match element.offset() {
        Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
        _ => None,
    })
}

/// The first or the last offset of each partition, in the order asked for. One request to each leader.
pub(super) fn edges<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: &str,
    partitions: &[i32],
    which: Offset,
) -> Result<Vec<(i32, i64)>, Error> {
    let mut list = list(topic, partitions);
    list.set_all_offsets(which).map_err(Error::client("read the topic's offsets"))?;
    let list = consumer.offsets_for_times(list, QUESTION).map_err(Error::client("read the topic's offsets"))?;
    in_order(&list, partitions, "read the topic's offsets", |element| element.offset().to_raw().unwrap_or(0).max(0))
}

fn in_order<T>(
    list: &TopicPartitionList,
    partitions: &[i32],
    doing: &'static str,
    read: impl Fn(&TopicPartitionListElem<'_>) -> T,
) -> Result<Vec<(i32, T)>, Error> {
    let elements = list.elements();
    let find = |partition: i32| {
        let element = elements.iter().find(|element| element.partition() == partition);
        let element = element.ok_or(Error::Client { doing, source: KafkaError::NoMessageReceived })?;
        element.error().map_err(Error::client(doing))?;
        Ok((partition, read(element)))
    };
    partitions.iter().map(|partition| find(*partition)).collect()
}

fn all_partitions<C: ConsumerContext>(consumer: &impl Consumer<C>, topic: &str) -> Result<Vec<i32>, Error> {
    let metadata =
        consumer.fetch_metadata(Some(topic), QUESTION).map_err(Error::client("read a topic's partitions"))?;
    let topic = metadata.topics().iter().find(|found| found.name() == topic);
    Ok(topic.map(|topic| topic.partitions().iter().map(|partition| partition.id()).collect()).unwrap_or_default())
}

pub(super) fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Beginnings;

    fn policy(start: Start) -> Policy {
        Policy { topic: "t".into(), results: "r".into(), group: "g".into(), start, max_age: Duration::from_secs(900) }
    }

    fn facts(committed: Option<i64>) -> Facts {
        Facts { partition: 0, committed: committed.map(|offset| (offset, "m".to_owned())), begins: 10, end: 20 }
    }

    #[test]
    fn the_committed_offset_decides() {
        let assigned = policy(Start::Latest).place(facts(Some(15)), false);
        assert_eq!((assigned.start, assigned.before, assigned.gap), (15, Before::Somebody, None));
        assert_eq!(assigned.inheritance.begun_below, 20, "nobody knows how far it had read");
        assert_eq!(assigned.inheritance.stale.map(|stale| stale.below), Some(20), "somebody has set it");
    }

    #[test]
    fn both_edges_are_in_the_topic() {
        for edge in [10, 20] {
            assert_eq!(policy(Start::Error).place(facts(Some(edge)), false).gap, None);
        }
    }

    #[test]
    fn an_offset_out_of_the_topic_is_a_gap() {
        for committed in [3, 21] {
            let assigned = policy(Start::Latest).place(facts(Some(committed)), false);
            assert_eq!(assigned.start, 10);
            assert_eq!(assigned.gap, Some(Gap { committed, begins: 10 }));
        }
    }

    #[test]
    fn an_added_partition_is_read_from_its_beginning_whatever_the_policy() {
        for start in [Start::Error, Start::Latest, Start::Earliest] {
            let assigned = policy(start).place(facts(None), false);
            assert_eq!((assigned.start, assigned.inheritance.beginnings), (10, Beginnings::Elsewhere));
        }
    }

    #[test]
    fn a_new_group_begins_where_it_is_told_to() {
        assert_eq!(policy(Start::Latest).place(facts(None), true).start, 20);
        assert_eq!(policy(Start::Earliest).place(facts(None), true).start, 10);
    }
}
