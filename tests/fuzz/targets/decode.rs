//! Any record.
#![no_main]
#![expect(dead_code, reason = "no target needs all of what they share")]

#[path = "../../it/fuzz/decode.rs"]
mod decode;
#[path = "../../it/fuzz/feed.rs"]
mod feed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decode::check(bytes));
