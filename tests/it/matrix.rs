//! The scenarios of `deploy/scenarios`, each played through the demo on every transport: at its end every text is right and
//! every result is there, and nothing is given up on unless the scenario is about that. Each fault of the scenario must have
//! struck: where it cannot, `needs` says why.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokenrelay::config;
use tokenrelay::emulator::Scenario;
use tokio::process::Command;

use needs::Need;

mod needs;

/// How responses are put on channels.
const PATTERNS: [&str; 2] = ["message-per-response", "message-per-token"];
/// How operations travel.
const TRANSPORTS: [&str; 2] = ["realtime", "rest"];
/// Scenarios in which the right end of some responses is to be given up on: their messages are no longer ours to change.
const GIVEN_UP: [&str; 4] =
    ["25a-foreign-update", "25b-foreign-delete", "25c-foreign-delete-stays", "25d-foreign-delete-refuses"];
/// The stories have numbers from 1 on.
const STORIES: u32 = 30;
/// What strikes the demo's own subscriber, too, which is on a connection in every cell.
const SUBSCRIBERS: [&str; 3] = ["hang-up", "refuse-resume", "refuse-websockets"];
/// Runs at a time: most of a run is waiting.
const AT_ONCE: usize = 6;
/// A run that takes longer has come to nothing.
const PATIENCE: Duration = Duration::from_secs(240);

/// One cell of the matrix.
#[derive(Debug, Clone)]
struct Play {
    scenario: String,
    pattern: &'static str,
    transport: &'static str,
    responses: &'static str,
}

/// What came of it.
#[derive(Debug)]
struct Played {
    play: Play,
    summary: Value,
    said: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/scenarios")
}

/// The names of all scenarios, in order.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let scenarios = files.filter(|path| path.extension().is_some_and(|end| end == "toml"));
    let mut names: Vec<String> =
        scenarios.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn path(name: &str) -> PathBuf {
    folder().join(format!("{name}.toml"))
}

impl Play {
    fn needs(&self) -> Vec<Need> {
        needs::of(&path(&self.scenario), self.pattern, self.transport)
    }

    /// Why nothing of the scenario can happen here, if nothing can.
    fn nothing(&self) -> Option<&'static str> {
        let needs = self.needs();
        let lacks = needs.first().and_then(|need| need.lacks)?;
        needs.iter().all(|need| need.lacks.is_some()).then_some(lacks)
    }

    async fn run(self) -> Played {
        if self.nothing().is_some() {
            return Played { play: self, summary: Value::Null, said: String::new() };
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
        command.args(["demo", "--headless", "--seed", "7", "--speed", "4", "--responses", self.responses]);
        command.args(["--pattern", self.pattern, "--transport", self.transport, "--faults"]);
        command.arg(path(&self.scenario)).stdin(Stdio::null()).kill_on_drop(true).env_remove("RUST_LOG");
        match tokio::time::timeout(PATIENCE, command.output()).await {
            Err(_) => Played { play: self, summary: Value::Null, said: format!("no end within {PATIENCE:?}") },
            Ok(output) => {
                let output = output.expect("it runs");
                let summary = serde_json::from_slice(&output.stdout).unwrap_or_default();
                Played { play: self, summary, said: String::from_utf8_lossy(&output.stderr).into_owned() }
            }
        }
    }
}

impl Played {
    fn count(&self, name: &str) -> Option<u64> {
        self.summary[name].as_u64()
    }

    /// What is not as it should be, if anything.
    fn complaint(&self) -> Option<String> {
        if self.play.nothing().is_some() {
            return None;
        }
        let counts = ["wrongTexts", "wrongNotFailed", "missingResults", "surplusResults", "wrongHashes", "failed"];
        let [Some(wrong), Some(not_failed), Some(missing), Some(surplus), Some(hashes), Some(failed)] =
            counts.map(|name| self.count(name))
        else {
            return Some(format!("no summary: {}", self.said.trim()));
        };
        let given_up = GIVEN_UP.contains(&self.play.scenario.as_str());
        let texts = if given_up { not_failed == 0 && failed > 0 } else { wrong + failed == 0 };
        if texts && missing + surplus + hashes == 0 {
            return self.idle();
        }
        Some(format!("{}\n{}", self.summary["differences"], self.said.trim()))
    }

    /// The faults that have not struck as they should, if any.
    fn idle(&self) -> Option<String> {
        let struck = |fault: &str| self.summary["struck"][fault].as_u64().unwrap_or_default() > 0;
        let idle = |Need { fault, lacks, may }: Need| match (struck(&fault), lacks) {
            (false, None) if may.is_none() => Some(format!("{fault} has not struck")),
            (true, Some(why)) if !SUBSCRIBERS.contains(&fault.as_str()) => {
                Some(format!("{fault} has struck, though {why}"))
            }
            _ => None,
        };
        let idle: Vec<String> = self.play.needs().into_iter().filter_map(idle).collect();
        (!idle.is_empty()).then(|| idle.join(", "))
    }

