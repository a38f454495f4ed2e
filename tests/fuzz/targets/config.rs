//! Any configuration.
#![no_main]

#[path = "../../it/fuzz/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| config::check(bytes));
