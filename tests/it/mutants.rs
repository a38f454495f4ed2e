//! Mutants: bugs are planted, one at a time, into a copy of the engine and the session, and the simulator must catch each.
//!
//! The copies live in throw-away crates with the simulator and the few dependencies that these parts have, in the versions
//! of our own lock file; what was built for one mutant serves the next. A mutant that does not compile, or whose line is not
//! found exactly once, is a failure of this test, not a catch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use planted::{MUTANTS, Mutant};

mod planted;

const MANIFEST: &str = r#"
[package]
name = "mutants"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
base64 = "0.23"
bytes = "1"
compact_str = { version = "0.10", features = ["serde"] }
fastrand = "2"
foldhash = "0.2"
globset = { version = "0.4", default-features = false }
hashbrown = { version = "0.17", default-features = false }
unicode-segmentation = "1.12"
jiff = { version = "1", default-features = false, features = ["std"] }
rmp-serde = "1"
schemars = "1"
serde = { version = "1", features = ["derive", "rc"] }
serde_bytes = "0.11"
serde_json = { version = "1", features = ["raw_value"] }
sha2 = "0.11"
thiserror = "2"

[profile.test]
opt-level = 1
debug = false

[profile.test.package."*"]
opt-level = 3
"#;

const LIB: &str =
    "#![allow(warnings)]\npub mod ably;\npub mod engine;\npub mod kafka;\npub mod pipeline;\n#[cfg(test)]\nmod sim;\n";
const KAFKA: &str = "mod handover;\npub mod predecessor;\npub use handover::*;\n";
const PIPELINE: &str = "pub mod stay;\n";
const ABLY: &str = "pub mod encode;\npub mod fault;\npub mod session;\npub mod wire;\n";

/// What is copied, by its path here and there. A folder goes with its file.
const COPIED: [(&str, &str); 10] = [
    ("src/engine.rs", "engine.rs"),
    ("src/ably/encode.rs", "ably/encode.rs"),
    ("src/ably/fault.rs", "ably/fault.rs"),
    ("src/ably/session.rs", "ably/session.rs"),
    ("src/ably/wire.rs", "ably/wire.rs"),
    ("src/kafka/handover.rs", "kafka/handover.rs"),
    ("src/kafka/predecessor.rs", "kafka/predecessor.rs"),
    ("src/pipeline/stay.rs", "pipeline/stay.rs"),
    ("tests/it/fleet.rs", "fleet.rs"),
    ("tests/it/sim.rs", "sim.rs"),
];

/// What plays: one process, named troubles, channels that take no changes at times, many processes. And how many seeds a mutant
/// may survive, and the program without one must.
const PLAYS: [(&str, u32); 6] = [
    ("sim::every_text_is_right_at_rest", 10_000),
    ("sim::scripts::scripts_end_well", 0),
    ("sim::whole::every_text_is_right_where_the_rule_is_turned_on_and_off", 10_000),
    ("sim::whole::no_more_is_left_behind_than_was_tried", 0),
    ("sim::fleet::every_text_is_right_where_the_rule_is_turned_on_and_off", 10_000),
    ("sim::fleet::every_text_is_right_whoever_dies", 100_000),
];

/// How many mutants are tried at the same time: while one is compiled, mostly on one core, another is played.
const BENCHES: usize = 2;

/// A throw-away crate.
struct Bench {
    root: PathBuf,
}

