//! The tests that need the whole: one binary.
#![expect(clippy::expect_used, clippy::panic, reason = "that is how a test fails, also in what tests share")]

mod ably;
mod cli;
mod config;
mod crash;
mod demo;
mod deploy;
mod e2e;
mod emulator;
mod fuzz;
mod kafka;
mod matrix;
mod mutants;
mod sdk;
mod tidy;
mod world;
