//! What the process ends with: the codes of `sysexits.h`, so that a supervisor knows whether to start it again.

use std::process::ExitCode;

use crate::pipeline;

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or drained.
    Done = 0,
    /// Differences were found.
    Differences = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A service is away.
    Unavailable = 69,
    /// A bug of ours.
    Bug = 70,
    /// Start it again.
    TryAgain = 75,
    /// Credentials or rights are missing.
    Refused = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<pipeline::Exit> for Exit {
    fn from(exit: pipeline::Exit) -> Self {
        match exit {
            pipeline::Exit::Configuration => Self::Configuration,
            pipeline::Exit::Refused => Self::Refused,
            pipeline::Exit::Unavailable => Self::Unavailable,
            pipeline::Exit::TryAgain => Self::TryAgain,
            pipeline::Exit::Bug => Self::Bug,
        }
    }
}
