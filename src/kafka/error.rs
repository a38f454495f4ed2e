//! What can go wrong with Kafka, in words for the person who must mend it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What can go wrong with Kafka.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A property that would break a promise.
    #[error("kafka.librdkafka: {property} may not be set: {reason}")]
    Property {
        /// Its name.
        property: String,
        /// Why not.
        reason: &'static str,
    },
    /// librdkafka does not take a setting.
    #[error("kafka: librdkafka does not accept the settings: {reason}")]
    Settings {
        /// Its words.
        reason: String,
    },
    /// A file that a setting names cannot be read.
    #[error("{key}: cannot read {path}: {source}")]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// No broker answers.
    #[error("no broker of kafka.bootstrap_servers = \"{servers}\" can be reached: {detail}")]
    Unreachable {
        /// The setting.
        servers: String,
        /// librdkafka's last words.
        detail: String,
    },
    /// The brokers do not let us in.
    #[error("the brokers of \"{servers}\" refuse us: {detail}; see kafka.security")]
    Unwelcome {
        /// Where.
        servers: String,
        /// Their words.
        detail: String,
    },
    /// A topic that must be there is not.
    #[error(
        "topic {topic} ({key}) does not exist; create it: \
         kafka-topics.sh --bootstrap-server {servers} --create --topic {topic} --partitions {partitions}"
    )]
    TopicMissing {
        /// The setting that names it.
        key: &'static str,
        /// Its name.
        topic: String,
        /// How many partitions it should have.
        partitions: i32,
        /// Where.
        servers: String,
    },
    /// The access rules keep a topic from us.
    #[error("topic {topic} ({key}) is not for us: {reason}; grant {rights} on it")]
    TopicForbidden {
        /// The setting that names it.
        key: &'static str,
        /// Its name.
        topic: String,
        /// The broker's words.
        reason: String,
        /// What is needed.
        rights: &'static str,
    },
    /// Results of token partition p go to results partition p, which must exist.
    #[error(
        "topic {results} (kafka.results_topic) has {have} partitions, {tokens} (kafka.tokens_topic) has {need}; results \
         needs at least as many: \
         kafka-topics.sh --bootstrap-server {servers} --alter --topic {results} --partitions {need}"
    )]
    TooFewPartitions {
        /// The results topic.
        results: String,
        /// Its partitions.
        have: i32,
        /// The tokens topic.
        tokens: String,
        /// Its partitions.
        need: i32,
        /// Where.
        servers: String,
    },
    /// A new group, and nobody said where it is to begin.
    #[error(
        "group {group} has no committed offsets on topic {topic} and kafka.start is \"error\"; set kafka.start to \
         \"latest\" (only what comes from now on) or \"earliest\" (everything that the topic holds)"
    )]
    NoStart {
        /// The group.
        group: String,
        /// The tokens topic.
        topic: String,
    },
    /// The group is not for us.
    #[error("group {group} (kafka.group_id) is not for us: {reason}; grant Read on it")]
    GroupForbidden {
        /// The group.
        group: String,
        /// The broker's words.
        reason: String,
    },
    /// Transactions under our name are not for us.
    #[error(
        "transactional id {name} (kafka.group_id with the instance's name) is not for us: {reason}; grant Write and Describe \
         on transactional ids that begin with {group}, or set results.delivery to \"at-least-once\""
    )]
    TransactionsForbidden {
        /// The name.
        name: String,
        /// The group, with which it begins.
        group: String,
        /// The broker's words.
        reason: String,
    },
    /// Records that were asked for again are gone.
    #[error("records {first} to {last} of {topic} partition {partition} are gone: the topic begins at {begins}")]
    Gone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that was asked for.
        first: i64,
        /// The last one.
        last: i64,
        /// The first offset that is left.
        begins: i64,
    },
    /// An offset's metadata is longer than brokers take.
    #[error("the metadata of the offset of partition {partition} has {bytes} bytes, brokers take 4096")]
    MetadataTooLong {
        /// The partition.
        partition: i32,
        /// Its length.
        bytes: usize,
    },
    /// Records were not durable when time was up.
    #[error("{records} records for the results or dead-letter topic were not durable in time")]
    NotDurable {
        /// How many.
        records: usize,
    },
    /// Another process writes under our name.
    #[error(
        "another process has the transactional id {name} ({reason}); give every process a kafka.group_instance_id of its own"
    )]
    Fenced {
        /// The name.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// A client of ours is beyond help: the process must start anew.
    #[error("the Kafka client for {role} cannot go on: {reason}")]
    Fatal {
        /// What the client is for.
        role: &'static str,
        /// librdkafka's words.
        reason: String,
    },
    /// A thread of ours has ended before its time.
    #[error("the thread for {role} has ended")]
    Ended {
        /// What the thread is for.
        role: &'static str,
    },
    /// Anything else.
    #[error("{doing}: {source}")]
    Client {
        /// What was being done.
        doing: &'static str,
        /// librdkafka's words.
        source: KafkaError,
    },
}

/// Who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody has to change settings or topics.
    Configuration,
    /// Kafka is away; it may come back by itself.
    Unavailable,
    /// Somebody has to grant a right or mend credentials.
    Refused,
}

impl Error {
    /// Who can mend it; the program's exit code follows from it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Property { .. }
            | Self::Settings { .. }
            | Self::File { .. }
            | Self::TopicMissing { .. }
            | Self::TooFewPartitions { .. }
            | Self::Fenced { .. }
            | Self::NoStart { .. } => Kind::Configuration,
            Self::Unwelcome { .. }
            | Self::TopicForbidden { .. }
            | Self::GroupForbidden { .. }
            | Self::TransactionsForbidden { .. } => Kind::Refused,
            Self::Unreachable { .. }
            | Self::Gone { .. }
            | Self::MetadataTooLong { .. }
            | Self::NotDurable { .. }
            | Self::Fatal { .. }
            | Self::Ended { .. } => Kind::Unavailable,
            Self::Client { source, .. } => match source.rdkafka_error_code() {
                Some(code) if is_refusal(code) => Kind::Refused,
                _ => Kind::Unavailable,
            },
        }
    }

    pub(super) fn client(doing: &'static str) -> impl FnOnce(KafkaError) -> Self {
        move |source| match source {
            KafkaError::ClientConfig(_, reason, ..) | KafkaError::ClientCreation(reason) => Self::Settings { reason },
            source => Self::Client { doing, source },
        }
    }
}

/// Whether a person has to grant something before this can work.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}
