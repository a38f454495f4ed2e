//! Connections come, are resumed, drop and end.

use std::sync::Arc;
use std::time::Duration;

use crate::ably::wire::{ConnectionDetails, Encoding, ErrorInfo, ProtocolMessage, action};

use super::State;
use crate::emulator::auth::{Credentials, Grant};
use crate::emulator::connection::{Connection, Publisher};
use crate::emulator::errors::{Failure, failure, injected};
use crate::emulator::limits::{CONNECTIONS, FRAME_BYTES, IDLE, ROLLUP_MAX, STATE_TTL};
use crate::emulator::outbox::Outbox;

/// How a client connects.
#[derive(Debug)]
pub(in crate::emulator) struct Connect {
    pub(in crate::emulator) credentials: Credentials,
    pub(in crate::emulator) client_id: Option<String>,
    /// What it says that it is.
    pub(in crate::emulator) agent: Option<String>,
    pub(in crate::emulator) encoding: Encoding,
    pub(in crate::emulator) rollup: Option<Duration>,
    pub(in crate::emulator) echo: bool,
    pub(in crate::emulator) resume: Option<String>,
    pub(in crate::emulator) outbox: Outbox,
}

/// A client that is connected.
#[derive(Debug)]
pub(in crate::emulator) struct Connected {
    /// The connection.
    pub(in crate::emulator) connection: u64,
    /// Which of its transports this is.
    pub(in crate::emulator) transport: u32,
    /// As whom it publishes.
    pub(in crate::emulator) who: Arc<Publisher>,
    /// What to tell the client.
    pub(in crate::emulator) frame: ProtocolMessage<'static>,
}

impl State {
    /// A client connects. An error means: tell it, and hang up.
    pub(in crate::emulator) fn connect(&mut self, connect: Connect, now_ms: u64) -> Result<Connected, Failure> {
        self.forget_dropped(now_ms);
        if self.faults.refuse_connections || self.faults.refuse_websockets {
            self.struck(if self.faults.refuse_websockets { "refuse-websockets" } else { "refuse-connections" });
            return Err(injected(self.faults.refuse_code.unwrap_or(80003)));
        }
        self.check_agent(connect.agent.as_deref())?;
        let grant = self.let_in(&connect.credentials, now_ms)?.named(connect.client_id)?;
        let resumed = connect.resume.as_deref().map(|key| self.resume(key));
        let error = match resumed {
            Some(None) => {
                let code = self.faults.resume_code.unwrap_or(80018);
                Some(failure(code, 400, "Unable to recover connection: invalid or expired key"))
            }
            _ => None,
        };
        let number = match resumed.flatten() {
            Some(number) => {
                self.stats.resumed += 1;
                number
            }
            None => {
                self.stats.resumes_refused += u64::from(error.is_some());
                let rollup = connect.rollup.unwrap_or(self.config.append_rollup).min(ROLLUP_MAX);
                self.new_connection(grant.clone(), rollup, connect.echo)?
            }
        };
        let secret: String = std::iter::repeat_with(|| self.names.alphanumeric()).take(16).collect();
        if let Some(connection) = self.connections.get_mut(&number) {
            let key = format!("{}!{secret}", connection.who.connection_id);
            connection.grant(grant);
            connection.take(key, connect.encoding, connect.outbox);
        }
        self.stats.connected += 1;
        self.stats.connections_most = self.stats.connections_most.max(self.live());
        self.connected(number, error).ok_or_else(|| failure(80022, 410, "Connection not found"))
    }

