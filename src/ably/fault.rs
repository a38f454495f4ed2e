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

    /// Whether newer credentials may help.
    #[must_use]
    pub fn asks_for_newer(&self) -> bool {
        matches!(self, Self::Refused { code, status_code, .. } if Fate::of(*code, *status_code) == Fate::Renew)
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
        40005 | 40100 | 40101 | 40130 | 40133 => {
            "check ably.key_file: it must hold one key, `app.id:secret`, of this app"
        }
        40010 => "ably accepts no channel of this name: correct input.channel, or what records name",
        40012 | 40102 | 40167 => "make ably.client_id the client id that the credentials allow, or leave it empty",
        40017 => "ably.endpoint does not speak protocol version 6",
        40021 | 40023 | 40025 | 80024 => "this release is too old for the service: upgrade tokenrelay",
        40103 | 40311 => "set ably.tls = true: ably takes a key only over TLS",
        40106 | 40320 => "give credentials: ably.key_file, ably.jwt.key_file, ably.token_file or ably.auth_url",
        40110 | 40113 | 40120 => "the account or the app is disabled: see the ably dashboard",
        40111 | 40150 => "lower ably.connections.max, or raise the account's limit of connections",
        40112 => "the account's messages are used up: raise its limit in the ably dashboard",
        40114 => "close channels, or raise the account's limit of channels",
        40131 | 40132 => "the key was revoked or has expired: put a new one into ably.key_file",
        40141..=40144 | 40171 => {
            "ably does not take the token: give another (ably.token_file), or mend what makes it (ably.jwt.key_file, ably.auth_url)"
        }
        40160 => {
            "give the key the capabilities publish and message-update-any on this channel (or -own, and a client_id)"
        }
        40161 | 40166 => "set ably.client_id: message-update-own holds only for a client that says who it is",
        40168 => "set ably.agent to what the account's pricing asks for: it must say which side of the traffic this is",
        40165 => "the channel was attached without the mode publish: report this, tokenrelay attaches to none",
        40121 | 40162 | 40172 => {
            "these credentials are of the wrong kind: give a key instead of a token, or the other way round"
        }
        40300 | 80030 => "the account or a rule of it forbids this: see the ably dashboard",
        40310 => "the account permits no TLS here: set ably.tls = false, or correct ably.endpoint",
        40330..=40332 => "the account is not permitted at this endpoint: correct ably.endpoint",
        80011 | 80013 | 80015 => "tokenrelay is wrong, or something between it and ably: report this, with the log",
        90001 => "the channel's state forbids it: it is tried again; see the ably dashboard if it goes on",
        90009 | 93001 => "give the credentials the capabilities that the message names on this channel",
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
mod tests;
