//! The pool: the connections to Ably, by number.
//!
//! Each has a task of its own (`realtime`, or `rest`); this is the handle that the pipeline holds. Sending never waits: an operation
//! exists only once it has a permit, there are at most `in_flight_operations` permits per connection, and so many batches
//! fit into its queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::auth::Auth;
use super::fault::{self, Error};
use super::lease::Lease;
use super::realtime::Connection;
use super::rest::Rest;
use super::session;
use super::transport::Target;
use super::wire::Encoding;
use crate::config::{self, Transport, WireEncoding};
use crate::engine::{Answer, ConnectionId, Operation, Outcome, Pipelining};

/// What the connections of a pool have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A routing policy, or a host name or address.
    pub endpoint: String,
    /// The port.
    pub port: u16,
    /// TLS; off only for a local server.
    pub tls: bool,
    /// How operations travel.
    pub transport: Transport,
    /// How frames and bodies are encoded.
    pub encoding: Encoding,
    /// Our identity; empty for none.
    pub client_id: String,
    /// What we call ourselves.
    pub agent: String,
    /// The server's rollup window.
    pub append_rollup: Duration,
    /// Bytes of the largest message, where nothing says.
    pub max_message_size: u64,
    /// How long a frame may be unanswered before the transport is dropped, or a request before it is given up.
    pub ack_timeout: Duration,
    /// Frames that are sent again after a resume are answered as if they were not.
    pub trust_resume: bool,
    /// How long there is no WebSocket before operations go by request.
    pub requests_after: Duration,
    /// Operations in flight on one connection.
    pub in_flight_operations: u32,
    /// New connections a second; 0 for any number.
    pub openings: u32,
    /// Key or token.
    pub auth: Auth,
    /// Until when operations may be written.
    pub lease: Lease,
}

impl Settings {
    /// What the configuration says.
    ///
    /// # Errors
    /// When it holds no usable credentials.
    pub fn from_config(config: &config::Ably) -> Result<Self, Error> {
        let agent = if config.agent.is_empty() { AGENT } else { &config.agent };
        Ok(Self {
            endpoint: config.endpoint.clone(),
            port: config.port,
            tls: config.tls,
            transport: config.transport,
            encoding: match config.encoding {
                WireEncoding::Json => Encoding::Json,
                WireEncoding::Msgpack => Encoding::Msgpack,
            },
            client_id: config.client_id.clone(),
            agent: agent.to_owned(),
            append_rollup: config.append_rollup,
            max_message_size: config.max_message_size.as_u64(),
            ack_timeout: config.ack_timeout,
            trust_resume: config.trust_resume,
            requests_after: REQUESTS_AFTER,
            in_flight_operations: config.in_flight.operations,
            openings: config.connections.openings,
            auth: Auth::from_config(config)?,
            lease: Lease::forever(),
        })
    }
}

/// As long as Ably's own clients wait between attempts [Ably: `disconnectedRetryTimeout`].
const REQUESTS_AFTER: Duration = Duration::from_secs(15);

const AGENT: &str = concat!("tokenrelay/", env!("CARGO_PKG_VERSION"));

/// What happens on the connections, in order for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection is up, or what the server allows on it has changed.
    Up {
        /// Which.
        connection: ConnectionId,
        /// It is the one that there was before.
        resumed: bool,
        /// Ably's name for it.
        ably_id: Arc<str>,
        /// Whether a response may have several operations under way on it.
        pipelining: Pipelining,
        /// Bytes of the largest message.
        max_message_size: u64,
        /// Frames a second from us.
        max_inbound_rate: Option<u64>,
        /// Who we are; `*` when we may be anyone.
        client_id: Option<Arc<str>>,
    },
    /// A connection has no transport, or could not get one; it may be resumed. To be given nothing until it is up.
    Down {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: Error,
    },
    /// A connection was lost and will not be resumed: what was unanswered on it was answered before this.
    Lost {
        /// Which.
        connection: ConnectionId,
    },
    /// A connection is about to be replaced by the next one, which is up: to be given nothing more, and to be
    /// [told](Pool::leave) when nothing more will come.
    Leaving {
        /// Which.
        connection: ConnectionId,
    },
    /// A connection has ended in order, all on it answered, and what takes its place goes on under its number: another
    /// connection, or requests; or those have ended, and a connection goes on.
    Replaced {
        /// Which.
        connection: ConnectionId,
    },
    /// A connection that was to be closed is; nothing more is said of it.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// Operations have their answers.
    Answers(Vec<Answer>),
    /// A connection cannot be made until a person changes something; what, is in the message. It tries again, but rarely.
    Fatal {
        /// Which.
        connection: ConnectionId,
        /// Why, and the remedy.
        error: Error,
    },
}

impl Event {
    pub(super) fn up(connection: ConnectionId, details: session::Details) -> Self {
        let session::Details { resumed, ably_id, max_message_size, max_inbound_rate, client_id } = details;
        let pipelining = Pipelining::On;
        Self::Up { connection, resumed, ably_id, pipelining, max_message_size, max_inbound_rate, client_id }
    }
}

