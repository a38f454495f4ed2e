//! Everything that the emulator knows, and every decision that it takes. Nothing here waits: time is an argument, frames to
//! clients go into their outboxes, and what has to happen later is given back.

mod apply;
mod attach;
mod connect;
mod publish;
mod read;
mod store;

use std::collections::HashMap;

use super::auth::Auth;
use super::connection::{Connection, Rate};
use super::errors::{Failure, failure, injected};
use super::faults::Faults;
use super::serial::Serials;
use super::stats::Stats;
use super::{Config, Error};

pub(super) use apply::{Flush, Publish};
pub(super) use attach::Attach;
pub(super) use connect::{Connect, Connected};
pub(super) use publish::{Reply, Requested};
pub(super) use read::{Page, Query};
use store::Store;

/// Everything that the emulator knows.
#[derive(Debug)]
pub(super) struct State {
    config: Config,
    faults: Faults,
    /// Decides which fault strikes: a seed repeats it.
    random: fastrand::Rng,
    /// Shares of changes that somebody else is to have changed, added up.
    meddling: f64,
    /// Makes ids, keys and serials. Not from the seed: who comes back after a restart must not hold the key of another.
    names: fastrand::Rng,
    serials: Serials,
    pub(super) auth: Auth,
    store: Store,
    connections: HashMap<u64, Connection>,
    /// Connections by their public ids.
    by_id: HashMap<String, u64>,
    connections_made: u64,
    /// Operations of everybody.
    account_rate: Rate,
    drops: usize,
    stats: Stats,
}

/// When a fault strikes: before something is done, or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

impl State {
    pub(super) fn new(config: Config) -> Result<Self, Error> {
        let auth = Auth::new(&config.keys).ok_or(Error::Key)?;
        let mut names = fastrand::Rng::new();
        Ok(Self {
            faults: config.faults.clone(),
            serials: Serials::new(&mut names),
            random: fastrand::Rng::with_seed(config.faults.seed),
            meddling: 0.0,
            names,
            auth,
            store: Store::default(),
            connections: HashMap::new(),
            by_id: HashMap::new(),
            connections_made: 0,
            account_rate: Rate::default(),
            drops: 0,
            stats: Stats::default(),
            config,
        })
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        if faults.seed != self.faults.seed {
            self.random = fastrand::Rng::with_seed(faults.seed);
        }
        self.faults = faults;
    }

    pub(super) fn stats(&self) -> Stats {
        Stats { connections: self.live(), channels: self.store.channels() as u64, ..self.stats.clone() }
    }

    /// Connections that have a transport.
    fn live(&self) -> u64 {
        self.connections.values().filter(|connection| connection.dropped_at.is_none()).count() as u64
    }

    /// Gives a token; see [`Auth::request_token`].
    pub(super) fn request_token(
        &mut self,
        name: &str,
        request: &super::auth::TokenRequest,
        shown: Option<&super::auth::Credentials>,
        now_ms: u64,
    ) -> Result<super::auth::TokenDetails, Failure> {
        self.auth.request_token(name, request, shown, now_ms, &mut self.names)
    }

    /// Whether a request is broken off, and when.
    pub(super) fn request_fault(&mut self) -> Option<When> {
        if self.faults.refuse_connections {
            self.stats.strike("refuse-connections");
            return Some(When::Before);
        }
        self.strikes("fail-requests", self.faults.fail_requests).then(|| match self.random.bool() {
            true => When::Before,
            false => When::After,
        })
    }

    /// How long an answer waits.
    pub(super) fn delay(&mut self) -> u64 {
        if self.faults.delay > 0 {
            self.struck("delay");
        }
        self.faults.delay
    }

    /// Whether a reading fails.
    pub(super) fn reading(&mut self) -> Result<(), Failure> {
        match self.strikes("fail-reads", self.faults.fail_reads) {
            true => Err(injected(self.faults.fail_reads_code.unwrap_or(50003))),
            false => Ok(()),
        }
    }

    /// An id for what one request publishes.
    pub(super) fn request_id(&mut self) -> String {
        std::iter::repeat_with(|| self.names.alphanumeric()).take(12).collect()
    }

    /// Whether a fault strikes by chance, at that share.
    fn strikes(&mut self, fault: &'static str, share: f64) -> bool {
        let strikes = share > 0.0 && self.random.f64() < share;
        if strikes {
            self.stats.strike(fault);
        }
        strikes
    }

    /// A fault has struck that is not left to chance.
    pub(super) fn struck(&mut self, fault: &'static str) {
        self.stats.strike(fault);
    }
}

/// Refuses names that Ably does not accept.
fn valid_name(name: &str) -> Result<(), Failure> {
    let bad = name.is_empty() || name.len() > 2_048 || name.starts_with([':', '[']) || name.contains(['\n', '\r']);
    if bad { Err(failure(40010, 400, "Invalid channel name")) } else { Ok(()) }
}

/// Splits `[?rewind=5]name` into its parameters and the name.
pub(super) fn unqualified(name: &str) -> (&str, &str) {
    match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((qualifier, name)) => (qualifier.strip_prefix('?').unwrap_or_default(), name),
        None => ("", name),
    }
}