impl Bench {
    fn new(number: usize) -> Self {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bench = Self { root: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutants-{number}")) };
        // A run that was interrupted may have left anything; what was built of the dependencies is good.
        for left_over in ["src", "target/debug/incremental"] {
            let _fresh = fs::remove_dir_all(bench.root.join(left_over));
        }
        bench.write("Cargo.toml", MANIFEST);
        fs::copy(home.join("Cargo.lock"), bench.root.join("Cargo.lock")).expect("the lock file is copied");
        bench.write("src/lib.rs", LIB);
        bench.write("src/ably.rs", ABLY);
        bench.write("src/kafka.rs", KAFKA);
        bench.write("src/pipeline.rs", PIPELINE);
        for (from, to) in COPIED {
            bench.copy(&home.join(from), &Path::new("src").join(to));
        }
        bench
    }

    /// Copies a file and the folder that goes with it, without the tests that have files of their own.
    fn copy(&self, from: &Path, to: &Path) {
        let text = fs::read_to_string(from).expect("a source can be read").replace("#[cfg(test)]\nmod tests;\n", "");
        self.write(to, &text);
        let Ok(entries) = fs::read_dir(from.with_extension("")) else { return };
        for entry in entries {
            let path = entry.expect("a folder can be read").path();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            if is_source && !path.ends_with("tests.rs") {
                let name = path.file_name().expect("a source has a name");
                self.copy(&path, &to.with_extension("").join(name));
            }
        }
    }

    fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder is made");
        fs::write(path, text).expect("a source is written");
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.root.join("src").join(file)).expect("a source can be read")
    }

    /// Builds the crate; gives the program that plays the simulator.
    fn build(&self) -> PathBuf {
        let built = Command::new(env!("CARGO"))
            .args(["test", "--offline", "--lib", "--no-run", "--message-format=json"])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", self.root.join("target"))
            .output()
            .expect("cargo runs");
        let said = String::from_utf8_lossy(&built.stdout);
        assert!(built.status.success(), "it does not compile:\n{}", rendered(&said));
        let mut messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let program = messages.find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
        program.expect("cargo names the program that it built")
    }

    /// Plays everything. Gives what was broken first.
    fn play(&self) -> Option<String> {
        let program = self.build();
        PLAYS.into_iter().find_map(|(test, seeds)| {
            let played = Command::new(&program)
                .args(["--exact", test])
                .env("TOKENRELAY_SIM_SEEDS", seeds.to_string())
                .env("TOKENRELAY_SIM_BRIEF", "1")
                .env_remove("TOKENRELAY_SIM_SEED")
                .output()
                .expect("the simulator runs");
            let said = String::from_utf8_lossy(&played.stdout).into_owned();
            assert!(said.contains("running 1 test"), "there is no test {test}: {said}");
            let broken = said.lines().find(|line| line.starts_with("seed ")).unwrap_or("a panic");
            (!played.status.success()).then(|| broken.to_owned())
        })
    }

    /// Plants a bug, and gives what the simulator says of it.
    fn try_out(&self, mutant: &Mutant) -> Option<String> {
        let text = self.read(mutant.file);
        let found = text.matches(mutant.right).count();
        assert_eq!(found, 1, "{}: {:?} must be there once in {}", mutant.name, mutant.right, mutant.file);
        let path = Path::new("src").join(mutant.file);
        self.write(&path, &text.replace(mutant.right, mutant.wrong));
        let broken = self.play();
        self.write(&path, &text);
        broken
    }
}

/// The errors among cargo's messages.
fn rendered(said: &str) -> String {
    let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.filter_map(|message| Some(message["message"]["rendered"].as_str()?.to_owned())).collect()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes; the test command runs it in release")]
fn the_simulator_catches_every_planted_bug() {
    catches(|mutant| !mutant.long);
}

#[test]
#[ignore = "takes minutes: tests/run --long"]
fn long_the_simulator_catches_the_rest() {
    catches(|mutant| mutant.long);
}

fn catches(wanted: impl Fn(&Mutant) -> bool) {
    let mutants: &Vec<_> = &MUTANTS.iter().filter(|mutant| wanted(mutant)).collect();
    let taken = AtomicUsize::new(0);
    let try_out_some = &|number| {
        let bench = Bench::new(number);
        if number == 0 {
            assert_eq!(bench.play(), None, "without a bug nothing is to be caught");
        }
        let mut survivors = Vec::new();
        while let Some(mutant) = mutants.get(taken.fetch_add(1, Ordering::Relaxed)) {
            let broken = bench.try_out(mutant);
            eprintln!("{:<60} {}", mutant.name, broken.as_deref().unwrap_or("SURVIVES"));
            survivors.extend(broken.is_none().then_some(mutant.name));
        }
        survivors
    };
    let survivors: Vec<_> = thread::scope(|scope| {
        let benches: Vec<_> = (0..BENCHES).map(|number| scope.spawn(move || try_out_some(number))).collect();
        benches.into_iter().flat_map(|bench| bench.join().expect("a mutant compiles")).collect()
    });
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}
