//! A local server that speaks Ably's protocol well enough for the official SDKs, and fails on demand.
//!
//! For tests, for the demo, and for anybody who wants to see what a client does when appends are rejected, answers are lost
//! or connections drop. It keeps everything in memory and forgets it when it stops. Facts about the server's behaviour come
//! from Ably's features specification and documentation; where those leave a question open, a fault switches the answer.
//!
//! `state` decides and never waits; `realtime` and `rest` carry bytes.

mod auth;
mod channel;
mod clock;
mod codec;
mod connection;
mod errors;
mod faults;
mod limits;
mod message;
mod outbox;
mod realtime;
mod rest;
mod rollup;
mod scenario;
mod seen;
mod serial;
mod state;
mod stats;
mod validate;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

pub use faults::{DropAs, Error as FaultsError, FatalAs, Faults, Known, Odd, Resent, SizeIn};
pub use scenario::{Scenario, Step};
pub use stats::Stats;

use state::State;

/// How the emulator is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// API keys that it knows, `app.id:secret`.
    pub keys: Vec<String>,
    /// How it fails to begin with.
    pub faults: Faults,
    /// Bytes of the largest message.
    pub max_message_size: usize,
    /// The rollup window of clients that do not ask for one.
    pub append_rollup: Duration,
    /// Namespaces without the rule for updates and appends: those get 93002.
    pub immutable_namespaces: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            keys: vec!["app.key:secret".to_owned()],
            faults: Faults::default(),
            max_message_size: 65_536,
            append_rollup: Duration::from_millis(40),
            immutable_namespaces: Vec::new(),
        }
    }
}

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A key that is none.
    #[error("an API key must look like app.id:secret")]
    Key,
}

/// A running emulator. Dropping it stops it.
#[derive(Debug)]
pub struct Emulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

/// What all connections and requests share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Whether nothing is to be read or said; a copy of what the faults say, for those who wait for its end.
    silent: watch::Sender<bool>,
    /// How often all connections were to drop.
    hang_ups: watch::Sender<u64>,
    /// Who makes it fail otherwise later.
    steps: Mutex<Option<AbortHandle>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it fail so, and otherwise later. What was to come of another scenario does not come.
    fn play(self: &Arc<Self>, scenario: Scenario) {
        let Scenario { faults, then, .. } = scenario;
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = steps.take() {
            former.abort();
        }
        self.switch(faults);
        if then.is_empty() {
            return;
        }
        let shared = Arc::downgrade(self);
        let played = tokio::spawn(async move {
            for Step { after, faults } in then {
                tokio::time::sleep(after).await;
                let Some(shared) = shared.upgrade() else { return };
                shared.switch(faults);
            }
        });
        *steps = Some(played.abort_handle());
    }

    fn switch(&self, faults: Faults) {
        let hangs_up = faults.hang_up.is_some() || !faults.revoked_keys.is_empty();
        self.silent.send_replace(faults.silent);
        self.state().set_faults(faults);
        if hangs_up {
            self.hang_ups.send_modify(|times| *times += 1);
        }
    }
}

/// Starts an emulator.
///
/// # Errors
/// When it cannot listen, or a key is malformed.
pub async fn start(config: Config) -> Result<Emulator, Error> {
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
    let silent = watch::Sender::new(config.faults.silent);
    let (hang_ups, steps) = (watch::Sender::default(), Mutex::default());
    let shared = Arc::new(Shared { state: Mutex::new(State::new(config)?), silent, hang_ups, steps });
    let (stop, stopped) = watch::channel(false);
    let router = rest::router(shared.clone(), stopped.clone());
    let server = tokio::spawn(async move {
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            // Answers are small and many; none may wait for the next.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "emulator: no TCP_NODELAY");
            }
        });
        let mut stopped = stopped;
        let shutdown = async move {
            let _closed = stopped.wait_for(|stopped| *stopped).await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown).await {
            tracing::error!(%error, "emulator: stopped serving");
        }
    });
    Ok(Emulator { address, shared, stop, server })
}

impl Emulator {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How it fails now.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.shared.state().faults().clone()
    }

    /// Makes it fail otherwise from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.play(faults.into());
    }

    /// Makes it fail as a scenario says, which begins now.
    pub fn play(&self, scenario: Scenario) {
        self.shared.play(scenario);
    }

    /// What it has seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.state().stats()
    }

    /// Ends all connections and stops.
    pub async fn stop(self) {
        let _nobody_listens = self.stop.send(true);
        let mut server = self.server;
        if tokio::time::timeout(Duration::from_secs(2), &mut server).await.is_err() {
            server.abort();
        }
    }
}
