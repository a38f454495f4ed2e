//! What became of an operation: three outcomes, not two.
//!
//! After a rejected or unknown append nobody knows the text on the channel (Ably may fold a rejected append into a later
//! one), so neither is ever answered by sending the piece again.

use std::sync::Arc;

use super::op::{ConnectionId, OpId};

/// A message or version serial: opaque, but ordered as text within one message.
pub type Serial = Arc<str>;

/// The answer to one operation, from whichever transport carried it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The operation that it answers.
    pub op: OpId,
    /// The connection that carried it.
    pub connection: ConnectionId,
    /// What became of it.
    pub outcome: Outcome,
    /// Its frame was written again after a resumed connection, so the server may have applied it twice or not at all.
    pub resent: bool,
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server took it. `serial` is the message serial of a create, the version serial of anything else, and is absent
    /// when the server discarded the version because a later one superseded it, or said nothing.
    Acked {
        /// The serial that the server gave.
        serial: Option<Serial>,
    },
    /// The server refused it.
    Rejected(Rejection),
    /// Nobody will ever tell.
    Unknown(Doubt),
}

impl Outcome {
    /// What kind of refusal it is, if it is one.
    pub(super) const fn class(&self) -> Option<Class> {
        match self {
            Self::Rejected(rejection) => Some(rejection.class),
            Self::Acked { .. } | Self::Unknown(_) => None,
        }
    }
}

/// Why an operation was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Ably's error code.
    pub code: u32,
    /// The HTTP status that goes with it.
    pub status_code: u16,
    /// What the code means for us.
    pub class: Class,
    /// The server's words.
    pub message: String,
}

impl Rejection {
    /// Whether the account may have no more of something that operations only lead to: channels, connections. Going slower does
    /// not help.
    #[must_use]
    pub const fn is_limit_of_account(&self) -> bool {
        matches!(self.code, 40111 | 40114 | 40150 | 40151 | 80021 | 90021)
    }

    /// Operations or bytes a second that the server says it takes, if it says so: `permitted rate = 50` [Ably: the words of its
    /// rate limits].
    #[must_use]
    pub fn permitted_rate(&self) -> Option<f64> {
        let (_, behind) = self.message.split_once("permitted rate = ")?;
        let number = behind.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        number.trim_end_matches('.').parse().ok().filter(|rate| *rate > 0.0)
    }
}

/// What a refusal is about, and so who has to change what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The server could not just now; its outcome may be in doubt. Later, again.
    Transient,
    /// The credentials have aged. Renew, then again.
    Token,
    /// The connection is no good. Reconnect, then again.
    Connection,
    /// Too much at once. Slower, then again.
    RateLimited,
    /// This operation will never be accepted as it is.
    Operation,
    /// This channel will accept nothing of the kind until somebody changes a rule or a capability.
    Channel,
    /// The credentials or the account are wrong. Nothing will be accepted.
    Account,
    /// The message that it speaks of does not exist any more.
    MessageGone,
}

/// Why an outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// The connection ended, for good, before the answer.
    ConnectionLost,
    /// The server answered later operations but not this one.
    Skipped,
    /// A create was taken, but the answer did not say as which message.
    NoSerial,
    /// Its connection was to end, or the process, and did before the answer came.
    Stopped,
    /// It was a request of its own, and got no answer in time, or one that does not say what became of it.
    NoAnswer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_from_the_words_of_a_refusal() {
        let rate = |words: &str| {
            let message =
                format!("Rate limit exceeded; request rejected (nonfatal); metric = channel.maxRate; {words}");
            Rejection { code: 42913, status_code: 429, class: Class::RateLimited, message }.permitted_rate()
        };
        assert_eq!(rate("permitted rate = 50; current rate = 53"), Some(50.0));
        assert_eq!(rate("permitted rate = 2.5."), Some(2.5));
        for words in ["", "permitted rate = 0", "permitted rate = none", "current rate = 7"] {
            assert_eq!(rate(words), None, "{words}");
        }
    }
}
