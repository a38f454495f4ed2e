//! Faults: what Ably's error codes mean for us, and what a person has to do about those that only a person can mend.
//!
//! One table for operations ([`classify`]) and one question for connections ([`Fate::of`]). A code that is not in the table
//! is judged by its HTTP status, so that a new code of Ably's is never mistaken for success nor for the end.

use std::time::Duration;

use super::wire::{self, ErrorInfo};
use crate::engine::{Class, Rejection};

/// "Disconnected": what Ably's clients say of an operation that was not sent because there was no connection.
pub const DISCONNECTED: u32 = 80003;

/// Why a connection failed or ended, or could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Ably refused it, or ended it with an error.
    #[error("ably ended the connection with {code} ({message}){}", Remedy(*code))]
    Refused {
        /// Ably's error code.
        code: u32,
        /// The HTTP status that goes with it.
        status_code: u16,
        /// The server's words.
        message: String,
    },
    /// No transport could be opened.
    #[error("connect to {host}:{port}: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the network said.
        reason: String,
    },
    /// The server did not say that we are connected.
    #[error("connect to ably: no answer within {0:?}")]
    NoAnswer(Duration),
    /// The transport ended.
    #[error("connection to ably: {0}")]
    TransportLost(String),
    /// The server was silent for longer than it said it would be.
    #[error("connection to ably: silent for {0:?}")]
    Silent(Duration),
    /// An operation was not answered in time.
    #[error("connection to ably: an operation was not answered within {0:?}")]
    Overdue(Duration),
    /// The state of the connection is older than the server keeps it.
    #[error("connection to ably: down for longer than {0:?}, after which the server forgets it")]
    Expired(Duration),
    /// We gave it up, so that nothing that was written to it is written again.
    #[error("connection to ably: given up, because partitions left while operations of theirs were unanswered")]
    Abandoned,
    /// Nothing may be written.
    #[error("connection to ably: nothing may be written, because the consumer group has not confirmed us for too long")]
    NoLease,
    /// Whoever gives out tokens gives none now.
    #[error("fetch a token for ably from ably.auth_url: {0}")]
    NoToken(String),
    /// The credentials cannot be used.
    #[error("credentials for ably: {0}")]
    Credentials(String),
    /// The server sent what cannot be understood.
    #[error("connection to ably: {0}")]
    Frame(String),
    /// The server said something about a channel; the connection is not concerned.
    #[error("ably says of channel {channel}: {code} ({message}){}", Remedy(*code))]
    Channel {
        /// The channel.
        channel: String,
        /// Ably's error code.
        code: u32,
        /// The server's words.
        message: String,
    },
}

impl Error {
    /// From what the server said.
    #[must_use]
    pub fn refused(error: Option<&ErrorInfo<'_>>) -> Self {
        let Rejection { code, status_code, message, .. } = rejection(error);
        Self::Refused { code, status_code, message }
    }

    /// From what the server said of a channel.
    #[must_use]
    pub fn channel(channel: &str, error: Option<&ErrorInfo<'_>>) -> Self {
        let Rejection { code, message, .. } = rejection(error);
        Self::Channel { channel: channel.to_owned(), code, message }
    }

    /// Ably's error code, when it gave one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } | Self::Channel { code, .. } => Some(*code),
            Self::Unreachable { .. } | Self::NoAnswer(_) | Self::TransportLost(_) | Self::Silent(_) => None,
            Self::Overdue(_) | Self::Expired(_) | Self::Abandoned | Self::Credentials(_) | Self::Frame(_) => None,
            Self::NoLease | Self::NoToken(_) => None,
        }
    }

    /// Whether only a person can mend it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Refused { code, status_code, .. } => Fate::of(*code, *status_code) == Fate::Fatal,
            Self::Credentials(_) => true,
            Self::Unreachable { .. } | Self::NoAnswer(_) | Self::TransportLost(_) | Self::Silent(_) => false,
            Self::Overdue(_) | Self::Expired(_) | Self::Abandoned | Self::Frame(_) | Self::Channel { .. } => false,
            Self::NoLease | Self::NoToken(_) => false,
        }
    }
}

impl From<wire::Error> for Error {
    fn from(error: wire::Error) -> Self {
        Self::Frame(error.to_string())
    }
}

/// What to do after a connection was refused or ended with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Connect again.
    Again,
    /// Connect again with new credentials.
    Renew,
    /// Connect again, but slowly.
    Slowly,
    /// Somebody has to change something first.
    Fatal,
}

