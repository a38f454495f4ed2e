//! The settings of every Kafka client of this process.
//!
//! A user may pass any librdkafka property through `kafka.librdkafka`, except those that a promise rests on: these are
//! refused by name, with the reason. Passed-through properties win over ours, so that the rest can be tuned.

use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::assignment::Policy;
use super::context::{STATISTICS_MS, Stranded};
use super::error::Error;
use crate::config::{self, Security, SecurityProtocol};

/// Properties that are not the user's to set, and why.
const OURS: &[(&str, &str)] = &[
    ("acks", NOT_LOST),
    ("allow.auto.create.topics", "topics are checked at start, not made by a misspelled name"),
    ("auto.commit.enable", OFFSETS),
    ("auto.commit.interval.ms", OFFSETS),
    ("auto.offset.reset", "kafka.start decides where a group begins"),
    ("bootstrap.servers", "use kafka.bootstrap_servers"),
    ("delivery.timeout.ms", NOT_LOST),
    ("enable.auto.commit", OFFSETS),
    ("enable.auto.offset.store", OFFSETS),
    ("enable.gapless.guarantee", NOT_LOST),
    ("enable.idempotence", "without it a retry can write a result twice"),
    ("enable.partition.eof", "idle responses are told from unread ones by it"),
    ("group.id", "use kafka.group_id"),
    ("group.instance.id", "use kafka.group_instance_id"),
    ("isolation.level", "tokens of aborted transactions would reach channels"),
    ("max.in.flight", NOT_LOST),
    ("max.in.flight.requests.per.connection", NOT_LOST),
    ("message.send.max.retries", NOT_LOST),
    ("message.timeout.ms", NOT_LOST),
    ("metadata.broker.list", "use kafka.bootstrap_servers"),
    ("offset.store.method", OFFSETS),
    ("offset.store.path", OFFSETS),
    ("plugin.library.paths", "it loads code into this process"),
    ("request.required.acks", NOT_LOST),
    ("retries", NOT_LOST),
    ("session.timeout.ms", "use kafka.session_timeout"),
    ("statistics.interval.ms", "they show whether the group hears from us, and when a client has lost every broker"),
    ("transactional.id", "it belongs to results.delivery"),
];
const OFFSETS: &str = "an offset is committed only when its response is settled";
const NOT_LOST: &str = "a result must not be lost or overtaken";

/// How often topics are looked at for new partitions. By default they would wait for five minutes.
const NEWS_OF_TOPICS_MS: &str = "10000";
/// A window for batching waits for this much.
const WINDOW_BYTES: &str = "65536";
/// How often in a session it is looked whether the group hears from us.
const SAMPLES: u32 = 20;
/// What librdkafka may hold of records that we have not taken.
const FETCHED_KIB: &str = "32768";
/// What librdkafka may hold of records that are not durable.
const UNSENT_KIB: &str = "262144";
/// How long records wait for others. Longer than a batch takes to be answered: an idempotent producer has one under way for each
/// partition, and while others have waited longer than this behind it librdkafka 2.12 does not sleep, which took a sixth of the
/// CPU with 1 and 10 ms. What an operator reads comes later by it; no operation does.
const LINGER_MS: &str = "50";
/// The longest record that is tried; a broker's own limit is usually lower.
const RECORD_BYTES_MAX: &str = "134217728";

/// What every Kafka client of this process shares. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients {
    settings: config::Kafka,
    shared: ClientConfig,
    /// Where reading begins anew, older responses are not begun.
    max_age: Duration,
    /// Under which name results are written in transactions, if they are. Two processes must not share it: a new one ends what
    /// the other has open.
    transactional_id: Option<String>,
    transaction_timeout: Duration,
    stranded: Stranded,
}

impl Clients {
    /// Checks the settings and reads the files that they name.
    ///
    /// # Errors
    /// When a property is refused, or a file cannot be read.
    pub fn new(settings: &config::Kafka) -> Result<Self, Error> {
        let mut shared = ClientConfig::new();
        shared
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", &settings.bootstrap_servers)
            .set("client.id", "tokenrelay")
            .set("enable.metrics.push", "false")
            .set("log.connection.close", "false")
            .set("socket.keepalive.enable", "true")
            .set("statistics.interval.ms", STATISTICS_MS)
            .set("topic.metadata.refresh.interval.ms", NEWS_OF_TOPICS_MS);
        secure(&settings.security, &mut shared)?;
        for property in settings.librdkafka.keys() {
            if let Some((_, reason)) = OURS.iter().find(|(name, _)| name == property) {
                return Err(Error::Property { property: property.clone(), reason });
            }
            if property == "debug" {
                shared.set_log_level(RDKafkaLogLevel::Debug);
            }
        }
        Ok(Self {
            settings: settings.clone(),
            shared,
            max_age: Duration::MAX,
            transactional_id: None,
            transaction_timeout: Duration::ZERO,
            stranded: Stranded::default(),
        })
    }

    /// After a new group, a reset or a gap, responses that are older are not begun.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Brokers end a transaction of ours that is open for longer than `timeout`; one of a former owner, too, whether we write in
    /// transactions or not.
    #[must_use]
    pub fn with_transaction_timeout(mut self, timeout: Duration) -> Self {
        self.transaction_timeout = timeout;
        self
    }

