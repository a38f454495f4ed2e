//! The log: JSON for machines, text for people. `RUST_LOG` wins over the configured level.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::LogFormat;

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A service's log.
    Stdout,
    /// Beside what a command prints.
    Stderr,
}

/// Starts logging. Only the first call of a process counts.
pub fn init(format: LogFormat, level: &str, to: To) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let (writer, terminal) = match to {
        To::Stdout => (BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal()),
        To::Stderr => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal);
    let _already = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}
