//! Reads what a former owner has left in the results topic, when partitions are given to us. Blocks.
//!
//! Read to the end, exactly: after the committed offset is known (a broker gives it only when no transaction with that
//! offset is open), the partition's end is asked for *including* what is not committed; then committed records are read up
//! to there. The last stable offset of the moment would not do: results whose offset is visible already may lie behind it.
//! What ends in a transaction that its dead owner left open cannot be read until that has ended, which brokers see to
//! (`results.transaction_timeout`), though not always: after restarts of brokers some were seen to stay open for good.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::assignment::{Assigned, QUESTION};
use super::client::Clients;
use super::context::{Log, Plain};
use super::error::Error;
use super::predecessor::Stretch;
use super::pulse::Pulse;
use crate::engine::History;

/// How long, and how often, it is looked whether open transactions end: one that is committed is open until brokers have
/// written that down everywhere.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);
/// How long reading may stand still before it is begun again.
const SILENCE: Duration = Duration::from_secs(30);
/// So many partitions are read at once, if there are as many cores: what takes time is to understand the records.
const READERS_MAX: usize = 4;
/// After so many records it is time to look at the clock.
const STRIDE: u64 = 1_024;

/// What was read of some partitions, and how many records that were.
type Read = (HashMap<i32, History>, u64);

/// Completes what is known of the partitions that were given to us, and takes out those whose results cannot be read yet.
///
/// # Errors
/// That the brokers do not say; then it is worth asking again.
pub(super) fn complete(clients: &Clients, assigned: &mut Vec<Assigned>, pulse: &Pulse) -> Result<Vec<i32>, Error> {
    if assigned.is_empty() {
        return Ok(Vec::new());
    }
    let began = Instant::now();
    let (stretches, unstable) = stretches(clients, assigned, pulse)?;
    assigned.retain(|assigned| stretches.contains_key(&assigned.partition));
    let (mut histories, records) = read(clients, &stretches, pulse)?;
    let responses: usize = histories.values().map(History::len).sum();
    if responses > 0 {
        tracing::info!(
            partitions = stretches.len(),
            records,
            responses,
            millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "results of former owners were read"
        );
    }
    for assigned in assigned {
        let Some(stretch) = stretches.get(&assigned.partition) else { continue };
        let history = histories.remove(&assigned.partition).unwrap_or_default();
        if history.unreadable() > 0 {
            tracing::warn!(
                partition = assigned.partition,
                records = history.unreadable(),
                "results that are not ours, or of a version that is not known: every open response begins with its full text"
            );
        }
        assigned.inherit(history, *stretch);
    }
    Ok(unstable)
}

fn consumer(clients: &Clients, isolation: &str) -> Result<BaseConsumer<Plain>, Error> {
    let mut config = clients.rereader();
    config.set("isolation.level", isolation);
    BaseConsumer::from_config_and_context(&config, Plain { log: Log::new("restore", clients.stranded()) })
        .map_err(Error::client("make a reader of results"))
}

/// From where to where each partition is read, and of which that cannot be done yet.
fn stretches(
    clients: &Clients,
    assigned: &[Assigned],
    pulse: &Pulse,
) -> Result<(HashMap<i32, Stretch>, Vec<i32>), Error> {
    let failed = || Error::client("read the results topic's offsets");
    let topic = &clients.settings().results_topic;
    let (committed, uncommitted) = (consumer(clients, "read_committed")?, consumer(clients, "read_uncommitted")?);
    let mut stretches = HashMap::with_capacity(assigned.len());
    for Assigned { partition, before, .. } in assigned {
        pulse.beat();
        let (low, end) = uncommitted.fetch_watermarks(topic, *partition, QUESTION).map_err(failed())?;
        stretches.insert(*partition, (Stretch::of(before, low, end), low));
    }
    let mut unstable = Vec::new();
    let began = Instant::now();
    for (partition, (stretch, _)) in &stretches {
        loop {
            pulse.beat();
            let (_, stable) = committed.fetch_watermarks(topic, *partition, QUESTION).map_err(failed())?;
            if stable >= stretch.end {
                break;
            }
            if began.elapsed() >= PATIENCE {
                unstable.push(*partition);
                break;
            }
            thread::sleep(LOOK);
        }
    }
    // Their ends wait for librdkafka's threads, and nobody else needs to.
    thread::spawn(move || drop((committed, uncommitted)));
    unstable.sort_unstable();
    stretches.retain(|partition, _| !unstable.contains(partition));
    for Assigned { partition, before, .. } in assigned {
        let Some((Stretch { end, whole, .. }, low)) = stretches.get(partition) else { continue };
        if let Some((place, until)) = before.results(*end).filter(|_| !whole) {
            tracing::warn!(
                partition,
                place,
                until,
                begins = low,
                ends = end,
                topic,
                "results that are needed are not there any more: every open response begins with its full text"
            );
        }
    }
    Ok((stretches.into_iter().map(|(partition, (stretch, _))| (partition, stretch)).collect(), unstable))
}

