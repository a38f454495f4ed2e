//! The relay as the demo runs it: the configuration that was asked for, bound to the demo's own Kafka and Ably.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Error;
use super::broker::{DEAD_LETTERS, RESULTS, TOKENS, client_settings};
use super::world::Site;
use crate::config::{Config, Delivery, Secret, Start};
use crate::pipeline::{self, Stop};
use crate::telemetry::{Health, Metrics};

/// Binds the configuration to the site. What was left at its default and would make a demo dull is set to something else;
/// what was set stays.
pub(super) fn config(asked: &Config, site: &Site, headless: bool) -> Config {
    let mut config = asked.clone();
    tune(&mut config, headless);
    let kafka = &mut config.kafka;
    kafka.bootstrap_servers.clone_from(&site.bootstrap_servers);
    kafka.tokens_topic = TOKENS.to_owned();
    kafka.results_topic = RESULTS.to_owned();
    kafka.dead_letters_topic = DEAD_LETTERS.to_owned();
    kafka.start = Start::Earliest;
    // The mock balances the newer kind of group at once; the older kind takes it three seconds to begin.
    kafka.librdkafka.insert("group.protocol".to_owned(), "consumer".to_owned());
    kafka.librdkafka.extend(client_settings());
    // The mock has no transactions.
    config.results.delivery = Delivery::AtLeastOnce;
    config.input.channel = "demo:{key}".to_owned();
    let ably = &mut config.ably;
    let key = Some(Secret::new(site.ably_key.clone()));
    // Who says how long tokens are to be good wants them.
    match ably.jwt.ttl == Config::default().ably.jwt.ttl {
        true => ably.key = key,
        false => ably.jwt.key = key,
    }
    site.ably.ip().to_string().clone_into(&mut ably.endpoint);
    ably.port = site.ably.port();
    ably.tls = false;
    ably.channels.allow = vec!["demo:*".to_owned()];
    config
}

/// Runs it until it is told to stop.
pub(super) async fn run(config: Config, stop: watch::Receiver<Stop>) -> Result<(), Error> {
    // The loop owns things that must stay on one thread; it gets one to itself.
    let runtime = Handle::current();
    let relay = move || runtime.block_on(pipeline::run(Arc::new(config), Metrics::default(), Health::default(), stop));
    tokio::task::spawn_blocking(relay).await.map_err(|_| Error::Ended("the relay"))?.map_err(Error::Relay)
}

/// Real accounts allow 50 operations a second on a connection; a compressed run would mostly wait for that, and for answers
/// that the faults have swallowed.
fn tune(config: &mut Config, headless: bool) {
    let plain = Config::default();
    let (connections, rate) = if headless { (10, 300) } else { (4, 400) };
    default_to(&mut config.ably.connections.max, plain.ably.connections.max, connections);
    default_to(&mut config.ably.connections.rate, plain.ably.connections.rate, rate);
    default_to(&mut config.ably.connections.frames, plain.ably.connections.frames, 10 * rate);
    default_to(&mut config.ably.channels.rate, plain.ably.channels.rate, rate);
    default_to(&mut config.ably.ack_timeout, plain.ably.ack_timeout, Duration::from_secs(2));
    if !headless {
        // Whoever switches a limit off wants to see the streams recover.
        default_to(&mut config.ably.refused_rate_hold, plain.ably.refused_rate_hold, Duration::from_secs(5));
    }
    if headless {
        default_to(&mut config.reconcile.debounce, plain.reconcile.debounce, Duration::from_millis(100));
    }
}

fn default_to<T: PartialEq>(value: &mut T, plain: T, ours: T) {
    if *value == plain {
        *value = ours;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        let ably = ([127, 0, 0, 1], 4321).into();
        Site { bootstrap_servers: "127.0.0.1:1234".to_owned(), ably, ably_key: "demo.key:secret".to_owned() }
    }

    #[test]
    fn what_was_asked_for_stays() {
        let mut asked = Config::default();
        asked.ably.connections.rate = 51;
        asked.kafka.bootstrap_servers = "elsewhere:9092".to_owned();
        let config = config(&asked, &site(), true);
        assert_eq!(config.ably.connections.rate, 51);
        assert_eq!(config.ably.ack_timeout, Duration::from_secs(2));
        assert_eq!(config.kafka.bootstrap_servers, "127.0.0.1:1234", "never anybody's real Kafka");
        assert_eq!((&*config.ably.endpoint, config.ably.port, config.ably.tls), ("127.0.0.1", 4321, false));
    }
}
