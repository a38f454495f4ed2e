//! Whether what was committed can be seen.
//!
//! A commit is complete when every partition that it concerns has the transaction's mark. The coordinator confirms it before it
//! has written the marks, and leaves one out where it finds no leader at that moment: Apache Kafka 4.3 takes such a partition for
//! deleted (`TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue`), and all that live on one broker have none while
//! that is being shut down. Then nobody can read behind what was written there, and our next transaction decides over that,
//! too: if it is aborted, confirmed results are gone.
//!
//! So nothing else is begun before all of a commit is seen. If some of it stays unseen, the same is written once more, in a
//! transaction that is aborted: its marks close what had none. Then it shows what that has taken away, which is written again.
//! (Not in one that is committed: marks go only where there is something new to read, and what was only late with its mark
//! would be there twice.)

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::{Failure, Thread, Written};
use crate::config;
use crate::kafka::assignment::{committed, edges};
use crate::kafka::client::Clients;
use crate::kafka::context::{Log, Plain, lock};
use crate::kafka::error::Error;
use crate::kafka::handover::Handover;
use crate::kafka::predecessor::Committed;
use crate::kafka::results::batch::Lane;
use crate::kafka::results::{Mark, Membership};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(5);
/// How long brokers that answer may not show it before it is closed; twice as long each time, up to the second.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How long brokers may need to say which partitions a topic has.
const NEWS: Duration = Duration::from_secs(5);
/// When it is looked again if no broker answers.
const RETRY: Duration = Duration::from_millis(500);
/// How long the group may need to say what it has committed; it does not while a mark is missing there.
const OFFSETS: Duration = Duration::from_secs(2);
/// How long one record may need to be read.
const RECORD: Duration = Duration::from_secs(10);

/// What was committed and not seen yet.
#[derive(Debug)]
pub(super) struct Unseen {
    pub(super) written: Written,
    pub(super) begun: Instant,
    /// Since when brokers have answered that it is not there.
    since: Option<Instant>,
    patience: Duration,
    /// What was not there for so long that it was closed.
    closed: Missing,
}

/// What of a commit lacks its mark, or was taken away.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Partitions of the results topic.
    pub(super) results: HashSet<i32>,
    /// Some dead letters.
    pub(super) letters: bool,
    /// Some offsets of the group.
    pub(super) offsets: bool,
}

/// What is known of a transaction that was aborted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Aborted {
    /// From when on brokers have answered that it is open.
    since: Option<Instant>,
    /// It was closed once: what is still open in partitions that have left us is their owners' by now, or for them to hold.
    closed: bool,
}

/// How the group stands to the offsets of a commit.
#[derive(Debug, PartialEq, Eq)]
enum Group {
    /// It has them.
    AsCommitted,
    /// It says nothing, because it lacks the mark.
    Undecided,
    /// It has older ones of these partitions.
    Behind(HashSet<i32>),
}

/// Sees what readers see.
pub(super) struct Sight {
    reader: BaseConsumer<Plain>,
    /// It sees what is not committed, too.
    other: BaseConsumer<Plain>,
    settings: config::Kafka,
}

impl Unseen {
    pub(super) fn new(written: Written, begun: Instant) -> Self {
        Self { written, begun, since: None, patience: PATIENCE.0, closed: Missing::default() }
    }

    /// What was taken away, when readers are shown nothing in these partitions of those that were closed, and the group stands so
    /// to the offsets that have `moved`. Notes whose results are owed then.
    fn lost(&mut self, hidden: HashSet<i32>, group: Group, moved: impl Iterator<Item = Lane>) -> Missing {
        let behind = if let Group::Behind(partitions) = group { partitions } else { HashSet::new() };
        let Written { lanes, offsets, owed, .. } = &mut self.written;
        // An earlier stay's results that are still with us were not in it.
        if *offsets {
            owed.extend(moved.filter(|lane| lanes.contains_key(lane) && !behind.contains(&lane.partition)));
        }
        owed.retain(|lane| hidden.contains(&lane.partition));
        Missing { results: hidden, letters: self.closed.letters, offsets: !behind.is_empty() }
    }
}

impl Written {
    /// Where partitions of the results topic end then.
    fn ends(&self) -> HashMap<i32, i64> {
        let mut ends = HashMap::with_capacity(self.lanes.len());
        for (lane, (_, end)) in &self.lanes {
            let last: &mut i64 = ends.entry(lane.partition).or_default();
            *last = (*last).max(*end);
        }
        ends
    }

