//! Any server.
#![no_main]
#![expect(dead_code, reason = "no target needs all of what they share")]

#[path = "../../it/fuzz/feed.rs"]
mod feed;
#[path = "../../it/fuzz/session.rs"]
mod session;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    session::check(bytes);
});