    /// Results, dead letters and offsets are committed in transactions, under the group's and this process's name. A broker
    /// ends one that is open for longer than `timeout`.
    #[must_use]
    pub fn in_transactions(mut self, instance: &str, timeout: Duration) -> Self {
        self.transactional_id = Some(format!("{}-{instance}", self.settings.group_id));
        self.with_transaction_timeout(timeout)
    }

    /// Whether any client that was made of these is beyond help.
    #[must_use]
    pub fn stranded(&self) -> &Stranded {
        &self.stranded
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.transactional_id.is_some()
    }

    pub(super) fn transactional_id(&self) -> String {
        self.transactional_id.clone().unwrap_or_default()
    }

    /// How long a transaction may be open before brokers end it.
    pub(super) fn transaction_timeout(&self) -> Duration {
        self.transaction_timeout
    }

    /// The settings that these come from.
    #[must_use]
    pub fn settings(&self) -> &config::Kafka {
        &self.settings
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            topic: self.settings.tokens_topic.clone(),
            results: self.settings.results_topic.clone(),
            group: self.settings.group_id.clone(),
            start: self.settings.start,
            max_age: self.max_age,
        }
    }

    /// The member of the group.
    pub(super) fn consumer(&self) -> ClientConfig {
        let mut config = self.reader();
        let sample = self.settings.session_timeout / SAMPLES;
        config.set("statistics.interval.ms", sample.as_millis().clamp(50, 1_000).to_string());
        let window = self.settings.batching_window;
        if window > Duration::ZERO {
            config.set("fetch.min.bytes", WINDOW_BYTES).set("fetch.wait.max.ms", window.as_millis().max(1).to_string());
        }
        // Kafka 4's own group protocol (KIP-848): there the broker has these settings, and librdkafka refuses them here.
        if self.is_classic() {
            let session = self.settings.session_timeout.as_millis();
            config
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("heartbeat.interval.ms", (session / 10).max(1).to_string());
        }
        if !self.settings.group_instance_id.is_empty() {
            config.set("group.instance.id", &self.settings.group_instance_id);
        }
        self.pass_through(config)
    }

    /// A consumer that reads without joining the group. It has the group's name because the group's rights are then all
    /// that it needs; it never commits. It reads from the leaders, whatever rack they are in: for a follower that is late a
    /// partition ends before its end, and what lies behind would be taken for not there.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.shared.clone();
        config
            .set("group.id", &self.settings.group_id)
            .set("auto.offset.reset", "error")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "20")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", FETCHED_KIB);
        if self.is_classic() {
            // It must fit properties that are passed through, even without a group.
            config.set("session.timeout.ms", self.settings.session_timeout.as_millis().to_string());
        }
        let mut config = self.pass_through(config);
        config.remove("client.rack");
        config
    }

    /// A reader of what is there already. A fetch of its that finds nothing is answered at once: while one waits, the broker
    /// gives it nothing else.
    pub(super) fn rereader(&self) -> ClientConfig {
        let mut config = self.reader();
        config.set("fetch.wait.max.ms", "10").set("retry.backoff.ms", "10");
        config
    }

    fn is_classic(&self) -> bool {
        self.settings.librdkafka.get("group.protocol").is_none_or(|protocol| protocol != "consumer")
    }

    /// The writer of results and dead letters.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.shared.clone();
        config
            .set("enable.idempotence", "true")
            .set("message.max.bytes", RECORD_BYTES_MAX)
            .set("queue.buffering.max.kbytes", UNSENT_KIB)
            .set("linger.ms", LINGER_MS);
        match &self.transactional_id {
            Some(id) => config
                .set("transactional.id", id)
                .set("transaction.timeout.ms", self.transaction_timeout.as_millis().to_string()),
            // As long as it takes: giving up on a record is our decision, not a timer's.
            None => config.set("message.timeout.ms", "0"),
        };
        self.pass_through(config)
    }

    /// A client that asks for metadata and settings.
    pub(super) fn plain(&self) -> ClientConfig {
        self.pass_through(self.shared.clone())
    }

    fn pass_through(&self, mut config: ClientConfig) -> ClientConfig {
        for (property, value) in self.settings.librdkafka.iter() {
            config.set(property, value);
        }
        config
    }
}

fn secure(security: &Security, config: &mut ClientConfig) -> Result<(), Error> {
    config.set(
        "security.protocol",
        match security.protocol {
            SecurityProtocol::Plaintext => "plaintext",
            SecurityProtocol::Ssl => "ssl",
            SecurityProtocol::SaslPlaintext => "sasl_plaintext",
            SecurityProtocol::SaslSsl => "sasl_ssl",
        },
    );
    // librdkafka reads these files itself.
    let files = [
        ("ssl.ca.location", &security.ca_file),
        ("ssl.certificate.location", &security.cert_file),
        ("ssl.key.location", &security.key_file),
    ];
    for (property, file) in files {
        if let Some(file) = file {
            config.set(property, file.to_string_lossy());
        }
    }
    let words = [("sasl.mechanism", &security.mechanism), ("sasl.username", &security.username)];
    for (property, word) in words {
        if let Some(word) = word {
            config.set(property, word);
        }
    }
    if let Some(file) = &security.password_file {
        config.set("sasl.password", read_secret(file)?);
    } else if let Some(password) = &security.password {
        config.set("sasl.password", password.expose());
    }
    Ok(())
}

fn read_secret(file: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::File {
        key: "kafka.security.password_file",
        path: file.display().to_string(),
        source,
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests;
