//! `tokenrelay config`: the settings in force, or the reference of all keys.

use std::io::Write;

use super::{Exit, Failure};
use crate::config::Config;

/// Every key at its default, with a comment; what `--reference` prints.
const REFERENCE: &str = include_str!("../../deploy/config.toml");

/// What `tokenrelay config` can be told.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Print every key at its default, with its meaning, instead.
    #[arg(long)]
    reference: bool,
    /// As JSON.
    #[arg(long, conflicts_with = "reference")]
    json: bool,
}

pub(super) fn run(options: &Options, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let bug = |error: anyhow::Error| Failure::new(Exit::Bug, error);
    let text = if options.reference {
        REFERENCE.to_owned()
    } else if options.json {
        serde_json::to_string_pretty(config).map_err(|error| bug(error.into()))? + "\n"
    } else {
        toml::to_string_pretty(config).map_err(|error| bug(error.into()))?
    };
    out.write_all(text.as_bytes()).map_err(Failure::print)?;
    Ok(Exit::Done)
}
