//! The demo without a page: a given number of responses under given faults, and a verdict.
//!
//! What a reader sees is compared twice with what was produced: as an ordinary subscriber who was there from the start got
//! it, and as history returns it. The faults stay on until the end; nothing is told to the relay.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::broker::{Progress, Writer};
use super::generator::{self, Schedule};
use super::history::History;
use super::reader::Reader;
use super::results::{Missing, Results};
use super::verify::{Difference, Promises};
use super::world::{Site, World};
use super::{Error, Options, hex};
use crate::emulator::Scenario;
use crate::pipeline::Stop;

/// How long is waited for what does not come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Without a new result for this long, no more is expected.
    pub(super) results: Duration,
    /// How long readers may take to see what the results say: delivery and history are eventually consistent.
    pub(super) readers: Duration,
    /// How long what was cut off may be under way.
    pub(super) late: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { results: minute, readers: Duration::from_secs(10), late: minute }
    }
}

/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);
/// How long the relay may take to stop: more than it allows itself.
const DRAIN: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Responses that were produced.
    pub responses: u64,
    /// Their token events.
    pub tokens: u64,
    /// Operations that the results topic reports.
    pub operations: u64,
    /// Of these, how many were refused.
    pub rejected: u64,
    /// How many have no known outcome.
    pub unknown: u64,
    /// How many were full texts that mended something.
    pub repairs: u64,
    /// Texts that a subscriber or history has wrong in the end.
    pub wrong_texts: u64,
    /// Results that should be on the results topic and are not, or not as often.
    pub missing_results: u64,
    /// How long it took.
    pub seconds: f64,
    /// Of the wrong texts, those that the subscriber has.
    pub wrong_live: u64,
    /// Of the wrong texts, those in history.
    pub wrong_history: u64,
    /// Results that are on the results topic more than once.
    pub surplus_results: u64,
    /// Results whose hash is not that of the text.
    pub wrong_hashes: u64,
    /// Responses that the relay gave up on.
    pub failed: u64,
    /// Of the wrong texts, those that the relay did not give up on.
    pub wrong_not_failed: u64,
    /// How often each of the emulator's faults has struck, by its name.
    pub struck: BTreeMap<&'static str, u64>,
    /// Channels that the texts are on.
    pub channels: u64,
    /// Appends that reached the subscriber as such: tokens seen one by one.
    pub appends_seen: u64,
    /// The seed that gives the same run again.
    pub seed: u64,
    /// The first few differences, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

impl Summary {
    /// Whether every text is right and every result is there.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.wrong_texts == 0 && self.missing_results == 0 && self.surplus_results == 0 && self.wrong_hashes == 0
    }
}

/// Runs it, with whatever stands for the relay.
pub(super) async fn run<R>(
    options: &Options,
    scenario: Scenario,
    patience: Patience,
    relay: impl FnOnce(Site, watch::Receiver<Stop>) -> R,
) -> Result<Summary, Error>
where
    R: Future<Output = Result<(), Error>> + Send + 'static,
{
    let began = Instant::now();
    let mut promises = Promises::default();
    (0..options.responses).for_each(|index| promises.add(&generator::script(options.seed, index)));
    let channels = promises.channels();
    // Before its last step readers may be kept out.
    let steps = Instant::now() + scenario.then.iter().map(|step| step.after).sum::<Duration>();
    let world = World::start(scenario, &options.faults).await?;
    let mut reader = Reader::start(&world.subscriber_url(), &channels);
    reader.attached(channels.len()).await;

    let (results, progress) = (Results::new(), Arc::new(Progress::default()));
    let (stop, stopped) = watch::channel(Stop::No);
    let mut relay = tokio::spawn(relay(world.site()?, stopped));
    let mut books = read_results(&world, &results, &progress)?;
    let parts = promises.parts().count() as u64;
    let ended: Result<(), Error> = tokio::select! {
        outcome = &mut relay => outcome.unwrap_or(Ok(())).and(Err(Error::Ended("the relay"))),
        outcome = &mut books => outcome.unwrap_or(Ok(())).and(Err(Error::Ended("the reader of results"))),
        outcome = write(options, Writer::new(world.broker.clone(), progress)) => outcome,
        () = all_results(&results, parts, patience.results) => Ok(()),
    };
    ended?;
    until_all_has_arrived(&world, patience.late).await;
    let until = Instant::now().max(steps) + patience.readers;
    let wrong = compare(&promises, &reader, &world.history()?, until).await;
    let _ = stop.send(Stop::Drain);
    let stopped = tokio::time::timeout(DRAIN, relay).await;
    books.abort();
    if let Ok(Ok(Err(error))) = stopped {
        return Err(error);
    }
    if world.broker.lost() > 0 {
        return Err(Error::Lost(world.broker.lost()));
    }
    let summary = summary(options, &promises, &results, &reader, wrong, began.elapsed());
    Ok(Summary { struck: world.struck(), ..summary })
}

