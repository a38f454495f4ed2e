//! An independent look at what the relay has done: reads the topics of a range, and on request the channels, as anybody
//! could, recomputes every text and every sum, and names what differs.
//!
//! It has the decoders in common with the relay and none of its decisions: the rules are written down here once more, from
//! what is promised. It joins no group, commits nothing and sees only what is committed. Partitions are read one after the
//! other, results first: then all that is claimed of a response is known when its records come by, and no text has to be
//! kept, only a hash. So what is in memory are the results of one partition, at about 24 bytes an operation and some hundred
//! a response; with the channels also some two hundred for every response of the range.
//!
//! Reading order: this file (what is read, and up to where), `partition` (what becomes of a record), `judge` (what must be
//! true of a result), `claims` and `life` (the two sides that are compared), `channels`.

mod bound;
mod channels;
mod claims;
mod difference;
mod history;
mod judge;
mod letters;
mod life;
mod partition;
mod tokens;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use globset::{Glob, GlobSet, GlobSetBuilder};
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::message::Message;
use serde::Serialize;

use crate::config::{self, Config};
use crate::decode::Decoder;
use crate::engine::{ChannelRulesError, Template};
use crate::kafka;
use crate::kafka::client::Clients;
use crate::kafka::scan::{Extent, Scanner};

pub use bound::{Bound, NoBound};
pub use difference::{Difference, Kind};

use channels::Expected;
use claims::{Claims, Read};
use difference::{Findings, Place};
use history::History;
use letters::{Letters, Reason};
use partition::{Partition, Scope};

/// How long transactions that are open at the start may take to end: brokers end them after 15 minutes at the latest, and
/// after `results.transaction_timeout` where it is ours.
const OPEN_TRANSACTIONS_MAX: Duration = Duration::from_secs(2 * 60);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(50);
/// Clocks of producers and relays may differ by so much: results of records are looked for from so much earlier on.
const CLOCKS_DIFFER_MS: i64 = 60 * 60_000;

/// What is to be audited, and how strictly.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Where it begins; the beginning of the topic if it does not say.
    pub from: Option<Bound>,
    /// Where it ends, that offset not included; the end of the topic if it does not say.
    pub to: Option<Bound>,
    /// Only these partitions; all if there are none.
    pub partitions: Vec<i32>,
    /// Look at the channels, too.
    pub ably: bool,
    /// Results may be there twice, whatever `results.delivery` says.
    pub at_least_once: bool,
    /// Everything that has ended must be settled, whatever the group has committed.
    pub at_rest: bool,
    /// How many differences to keep.
    pub kept_max: usize,
}

/// What came of an audit.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// No difference was found.
    pub clean: bool,
    /// What was read of the tokens topic.
    pub ranges: Vec<Stretch>,
    /// How much of what.
    pub counts: Counts,
    /// How many differences of which kind.
    pub differences_by_kind: BTreeMap<Kind, u64>,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// A range of one partition.
#[derive(Debug, Clone, Serialize)]
pub struct Stretch {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The first one behind.
    pub to: i64,
    /// What the group has committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed: Option<i64>,
}