impl Fate {
    /// What an error without a channel means for the connection.
    #[must_use]
    pub fn of(code: u32, status_code: u16) -> Self {
        match classify(code, status_code) {
            Class::Token => Self::Renew,
            Class::RateLimited => Self::Slowly,
            Class::Transient | Class::Connection => Self::Again,
            Class::Operation | Class::Channel | Class::Account | Class::MessageGone => Self::Fatal,
        }
    }
}

/// What a NACK says, with a meaning. One without an error is a failure of the server.
#[must_use]
pub fn rejection(error: Option<&ErrorInfo<'_>>) -> Rejection {
    let Some(error) = error else {
        let message = "refused without a reason".to_owned();
        return Rejection { code: 50001, status_code: 500, class: Class::Transient, message };
    };
    let (code, status_code) = (error.code, error.status_code);
    let class = if status_code == 404 { Class::MessageGone } else { classify(code, status_code) };
    Rejection { code, status_code, class, message: error.message.as_ref().to_owned() }
}

/// The refusal of an operation that was never written, because the connection that was to carry it was lost first.
#[must_use]
pub fn never_sent() -> Rejection {
    let message = "not sent: the connection was lost first".to_owned();
    Rejection { code: DISCONNECTED, status_code: 400, class: Class::Connection, message }
}

/// What a code means, for the operation that it answers. Says nothing of HTTP 404, which [`rejection`] puts above it.
#[must_use]
pub fn classify(code: u32, status_code: u16) -> Class {
    match code {
        40014 | 40170 | 50000..=50005 | 50010..=50999 | 90000 | 90007 => Class::Transient,
        40104 | 40105 | 40140..=40149 => Class::Token,
        50006 | 80000..=80003 | 80005..=80008 | 80012 | 80014 | 80016..=80018 | 80022 | 80023 => Class::Connection,
        40111 | 40114 | 40115 | 40150 | 40151 | 42900..=42999 | 80021 | 90010 | 90021 => Class::RateLimited,
        40010 | 40160 | 40165 | 90001 | 90009 | 93001 | 93002 => Class::Channel,
        40005 | 40017 | 40021 | 40023 | 40025 | 40100..=40103 | 40106 | 40110 | 40112 | 40113 => Class::Account,
        40120 | 40121 | 40130..=40133 | 40161 | 40162 | 40166..=40168 | 40171 | 40172 => Class::Account,
        40300..=40399 | 80011 | 80013 | 80015 | 80024 | 80030 => Class::Account,
        80019 if status_code == 403 => Class::Account,
        80019 => Class::Token,
        40400 => Class::MessageGone,
        40000..=40004 | 40006..=40009 | 40011..=40013 | 40016 | 40018..=40020 | 40024 => Class::Operation,
        40030..=40034 | 40099 | 40500 | 40900 | 42200..=42299 => Class::Operation,
        80004 | 80009 | 80010 | 80020 | 90002..=90006 | 90008 => Class::Operation,
        _ => by_status(status_code),
    }
}

/// What a code that we do not know means.
fn by_status(status_code: u16) -> Class {
    match status_code {
        429 => Class::RateLimited,
        401 => Class::Account,
        404 => Class::MessageGone,
        400..=499 => Class::Operation,
        _ => Class::Transient,
    }
}

/// What a person has to do about a code, if only a person can.
#[must_use]
pub fn remedy(code: u32) -> Option<&'static str> {
    Some(match code {
        40005 | 40101 | 40130 | 40133 => "check ably.key_file: it must hold one key, `app.id:secret`, of this app",
        40012 | 40102 | 40167 => "make ably.client_id the client id that the credentials allow, or leave it empty",
        40017 => "ably.endpoint does not speak protocol version 6",
        40103 | 40311 => "set ably.tls = true: ably takes a key only over TLS",
        40110 | 40113 | 40120 => "the account or the app is disabled: see the ably dashboard",
        40111 | 40150 => "lower ably.connections.max, or raise the account's limit of connections",
        40112 => "the account's messages are used up: raise its limit in the ably dashboard",
        40114 => "close channels, or raise the account's limit of channels",
        40131 | 40132 => "the key was revoked or has expired: put a new one into ably.key_file",
        40141..=40144 | 40171 => "the token is no longer good: put a new one into ably.token_file, or give a key",
        40160 => {
            "give the key the capabilities publish and message-update-any on this channel (or -own, and a client_id)"
        }
        40161 | 40166 => "set ably.client_id: message-update-own holds only for a client that says who it is",
        40168 => "set ably.agent to what the account's pricing asks for: it must say which side of the traffic this is",
        40162 | 40172 => {
            "these credentials are of the wrong kind: give a key instead of a token, or the other way round"
        }
        40330..=40332 => "the account is not permitted at this endpoint: correct ably.endpoint",
        80024 => "this release is too old for the service: upgrade tokenrelay",
        93002 => "turn on the rule \"message annotations, updates, deletes and appends\" for the channel's namespace",
        _ => return None,
    })
}

