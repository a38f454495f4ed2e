//! What the tests of connections and of requests have in common.

use std::sync::Arc;
use std::time::Duration;

use super::auth::Auth;
use super::lease::Lease;
use super::pool::Settings;
use super::wire::Encoding;
use crate::config::Transport;
use crate::engine::{ConnectionId, Head, OpId, OpKind, Operation, Status};

/// For a server of the test's own.
pub(super) fn settings(transport: Transport, port: u16) -> Settings {
    Settings {
        endpoint: "127.0.0.1".into(),
        port,
        tls: false,
        transport,
        encoding: Encoding::Json,
        client_id: String::new(),
        agent: "tokenrelay/test".into(),
        append_rollup: Duration::ZERO,
        max_message_size: 65_536,
        ack_timeout: Duration::from_secs(30),
        trust_resume: false,
        requests_after: Duration::from_secs(3_600),
        in_flight_operations: 200,
        openings: 0,
        auth: Auth::key("app.id:secret").expect("a key"),
        lease: Lease::forever(),
    }
}

/// An operation on one message of a channel.
pub(super) fn operation(connection: ConnectionId, seq: u32, kind: OpKind, channel: &str) -> Operation {
    let head = Head {
        channel: channel.into(),
        response_id: "r".into(),
        part: 0,
        segment: 0,
        create_id: "c".into(),
        supersedes: None,
        prev: None,
    };
    Operation {
        id: OpId { partition: 0, slot: connection, generation: 0, seq },
        connection,
        kind,
        sender: Arc::default(),
        head: Arc::new(head),
        serial: (kind != OpKind::Create).then(|| "S@1".into()),
        data: "text".into(),
        keeps_text: false,
        status: Status::Streaming,
        segments: None,
        publish: None,
    }
}