    fn row(&self) -> String {
        let Play { scenario, pattern, transport, .. } = &self.play;
        let count = |name: &str| self.count(name).map_or_else(|| "-".to_owned(), |count| count.to_string());
        let counts =
            ["operations", "rejected", "unknown", "repairs", "failed", "wrongTexts", "missingResults"].map(count);
        let counts: String = counts.iter().map(|count| format!(" {count:>10}")).collect();
        let seconds = self.summary["seconds"].as_f64().unwrap_or_default();
        let verdict = match (self.play.nothing(), self.complaint()) {
            (Some(why), _) => format!("n/a: {why}"),
            (None, None) => "right".to_owned(),
            (None, complaint) if complaint == self.idle() => "IDLE".to_owned(),
            (None, Some(_)) => "WRONG".to_owned(),
        };
        let mut whys: Vec<String> = Vec::new();
        for Need { fault, lacks, may } in self.play.needs() {
            whys.extend(lacks.or(may).map(|why| format!("; {fault} n/a: {why}")));
        }
        let whys = if self.play.nothing().is_some() { String::new() } else { whys.concat() };
        format!("{scenario:<28} {pattern:<20} {transport:<9}{counts} {seconds:>8.1} {verdict}{whys}")
    }
}

/// Plays them all, prints the matrix, and fails if something is not as it should be.
async fn play(plays: impl Iterator<Item = Play>) {
    let titles = ["operations", "rejected", "unknown", "repairs", "failed", "wrong", "missing"];
    let titles: String = titles.iter().map(|title| format!(" {title:>10}")).collect();
    eprintln!("{:<28} {:<20} {:<9}{titles} {:>8}", "scenario", "pattern", "transport", "seconds");
    let mut played = futures_util::stream::iter(plays).map(Play::run).buffered(AT_ONCE);
    let mut complaints = Vec::new();
    while let Some(played) = played.next().await {
        eprintln!("{}", played.row());
        complaints.extend(played.complaint().map(|complaint| format!("{:?}: {complaint}", played.play)));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

/// The scenarios that are named by a part of their names, one after a comma. Each must be the name of something.
fn selected(wanted: &str) -> Result<Vec<String>, String> {
    let mut names = names();
    match wanted.split(',').find(|part| !names.iter().any(|name| name.contains(part))) {
        Some(part) => Err(format!("no scenario is named {part:?}")),
        None => {
            names.retain(|name| wanted.split(',').any(|part| name.contains(part)));
            Ok(names)
        }
    }
}

/// Those that `TOKENRELAY_MATRIX` names, on every transport and in every pattern.
fn all(responses: &'static str) -> impl Iterator<Item = Play> {
    let wanted = std::env::var("TOKENRELAY_MATRIX").unwrap_or_default();
    let names = selected(&wanted).unwrap_or_else(|problem| panic!("TOKENRELAY_MATRIX: {problem}"));
    names.into_iter().flat_map(move |scenario| {
        PATTERNS.iter().flat_map(move |pattern| {
            let scenario = scenario.clone();
            TRANSPORTS.iter().map(move |transport| Play { scenario: scenario.clone(), pattern, transport, responses })
        })
    })
}

#[tokio::test]
#[ignore = "takes many minutes: tests/run --long"]
async fn long_every_scenario_ends_with_right_texts() {
    play(all("40")).await;
}

#[test]
fn a_selection_of_nothing_is_refused() {
    assert_eq!(selected("").map(|names| names.len()), Ok(names().len()));
    assert_eq!(selected("25a,09-").map(|names| names.len()), Ok(2));
    assert!(selected("25a,typo").is_err_and(|problem| problem.contains("typo")));
}

#[tokio::test]
async fn some_scenarios_end_with_right_texts() {
    let some = [
        ("12a-null-creates", "realtime"),
        ("13-history-lag", "rest"),
        ("14e-answers-overlap", "realtime"),
        ("21d-renewal-fails", "rest"),
        ("24c-refused-appears-again", "realtime"),
        ("25a-foreign-update", "rest"),
        ("25d-foreign-delete-refuses", "rest"),
        ("28b-detached", "realtime"),
    ];
    let play_of = |(scenario, transport): (&str, &'static str)| Play {
        scenario: scenario.to_owned(),
        pattern: PATTERNS[0],
        transport,
        responses: "12",
    };
    play(some.into_iter().map(play_of)).await;
}

/// Whether the index names the tests that play a story without a file, and these know it.
fn is_played_elsewhere(index: &str, number: u32) -> bool {
    let row = index.lines().find(|line| line.starts_with(&format!("| {number} |")));
    let path = row.and_then(|row| row.rsplit_once("(../../")?.1.split_once(')'));
    path.is_some_and(|(path, _)| {
        let tests = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("tests");
        tests.contains(&format!("\"{number}: "))
    })
}

#[test]
fn every_scenario_can_be_read_and_is_in_the_index() {
    let index = std::fs::read_to_string(folder().join("README.md")).expect("an index");
    let names = names();
    assert!(names.len() > 60, "{names:?}");
    for name in &names {
        let scenario = Scenario::load(&path(name)).unwrap_or_else(|error| panic!("{error}"));
        let row = format!("| [{name}]({name}.toml) | {} |", scenario.about);
        assert!(index.contains(&row), "deploy/scenarios/README.md lacks:\n{row}");
        let source = config::Source { flags: scenario.settings, ..config::Source::default() };
        config::load(&source).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(index.matches(".toml) |").count(), names.len(), "the index names what is not there");
    for number in 1..=STORIES {
        let is_file = names.iter().any(|name| name.starts_with(&format!("{number:02}")));
        assert!(is_file || is_played_elsewhere(&index, number), "story {number} is not played");
    }
    for name in GIVEN_UP {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}
