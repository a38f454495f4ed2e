//! `tokenrelay run`: the service. The first SIGTERM or SIGINT drains, the second ends at once.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{Exit, Failure};
use crate::config::Config;
use crate::pipeline::{self, Stop};
use crate::telemetry::{self, Health, Metrics, admin};

/// Runs the service until it is told to stop, or cannot go on.
pub(super) async fn run(config: Arc<Config>) -> Result<Exit, Failure> {
    telemetry::log::init(config.log.format, &config.log.level, telemetry::log::To::Stdout);
    let (metrics, health) = (Metrics::new(), Health::new());
    let admin = admin::start(config.admin.listen, metrics.clone(), health.clone()).await;
    let admin = admin.map_err(|error| Failure::new(Exit::Unavailable, error.into()))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %admin.local_addr(), "starting");

    let (stop, stopping) = watch::channel(Stop::No);
    let signals = tokio::spawn(async move {
        interrupted().await;
        tracing::info!("asked to stop: draining; a second signal ends at once");
        let _ended = stop.send(Stop::Drain);
        interrupted().await;
        tracing::warn!("asked to stop again: ending at once");
        let _ended = stop.send(Stop::Now);
        std::future::pending::<()>().await;
    });
    let ended = pipeline::run(config, metrics, health, stopping).await;
    signals.abort();
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(error.exit().into(), error.into())),
    }
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn interrupted() {
    let mut terminate = signal(SignalKind::terminate());
    let mut interrupt = signal(SignalKind::interrupt());
    tokio::select! {
        () = received(&mut terminate) => {}
        () = received(&mut interrupt) => {}
    }
}

/// A signal that cannot be listened for never comes.
async fn received(signal: &mut Result<Signal, std::io::Error>) {
    match signal {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::error!(%error, "a signal cannot be listened for");
            std::future::pending::<()>().await;
        }
    }
}
