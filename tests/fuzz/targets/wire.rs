//! Any frame.
#![no_main]
#![expect(dead_code, reason = "no target needs all of what they share")]

#[path = "../../it/fuzz/feed.rs"]
mod feed;
#[path = "../../it/fuzz/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::check(bytes));
