//! The `tokenrelay` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    tokenrelay::cli::main()
}
