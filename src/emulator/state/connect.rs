//! Connections come, are resumed, drop and end.

use std::time::Duration;

use axum::extract::ws;
use tokio::sync::mpsc;

use crate::ably::wire::{ConnectionDetails, Encoding, ErrorInfo, ProtocolMessage, action};

use super::State;
use crate::emulator::auth::Credentials;
use crate::emulator::connection::Connection;
use crate::emulator::errors::{Failure, failure};
use crate::emulator::limits::{CONNECTIONS, FRAME_BYTES, IDLE, STATE_TTL};

/// How a client connects.
#[derive(Debug)]
pub(in crate::emulator) struct Connect {
    pub(in crate::emulator) credentials: Credentials,
    pub(in crate::emulator) client_id: Option<String>,
    pub(in crate::emulator) encoding: Encoding,
    pub(in crate::emulator) rollup: Option<Duration>,
    pub(in crate::emulator) echo: bool,
    pub(in crate::emulator) resume: Option<String>,
    pub(in crate::emulator) outbox: mpsc::Sender<ws::Message>,
}

/// A client that is connected.
#[derive(Debug)]
pub(in crate::emulator) struct Connected {
    /// The connection.
    pub(in crate::emulator) connection: u64,
    /// Which of its transports this is.
    pub(in crate::emulator) transport: u32,
    /// What to tell the client.
    pub(in crate::emulator) frame: ProtocolMessage<'static>,
}

impl State {
    /// A client connects. An error means: tell it, and hang up.
    pub(in crate::emulator) fn connect(&mut self, connect: Connect, now_ms: u64) -> Result<Connected, Failure> {
        self.forget_dropped(now_ms);
        if self.faults.refuse_connections {
            return Err(failure(80003, 503, "The emulator refuses connections"));
        }
        let mut grant = self.auth.check(&connect.credentials, now_ms)?;
        match (&grant.client_id, connect.client_id) {
            (Some(own), Some(wanted)) if own != "*" && *own != wanted => {
                return Err(failure(40102, 401, "Incompatible credentials: another client id"));
            }
            (None, Some(wanted)) => grant.client_id = Some(wanted),
            _ => {}
        }
        let resumed = connect.resume.as_deref().map(|key| self.resume(key));
        let mut error = None;
        let number = match resumed {
            Some(Some(number)) => number,
            other => {
                error = other.map(|_| failure(80018, 400, "Unable to recover connection: invalid or expired key"));
                self.new_connection()?
            }
        };
        if let (Some(connection), None) = (self.connections.get_mut(&number), &error)
            && connect.resume.is_some()
        {
            connection.transports += 1;
            connection.outbox = connect.outbox;
            connection.encoding = connect.encoding;
            connection.dropped_at = None;
            self.stats.resumed += 1;
        } else {
            let id: String = std::iter::repeat_with(|| self.random.alphanumeric()).take(10).collect();
            let rollup = connect.rollup.unwrap_or(self.config.append_rollup).min(Duration::from_millis(500));
            let connection = Connection::new(id, grant, connect.encoding, rollup, connect.echo, connect.outbox);
            self.connections.insert(number, connection);
            self.stats.resumes_refused += u64::from(error.is_some());
        }
        self.stats.connected += 1;
        self.connected(number, error).ok_or_else(|| failure(80022, 410, "Connection not found"))
    }

    /// What a client is told about its connection.
    pub(in crate::emulator) fn connected(
        &mut self,
        number: u64,
        error: Option<ErrorInfo<'static>>,
    ) -> Option<Connected> {
        let connection = self.connections.get(&number)?;
        let key = connection.key();
        self.by_key.insert(key.clone(), number);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).ok();
        let details = ConnectionDetails {
            client_id: Some(connection.grant.client_id.clone().unwrap_or_else(|| "*".to_owned()).into()),
            connection_key: Some(key.clone().into()),
            max_message_size: Some(self.config.max_message_size as u64),
            max_frame_size: Some(FRAME_BYTES as u64),
            max_inbound_rate: Some(match self.faults.rate_limit {
                0 => 1_000_000,
                limit => u64::from(limit),
            }),
            max_outbound_rate: Some(1_000_000),
            connection_state_ttl: millis(STATE_TTL),
            max_idle_interval: millis(IDLE),
            server_id: Some("emulator".into()),
            site_code: Some("local".into()),
        };
        let frame = ProtocolMessage {
            action: action::CONNECTED,
            connection_id: Some(connection.id.clone().into()),
            connection_key: Some(key.into()),
            connection_details: Some(details),
            error,
            ..ProtocolMessage::default()
        };
        Some(Connected { connection: number, transport: connection.transports, frame })
    }

    /// New credentials on a live connection.
    pub(in crate::emulator) fn authorise(
        &mut self,
        number: u64,
        token: &str,
        now_ms: u64,
    ) -> Result<Connected, Failure> {
        let grant = self.auth.check(&Credentials::Token(token.to_owned()), now_ms)?;
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.grant = grant;
        }
        self.connected(number, None).ok_or_else(|| failure(80022, 410, "Connection not found"))
    }

    /// A transport has ended. The connection's state stays for a while, unless the client said goodbye.
    pub(in crate::emulator) fn transport_ended(&mut self, number: u64, transport: u32, goodbye: bool, now_ms: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.transports != transport {
            return;
        }
        connection.dropped_at = Some(now_ms);
        connection.attached = 0;
        for channel in self.channels.values_mut() {
            channel.attachments.retain(|attachment| attachment.connection != number);
        }
        if goodbye {
            self.forget(number);
        }
    }

    /// The connection of a key, if its state is still there and chance allows.
    fn resume(&mut self, key: &str) -> Option<u64> {
        let number = self.by_key.get(key).copied()?;
        let refused = self.strikes(self.faults.refuse_resume);
        let connection = self.connections.get(&number)?;
        if refused || connection.key() != key {
            self.forget(number);
            return None;
        }
        Some(number)
    }

    fn new_connection(&mut self) -> Result<u64, Failure> {
        if self.connections.len() >= CONNECTIONS {
            return Err(failure(40111, 403, "Account connection limit reached"));
        }
        self.connections_made += 1;
        Ok(self.connections_made)
    }

    fn forget_dropped(&mut self, now_ms: u64) {
        let ttl = u64::try_from(STATE_TTL.as_millis()).unwrap_or(u64::MAX);
        let expired = |connection: &Connection| connection.dropped_at.is_some_and(|at| now_ms.saturating_sub(at) > ttl);
        let numbers: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| expired(connection)).map(|(number, _)| *number).collect();
        for number in numbers {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u64) {
        self.connections.remove(&number);
        self.by_key.retain(|_, known| *known != number);
    }
}
