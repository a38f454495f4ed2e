//! What librdkafka says, in our log: one line per cause.
//!
//! While a broker is away librdkafka repeats itself at every attempt, in log lines and in error events. Error events are
//! the better text, so those are logged, each cause at once and then at most once a minute with a count; log lines about
//! the same go to debug.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::error::is_refusal;

/// How long one cause is not repeated.
const QUIET: Duration = Duration::from_secs(60);

/// How often clients say what they know, in milliseconds.
pub(super) const STATISTICS_MS: &str = "5000";

/// How long a client that has lost every broker may be about to look for them.
const BLIND: Duration = Duration::from_secs(4);

/// The log of one client, and its last error.
#[derive(Debug)]
pub(super) struct Log {
    role: &'static str,
    /// Whoever has this client ask is told of refusals by the answer.
    asks: bool,
    said: Mutex<HashMap<String, Said>>,
    trouble: Mutex<Option<Trouble>>,
    stranded: Stranded,
    /// Since when statistics have shown no broker.
    blind: Mutex<Option<Instant>>,
}

/// Whether one of the clients that share this has lost every broker for good, and which.
///
/// librdkafka 2.12 forgets brokers that metadata do not name. A broker that has just been started may name none; then all are
/// forgotten, and now and then the timer that is to begin anew with the bootstrap servers is stopped by the very answer that
/// made it necessary. Nothing wakes such a client again; only another one in its place helps.
#[derive(Debug, Clone, Default)]
pub struct Stranded(Arc<OnceLock<&'static str>>);

impl Stranded {
    /// The first client that is.
    #[must_use]
    pub fn who(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// What is wrong with a client.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) code: RDKafkaErrorCode,
    pub(super) reason: String,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    suppressed: u64,
}

impl Log {
    /// `role` says in every line which client speaks.
    pub(super) fn new(role: &'static str, stranded: &Stranded) -> Self {
        let (said, trouble, blind) = Default::default();
        Self { role, asks: false, said, trouble, stranded: stranded.clone(), blind }
    }

    /// Of a client that does nothing but ask.
    pub(super) fn of_questions(role: &'static str, stranded: &Stranded) -> Self {
        Self { asks: true, ..Self::new(role, stranded) }
    }

    /// Where the client's brokers are known from, as its statistics say. Without any for a while it is stranded: at first, it
    /// may be about to begin anew.
    pub(super) fn brokers<'a>(&self, mut sources: impl Iterator<Item = &'a str>) {
        let mut blind = lock(&self.blind);
        if sources.any(|source| source == "configured" || source == "learned") {
            *blind = None;
        } else if blind.get_or_insert_with(Instant::now).elapsed() >= BLIND && self.stranded.0.set(self.role).is_ok() {
            tracing::warn!(role = self.role, "kafka: the client has lost every broker and looks for none");
        }
    }

    /// What was wrong last, if it has not passed since.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        lock(&self.trouble).clone()
    }

    /// Something worked.
    pub(super) fn well(&self) {
        lock(&self.trouble).take();
    }

    /// How often the cause was held back since it was last said; none if it was said just now.
    fn due(&self, cause: &str) -> Option<u64> {
        let mut said = lock(&self.said);
        let now = Instant::now();
        match said.get_mut(cause) {
            Some(last) if now.duration_since(last.at) < QUIET => {
                last.suppressed += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.suppressed))
            }
            None => {
                said.insert(cause.to_owned(), Said { at: now, suppressed: 0 });
                Some(0)
            }
        }
    }

    /// Says something of the client's own, unless it was said a moment ago.
    pub(super) fn say(&self, cause: &str, text: impl FnOnce() -> String) {
        if let Some(suppressed) = self.due(cause) {
            tracing::warn!(role = self.role, suppressed, "kafka: {}", text());
        }
    }

    pub(super) fn line(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let role = self.role;
        // FAIL and ERROR come as events, too.
        let debug = matches!(facility, "FAIL" | "ERROR") || matches!(level, RDKafkaLogLevel::Debug);
        if debug || matches!(level, RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice) {
            tracing::debug!(role, facility, "librdkafka: {text}");
        } else if let Some(suppressed) = self.due(facility) {
            tracing::warn!(role, facility, suppressed, "librdkafka: {text}");
        }
    }

    pub(super) fn event(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        let mut trouble = lock(&self.trouble);
        // That all are down says less than why the last one is.
        if trouble.is_none() || code != RDKafkaErrorCode::AllBrokersDown {
            *trouble = Some(Trouble { code, reason: reason.to_owned() });
        }
        drop(trouble);
        if self.asks && is_refusal(code) {
            return;
        }
        if let Some(suppressed) = self.due(&format!("{code:?}")) {
            tracing::warn!(role = self.role, suppressed, "kafka: {reason}");
        }
    }
}

/// Lets a context speak through its [`Log`].
macro_rules! speaks_through {
    ($context:ty, $log:ident) => {
        impl rdkafka::ClientContext for $context {
            fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
                self.$log.line(level, facility, text);
            }

            fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
                self.$log.event(&error, reason);
            }

            fn stats(&self, statistics: rdkafka::Statistics) {
                self.$log.brokers(statistics.brokers.values().map(|broker| &*broker.source));
            }
        }
    };
}
pub(super) use speaks_through;

/// The context of a client that does nothing but ask.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) log: Log,
}

speaks_through!(Plain, log);

impl ConsumerContext for Plain {}

/// A lock whose data stay usable when somebody panicked with it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let log = Log::new("test", &Stranded::default());
        assert_eq!(log.due("down"), Some(0));
        assert_eq!(log.due("down"), None);
        assert_eq!(log.due("other"), Some(0));
    }

    #[test]
    fn a_client_without_brokers_is_stranded_unless_it_finds_some() {
        let stranded = Stranded::default();
        let log = Log::new("test", &stranded);
        let long_ago = || *lock(&log.blind) = Some(Instant::now().checked_sub(BLIND).expect("the machine is up"));
        let says = |sources: &[&str]| {
            log.brokers(sources.iter().copied());
            stranded.who()
        };
        assert_eq!(says(&["configured"]), None);
        assert_eq!(says(&["internal", "logical"]), None, "it may be about to begin anew");
        long_ago();
        assert_eq!(says(&["internal", "logical", "learned"]), None);
        assert_eq!(says(&["logical"]), None);
        long_ago();
        assert_eq!(says(&[]), Some("test"));
    }

    #[test]
    fn the_end_of_a_partition_is_no_trouble() {
        let log = Log::new("test", &Stranded::default());
        log.event(&KafkaError::Global(RDKafkaErrorCode::PartitionEOF), "end");
        assert!(log.trouble().is_none());
        log.event(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "all down");
        assert_eq!(log.trouble().map(|trouble| trouble.reason), Some("all down".to_owned()));
        log.well();
        assert!(log.trouble().is_none());
    }
}
