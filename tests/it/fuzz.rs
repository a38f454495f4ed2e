//! What `tests/fuzz` feeds with any bytes, fed here with those that are kept: what was found once is not lost again.
//!
//! A target is a function of bytes that must hold for all of them. The fuzzer looks for bytes for which it does not
//! (`tests/run --long`); what it finds goes into `tests/fuzz/corpus` before it is mended.

mod config;
mod decode;
mod feed;
mod session;
mod wire;

use std::fs;
use std::path::Path;

/// Plays every file that is kept for a target.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut played = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("an entry").path();
        eprintln!("{}", path.display());
        check(&fs::read(&path).expect("a file"));
        played += 1;
    }
    assert!(played > 0, "{} is empty", folder.display());
}

#[test]
fn kept_records_are_decoded_or_refused() {
    replay("decode", decode::check);
}

#[test]
fn kept_frames_are_frames_or_refused() {
    replay("wire", wire::check);
}

#[test]
fn kept_configurations_are_loaded_or_refused() {
    replay("config", config::check);
}

#[test]
fn kept_servers_are_answered_for() {
    replay("session", |bytes| {
        session::check(bytes);
    });
}

#[test]
fn whatever_the_server_does_every_operation_is_answered_once_and_truly() {
    const SEEDS: u64 = 3_000;
    let mut all = session::Played::default();
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(600).collect();
        let played = std::panic::catch_unwind(|| session::check(&bytes));
        let played = played.unwrap_or_else(|_| panic!("seed {seed}"));
        all.acked += played.acked;
        all.rejected += played.rejected;
        all.unknown += played.unknown;
        all.resent += played.resent;
        all.resumed += played.resumed;
        all.lost += played.lost;
    }
    let lively = [all.acked, all.rejected, all.unknown, all.resent, all.resumed, all.lost];
    assert!(lively.iter().all(|count| u64::from(*count) > SEEDS / 2), "the worlds are lively: {all:?}");
}