/// How much of what there was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Records of the tokens topic.
    pub records: u64,
    /// Events in them that belong to a response.
    pub events: u64,
    /// Records without an event.
    pub absorbed: u64,
    /// Responses (and parts) that are settled.
    pub settled: u64,
    /// Of these, how many the relay gave up on.
    pub failed: u64,
    /// Of these, how many began before the range: of them only the result was looked at.
    pub partial: u64,
    /// Responses that have not ended.
    pub open: u64,
    /// Responses that have ended, and records that cannot be relayed, of which the group has not committed anything yet.
    pub pending: u64,
    /// Of which nothing can be known any more, because results or dead letters of their time were deleted.
    pub unverifiable: u64,
    /// Results of operations.
    pub operations: u64,
    /// Results of responses.
    pub responses: u64,
    /// Results of other tokens topics, which were passed over.
    pub foreign: u64,
    /// Dead letters of records of the range.
    pub letters: u64,
    /// Channels that were read.
    pub channels: u64,
    /// Responses that were compared there.
    pub messages: u64,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something with Kafka.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The channel template is none.
    #[error(transparent)]
    Template(#[from] ChannelRulesError),
    /// A glob is none.
    #[error("ably.channels.allow: {glob:?} is not a glob: {reason}")]
    Glob {
        /// The glob.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such partition.
    #[error("--partition {partition}: topic {topic} has partitions 0 to {last}")]
    NoPartition {
        /// The partition.
        partition: i32,
        /// The topic.
        topic: String,
        /// Its last partition.
        last: i32,
    },
    /// Nobody ends a transaction.
    #[error(
        "topic {topic} partition {partition}: a transaction is open since offset {stable} and does not end; when its \
         producer is gone the broker ends it after transaction.timeout.ms: try again then"
    )]
    OpenTransaction {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where it begins.
        stable: i64,
    },
    /// The credentials for Ably cannot be used.
    #[error("{0}")]
    Credentials(String),
    /// The HTTP client cannot be made.
    #[error("make an HTTP client: {0}")]
    Client(String),
    /// Ably does not let us read a channel.
    #[error(
        "read the history of channel {channel}: refused with {reason}; the key needs the capability \"history\" on it"
    )]
    Refused {
        /// The channel.
        channel: String,
        /// Ably's words.
        reason: String,
    },
    /// A channel cannot be read.
    #[error("read the history of channel {channel}: {reason}")]
    Unreadable {
        /// The channel.
        channel: String,
        /// Why.
        reason: String,
    },
    /// A bug of ours.
    #[error("the audit has panicked")]
    Panicked,
}

/// What is the same for every partition.
struct Rules {
    decoder: Decoder,
    template: Template,
    topic: String,
    allow: GlobSet,
    exactly_once: bool,
    at_rest: bool,
}

/// What was found of the topics.
struct Outcome {
    scopes: Vec<Scope>,
    findings: Findings,
    counts: Counts,
    expected: Vec<Expected>,
}

/// Audits. `decoder` is the relay's.
///
/// # Errors
/// When the topics, or a channel, cannot be read: then there is no verdict.
pub async fn run(request: Request, config: &Config, decoder: Decoder) -> Result<Report, Error> {
    let rules = Rules::new(&request, config, decoder)?;
    let clients = Clients::new(&config.kafka)?;
    let history = if request.ably { Some(History::new(&config.ably)?) } else { None };
    let topic = rules.topic.clone();
    let audited = tokio::task::spawn_blocking(move || Topics::open(&clients)?.audit(&request, &rules)).await;
    let Outcome { scopes, mut findings, mut counts, expected } = audited.map_err(|_| Error::Panicked)??;
    if let Some(history) = history {
        let in_range = |partition: i32, offset: i64| {
            scopes.iter().any(|scope| scope.partition == partition && scope.range.contains(&offset))
        };
        let bar = bar("channels", expected.len());
        channels::compare(&history, (&topic, &in_range), expected, (&mut findings, &mut counts), &bar).await?;
        bar.finish_and_clear();
    }
    let ranges = scopes.into_iter().map(|scope| Stretch {
        partition: scope.partition,
        from: scope.range.start,
        to: scope.range.end,
        committed: scope.committed,
    });
    Ok(Report {
        clean: findings.by_kind.is_empty(),
        ranges: ranges.collect(),
        counts,
        differences_by_kind: findings.by_kind,
        differences: findings.kept,
    })
}

impl Rules {
    fn new(request: &Request, config: &Config, decoder: Decoder) -> Result<Self, Error> {
        let mut allow = GlobSetBuilder::new();
        let refuse = |glob: &str, error: &globset::Error| Error::Glob {
            glob: glob.to_owned(),
            reason: error.kind().to_string(),
        };
        for glob in &config.ably.channels.allow {
            allow.add(Glob::new(glob).map_err(|error| refuse(glob, &error))?);
        }
        let is_exact = config.results.delivery == config::Delivery::ExactlyOnce;
        Ok(Self {
            decoder,
            template: Template::parse(&config.input.channel)?,
            topic: config.kafka.tokens_topic.clone(),
            allow: allow.build().map_err(|error| refuse("", &error))?,
            exactly_once: is_exact && !request.at_least_once,
            at_rest: request.at_rest,
        })
    }

