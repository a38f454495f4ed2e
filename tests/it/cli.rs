//! The real program, from outside: what it ends with, and what it says to the person who has to mend something.
//!
//! Whoever is woken reads one line. It must name the thing and what to do about it, and nothing may say it a second time; the
//! exit code tells a supervisor whether to start the program again.

mod checks;
mod program;
mod refusals;
mod rights;
mod secrets;
mod service;

use std::net::SocketAddr;

use tokenrelay::emulator::{self, Emulator};

use crate::e2e::KEY;

/// A server with a namespace, `fixed`, that lacks the rule for updates and appends.
async fn ably() -> Emulator {
    let config = emulator::Config {
        keys: vec![KEY.to_owned()],
        immutable_namespaces: vec!["fixed".to_owned()],
        ..emulator::Config::default()
    };
    emulator::start(config).await.expect("an emulator")
}

/// Where nobody listens.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
