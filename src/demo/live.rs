//! The demo with a page: responses without end at the speed of life, and somebody who checks every text when it is over.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::broker::{Progress, Writer};
use super::generator::{Expected, Schedule, Script};
use super::hub::Hub;
use super::reader::Reader;
use super::results::{Mark, Marked, Results};
use super::world::{Site, World};
use super::{Error, Options, hex, page, verify};
use crate::emulator::Scenario;
use crate::pipeline::Stop;

/// How long a subscriber may take to see what the results say.
const READER_PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);
/// How often the counters are told.
const COUNT: Duration = Duration::from_millis(250);
/// How long a place rests between two responses, so that the end of one can be read.
const REST: std::ops::Range<u64> = 900..2_400;

/// What the parts of a live demo share.
struct Live {
    hub: Arc<Hub>,
    reader: Reader,
    results: Results,
    watched: Mutex<Watched>,
    tokens: AtomicU64,
    wrong: AtomicU64,
}

/// Responses that are not over, and how many of them each channel has.
#[derive(Default)]
struct Watched {
    scripts: HashMap<String, (Arc<Script>, usize)>,
    channels: HashMap<String, usize>,
}

/// Runs until something fails or the process is stopped. `ready` is told the page's address.
pub(super) async fn run<R>(
    options: &Options,
    scenario: Scenario,
    relay: impl FnOnce(Site, watch::Receiver<Stop>) -> R,
    ready: impl FnOnce(&str) -> std::io::Result<()>,
) -> Result<(), Error>
where
    R: Future<Output = Result<(), Error>> + Send + 'static,
{
    let listener = page::bind(options.listen).await?;
    let address = listener.local_addr().map_err(Error::Page)?;
    let world = World::start(scenario, &options.faults).await?;
    let live = Arc::new(Live {
        hub: Arc::new(Hub::new(&options.faults)),
        reader: Reader::start(&world.subscriber_url(), &[]),
        results: Results::new(),
        watched: Mutex::default(),
        tokens: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
    });
    let progress = Arc::new(Progress::default());
    let (_running, stopped) = watch::channel(Stop::No);
    let servers = world.broker.bootstrap_servers()?;
    let writer = Writer::new(world.broker.clone(), progress.clone());
    let (site, subscribe) = (world.site()?, world.subscriber_url());
    ready(&format!("http://{address}/"))?;
    tokio::select! {
        ended = page::serve(listener, live.hub.clone(), world.switchboard(), &subscribe) => ended,
        ended = relay(site, stopped) => ended.and(Err(Error::Ended("the relay"))),
        ended = live.results.read(&servers, &progress) => ended,
        ended = live.clone().write(options, writer) => ended,
        () = live.clone().watch() => Ok(()),
        () = live.count() => Ok(()),
    }
}

impl Live {
    /// Plays the schedule.
    async fn write(self: Arc<Self>, options: &Options, mut writer: Writer) -> Result<(), Error> {
        let began = Instant::now();
        let speed = options.speed.unwrap_or(1.0).max(0.01);
        for cue in Schedule::new(options.seed, u64::MAX, options.open.unwrap_or(12), REST) {
            tokio::time::sleep_until((began + cue.at.div_f64(speed)).into()).await;
            if cue.line == 0 {
                self.begin(&cue.script).await;
            }
            writer.write(&cue).await?;
            self.tokens.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn begin(&self, script: &Arc<Script>) {
        {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.scripts.insert(script.id.clone(), (script.clone(), script.expected.len()));
            *watched.channels.entry(script.channel.clone()).or_default() += 1;
        }
        self.reader.attach(&script.channel).await;
        self.hub.begin(script);
    }

    /// Tells the pages what the results say, and checks every text that is over.
    async fn watch(self: Arc<Self>) {
        let mut marks = self.results.marks();
        loop {
            match marks.recv().await {
                Ok(marked) => self.clone().marked(&marked),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn marked(self: Arc<Self>, marked: &Marked) {
        let Mark::Settled { outcome } = &marked.mark else { return self.hub.mark(marked, None) };
        let script = {
            let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.scripts.get(&marked.response_id).map(|(script, _)| script.clone())
        };
        let Some(script) = script else { return };
        let Some(expected) = script.expected.iter().find(|expected| expected.part == marked.part).cloned() else {
            return;
        };
        self.hub.mark(marked, Some(&hex(&Sha256::digest(expected.text.as_bytes()))));
        let given_up = outcome == "failed";
        tokio::spawn(async move {
            if !self.reads(&script, &expected).await && !given_up {
                self.wrong.fetch_add(1, Ordering::Relaxed);
            }
            self.end(&script).await;
        });
    }

    /// Whether a subscriber comes to have the right text.
    async fn reads(&self, script: &Script, expected: &Expected) -> bool {
        let until = Instant::now() + READER_PATIENCE;
        while verify::difference(&script.id, expected, &self.reader.seen(&script.channel)).is_some() {
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// One part less; leaves the channel with the last.
    async fn end(&self, script: &Script) {
        let empty = {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.end(script)
        };
        if empty {
            self.reader.detach(&script.channel).await;
        }
    }

    async fn count(&self) {
        let (mut before, mut at) = (0, Instant::now());
        loop {
            tokio::time::sleep(COUNT).await;
            let tokens = self.tokens.load(Ordering::Relaxed);
            let rate = (tokens - before) as f64 / at.elapsed().as_secs_f64();
            (before, at) = (tokens, Instant::now());
            let open = self.watched.lock().unwrap_or_else(PoisonError::into_inner).scripts.len();
            let wrong = self.wrong.load(Ordering::Relaxed);
            let counters = self.results.tally(|tally| {
                json!({
                    "rate": rate.round(), "operations": tally.operations, "failures": tally.rejected + tally.unknown,
                    "repairs": tally.repairs, "open": open, "settled": tally.settled, "wrong": wrong,
                })
            });
            self.hub.tell("counters", counters);
        }
    }
}

impl Watched {
    /// Whether nobody is left on the script's channel.
    fn end(&mut self, script: &Script) -> bool {
        let Some((_, parts_left)) = self.scripts.get_mut(&script.id) else { return false };
        *parts_left -= 1;
        if *parts_left > 0 {
            return false;
        }
        self.scripts.remove(&script.id);
        let Some(left) = self.channels.get_mut(&script.channel) else { return false };
        *left -= 1;
        let empty = *left == 0;
        if empty {
            self.channels.remove(&script.channel);
        }
        empty
    }
}