    /// Of these partitions those that have left us with results in it that are not owed.
    fn not_ours(&self, hidden: &HashSet<i32>, gone: &HashSet<Lane>) -> HashSet<i32> {
        let lost = self.lanes.keys().filter(|lane| hidden.contains(&lane.partition) && gone.contains(lane));
        lost.filter(|lane| !self.owed.contains(lane)).map(|lane| lane.partition).collect()
    }
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.results.is_empty() && !self.letters && !self.offsets
    }

    fn extend(&mut self, more: &Self) {
        self.results.extend(&more.results);
        self.letters |= more.letters;
        self.offsets |= more.offsets;
    }
}

impl Thread {
    /// Looks whether all of a commit is there, and gives it back if it is.
    pub(super) fn see(&mut self, unseen: Unseen) -> Result<Option<Unseen>, Failure> {
        let missing = self.shared.call(|| self.sight.missing(&unseen.written, &self.offsets(|_| true)));
        self.sight.attend();
        match missing {
            Err(error) => Ok(self.look_later(unseen, &error)),
            Ok((missing, _)) if !missing.is_empty() => self.wait_or_close(unseen, missing),
            Ok((_, Group::AsCommitted)) if unseen.closed.is_empty() => Ok(Some(unseen)),
            Ok((_, group)) => self.judge(unseen, group),
        }
    }

    /// Whether all of the last transaction is closed, if it was aborted: brokers leave out marks of those, too, and the next one
    /// would commit what it left.
    pub(super) fn is_clear(&mut self) -> Result<bool, Failure> {
        let Some(aborted) = self.aborted else { return Ok(true) };
        let (touched, offsets) = self.touched(aborted);
        let open = self.shared.call(|| self.sight.open(&touched, &offsets));
        self.sight.attend();
        match open {
            Err(error) => {
                self.aborted = Some(Aborted { since: None, ..aborted });
                self.look_again_later(&error);
                Ok(false)
            }
            Ok(open) if open.is_empty() => {
                self.aborted = None;
                Ok(true)
            }
            Ok(_) if aborted.since.is_none_or(|since| since.elapsed() < PATIENCE.0) => {
                self.aborted = Some(Aborted { since: aborted.since.or_else(|| Some(Instant::now())), ..aborted });
                self.retry_at = Instant::now() + LOOK;
                Ok(false)
            }
            Ok(open) => {
                tracing::warn!(?open, "kafka: what was aborted is still open; closing it");
                // Somebody else's may be open there.
                let since = Instant::now() + (PATIENCE.1 - PATIENCE.0);
                self.aborted = Some(Aborted { since: Some(since), closed: aborted.closed });
                self.close(open)?;
                self.aborted = Some(Aborted { since: Some(since), closed: true });
                Ok(false)
            }
        }
    }

    /// The results partitions and the offsets that a transaction was about which was aborted, if the next one decides over them
    /// or they were not closed yet.
    fn touched(&self, aborted: Aborted) -> (HashSet<i32>, TopicPartitionList) {
        let Membership { group, gone } = lock(&self.shared.membership).clone();
        let matters = |lane: Lane| !aborted.closed || !gone.contains(&lane) || self.is_owed(lane);
        let lanes = self.batches.iter().flat_map(|batch| &batch.reports).map(|report| report.lane);
        let results = lanes.filter(|lane| matters(*lane)).map(|lane| lane.partition).collect();
        // Without a name in the group the next one has no offsets, and decides over none.
        let offsets = if group.is_some() { self.offsets(matters) } else { TopicPartitionList::new() };
        (results, offsets)
    }

    /// Writes the same once more, in a transaction that is aborted.
    fn close(&mut self, missing: Missing) -> Result<(), Failure> {
        let again = self.again.replace((missing, Written::default()));
        // Whether a partition has left us since does not matter: it is closed for those who have it now.
        let group = lock(&self.shared.membership).group.clone();
        let closed = self.fill(group, &HashSet::new()).map(|_| self.abort(None));
        self.again = again;
        match closed {
            Ok(Failure::AtOnce) => Ok(()),
            Ok(failure) | Err(failure) => Err(failure),
        }
    }

    /// Whether results of this stay were confirmed, are gone, and nobody else will write them.
    pub(super) fn is_owed(&self, lane: Lane) -> bool {
        self.again.as_ref().is_some_and(|(_, written)| written.owed.contains(&lane))
    }

