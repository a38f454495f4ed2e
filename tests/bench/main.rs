//! Benchmarks: what the relay costs, beside a floor in the same run.
//!
//! The floor is the barest loop that consumes, encodes, sends, matches acknowledgements and writes results: what is above it
//! is the price of promises. Both talk to the same Kafka and to the same server, which only acknowledges. Relay, floor and
//! server are processes of their own (this program, called by another name), so that each one's CPU can be told apart.
//!
//! `tests/bench/run` provides a Kafka and calls this; goals are printed beside the numbers, and nothing fails for missing
//! one: machines differ.
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on has nothing to say")]

mod connections;
mod floor;
mod load;
mod process;
mod relay;
mod report;
mod scenario;
mod sink;

use std::io::Write;

/// What to run, and how large.
struct Plan {
    bootstrap: String,
    names: Vec<String>,
    scale: u32,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| name.contains(wanted.as_str()))
    }

    /// How often each saturated run is repeated.
    fn turns(&self) -> u32 {
        if self.scale == 1 { 3 } else { 1 }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.first().copied() {
        Some("as-sink") => sink::run(),
        Some("as-connections") => connections::run(&words[1..]),
        Some("as-floor") => floor::run(&floor::Options::parse(&words[1..])),
        Some("as-relay") => relay::run(&relay::Options::parse(&words[1..])),
        _ => bench(&words),
    }
}

fn bench(words: &[&str]) {
    let bootstrap =
        std::env::var("TOKENRELAY_TEST_KAFKA").expect("TOKENRELAY_TEST_KAFKA names a broker; see tests/bench/run");
    let scale = if words.contains(&"--quick") { 10 } else { 1 };
    let names = words.iter().filter(|word| !word.starts_with("--")).map(|word| (*word).to_owned()).collect();
    let plan = Plan { bootstrap, names, scale };
    let rows = scenario::all(&plan);
    let (table, json) = (report::table(&rows), report::json(&rows));
    std::io::stderr().write_all(table.as_bytes()).expect("written");
    std::io::stdout().write_all(json.as_bytes()).expect("written");
}