    /// The channel of a response that begins with a record that names this channel, or none, and has this key.
    fn channel(&self, named: Option<&str>, key: &str) -> Result<String, Reason> {
        const BYTES_MAX: usize = 2_048;
        let name = match named {
            Some(name) => name.to_owned(),
            None => self.template.fill_in(key, &self.topic, |_| None),
        };
        let is_name = (1..=BYTES_MAX).contains(&name.len()) && !name.starts_with([':', '[']);
        if !is_name || name.contains(char::is_control) {
            return Err(Reason::ChannelInvalid);
        }
        if self.allow.is_match(&name) { Ok(name) } else { Err(Reason::ChannelNotAllowed) }
    }
}

/// The three topics.
struct Topics {
    tokens: Scanner,
    results: Scanner,
    letters: Scanner,
    names: config::Kafka,
}

impl Topics {
    fn open(clients: &Clients) -> Result<Self, Error> {
        let names = clients.settings().clone();
        Ok(Self {
            tokens: Scanner::open(clients, &names.tokens_topic)?,
            results: Scanner::open(clients, &names.results_topic)?,
            letters: Scanner::open(clients, &names.dead_letters_topic)?,
            names,
        })
    }

    /// What the group has committed is asked first, then where the tokens end, then where results and dead letters end: so
    /// whatever must be known of the range by now is in what is read.
    fn audit(&self, request: &Request, rules: &Rules) -> Result<Outcome, Error> {
        let mut scopes = self.scopes(request)?;
        let (mut letters, letters_since) = self.read_letters(request)?;
        let mut findings = Findings::new(request.kept_max);
        let (mut counts, mut expected) = (Counts::default(), Vec::new());
        let partitions = self.results.partitions("kafka.results_topic")?;
        let ends = (0..partitions).map(|partition| self.settled(&self.results, &self.names.results_topic, partition));
        let ends: Vec<Extent> = ends.collect::<Result<_, _>>()?;
        let total: i64 = scopes.iter().map(|scope| scope.range.end - scope.range.start).sum();
        let bar = bar("records", usize::try_from(total).unwrap_or_default());
        for scope in &mut scopes {
            let mut claims = Claims::default();
            let mut results_since = None;
            if let Some(extent) = ends.get(scope.partition as usize) {
                let noted = (&mut findings, &mut counts);
                (claims, results_since) = self.read_results(request, rules, scope.partition, *extent, noted)?;
            }
            scope.known_since = results_since.max(letters_since);
            let noted = (&mut findings, &mut counts);
            let expected = request.ably.then_some(&mut expected);
            let mut partition = Partition::new(scope, rules, claims, &mut letters, noted, expected);
            let mut at = scope.range.start;
            self.tokens.read(scope.partition, scope.range.clone(), |message| {
                partition.record(message);
                bar.inc(u64::try_from(message.offset() + 1 - at).unwrap_or_default());
                at = message.offset() + 1;
            })?;
            partition.end();
        }
        let in_range = |partition: i32, offset: i64| {
            scopes.iter().any(|scope| scope.partition == partition && scope.range.contains(&offset))
        };
        for (partition, offset) in letters.left(in_range) {
            findings.add(Kind::LetterUnexplained, Place::at(partition, offset), || {
                "there is a dead letter, and no such record".to_owned()
            });
        }
        bar.finish_and_clear();
        Ok(Outcome { scopes, findings, counts, expected })
    }

    /// What of each partition is to be read.
    fn scopes(&self, request: &Request) -> Result<Vec<Scope>, Error> {
        let count = self.tokens.partitions("kafka.tokens_topic")?;
        if let Some(&partition) = request.partitions.iter().find(|partition| !(0..count).contains(*partition)) {
            let topic = self.names.tokens_topic.clone();
            return Err(Error::NoPartition { partition, topic, last: count - 1 });
        }
        let committed = self.tokens.group_offsets(count)?;
        let wanted = |partition: &i32| request.partitions.is_empty() || request.partitions.contains(partition);
        (0..count)
            .filter(wanted)
            .map(|partition| self.scope(request, partition, committed[partition as usize]))
            .collect()
    }

