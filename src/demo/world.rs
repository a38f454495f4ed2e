//! The demo's surroundings: the in-process Kafka and the emulator.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::broker::Broker;
use super::history::History;
use super::{AGENT, Error};
use crate::emulator::{self, Emulator, Faults, Scenario};

/// The key of an account that is as old as the process.
const KEY: &str = "demo.key:not-a-secret";

/// Where the relay finds Kafka and Ably.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// Kafka.
    pub(super) bootstrap_servers: String,
    /// Ably.
    pub(super) ably: SocketAddr,
    /// The API key.
    pub(super) ably_key: String,
}

/// Everything around the relay.
pub(super) struct World {
    /// Kafka.
    pub(super) broker: Arc<Broker>,
    board: Switchboard,
}

/// The emulator's faults.
#[derive(Clone)]
pub(super) struct Switchboard {
    emulator: Arc<Emulator>,
    list: Arc<Mutex<String>>,
    seed: u64,
}

impl World {
    /// Starts both, and the scenario, which was asked for in these words.
    pub(super) async fn start(scenario: Scenario, asked: &str) -> Result<Self, Error> {
        // HTTP clients want to know whose cryptography is used, even if none is. That somebody has said so before is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let broker = Arc::new(Broker::start()?);
        let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
        let emulator = Arc::new(emulator::start(config).await?);
        let seed = scenario.faults.seed;
        emulator.play(scenario);
        let board = Switchboard { emulator, list: Arc::new(Mutex::new(asked.to_owned())), seed };
        Ok(Self { broker, board })
    }

    /// Where a subscriber connects.
    pub(super) fn subscriber_url(&self) -> String {
        let key = utf8_percent_encode(KEY, NON_ALPHANUMERIC);
        format!("ws://{}/?v=6&format=json&heartbeats=true&agent={AGENT}&key={key}", self.ably())
    }

    /// History.
    pub(super) fn history(&self) -> Result<History, Error> {
        History::new(format!("http://{}", self.ably()), KEY)
    }

    /// What the relay is told.
    pub(super) fn site(&self) -> Result<Site, Error> {
        let bootstrap_servers = self.broker.bootstrap_servers()?;
        Ok(Site { bootstrap_servers, ably: self.ably(), ably_key: KEY.to_owned() })
    }

    fn ably(&self) -> SocketAddr {
        self.board.emulator.local_addr()
    }

    /// Whether something is still to arrive that was cut off by a drop.
    pub(super) fn is_under_way(&self) -> bool {
        self.board.emulator.stats().under_way > 0
    }

    /// How often each of the emulator's faults has struck.
    pub(super) fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.board.emulator.stats().struck
    }

    /// The emulator's faults.
    pub(super) fn switchboard(&self) -> Switchboard {
        self.board.clone()
    }
}

impl Switchboard {
    /// What is on.
    pub(super) fn list(&self) -> String {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Switches on what is in the list, and everything else off.
    pub(super) fn set(&self, list: &str) -> Result<(), Error> {
        self.emulator.play(Scenario::from(Faults::parse_list(list)?).seeded(self.seed));
        list.clone_into(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}