/// `: remedy` when there is one.
struct Remedy(u32);

impl std::fmt::Display for Remedy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match remedy(self.0) {
            Some(remedy) => write!(formatter, ": {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u32, status_code: u16) -> Rejection {
        rejection(Some(&ErrorInfo { code, status_code, message: "m".into(), href: None }))
    }

    #[test]
    fn every_code_that_a_publisher_meets_has_its_class() {
        use Class::{Account, Channel, Connection, MessageGone, Operation, RateLimited, Token, Transient};
        let table: &[(Class, u16, &[u32])] = &[
            (
                Transient,
                500,
                &[40014, 50000, 50001, 50002, 50003, 50004, 50005, 50010, 50305, 50330, 50410, 90000, 90007],
            ),
            (Token, 401, &[40104, 40105, 40140, 40141, 40142, 40143, 40144, 40145, 80019]),
            (Connection, 400, &[50006, 80000, 80001, 80002, 80003, 80008, 80014, 80016, 80017, 80018, 80022, 80023]),
            (RateLimited, 403, &[40111, 40114, 40115, 40150, 40151]),
            (
                RateLimited,
                429,
                &[42910, 42911, 42913, 42914, 42917, 42918, 42920, 42921, 42922, 42924, 80021, 90010, 90021],
            ),
            (Channel, 400, &[40010, 40160, 40165, 90001, 90009, 93001, 93002]),
            (
                Account,
                401,
                &[40005, 40017, 40100, 40101, 40102, 40103, 40106, 40110, 40112, 40113, 40120, 40121, 40130],
            ),
            (
                Account,
                403,
                &[40131, 40132, 40133, 40161, 40162, 40166, 40167, 40168, 40171, 40172, 40300, 40310, 40311],
            ),
            (Account, 403, &[40330, 40331, 40332, 80011, 80013, 80015, 80019, 80024, 80030]),
            (
                Operation,
                400,
                &[40000, 40001, 40003, 40006, 40009, 40011, 40012, 40013, 40016, 40024, 40030, 40031, 40032],
            ),
            (Operation, 400, &[40033, 40034, 40099, 40500, 40900, 42200, 42211, 42213, 80009, 90002, 90008]),
            (MessageGone, 404, &[40400, 40142, 93002, 1]),
            (MessageGone, 0, &[40400]),
        ];
        for (class, status_code, codes) in table {
            for code in *codes {
                assert_eq!(error(*code, *status_code).class, *class, "{code}/{status_code}");
            }
        }
    }

    #[test]
    fn an_unknown_code_is_judged_by_its_status() {
        let cases = [
            (Class::RateLimited, 429),
            (Class::Transient, 503),
            (Class::Transient, 0),
            (Class::Operation, 413),
            (Class::Operation, 400),
            (Class::Account, 401),
            (Class::MessageGone, 404),
        ];
        for (class, status) in cases {
            assert_eq!(error(99_999, status).class, class, "{status}");
        }
    }

    #[test]
    fn a_refusal_without_an_error_is_the_servers_failure() {
        assert_eq!(rejection(None).class, Class::Transient);
        assert_eq!(rejection(Some(&ErrorInfo::default())).class, Class::Transient);
    }

    #[test]
    fn what_only_a_person_can_mend_names_the_remedy() {
        for code in [93002, 40160, 40101, 40130, 40131, 40132, 40133, 40103, 40168, 40111, 40112] {
            assert!(remedy(code).is_some(), "{code}");
        }
        let refused = Error::Refused { code: 40101, status_code: 401, message: "no such key".into() };
        let expected = "ably ended the connection with 40101 (no such key): check ably.key_file: it must hold one key, \
                        `app.id:secret`, of this app";
        assert_eq!(refused.to_string(), expected);
        assert!(refused.is_fatal());
    }

    #[test]
    fn a_connection_fails_for_good_only_for_what_a_person_must_mend() {
        assert_eq!(Fate::of(40142, 401), Fate::Renew);
        assert_eq!(Fate::of(42921, 429), Fate::Slowly);
        assert_eq!(Fate::of(80021, 429), Fate::Slowly);
        assert_eq!(Fate::of(40111, 403), Fate::Slowly);
        assert_eq!(Fate::of(50003, 503), Fate::Again);
        assert_eq!(Fate::of(80003, 400), Fate::Again);
        for code in [40005, 40101, 40103, 40112, 40130, 40168, 80013] {
            assert_eq!(Fate::of(code, 401), Fate::Fatal, "{code}");
        }
        assert_eq!(Fate::of(0, 0), Fate::Again);
    }
}
