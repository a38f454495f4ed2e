//! The argument that nobody has to have in review: sizes, headers, who may import whom, and words that must not be.
//!
//! It reads the sources as text. What clippy checks is not checked again.

use source::{Function, Source};

mod source;

/// Production lines of a file, and lines of a test file.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from its `fn` to its last brace.
const FUNCTION_LINES_MAX: usize = 60;

/// Functions that may be longer: file, function, why.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// Who may import what, by the longest prefix that fits; a module may always import what is its own.
const IMPORTS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["pipeline", "demo", "emulator", "audit", "config", "telemetry", "kafka", "ably", "engine"]),
    ("pipeline", &["engine", "kafka", "ably", "decode", "config", "telemetry"]),
    ("kafka", &["engine", "config", "telemetry"]),
    ("ably", &["engine", "config", "telemetry"]),
    ("ably::wire", &["engine"]),
    ("ably::fault", &["engine", "ably::wire"]),
    ("ably::encode", &["engine", "ably::wire"]),
    ("ably::session", &["engine", "ably::wire", "ably::fault", "ably::encode"]),
    ("decode", &["engine"]),
    ("emulator", &["ably::wire", "telemetry", "config"]),
    ("demo", &["emulator", "kafka", "pipeline", "decode", "config", "telemetry", "ably::wire", "engine", "vectors"]),
    // Formats and wires, but nothing that decides: what judges the relay shares no decision with it.
    (
        "audit",
        &[
            "kafka",
            "decode",
            "config",
            "ably::auth",
            "ably::endpoint",
            "ably::wire",
            "engine::ChannelRulesError",
            "engine::Event",
            "engine::EventKind",
            "engine::Template",
            "vectors",
        ],
    ),
    ("vectors", &[]),
    ("engine", &[]),
    ("config", &[]),
    ("telemetry", &["engine", "config"]),
];

/// Modules that are pure, and the crates that would make them otherwise.
const PURE: &[&str] = &[
    "engine",
    "decode",
    "ably::wire",
    "ably::fault",
    "ably::encode",
    "ably::session",
    "kafka::handover",
    "kafka::predecessor",
    "pipeline::stay",
];
const IMPURE_CRATES: &[&str] = &["tokio", "rdkafka", "reqwest", "tokio_tungstenite", "axum"];

/// What must not be in code (comments and strings do not count), and what to do instead.
const BANNED: &[(&str, &str)] = &[
    ("#[allow(", "#[expect(…, reason = \"…\")] says when it is no longer needed"),
    ("#![allow(", "#![expect(…, reason = \"…\")] says when it is no longer needed"),
    ("todo!", "do it or leave it out"),
    ("unimplemented!", "do it or leave it out"),
    ("dbg!", "log it or leave it out"),
    (".unwrap()", "handle it, or expect() with what was expected"),
    ("unsafe ", "there is a safe way, or another crate"),
];

/// Must not be in any text of the repository.
const BANNED_WORD: &str = concat!("FIX", "ME");
/// Nor folders below these, which only one machine has.
const BANNED_FOLDERS: &[&str] = &["root", "home", "work"];

fn all() -> Vec<Source> {
    let mut sources = source::rust("src");
    sources.extend(source::rust("tests"));
    assert!(sources.len() > 10, "the sources were not found");
    sources
}

/// Fails with everything that is wrong, not with the first of it.
fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let wrong: Vec<_> = all()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}: begins without a `//!` header", source.path))
        .collect();
    report(&wrong);
}

#[test]
fn no_file_is_too_long() {
    let wrong: Vec<_> = all()
        .iter()
        .filter(|source| source.production_lines() > FILE_LINES_MAX)
        .map(|source| format!("{}: {} lines, at most {FILE_LINES_MAX}", source.path, source.production_lines()))
        .collect();
    report(&wrong);
}

#[test]
fn no_function_is_too_long() {
    let mut wrong = Vec::new();
    for source in all() {
        for Function { name, line, lines } in source.functions() {
            let excepted = LONG_FUNCTIONS.iter().any(|(path, function, _)| *path == source.path && *function == name);
            if lines > FUNCTION_LINES_MAX && !excepted {
                let path = &source.path;
                wrong.push(format!("{path}:{line}: {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"));
            }
        }
    }
    report(&wrong);
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for source in source::rust("src") {
        let module = source.module();
        // lib.rs is the map.
        let Some((own, allowed)) = rule(&module) else {
            assert!(module.is_empty(), "{}: no rule for this module, add it to IMPORTS", source.path);
            continue;
        };
        for import in source.imports() {
            // `Error` of the crate root and the like are not modules.
            if rule(&import).is_none() {
                continue;
            }
            if !is_in(&import, own) && !allowed.iter().any(|prefix| is_in(&import, prefix)) {
                wrong.push(format!("{}: {own} may not import {import}", source.path));
            }
        }
    }
    report(&wrong);
}

#[test]
fn pure_modules_stay_pure() {
    let mut wrong = Vec::new();
    for source in source::rust("src") {
        let module = source.module();
        if PURE.iter().any(|pure| is_in(&module, pure)) {
            for name in IMPURE_CRATES {
                if source.production().contains(&format!("{name}::")) {
                    wrong.push(format!("{}: {module} is pure, {name} is not", source.path));
                }
            }
        }
    }
    report(&wrong);
}

#[test]
fn banned_words_are_nowhere() {
    let mut wrong = Vec::new();
    for source in all() {
        for (word, instead) in BANNED {
            for line in source.lines_with(word) {
                wrong.push(format!("{}:{line}: {word} ({instead})", source.path));
            }
        }
        if source.path.ends_with("/mod.rs") {
            wrong.push(format!("{}: foo.rs beside foo/, not foo/mod.rs", source.path));
        }
    }
    report(&wrong);
}

#[test]
fn the_repository_names_no_machine() {
    let mut wrong = Vec::new();
    let mut words: Vec<String> = BANNED_FOLDERS.iter().map(|folder| format!("/{folder}/")).collect();
    words.push(BANNED_WORD.to_owned());
    for (path, text) in source::texts() {
        for word in &words {
            for (line, _) in text.lines().enumerate().filter(|(_, line)| line.contains(word)) {
                wrong.push(format!("{path}:{}: {word}", line + 1));
            }
        }
    }
    report(&wrong);
}

#[test]
fn unsafe_code_is_forbidden_by_the_compiler() {
    let manifest = source::read("Cargo.toml");
    assert!(manifest.contains("unsafe_code = \"forbid\""), "Cargo.toml: unsafe_code is not forbidden");
}

/// The longest rule that fits the module.
fn rule(module: &str) -> Option<(&'static str, &'static [&'static str])> {
    let fitting = IMPORTS.iter().filter(|(prefix, _)| is_in(module, prefix));
    fitting.max_by_key(|(prefix, _)| prefix.len()).copied()
}

fn is_in(module: &str, prefix: &str) -> bool {
    module.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
