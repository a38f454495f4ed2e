//! What must be so before anything starts: the topics are there, are ours to use, and fit each other.
//!
//! Results of token partition p go to results partition p, so results needs at least as many partitions; more is fine,
//! and lets both topics grow while the relay runs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaRespErr;

use super::assignment::QUESTION;
use super::client::Clients;
use super::context::{Log, Plain};
use super::error::{Error, is_refusal};

/// How long a broker is waited for at start.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a topic may be missing: one that was made a moment ago is not known to every broker yet.
const NEWS: Duration = Duration::from_secs(2);

/// How long an answer takes unless something is wrong.
const SOON: Duration = Duration::from_secs(2);

/// How many partitions a topic should have when nothing says otherwise.
const PARTITIONS_SUGGESTED: i32 = 12;

/// Partitions of the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Of the tokens topic.
    pub tokens: i32,
    /// Of the results topic.
    pub results: i32,
    /// Of the dead-letter topic.
    pub dead_letters: i32,
    /// The cluster's own name for itself, when it says.
    pub cluster_id: Option<String>,
}

/// Looks at the brokers and the topics. Blocks.
///
/// # Errors
/// When no broker can be reached or lets us in, a topic is missing or forbidden, results has too few partitions, or the
/// group has no offsets and `kafka.start` does not say where to begin.
pub fn check(clients: &Clients) -> Result<Layout, Error> {
    check_within(clients, PATIENCE)
}

/// As [`check`], with another patience.
///
/// # Errors
/// As [`check`].
pub fn check_within(clients: &Clients, patience: Duration) -> Result<Layout, Error> {
    let client = |isolation: &str| {
        let context = Plain { log: Log::of_questions("check", clients.stranded()) };
        let mut config = clients.reader();
        config.set("isolation.level", isolation);
        BaseConsumer::from_config_and_context(&config, context).map_err(Error::client("make a client"))
    };
    // It does not wait for transactions: those that our predecessor has left open end when ours begin.
    let asking = client("read_uncommitted")?;
    let now = Instant::now();
    let topics = Topics { clients, client: &asking, deadline: now + patience, news: now + NEWS };
    let settings = clients.settings();
    topics.reach()?;
    let tokens = topics.partitions("kafka.tokens_topic", &settings.tokens_topic, PARTITIONS_SUGGESTED)?;
    let results = topics.partitions("kafka.results_topic", &settings.results_topic, tokens)?;
    let dead_letters = topics.partitions("kafka.dead_letters_topic", &settings.dead_letters_topic, 1)?;
    if results < tokens {
        return Err(Error::TooFewPartitions {
            results: settings.results_topic.clone(),
            have: results,
            tokens: settings.tokens_topic.clone(),
            need: tokens,
            servers: settings.bootstrap_servers.clone(),
        });
    }
    match topics.group(tokens) {
        // The group's first offsets may be in a transaction that is open.
        Err(Error::NoStart { .. }) => clients.policy().check(&client("read_committed")?, tokens, QUESTION)?,
        checked => checked?,
    }
    let cluster_id = asking.client().fetch_cluster_id(topics.left().max(Duration::from_secs(1)));
    Ok(Layout { tokens, results, dead_letters, cluster_id })
}

struct Topics<'a> {
    clients: &'a Clients,
    client: &'a BaseConsumer<Plain>,
    deadline: Instant,
    news: Instant,
}

