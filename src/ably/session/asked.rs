//! What a session is told once, and what it asks for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::fault::Error;
use super::super::wire::Encoding;
use crate::engine::{Answer, ConnectionId};

/// What a session is told once.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Its place in the pool.
    pub connection: ConnectionId,
    /// How frames are encoded.
    pub encoding: Encoding,
    /// How long a frame may be unanswered.
    pub ack_timeout: Duration,
    /// Frames that are sent again after a resume are answered as if they were not.
    pub trust_resume: bool,
    /// For the jitter of its waits.
    pub seed: u64,
}

/// What a session asks for. To be done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a transport, and forget any other.
    Connect {
        /// The key of the connection that it is to resume.
        resume: Option<Arc<str>>,
        /// The server wants newer credentials than it was given.
        renew: bool,
        /// How many attempts have failed since the last one that did not.
        failures: u32,
    },
    /// Renew the token of a connection that is up, and [`authorise`](super::Session::authorise) it with the new one. A key is
    /// left alone.
    Renew,
    /// Write this frame to the transport.
    Write(Bytes),
    /// An operation has its answer.
    Answer(Answer),
    /// It is connected, or what the server allows has changed.
    Up(Details),
    /// It is not connected, and why: its transport ended, or could not be opened. It may be resumed.
    Down(Error),
    /// It was lost: what was unanswered has been answered as unknown, and the next one is another.
    Lost,
    /// End the transport at once, so that nothing more leaves.
    Hangup,
    /// It is over, and so is the session.
    Closed,
    /// It cannot be connected until a person changes something. It tries again, but rarely.
    Fatal(Error),
    /// Something for the log.
    Notice(Error),
}

/// What the server says of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Whether it is the connection that there was before.
    pub resumed: bool,
    /// Ably's name for it.
    pub ably_id: Arc<str>,
    /// Bytes of the largest message.
    pub max_message_size: u64,
    /// Frames a second from us.
    pub max_inbound_rate: Option<u64>,
    /// Who we are; `*` when we may be anyone.
    pub client_id: Option<Arc<str>>,
}