    fn look_later(&mut self, unseen: Unseen, error: &Error) -> Option<Unseen> {
        self.unseen = Some(Unseen { since: None, ..unseen });
        self.look_again_later(error);
        None
    }

    fn look_again_later(&mut self, error: &Error) {
        self.retry_at = Instant::now() + RETRY;
        // While brokers are away errors change with every look.
        if lock(&self.shared.progress).trouble.is_none() {
            self.tell_trouble(Some(format!("what was written cannot be looked at: {error}")));
        }
    }

    fn wait_or_close(&mut self, mut unseen: Unseen, missing: Missing) -> Result<Option<Unseen>, Failure> {
        if unseen.since.get_or_insert_with(Instant::now).elapsed() < unseen.patience {
            self.retry_at = Instant::now() + LOOK;
            self.unseen = Some(unseen);
            return Ok(None);
        }
        tracing::warn!(
            ?missing,
            "kafka: a commit cannot be seen: brokers are late with its marks, or have left them out; closing and writing it again"
        );
        if unseen.patience == PATIENCE.1 {
            let trouble =
                format!("results of partitions {:?} cannot be seen: a transaction is open there", missing.results);
            self.tell_trouble(Some(trouble));
        }
        unseen.since = None;
        unseen.patience = (unseen.patience * 2).min(PATIENCE.1);
        unseen.closed.extend(&missing);
        self.unseen = Some(unseen);
        self.close(missing)?;
        Ok(None)
    }

    /// Whatever had no mark has one now: ours, which took it away, or one that came after all.
    fn judge(&mut self, mut unseen: Unseen, group: Group) -> Result<Option<Unseen>, Failure> {
        let mut ends = unseen.written.ends();
        ends.retain(|partition, _| unseen.closed.results.contains(partition));
        let mut hidden = HashSet::new();
        for (partition, end) in ends {
            match self.shared.call(|| self.sight.is_visible(partition, end - 1)) {
                Ok(true) => {}
                Ok(false) => _ = hidden.insert(partition),
                Err(error) => return Ok(self.look_later(unseen, &error)),
            }
        }
        let has_moved = |mark: &&Mark| self.settled.get(&mark.lane).is_none_or(|before| *before < mark.offset);
        let lost = unseen.lost(hidden, group, self.marks.values().filter(has_moved).map(|mark| mark.lane));
        if lost.is_empty() {
            return Ok(Some(unseen));
        }
        self.tell_others(&lost, &unseen.written);
        self.again = Some((lost, unseen.written));
        Err(Failure::AtOnce)
    }
}

impl Thread {
    /// Says where results are gone that are not ours to write again.
    fn tell_others(&self, lost: &Missing, written: &Written) {
        for partition in written.not_ours(&lost.results, &lock(&self.shared.membership).gone) {
            let topic = &self.clients.settings().results_topic;
            tracing::error!(
                "kafka: results in {topic}-{partition} that a broker had confirmed are gone, and the partition has left us: its owner \
                 repeats what was not settled; run `tokenrelay audit`, which names what is missing"
            );
        }
    }
}

impl Sight {
    pub(super) fn new(clients: &Clients) -> Result<Self, Error> {
        let reader = |isolation: &str| -> Result<BaseConsumer<Plain>, Error> {
            let mut config = clients.rereader();
            config.set("isolation.level", isolation);
            let context = Plain { log: Log::new("results", clients.stranded()) };
            BaseConsumer::from_config_and_context(&config, context).map_err(Error::client("make a reader of results"))
        };
        let (other, reader) = (reader("read_uncommitted")?, reader("read_committed")?);
        Ok(Self { reader, other, settings: clients.settings().clone() })
    }

    /// Takes in what librdkafka has to say, which would pile up otherwise. To be called every few seconds at least.
    pub(super) fn attend(&self) {
        for reader in [&self.reader, &self.other] {
            drop(reader.poll(Duration::ZERO));
        }
    }

    /// Of these partitions of the results topic those in which a transaction is open; or else, whether one is that has some of
    /// these offsets.
    fn open(&self, partitions: &HashSet<i32>, offsets: &TopicPartitionList) -> Result<Missing, Error> {
        let topic = &self.settings.results_topic;
        let partitions: Vec<i32> = partitions.iter().copied().collect();
        let ends = match partitions.is_empty() {
            true => Vec::new(),
            false => self.ends(&self.other, topic, &partitions)?,
        };
        let results = self.unstable(topic, &ends.into_iter().collect())?;
        let is_asked = results.is_empty() && offsets.count() > 0;
        let offsets = is_asked && self.group(offsets)? == Group::Undecided;
        Ok(Missing { results, letters: false, offsets })
    }

