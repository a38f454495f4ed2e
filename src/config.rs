//! Configuration: every key, its default and its meaning. The structs are the reference; `deploy/config.toml` is the same
//! with every default written out, and a test compares the two.
//!
//! Layers, later ones win: defaults, a TOML file (`--config`), the environment (`TOKENRELAY__KAFKA__GROUP_ID`), flags
//! (`--set kafka.group_id=x`). An unknown key is an error, wherever it stands.

mod budgets;
mod load;
mod secret;
mod size;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use budgets::{Account, Channels, Connections, InFlight};
pub use load::{Error, Source, TCP_USER_TIMEOUT, load};
pub use secret::{Properties, Secret};
pub use values::{
    Delivery, Format, Include, LogFormat, NoMutable, Pattern, PerToken, SecurityProtocol, Start, Transport, Verify,
    WireEncoding,
};

/// How a full text is sent to mend a response, and when.
pub use values::ReconcileWhen;

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where tokens come from and results go to.
    pub kafka: Kafka,
    /// How token records are read.
    pub input: Input,
    /// Where texts go to.
    pub ably: Ably,
    /// Limits of responses.
    pub response: Response,
    /// How texts are mended.
    pub reconcile: Reconcile,
    /// How results are written.
    pub results: Results,
    /// How the process stops.
    pub shutdown: Shutdown,
    /// The admin server.
    pub admin: Admin,
    /// The log.
    pub log: Log,
}

/// Where tokens come from and results go to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// Brokers to begin with, `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// The consumer group. Relays of one group share the partitions.
    pub group_id: String,
    /// The topic of token events.
    pub tokens_topic: String,
    /// The topic of results. At least as many partitions as the tokens topic.
    pub results_topic: String,
    /// The topic of records that cannot be relayed.
    pub dead_letters_topic: String,
    /// Static membership: a name that survives a restart. Empty for none.
    pub group_instance_id: String,
    /// How to connect to the brokers.
    pub security: Security,
    /// A member that is silent for longer loses its partitions.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// Where a group without offsets begins: `error` (say so and stop), `latest` or `earliest`.
    pub start: Start,
    /// How long a broker may collect records before it answers. `2ms` takes four times less CPU and 2 ms more latency.
    #[serde(with = "humantime_serde")]
    pub batching_window: Duration,
    /// Any librdkafka property. Those that would break a promise are refused by name.
    pub librdkafka: Properties,
}

/// How to connect to the brokers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub protocol: SecurityProtocol,
    /// Certificates of the authorities that signed the brokers' own; PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Our certificate; PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key; PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password. Better: `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A file that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// How token records are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    /// The format of records that do not say theirs: `auto`, `tokenrelay` or `openai-chat`.
    pub format: Format,
    /// The channel of records that name none; `{key}`, `{topic}` and `{header.NAME}` are filled in.
    pub channel: String,
    /// How a response is put on its channel: `message-per-response`, or `message-per-token`.
    pub pattern: Pattern,
    /// What reaches a channel: `text`, `reasoning`, `tool`, `refusal`.
    pub include: Vec<Include>,
    /// After a new group, a reset or out-of-range offsets: responses that began longer ago are skipped as `too-old`.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

/// Where texts go to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ably {
    /// An API key, `app.id:secret`. Better: `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// A file that holds the API key. Empty for none.
    pub key_file: PathBuf,
    /// A token. Better: `token_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// An address that gives out tokens: bare, or as JSON. Empty for none.
    pub auth_url: Secret,
    /// Tokens that are signed with a key instead of showing it.
    pub jwt: Jwt,
    /// A routing policy (`main`), or a host name or address.
    pub endpoint: String,
    /// The port.
    pub port: u16,
    /// TLS; off only for a local server.
    pub tls: bool,
    /// `realtime`, or `rest`: slower, for networks without WebSockets.
    pub transport: Transport,
    /// `msgpack` or `json`.
    pub encoding: WireEncoding,
    /// Our identity. A capability `message-update-own` demands one. Empty for none.
    pub client_id: String,
    /// What we call ourselves. Empty for `tokenrelay/<version>`.
    pub agent: String,
    /// The server joins appends to one message within this window: 0, 20, 40, 100 or 500 ms.
    #[serde(with = "humantime_serde")]
    pub append_rollup: Duration,
    /// How tokens leave that wait together, under `message-per-token`: `array`, each as a message, all in one publish; or
    /// `joined`, as one message.
    pub per_token: PerToken,
    /// Channels.
    pub channels: Channels,
    /// Connections.
    pub connections: Connections,
    /// The account.
    pub account: Account,
    /// What may be unanswered on one connection.
    pub in_flight: InFlight,
    /// How long a rate that was refused is not tried again: nine tenths of it are the most until then.
    #[serde(with = "humantime_serde")]
    pub refused_rate_hold: Duration,
    /// An operation that is unanswered for so long: reconnect and resume, then give the connection up.
    #[serde(with = "humantime_serde")]
    pub ack_timeout: Duration,
    /// Trust that the server recognises appends that are sent again after a resume. If not, the full text follows them.
    pub trust_resume: bool,
    /// How long responses wait on a channel that refuses them before they fail.
    #[serde(with = "humantime_serde")]
    pub refused_hold: Duration,
    /// What to do where messages cannot be changed, because the channel rule is off (93002) or the right to change them has been
    /// missing from the beginning (40160): responses `fail`, or each is published once, `whole`, when it ends.
    pub no_mutable: NoMutable,
    /// First part of every message id; tells clusters apart that share channels. Empty for the Kafka cluster's id.
    pub id_namespace: String,
    /// The largest message, until the connection says.
    #[serde(serialize_with = "size::exactly")]
    pub max_message_size: ByteSize,
    /// The only channel that `tokenrelay check` may write to. Empty: it writes nowhere.
    pub check_channel: String,
}