    fn scope(&self, request: &Request, partition: i32, committed: Option<i64>) -> Result<Scope, Error> {
        let extent = self.tokens.extent(partition)?;
        let at = |bound: &Option<Bound>, otherwise| match bound {
            Some(bound) => bound.offset(&self.tokens, partition, extent, otherwise),
            None => Ok(otherwise),
        };
        let start = at(&request.from, extent.low)?;
        let end = at(&request.to, extent.stable)?.max(start);
        // What retention has deleted was before the range as well.
        let cut = (start > 0, end < extent.stable);
        Ok(Scope { partition, range: start..end, cut, committed, known_since: None })
    }

    /// Where a partition ends now, once no transaction is open below.
    fn settled(&self, scanner: &Scanner, topic: &str, partition: i32) -> Result<Extent, Error> {
        let extent = scanner.extent(partition)?;
        let deadline = Instant::now() + OPEN_TRANSACTIONS_MAX;
        let mut stable = extent.stable;
        while stable < extent.high {
            if Instant::now() > deadline {
                return Err(Error::OpenTransaction { topic: topic.to_owned(), partition, stable });
            }
            std::thread::sleep(LOOK);
            stable = scanner.extent(partition)?.stable;
        }
        Ok(Extent { stable: extent.high, ..extent })
    }

    /// Reads all dead letters, and gives the time since which they are known.
    fn read_letters(&self, request: &Request) -> Result<(Letters, Option<i64>), Error> {
        let mut letters = Letters::default();
        let mut known_since = None;
        for partition in 0..self.letters.partitions("kafka.dead_letters_topic")? {
            let extent = self.settled(&self.letters, &self.names.dead_letters_topic, partition)?;
            let (start, mut since) = self.start(request, &self.letters, partition, extent)?;
            let mut first = None;
            self.letters.read(partition, start..extent.stable, |message| {
                first = first.or(message.timestamp().to_millis());
                letters.add(&self.names.tokens_topic, message);
            })?;
            if extent.low > 0 && start == extent.low {
                since = since.max(Some(first.unwrap_or(i64::MAX)));
            }
            known_since = known_since.max(since);
        }
        Ok((letters, known_since))
    }

    /// Reads a partition's results, and gives the time since which they are known.
    fn read_results(
        &self,
        request: &Request,
        rules: &Rules,
        partition: i32,
        extent: Extent,
        (findings, counts): (&mut Findings, &mut Counts),
    ) -> Result<(Claims, Option<i64>), Error> {
        let (start, mut since) = self.start(request, &self.results, partition, extent)?;
        let (mut claims, mut first, mut epoch) = (Claims::default(), None, 0);
        self.results.read(partition, start..extent.stable, |message| {
            first = first.or(message.timestamp().to_millis());
            let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
            let place = Place { partition: Some(partition), ..Place::default() };
            match claims.add(&rules.topic, partition, key, value) {
                Read::Taken { epoch: now, is_response } => {
                    *(if is_response { &mut counts.responses } else { &mut counts.operations }) += 1;
                    if now < epoch && rules.exactly_once {
                        let detail = || format!("result {} is of epoch {now}, one before of {epoch}", message.offset());
                        findings.add(Kind::EpochFalls, place, detail);
                    }
                    epoch = epoch.max(now);
                }
                Read::Foreign => counts.foreign += 1,
                Read::Not(why) => {
                    let detail = || format!("record {} of the results topic: {why}", message.offset());
                    findings.add(Kind::ResultUnreadable, place, detail);
                }
            }
        })?;
        if extent.low > 0 && start == extent.low {
            since = since.max(Some(first.unwrap_or(i64::MAX)));
        }
        Ok((claims, since))
    }

    /// Where to begin to read what was written of the range, and the time of records from which on all of it is read; none
    /// when that is the beginning.
    fn start(
        &self,
        request: &Request,
        scanner: &Scanner,
        partition: i32,
        extent: Extent,
    ) -> Result<(i64, Option<i64>), Error> {
        let Some(Bound::Time(time)) = request.from else { return Ok((extent.low, None)) };
        let time = time.saturating_sub(CLOCKS_DIFFER_MS);
        Ok((scanner.at(partition, time)?.unwrap_or(extent.stable).max(extent.low), Some(time)))
    }
}

fn bar(what: &str, length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix} · {elapsed} · {eta} to go");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style).with_prefix(what.to_owned())
}