fn read_results(
    world: &World,
    results: &Results,
    progress: &Arc<Progress>,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    let (results, progress, servers) = (results.clone(), progress.clone(), world.broker.bootstrap_servers()?);
    Ok(tokio::spawn(async move { results.read(&servers, &progress).await }))
}

/// Plays the schedule, faster than life by the factor that was asked for; then waits for ever.
async fn write(options: &Options, mut writer: Writer) -> Result<(), Error> {
    let began = Instant::now();
    let speed = options.speed.unwrap_or(20.0).max(0.01);
    for cue in Schedule::new(options.seed, options.responses, options.open.unwrap_or(64), 100..900) {
        let due = began + cue.at.div_f64(speed);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        writer.write(&cue).await?;
    }
    std::future::pending().await
}

/// Waits until every part has its result, or until nothing more seems to come.
async fn all_results(results: &Results, parts: u64, patience: Duration) {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} responses · {msg} · {elapsed}");
    let bar = ProgressBar::new(parts).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (mut last, mut last_change) = (0, Instant::now());
    loop {
        let (operations, rejected, unknown, repairs, settled) =
            results.tally(|tally| (tally.operations, tally.rejected, tally.unknown, tally.repairs, tally.settled));
        bar.set_position(settled);
        bar.set_message(format!("{operations} operations, {} failed, {repairs} repairs", rejected + unknown));
        if operations + settled != last {
            (last, last_change) = (operations + settled, Instant::now());
        }
        if settled >= parts || last_change.elapsed() > patience {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    bar.finish_and_clear();
}

/// Waits for what arrives late: before that nobody knows whether texts are right.
async fn until_all_has_arrived(world: &World, patience: Duration) {
    let arrives = async {
        while world.is_under_way() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(patience, arrives).await.is_err() {
        tracing::warn!("what was cut off has not arrived within {patience:?}");
    }
}

/// Compares until all is right, or until it must be: what the subscriber has wrong, and what history has wrong.
async fn compare(
    promises: &Promises,
    reader: &Reader,
    history: &History,
    until: Instant,
) -> (BTreeSet<Difference>, BTreeSet<Difference>) {
    let channels = promises.channels();
    let mut live = BTreeSet::new();
    loop {
        live.clear();
        channels.iter().for_each(|channel| live.extend(promises.differences(channel, &reader.seen(channel))));
        if live.is_empty() || Instant::now() > until {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let mut wrong = channels;
    let mut past = BTreeSet::new();
    loop {
        past.clear();
        for (channel, seen) in history.read(&wrong).await {
            past.extend(promises.differences(&channel, &seen));
        }
        if past.is_empty() || Instant::now() > until {
            break;
        }
        wrong = past.iter().map(|difference| difference.channel.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        tokio::time::sleep(LOOK).await;
    }
    (live, past)
}

fn summary(
    options: &Options,
    promises: &Promises,
    results: &Results,
    reader: &Reader,
    (live, past): (BTreeSet<Difference>, BTreeSet<Difference>),
    took: Duration,
) -> Summary {
    let mut books = Missing::default();
    let mut wrong_hashes = 0;
    for (id, expected) in promises.parts() {
        let hash = hex(&Sha256::digest(expected.text.as_bytes()));
        let one = results.tally(|tally| tally.missing(id, expected.part, &hash));
        books.missing += one.missing;
        books.surplus += one.surplus;
        wrong_hashes += u64::from(one.wrong_hash);
    }
    let wrong: BTreeSet<(&str, u32)> =
        live.iter().chain(&past).map(|difference| (difference.response_id.as_str(), difference.part)).collect();
    results.tally(|tally| Summary {
        responses: options.responses,
        tokens: promises.parts().map(|(_, expected)| expected.tokens).sum(),
        operations: tally.operations,
        rejected: tally.rejected,
        unknown: tally.unknown,
        repairs: tally.repairs,
        wrong_texts: wrong.len() as u64,
        missing_results: books.missing + tally.unreadable,
        seconds: (took.as_secs_f64() * 1_000.0).round() / 1_000.0,
        wrong_live: live.len() as u64,
        wrong_history: past.len() as u64,
        surplus_results: books.surplus,
        wrong_hashes,
        failed: tally.failed,
        wrong_not_failed: wrong.iter().filter(|(id, part)| !tally.has_failed(id, *part)).count() as u64,
        struck: BTreeMap::new(),
        channels: promises.channels().len() as u64,
        appends_seen: reader.appends(),
        seed: options.seed,
        differences: live.union(&past).take(10).cloned().collect(),
    })
}

#[cfg(test)]
mod tests;
