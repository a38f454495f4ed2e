//! `tokenrelay demo`: everything in one process, nothing else to install.
//!
//! Responses are made up from a seed (`generator`), written to an in-process Kafka (`broker`), relayed to the emulator
//! (`world`) and read back by a subscriber of our own (`reader`, `history`); the results topic is read along
//! (`results`). With a page (`live`, `page`, `hub`) this goes on for ever and faults are switched by hand; headless
//! (`headless`) it ends with a verdict (`verify`).
//!
//! Whatever judges the relay here shares no code with it.

mod broker;
mod generator;
mod headless;
mod history;
mod hub;
mod live;
mod page;
mod reader;
mod relay;
mod results;
mod text;
mod tokens;
mod verify;
mod world;

use std::io::Write;
use std::net::SocketAddr;

pub use headless::Summary;
pub use verify::Difference;

use crate::config::Config;
use crate::emulator::Scenario;
use crate::{emulator, pipeline};

/// What the readers of the demo say that they are: some accounts want to know.
const AGENT: &str = concat!("tokenrelay/", env!("CARGO_PKG_VERSION"));

/// What `tokenrelay demo` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the page is served.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// No page: a given number of responses, then a verdict as JSON.
    #[arg(long)]
    pub headless: bool,
    /// How many responses a headless run has.
    #[arg(long, default_value_t = 200)]
    pub responses: u64,
    /// The same seed gives the same responses.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Faults of the emulator: a file like those of deploy/scenarios, or a list like
    /// "reject=0.2,lose-ack=0.05,drop=0.01,rate-limit=100,refuse-resume=0.5".
    #[arg(long, value_name = "FILE|LIST", default_value = "")]
    pub faults: String,
    /// How responses are put on channels, as `input.pattern`.
    #[arg(long, value_name = "PATTERN")]
    pub pattern: Option<String>,
    /// How operations travel, as `ably.transport`.
    #[arg(long, value_name = "TRANSPORT")]
    pub transport: Option<String>,
    /// How many times faster than life tokens come [default: 1, headless 20].
    #[arg(long)]
    pub speed: Option<f64>,
    /// How many responses stream at once [default: 12, headless 64].
    #[arg(long)]
    pub open: Option<usize>,
}

impl Options {
    /// How the emulator is to fail.
    ///
    /// # Errors
    /// When that is not understood.
    pub fn scenario(&self) -> Result<Scenario, Error> {
        Ok(Scenario::read(&self.faults)?.seeded(self.seed))
    }

    /// What the scenario and these options say of the configuration, as `key=value`.
    #[must_use]
    pub fn settings(&self, scenario: &Scenario) -> Vec<String> {
        let pattern = self.pattern.iter().map(|pattern| format!("input.pattern={pattern}"));
        let transport = self.transport.iter().map(|transport| format!("ably.transport={transport}"));
        scenario.settings.iter().cloned().chain(pattern).chain(transport).collect()
    }
}

/// How a demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every text was right and every result was there.
    Right,
    /// Something was wrong.
    Wrong,
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The page's server failed.
    #[error("serve the page: {0}")]
    Page(#[source] std::io::Error),
    /// Whoever reads what we print is gone.
    #[error("print: {0}")]
    Print(#[from] std::io::Error),
    /// The in-process Kafka failed.
    #[error("use the in-process Kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// The emulator did not start.
    #[error("start the emulator: {0}")]
    Emulator(#[from] emulator::Error),
    /// What is to fail is not understood.
    #[error("{0}")]
    Faults(#[from] emulator::FaultsError),
    /// librdkafka was built without its mock cluster.
    #[error("start the in-process Kafka: this librdkafka has no mock cluster")]
    NoBroker,
    /// The demo's own records were lost on their way into the topic.
    #[error("write the responses: {0} records did not reach the in-process Kafka")]
    Lost(u64),
    /// The HTTP client for history could not be made.
    #[error("read history: {0}")]
    History(#[from] reqwest::Error),
    /// The relay could not start, or not go on.
    #[error("run the relay: {0}")]
    Relay(#[source] pipeline::Error),
    /// A part ended before the demo did.
    #[error("run {0}: it ended while the demo was running")]
    Ended(&'static str),
}

/// Runs the demo: with a page until the process is stopped, headless until there is a verdict. What is for people or
/// programs to read goes to `out`.
///
/// # Errors
/// When a part of it cannot be started, or ends before its time.
pub async fn run(
    options: &Options,
    scenario: Scenario,
    config: &Config,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, Error> {
    let relay = |site, stop| relay::run(relay::config(config, &site, options.headless), stop);
    if !options.headless {
        let greet = |url: &str| writeln!(out, "the demo is at {url}").and_then(|()| out.flush());
        return live::run(options, scenario, relay, greet).await.map(|()| Verdict::Right);
    }
    let summary = headless::run(options, scenario, headless::Patience::default(), relay).await?;
    writeln!(out, "{}", serde_json::to_string_pretty(&summary).unwrap_or_default())?;
    Ok(if summary.is_right() { Verdict::Right } else { Verdict::Wrong })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
