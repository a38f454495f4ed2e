//! What stands in the root and under `deploy/` for those who deploy, checked as far as that goes without a container engine:
//! generated files are what the code generates, files that are named are there, settings are settings, commands are commands.

mod compose;
mod docker;
mod docs;

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use tokenrelay::config::{self, Config};
use tokenrelay::engine::ResultRecord;

fn path(from_root: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(from_root)
}

/// The text of a file of the repository.
fn read(from_root: &str) -> String {
    std::fs::read_to_string(path(from_root)).unwrap_or_else(|error| panic!("{from_root}: {error}"))
}

/// What the program says of one of its commands. Fails when it has no such command.
fn help(command: &str) -> String {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
    let output = program.args([command, "--help"]).output().expect("it runs");
    assert!(output.status.success(), "there is no command {command}");
    String::from_utf8(output.stdout).expect("text")
}

/// What the relay makes of environment variables. Fails when one of ours is no setting, or its value will not do.
fn settings<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>) -> Config {
    let environment: Vec<_> =
        environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for (name, _) in &environment {
        assert!(name.starts_with("TOKENRELAY__"), "{name} is not a setting: it would be ignored");
    }
    let source = config::Source { environment, ..config::Source::default() };
    config::load(&source).expect("they are settings")
}

#[test]
fn the_schema_of_results_is_that_of_the_code() {
    const PATH: &str = "deploy/results.schema.json";
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<ResultRecord<'static>>();
    let title = "A record of tokenrelay's results topic, version 1";
    schema.insert("title".to_owned(), title.into());
    let generated = serde_json::to_string_pretty(&schema).expect("it is JSON") + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path(PATH), &generated).expect("written");
    }
    assert_eq!(read(PATH), generated, "{PATH} is out of date: UPDATE_SCHEMA=1 cargo test --test it schema");
}
