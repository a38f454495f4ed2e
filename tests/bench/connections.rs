//! Connections at rest, and nothing else: what each of them costs.

use std::io::{BufRead, Write};

use tokenrelay::ably::{Event, Pool, Settings};
use tokio::sync::mpsc;

use super::relay;

/// Opens as many connections as it is told to when it is told to open them, says when they are up, and rests.
pub(crate) fn run(words: &[&str]) {
    let [port, count]: [&str; 2] = words.try_into().expect("a port and a number");
    let (port, count) = (port.parse().expect("a port"), count.parse().expect("a number"));
    let mut config = relay::ably(port);
    config.connections.openings = 0;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (sender, mut events) = mpsc::channel(1_024);
    let mut pool = Pool::new(Settings::from_config(&config).expect("settings"), sender);
    let (mut input, mut out) = (std::io::stdin().lock().lines(), std::io::stdout());
    writeln!(out, "started").expect("written");
    input.next().expect("a line").expect("a line");
    runtime.block_on(async {
        (0..count).for_each(|connection| pool.open(connection));
        let mut up = 0;
        while up < count {
            let event = events.recv().await.expect("an event");
            assert!(matches!(event, Event::Up { .. }), "{event:?}");
            up += 1;
        }
    });
    writeln!(out, "up").expect("written");
    // It ends with whoever started it.
    input.for_each(drop);
}