    /// What a client is told about its connection.
    pub(in crate::emulator) fn connected(&self, number: u64, error: Option<ErrorInfo<'static>>) -> Option<Connected> {
        let connection = self.connections.get(&number)?;
        let key = &connection.key;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).ok();
        let details = ConnectionDetails {
            client_id: connection.who.grant.client_id.clone().map(Into::into),
            connection_key: Some(key.clone().into()),
            max_message_size: Some(self.told_size() as u64),
            max_frame_size: Some(FRAME_BYTES as u64),
            max_inbound_rate: Some(match (self.faults.told_rate, self.faults.rate_limit) {
                (0, 0) => 1_000_000,
                (0, limit) | (limit, _) => u64::from(limit),
            }),
            max_outbound_rate: Some(1_000_000),
            connection_state_ttl: millis(STATE_TTL),
            max_idle_interval: millis(IDLE),
            server_id: Some("emulator".into()),
            site_code: Some("local".into()),
        };
        let frame = ProtocolMessage {
            action: action::CONNECTED,
            connection_id: Some(connection.who.connection_id.clone().into()),
            connection_key: Some(key.clone().into()),
            connection_details: Some(details),
            error,
            ..ProtocolMessage::default()
        };
        let who = connection.who.clone();
        Some(Connected { connection: number, transport: connection.transports, who, frame })
    }

    /// New credentials on a live connection.
    pub(in crate::emulator) fn authorise(
        &mut self,
        number: u64,
        token: &str,
        now_ms: u64,
    ) -> Result<Connected, Failure> {
        if let Some(code) = self.faults.refuse_tokens {
            self.struck("refuse-tokens");
            return Err(injected(code));
        }
        let grant = self.let_in(&Credentials::Token(token.to_owned()), now_ms)?;
        if let Some(connection) = self.connections.get_mut(&number) {
            let own = connection.who.grant.identity().map(str::to_owned);
            connection.grant(grant.named(own)?);
        }
        self.stats.authorised += 1;
        self.connected(number, None).ok_or_else(|| failure(80022, 410, "Connection not found"))
    }

    /// What somebody may do who shows these.
    pub(in crate::emulator) fn let_in(&mut self, credentials: &Credentials, now_ms: u64) -> Result<Grant, Failure> {
        let grant = self.auth.check(credentials, now_ms)?;
        self.faults.check_key(&grant).inspect_err(|_| self.stats.strike("revoked-keys"))?;
        Ok(grant)
    }

    /// Whoever does not say what the account wants to hear is refused.
    pub(in crate::emulator) fn check_agent(&mut self, agent: Option<&str>) -> Result<(), Failure> {
        if !self.faults.require_agent.is_empty() {
            self.struck("require-agent");
        }
        match agent.unwrap_or_default().contains(&self.faults.require_agent) {
            true => Ok(()),
            false => Err(failure(40168, 401, "The account requires another agent of its clients")),
        }
    }

    /// A client says goodbye.
    pub(in crate::emulator) fn said_goodbye(&mut self) {
        self.stats.closed += 1;
    }

    /// A transport has ended. The connection's state stays for a while, unless the client said goodbye.
    pub(in crate::emulator) fn transport_ended(&mut self, number: u64, transport: u32, goodbye: bool, now_ms: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.transports != transport {
            return;
        }
        connection.dropped_at = Some(now_ms);
        self.leave_all(number);
        if goodbye {
            self.forget(number);
        }
    }

    /// The connection of a key, if its state is still there and chance allows.
    fn resume(&mut self, key: &str) -> Option<u64> {
        let (id, _) = key.split_once('!')?;
        let number = self.by_id.get(id).copied()?;
        let connection = self.connections.get(&number)?;
        if connection.key != key {
            return None;
        }
        if self.strikes("refuse-resume", self.faults.refuse_resume) {
            self.forget(number);
            return None;
        }
        Some(number)
    }

    fn new_connection(&mut self, grant: Grant, rollup: Duration, echo: bool) -> Result<u64, Failure> {
        if self.connections.len() >= CONNECTIONS {
            return Err(failure(40111, 403, "Account connection limit reached"));
        }
        self.connections_made += 1;
        let connection = self.connections_made;
        let connection_id: String = std::iter::repeat_with(|| self.names.alphanumeric()).take(10).collect();
        self.by_id.insert(connection_id.clone(), connection);
        let who = Arc::new(Publisher { connection, connection_id, grant });
        self.connections.insert(connection, Connection::new(who, rollup, echo));
        Ok(connection)
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
        self.leave_all(number);
        if let Some(connection) = self.connections.remove(&number) {
            self.by_id.remove(&connection.who.connection_id);
        }
    }
}