impl Topics<'_> {
    /// Waits until a broker answers. Gives up at once when it is not time that is lacking.
    fn reach(&self) -> Result<(), Error> {
        let servers = || self.clients.settings().bootstrap_servers.clone();
        loop {
            let tokens = &self.clients.settings().tokens_topic;
            let step = self.left().clamp(Duration::from_millis(1), Duration::from_secs(1));
            let Err(error) = self.client.fetch_metadata(Some(tokens), step) else { return Ok(()) };
            // Its errors come as events, each behind lines for the log.
            while self.client.poll(Duration::from_millis(20)).is_some() {}
            let trouble = self.client.context().log.trouble();
            let detail = trouble.as_ref().map_or_else(|| error.to_string(), |trouble| trouble.reason.clone());
            match trouble.map(|trouble| trouble.code) {
                Some(code) if is_refusal(code) || code == RDKafkaErrorCode::SSL => {
                    return Err(Error::Unwelcome { servers: servers(), detail });
                }
                _ if self.left().is_zero() => return Err(Error::Unreachable { servers: servers(), detail }),
                _ => {}
            }
        }
    }

    fn partitions(&self, key: &'static str, topic: &str, suggested: i32) -> Result<i32, Error> {
        loop {
            let metadata = self.client.fetch_metadata(Some(topic), self.left().max(Duration::from_millis(1)));
            let metadata = metadata.map_err(Error::client("read the topics"))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let count = found.map_or(0, |found| i32::try_from(found.partitions().len()).unwrap_or(i32::MAX));
            match found.and_then(MetadataTopic::error) {
                None if count > 0 => return Ok(count),
                Some(error) if is_refusal(error.into()) => return Err(self.forbidden(key, topic, error.into())),
                None | Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) if Instant::now() >= self.news => {
                    return Err(self.missing(key, topic, suggested));
                }
                Some(error) if self.left().is_zero() => {
                    let source = KafkaError::MetadataFetch(error.into());
                    return Err(Error::Client { doing: "read the topics", source });
                }
                // Leaders are being elected, or the topic is news.
                None | Some(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Whether the group may begin, and is ours to use. Of a group that is not, librdkafka only says that nobody answers: why
    /// comes as an event.
    fn group(&self, partitions: i32) -> Result<(), Error> {
        let policy = self.clients.policy();
        loop {
            let error = match policy.check(self.client, partitions, SOON) {
                Err(error @ Error::Client { .. }) => error,
                checked => return checked,
            };
            while self.client.poll(Duration::from_millis(20)).is_some() {}
            let trouble = self.client.context().log.trouble();
            match trouble.filter(|trouble| trouble.code == RDKafkaErrorCode::GroupAuthorizationFailed) {
                Some(trouble) => return Err(Error::GroupForbidden { group: policy.group, reason: trouble.reason }),
                None if self.left().is_zero() => return Err(error),
                // A broker that has just begun does not know yet whose coordinator it is.
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn missing(&self, key: &'static str, topic: &str, partitions: i32) -> Error {
        let servers = self.clients.settings().bootstrap_servers.clone();
        Error::TopicMissing { key, topic: topic.to_owned(), partitions, servers }
    }

    fn forbidden(&self, key: &'static str, topic: &str, code: RDKafkaErrorCode) -> Error {
        let rights = match key {
            "kafka.tokens_topic" => "Read and Describe",
            // What an owner of a partition has written its next owner reads.
            "kafka.results_topic" => "Read, Write and Describe",
            _ => "Write and Describe",
        };
        Error::TopicForbidden { key, topic: topic.to_owned(), reason: code.to_string(), rights }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Asks how the topics are set, for [`doubts`]. Empty when the brokers do not say (it needs a right of its own).
pub async fn describe(clients: &Clients) -> HashMap<String, HashMap<String, String>> {
    let settings = clients.settings();
    let names = [&settings.tokens_topic, &settings.results_topic, &settings.dead_letters_topic];
    let context = Plain { log: Log::new("check", clients.stranded()) };
    let Ok(admin) = AdminClient::from_config_and_context(&clients.plain(), context) else { return HashMap::new() };
    let wanted: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
    let Ok(described) = admin.describe_configs(&wanted, &options).await else { return HashMap::new() };
    let topics = names.into_iter().zip(described).filter_map(|(name, topic)| {
        let entries = topic.ok()?.entries.into_iter();
        Some((name.clone(), entries.filter_map(|entry| Some((entry.name, entry.value?))).collect()))
    });
    topics.collect()
}

/// What is wrong with the way the topics are set, if anything: each a sentence with the remedy. Nothing here keeps the
/// relay from working today.
#[must_use]
pub fn doubts(clients: &Clients, described: &HashMap<String, HashMap<String, String>>) -> Vec<String> {
    let settings = clients.settings();
    let value = |topic: &str, name: &str| described.get(topic)?.get(name).cloned();
    let number = |topic: &str, name: &str| value(topic, name)?.parse::<i64>().ok();
    let mut doubts = Vec::new();
    let (tokens, results, letters) = (&settings.tokens_topic, &settings.results_topic, &settings.dead_letters_topic);
    if value(tokens, "cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        doubts.push(format!(
            "topic {tokens} (kafka.tokens_topic) is compacted, so tokens of a response are deleted while others stay: set \
             its cleanup.policy to delete"
        ));
    }
    let sizes = (number(letters, "max.message.bytes"), number(tokens, "max.message.bytes"));
    if let (Some(letter), Some(token)) = sizes
        && letter < token
    {
        doubts.push(format!(
            "topic {letters} (kafka.dead_letters_topic) takes records of {letter} bytes, {tokens} of {token}: dead \
             letters of the longest would lose their value, so set its max.message.bytes to {} or more",
            token.saturating_add(65_536)
        ));
    }
    // -1: for ever.
    let kept = |topic| number(topic, "retention.ms").map(|ms| if ms < 0 { i64::MAX } else { ms });
    if let (Some(result), Some(token)) = (kept(results), kept(tokens))
        && result < token
    {
        let (long, needed) = match token {
            i64::MAX => ("for ever".to_owned(), "-1".to_owned()),
            token => (format!("for {token} ms"), format!("{token} or more")),
        };
        doubts.push(format!(
            "topic {results} (kafka.results_topic) keeps records for {result} ms, {tokens} {long}: set its retention.ms to \
             {needed}"
        ));
    }
    doubts
}