/// Limits of responses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Response {
    /// Without an event for so long a response ends as abandoned.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Open responses whose text is in memory. Beyond, texts of quiet ones are dropped and read from the topic if needed.
    pub open_max: usize,
    /// Open responses whose text is not in memory. Beyond, the longest silent end as failed.
    pub stub_max: usize,
    /// Settled responses that each partition remembers, to refuse late events.
    pub remember: usize,
    /// Text of all open responses together. At the limit texts are dropped from memory, and if that is not enough intake
    /// pauses.
    #[serde(serialize_with = "size::exactly")]
    pub text_bytes_max: ByteSize,
}

/// How texts are mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reconcile {
    /// `eager` (while it streams), `at-end` (once it has ended) or `never` (for tests).
    pub when: ReconcileWhen,
    /// How long to wait for more failures first; longer where appends may still wait in Ably's rollup (`ably.append_rollup`).
    #[serde(with = "humantime_serde")]
    pub debounce: Duration,
    /// Refusals of the full text after which the response fails.
    pub attempts: u32,
    /// When the text is read back: `never`, `after-unknown` or `always`. Unless it is `never`, messages are looked at before a
    /// new owner writes them, too.
    pub verify: Verify,
    /// A second read-back comes so long after a takeover, or after a connection was lost without resume: what they left
    /// behind may land until then.
    #[serde(with = "humantime_serde")]
    pub late_check: Duration,
    /// How long reads may fail or be out of date before a response settles with `verified: false`.
    #[serde(with = "humantime_serde")]
    pub verify_timeout: Duration,
    /// Messages read back in a second, over REST, with two requests each; 0 for no limit of ours.
    pub verify_rate: u32,
}

/// How results are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Results {
    /// `exactly-once`: results, dead letters and offsets in one transaction; `at-least-once`: without transactions.
    pub delivery: Delivery,
    /// How often offsets are committed.
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    /// How long a transaction of a process that died can hold its readers up.
    #[serde(with = "humantime_serde")]
    pub transaction_timeout: Duration,
}

/// How the process stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long in-flight work may take to finish.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// The admin server: `/livez`, `/readyz`, `/metrics`, `/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json` or `text`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,tokenrelay=debug`.
    pub level: String,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".into(),
            group_id: "tokenrelay".into(),
            tokens_topic: "llm.tokens.v1".into(),
            results_topic: "llm.tokens.results.v1".into(),
            dead_letters_topic: "llm.tokens.dead-letters.v1".into(),
            group_instance_id: String::new(),
            security: Security::default(),
            session_timeout: Duration::from_secs(10),
            start: Start::Error,
            batching_window: Duration::ZERO,
            librdkafka: Properties::default(),
        }
    }
}

impl Default for Security {
    fn default() -> Self {
        Self {
            protocol: SecurityProtocol::Plaintext,
            ca_file: None,
            cert_file: None,
            key_file: None,
            mechanism: None,
            username: None,
            password: None,
            password_file: None,
        }
    }
}

impl Default for Input {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            channel: "ai:{key}".into(),
            pattern: Pattern::MessagePerResponse,
            include: vec![Include::Text],
            max_age: Duration::from_secs(15 * 60),
        }
    }
}

/// Tokens (JWTs) that are signed with a key: the key does not leave the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// A file that holds the API key that signs. Empty for none.
    pub key_file: PathBuf,
    /// The key in it.
    #[serde(skip)]
    pub key: Option<Secret>,
    /// How long a token is good.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Who the tokens say we are. Empty for `ably.client_id`.
    pub client_id: String,
}

impl Default for Jwt {
    fn default() -> Self {
        Self { key_file: PathBuf::new(), key: None, ttl: Duration::from_secs(3_600), client_id: String::new() }
    }
}

impl Default for Ably {
    fn default() -> Self {
        Self {
            key: None,
            key_file: PathBuf::new(),
            token: None,
            token_file: None,
            auth_url: Secret::default(),
            jwt: Jwt::default(),
            endpoint: "main".into(),
            port: 443,
            tls: true,
            transport: Transport::Realtime,
            encoding: WireEncoding::Msgpack,
            client_id: String::new(),
            agent: String::new(),
            append_rollup: Duration::from_millis(40),
            per_token: PerToken::Array,
            channels: Channels::default(),
            connections: Connections::default(),
            account: Account::default(),
            in_flight: InFlight::default(),
            refused_rate_hold: Duration::from_secs(10 * 60),
            ack_timeout: Duration::from_secs(30),
            trust_resume: false,
            refused_hold: Duration::from_secs(10 * 60),
            no_mutable: NoMutable::Fail,
            id_namespace: String::new(),
            max_message_size: ByteSize::kib(64),
            check_channel: String::new(),
        }
    }
}

impl Default for Response {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(10 * 60),
            open_max: 200_000,
            stub_max: 1_000_000,
            remember: 100_000,
            text_bytes_max: ByteSize::mib(512),
        }
    }
}

impl Default for Reconcile {
    fn default() -> Self {
        Self {
            when: ReconcileWhen::Eager,
            debounce: Duration::from_millis(250),
            attempts: 8,
            verify: Verify::AfterUnknown,
            late_check: Duration::from_secs(10),
            verify_timeout: Duration::from_secs(30),
            verify_rate: 25,
        }
    }
}

impl Default for Results {
    fn default() -> Self {
        Self {
            delivery: Delivery::ExactlyOnce,
            commit_interval: Duration::from_millis(150),
            transaction_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain: Duration::from_secs(25) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into() }
    }
}