/// Reads all of it, several partitions at once.
fn read(clients: &Clients, stretches: &HashMap<i32, Stretch>, pulse: &Pulse) -> Result<Read, Error> {
    let shares = shares(stretches, available_parallelism().map_or(1, usize::from).min(READERS_MAX));
    let (done, answers) = mpsc::channel();
    for share in &shares {
        let (consumer, share, done) = (consumer(clients, "read_committed")?, share.clone(), done.clone());
        let (tokens, pulse) = (clients.settings().tokens_topic.clone(), pulse.clone());
        let results = clients.settings().results_topic.clone();
        let work = move || {
            // Whoever asked may be gone. The consumer ends after the answer.
            let _ = done.send(read_share(&consumer, &tokens, &results, &share, &pulse));
        };
        let started = thread::Builder::new().name("kafka-restore".to_owned()).spawn(work);
        started.map_err(|_| Error::Ended { role: "reading results" })?;
    }
    drop(done);
    // All of them, even if one has failed: the pulse is theirs until they have answered.
    let answers: Vec<Result<Read, Error>> = answers.iter().collect();
    if answers.len() < shares.len() {
        return Err(Error::Ended { role: "reading results" });
    }
    let (mut histories, mut records) = (HashMap::new(), 0);
    for answer in answers {
        let (more, count) = answer?;
        histories.extend(more);
        records += count;
    }
    Ok((histories, records))
}

/// Shares what there is to read among so many readers, or fewer: the longest first, each to whom has least.
fn shares(stretches: &HashMap<i32, Stretch>, readers: usize) -> Vec<Vec<(i32, Stretch)>> {
    let length = |(_, stretch): &(i32, Stretch)| stretch.end - stretch.from;
    let mut wanted: Vec<_> = stretches.iter().map(|(partition, stretch)| (*partition, *stretch)).collect();
    wanted.retain(|place| length(place) > 0);
    wanted.sort_unstable_by_key(|place| (-length(place), place.0));
    let mut shares = vec![Vec::new(); readers.min(wanted.len())];
    for place in wanted {
        let least = shares.iter_mut().min_by_key(|share: &&mut Vec<_>| share.iter().map(length).sum::<i64>());
        least.into_iter().for_each(|share| share.push(place));
    }
    shares
}

fn read_share(
    consumer: &BaseConsumer<Plain>,
    tokens: &str,
    results: &str,
    share: &[(i32, Stretch)],
    pulse: &Pulse,
) -> Result<Read, Error> {
    let failed = || Error::client("read results again");
    let mut list = TopicPartitionList::with_capacity(share.len());
    for (partition, stretch) in share {
        list.add_partition_offset(results, *partition, Offset::Offset(stretch.from)).map_err(failed())?;
    }
    consumer.assign(&list).map_err(failed())?;
    let mut left: HashMap<i32, i64> = share.iter().map(|(partition, stretch)| (*partition, stretch.end)).collect();
    let (mut histories, mut records) = (HashMap::<i32, History>::new(), 0);
    let mut heard = Instant::now();
    pulse.beat();
    while !left.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                records += 1;
                if records % STRIDE == 0 {
                    heard = Instant::now();
                    pulse.beat();
                }
                let Some(end) = left.get(&message.partition()) else { continue };
                if message.offset() + 1 >= *end {
                    left.remove(&message.partition());
                }
                let history = histories.entry(message.partition()).or_default();
                history.add(tokens, message.payload().unwrap_or_default());
            }
            // What remains is marks of transactions.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(_)) | None if heard.elapsed() < SILENCE => pulse.beat(),
            Some(Err(source)) => return Err(failed()(source)),
            None => return Err(failed()(KafkaError::NoMessageReceived)),
        }
    }
    Ok((histories, records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_read_is_shared_evenly() {
        let stretch = |length: i64| Stretch { from: 10, end: 10 + length, whole: true };
        let lengths = [(0, 70), (1, 0), (2, 100), (3, 40), (4, 20)];
        let stretches = lengths.into_iter().map(|(partition, length)| (partition, stretch(length))).collect();
        let of = |readers| -> Vec<Vec<i32>> {
            let shares = shares(&stretches, readers);
            shares.iter().map(|share| share.iter().map(|(partition, _)| *partition).collect()).collect()
        };
        assert_eq!(of(1), [[2, 0, 3, 4]]);
        assert_eq!(of(2), [vec![2, 4], vec![0, 3]]);
        assert_eq!(of(9), [[2], [0], [3], [4]]);
        assert!(shares(&HashMap::new(), 4).is_empty());
    }
}