    /// What of this lacks its mark, and how the group stands to these offsets.
    fn missing(&self, written: &Written, offsets: &TopicPartitionList) -> Result<(Missing, Group), Error> {
        let config::Kafka { results_topic, dead_letters_topic, .. } = &self.settings;
        let results = self.unstable(results_topic, &written.ends())?;
        let letters = !self.unstable(dead_letters_topic, &written.letters)?.is_empty();
        let all = results.is_empty() && !letters;
        let group = match written.offsets {
            true if all => self.group(offsets)?,
            true => Group::Undecided,
            false => Group::AsCommitted,
        };
        let offsets = all && group == Group::Undecided;
        Ok((Missing { results, letters, offsets }, group))
    }

    /// The partitions in which a transaction is open that began below the offset.
    fn unstable(&self, topic: &str, ends: &HashMap<i32, i64>) -> Result<HashSet<i32>, Error> {
        if ends.is_empty() {
            return Ok(HashSet::new());
        }
        let partitions: Vec<i32> = ends.keys().copied().collect();
        let stable = self.ends(&self.reader, topic, &partitions)?;
        Ok(stable
            .into_iter()
            .filter(|(partition, stable)| *stable < ends[partition])
            .map(|(partition, _)| partition)
            .collect())
    }

    fn ends(&self, reader: &BaseConsumer<Plain>, topic: &str, partitions: &[i32]) -> Result<Vec<(i32, i64)>, Error> {
        edges(reader, topic, partitions, Offset::End).or_else(|_| {
            // It may not have heard of new partitions yet.
            reader.fetch_metadata(Some(topic), NEWS).map_err(Error::client("read a topic's partitions"))?;
            edges(reader, topic, partitions, Offset::End)
        })
    }

    fn group(&self, offsets: &TopicPartitionList) -> Result<Group, Error> {
        let config::Kafka { tokens_topic, group_id, .. } = &self.settings;
        let of = |element: &TopicPartitionListElem<'_>| {
            (element.partition(), element.offset().to_raw().unwrap_or_default(), element.metadata().to_owned())
        };
        let wanted: Vec<(i32, i64, String)> = offsets.elements().iter().map(of).collect();
        let partitions: Vec<i32> = wanted.iter().map(|(partition, ..)| *partition).collect();
        let found = match committed(&self.reader, tokens_topic, group_id, &partitions, OFFSETS) {
            Err(Error::Client { source, .. }) if is_timeout(&source) => return Ok(Group::Undecided),
            found => found?,
        };
        let both = wanted.into_iter().zip(found);
        let behind: HashSet<i32> = both
            .filter(|((_, offset, metadata), (_, found))| !has(found.as_ref(), *offset, metadata))
            .map(|((partition, ..), _)| partition)
            .collect();
        Ok(if behind.is_empty() { Group::AsCommitted } else { Group::Behind(behind) })
    }

    /// Whether readers are given the record at that offset of the results topic, behind which no transaction is open.
    fn is_visible(&self, partition: i32, offset: i64) -> Result<bool, Error> {
        let failed = || Error::client("read results again");
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.settings.results_topic, partition, Offset::Offset(offset)).map_err(failed())?;
        self.reader.assign(&list).map_err(failed())?;
        let deadline = Instant::now() + RECORD;
        let seen = loop {
            match self.reader.poll(deadline.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) if message.partition() == partition => break Ok(message.offset() == offset),
                Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => break Ok(false),
                // It was deleted, as it would have been after it was seen.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => break Ok(true),
                Some(_) => {}
                None => break Err(failed()(KafkaError::NoMessageReceived)),
            }
        };
        self.reader.unassign().map_err(failed())?;
        seen
    }
}

/// Whether a group that has committed what was found has had this offset.
fn has(found: Option<&Committed>, offset: i64, metadata: &str) -> bool {
    let epoch = |metadata: &str| Handover::parse(metadata, offset).map(|handover| handover.epoch);
    // What was committed with the same offset before says other things of it; and an owner after us begins where we ended.
    let is_after = |said: &str| epoch(said).zip(epoch(metadata)).is_some_and(|(theirs, ours)| theirs > ours);
    found.is_some_and(|(at, said)| *at > offset || (*at == offset && (said == metadata || is_after(said))))
}

fn is_timeout(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

#[cfg(test)]
mod tests;
