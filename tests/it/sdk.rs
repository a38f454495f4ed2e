//! The official Ably clients, unmodified, against the emulator: what they show to be wrong is wrong.
//!
//! They are installed from their registries into `target/clients`, once, and driven by the small programs in `clients/`.
//! Each program checks what it sees and says so; here is checked what the emulator saw of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use install::{ably_js, ably_python, compiled_reader, front_end, run};
use subscriber::Subscriber;
use tokenrelay::emulator::{self, Config, Emulator, Faults, Stats};
use tokio::process::Command;

mod install;
pub(crate) mod subscriber;

/// A program that hangs is a test that fails.
const PATIENCE: Duration = Duration::from_secs(120);
const KEY: &str = "app.key:secret";

async fn start(faults: &str) -> Emulator {
    let faults = Faults::parse_list(faults).expect("faults");
    let config = Config {
        keys: vec![KEY.to_owned()],
        faults,
        immutable_namespaces: vec!["fixed".to_owned()],
        ..Config::default()
    };
    emulator::start(config).await.expect("starts")
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name)
}

/// Gives a program its place: the emulator, its key, the format.
fn place(command: &mut Command, emulator: &Emulator, format: &str) {
    let address = emulator.local_addr();
    command.arg(address.ip().to_string()).arg(address.port().to_string()).args([KEY, format]);
}

/// Runs a program of the JavaScript client against the emulator.
async fn js(emulator: &Emulator, name: &str, format: &str) -> Stats {
    let mut node = Command::new("node");
    node.arg(program(name)).env("ABLY_JS", ably_js().await);
    place(&mut node, emulator, format);
    run(node, PATIENCE).await;
    emulator.stats()
}

#[tokio::test(flavor = "multi_thread")]
async fn ably_js_does_everything_on_channels() {
    for format in ["json", "msgpack"] {
        let stats = js(&start("").await, "channels.mjs", format).await;
        assert_eq!((stats.repeated, stats.dropped, stats.unanswered), (0, 0, 0), "{stats:?}");
        assert!(stats.appends > 300 && stats.updates > 0 && stats.deletes > 0, "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ably_js_gets_in_with_what_allows_it_and_no_further() {
    for format in ["json", "msgpack"] {
        js(&start("").await, "access.mjs", format).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ably_js_recovers_from_drops() {
    for format in ["json", "msgpack"] {
        let stats = js(&start("").await, "drops.mjs", format).await;
        assert!(stats.dropped > 0 && stats.resumed > 0 && stats.resumes_refused > 0, "{stats:?}");
        assert!(stats.repeated > 0 && stats.unanswered > 0, "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ably_python_does_the_same() {
    for format in ["json", "msgpack"] {
        let emulator = start("").await;
        let mut python = Command::new(ably_python().await.join("bin/python"));
        python.arg(program("tour.py"));
        place(&mut python, &emulator, format);
        run(python, PATIENCE).await;
        let stats = emulator.stats();
        assert!(stats.appends > 300 && stats.repeated > 0 && stats.resumed > 0, "{stats:?}");
    }
}

/// The reader in the demo's page, compiled: who builds the demo needs no compiler for it.
const PAGE_READER: &str = "src/demo/page/reader.js";

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_for_front_ends_reads() {
    let (folder, out) = (front_end().await, compiled_reader().await);
    let compiled = std::fs::read_to_string(out.join("reader.js")).expect("it was compiled");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE_READER);
    if std::env::var_os("UPDATE_READER").is_some() {
        std::fs::write(&page, &compiled).expect("written");
    }
    let shown = std::fs::read_to_string(page).expect("the page has a reader");
    assert_eq!(
        shown, compiled,
        "{PAGE_READER} is out of date: UPDATE_READER=1 cargo test --test it reader_for_front_ends"
    );
    for (name, count) in [("follow.mjs", 8), ("react.mjs", 5)] {
        let mut node = Command::new("node");
        node.arg(program(name)).env("ABLY_JS", folder).env("READER", out);
        let said = run(node, PATIENCE).await;
        assert_eq!(said.lines().filter(|line| line.starts_with("ok: ")).count(), count, "{said}");
    }
    for format in ["json", "msgpack"] {
        let emulator = start("").await;
        let mut node = Command::new("node");
        node.arg(program("reader.mjs")).env("ABLY_JS", folder);
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/reader/vectors.json");
        node.env("READER", out).env("VECTORS", vectors);
        node.env("DOCS", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/readers.md"));
        place(&mut node, &emulator, format);
        let said = run(node, PATIENCE).await;
        assert_eq!(said.lines().filter(|line| line.starts_with("ok: ")).count(), 11, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_tells_what_it_sees() {
    let emulator = start("").await;
    let mut subscriber = Subscriber::start(emulator.local_addr(), KEY, "msgpack", &["ai:one", "ai:two"]).await;
    let url = format!("http://{}/channels/ai%3Aone/messages?key={KEY}", emulator.local_addr());
    let _already = rustls::crypto::ring::default_provider().install_default();
    let request = reqwest::Client::new().post(url).header("content-type", "application/json");
    request.body(r#"{"data":"hello"}"#).send().await.expect("asked").error_for_status().expect("published");
    let event = subscriber.next().await;
    assert_eq!((event["action"].as_str(), event["data"].as_str()), (Some("message.create"), Some("hello")));
    let serial = event["serial"].as_str().expect("a serial").to_owned();
    let texts = subscriber.finish().await.texts;
    assert_eq!(texts["ai:one"][&serial]["text"], "hello");
    assert_eq!(texts["ai:two"], serde_json::json!({}));
}