/// The connections to Ably.
#[derive(Debug)]
pub struct Pool {
    settings: Settings,
    target: Arc<Target>,
    events: mpsc::Sender<Event>,
    connections: Vec<Option<Handle>>,
    /// Connections that are being closed one by one.
    closing: Vec<Handle>,
}

/// What a connection is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Send these, in order.
    Send(Vec<Operation>),
    /// Give the connection up, if anything on it is unanswered.
    Abandon,
    /// Nothing more will be sent: the next one may take over.
    Leave,
    /// End within this time.
    Close {
        /// How long it may take.
        deadline: Duration,
    },
}

#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Pool {
    /// A pool without connections; what happens on them goes to `events`.
    #[must_use]
    pub fn new(settings: Settings, events: mpsc::Sender<Event>) -> Self {
        let target = Arc::new(Target::new(&settings));
        Self { settings, target, events, connections: Vec::new(), closing: Vec::new() }
    }

    /// Opens a connection, if it is not there yet. It opens itself again for as long as the pool lives.
    pub fn open(&mut self, connection: ConnectionId) {
        let index = connection as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        if self.connections[index].is_some() {
            return;
        }
        // As many batches as there are permits, and the commands to give up, to leave and to close.
        let capacity = self.settings.in_flight_operations as usize + 3;
        let (commands, receiver) = mpsc::channel(capacity);
        let (settings, events) = (&self.settings, self.events.clone());
        let task = match settings.transport {
            Transport::Realtime => {
                let target = self.target.clone();
                tokio::spawn(Connection::new(connection, settings, target, receiver, events).run())
            }
            Transport::Rest => tokio::spawn(Rest::new(connection, settings, receiver, events).run()),
        };
        self.connections[index] = Some(Handle { commands, task });
    }

    /// Sends operations on a connection, in order, and leaves `operations` empty. Never waits.
    pub fn send(&mut self, connection: ConnectionId, operations: &mut Vec<Operation>) {
        if operations.is_empty() {
            return;
        }
        self.open(connection);
        let command = Command::Send(std::mem::take(operations));
        let Some(handle) = &self.connections[connection as usize] else { return };
        if let Err(error) = handle.commands.try_send(command)
            && let Command::Send(operations) = error.into_inner()
        {
            self.refuse(connection, operations);
        }
    }

    /// Gives a connection up: what is unanswered on it is not written again, and answered as unknown. Another takes its place.
    pub fn abandon(&self, connection: ConnectionId) {
        let Some(Some(handle)) = self.connections.get(connection as usize) else { return };
        // If there is no room, the same command waits already.
        let _ = handle.commands.try_send(Command::Abandon);
    }

    /// Nothing more is sent on a connection that is leaving.
    pub fn leave(&self, connection: ConnectionId) {
        let Some(Some(handle)) = self.connections.get(connection as usize) else { return };
        // Whose task has ended is not replaced any more.
        let _ = handle.commands.try_send(Command::Leave);
    }

    /// Closes one connection that carries nothing any more. It may be opened again when it says that it is closed.
    pub fn close_one(&mut self, connection: ConnectionId) {
        let Some(handle) = self.connections.get_mut(connection as usize).and_then(Option::take) else { return };
        // A task that has ended needs no command.
        let _ = handle.commands.try_send(Command::Close { deadline: CLOSED_WITHIN });
        self.closing.retain(|handle| !handle.task.is_finished());
        self.closing.push(handle);
    }

    /// Closes all connections: each waits for its answers, says goodbye, and ends at `deadline` whatever is unanswered. The
    /// last answers are among the events when this returns; who reads them must not stop meanwhile.
    pub fn close(&mut self, deadline: Duration) -> impl Future<Output = ()> + Send + use<> {
        let mut handles: Vec<Handle> = std::mem::take(&mut self.connections).into_iter().flatten().collect();
        handles.append(&mut self.closing);
        for handle in &handles {
            // A task that has ended needs no command.
            let _ = handle.commands.try_send(Command::Close { deadline });
        }
        async move {
            let end = tokio::time::Instant::now() + deadline + GRACE;
            for mut handle in handles {
                if tokio::time::timeout_at(end, &mut handle.task).await.is_err() {
                    handle.task.abort();
                }
            }
        }
    }

    /// The connection's task is gone, or was given more than it has room for: a bug of ours, but no operation goes without
    /// an answer.
    fn refuse(&self, connection: ConnectionId, operations: Vec<Operation>) {
        tracing::error!(connection, operations = operations.len(), "connection takes no operations");
        let outcome = Outcome::Rejected(fault::never_sent());
        let answer =
            |operation: Operation| Answer { op: operation.id, connection, outcome: outcome.clone(), resent: false };
        let answers = Event::Answers(operations.into_iter().map(answer).collect());
        let events = self.events.clone();
        tokio::spawn(async move { events.send(answers).await });
    }
}

/// How long one connection may take to say goodbye.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// For a task to notice that its deadline has passed.
const GRACE: Duration = Duration::from_millis(500);
