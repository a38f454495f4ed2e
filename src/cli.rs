//! The command line: what there is, what each command is told, and what the process ends with.

mod audit;
mod check;
mod exit;
mod run;
mod show;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Config, LogFormat, Source};
use crate::{demo, emulator, telemetry};

pub use exit::Exit;

const EXAMPLES: &str = "\
Examples:
  tokenrelay demo                                  a page on which tokens stream, break and heal; nothing else needed
  tokenrelay check --config relay.toml             is everything in place? says what to change if not
  tokenrelay run --config relay.toml               the service
  tokenrelay audit --config relay.toml --ably      is every text right, and every result there? names what is not
  tokenrelay config --reference                    every key, its default and its meaning
  tokenrelay emulator --key app.key:secret         a local server for Ably's SDKs, with faults on demand
  tokenrelay emulator --faults deploy/scenarios/05-outage.toml    the same, which plays a scenario

Settings come from defaults, then the file, then the environment (TOKENRELAY__KAFKA__GROUP_ID), then --set.

Exit codes: 0 done · 1 differences found · 64 usage · 69 a service is unavailable · 70 a bug of ours · 75 try again ·
77 refused (credentials, capability) · 78 configuration";

/// Relays LLM token streams from Kafka to Ably channels, tracks every outcome and repairs what failed.
#[derive(Debug, Parser)]
#[command(name = "tokenrelay", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

/// Where settings come from.
#[derive(Debug, clap::Args)]
struct Settings {
    /// A TOML file with settings; `tokenrelay config --reference` prints one with every key.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, as in `--set kafka.group_id=mine`. May be repeated; wins over file and environment.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay: read tokens, put them on channels, write results, repair what failed. Until SIGTERM, which drains.
    Run,
    /// Check configuration, topics, credentials and the channel rule, and say what to change.
    Check(check::Options),
    /// Compare results, dead letters and channels with the tokens topic, as anybody could, and name what differs.
    Audit(audit::Options),
    /// Print the settings in force, secrets redacted.
    Config(show::Options),
    /// Everything in one process: Kafka, Ably's emulator, realistic responses, and a page to break and watch it.
    Demo(demo::Options),
    /// A local server that speaks Ably's protocol, for SDKs and tests, with faults on demand.
    Emulator(EmulatorOptions),
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
struct EmulatorOptions {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:8181")]
    listen: std::net::SocketAddr,
    /// An API key that it knows, `app.id:secret`. May be repeated.
    #[arg(long, value_name = "KEY", default_value = "app.key:secret")]
    key: Vec<String>,
    /// How it fails: a TOML or JSON file like those of deploy/scenarios, or a list like "reject=0.2,drop=0.01". `GET` and
    /// `PUT /emulator/faults` read and change it.
    #[arg(long, value_name = "FILE", default_value = "")]
    faults: String,
    /// A namespace without the rule for updates and appends: it answers 93002 there. May be repeated.
    #[arg(long, value_name = "NAMESPACE")]
    immutable: Vec<String>,
    /// The largest message that it takes, like `64KiB`.
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    max_message_size: bytesize::ByteSize,
}

/// Runs the program with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    let mut out = std::io::stdout();
    let ended = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let ended = runtime.block_on(dispatch(cli, &mut out));
            // A thread that does not come back from librdkafka keeps nobody.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::new(Exit::Unavailable, error.into())),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            complain(&failure);
            failure.exit.into()
        }
    }
}

/// Clap's own exit code for usage is 2; ours is the one of `sysexits.h`.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(arguments).map_err(|error| {
        let _nobody_reads = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Done }
    })
}

async fn dispatch(cli: Cli, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    // TLS: which of the two providers that rustls knows. Only the first call of a process counts.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let Settings { config: file, set } = cli.settings;
    let load = |extra: Vec<String>| {
        let flags = extra.into_iter().chain(set.clone()).collect();
        let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let source = Source { file: file.clone(), environment: environment.collect(), flags };
        config::load(&source).map_err(|error| {
            let exit = if matches!(error, config::Error::Flag { .. }) { Exit::Usage } else { Exit::Configuration };
            Failure::new(exit, error.into())
        })
    };
    match cli.command {
        Command::Run => run::run(Arc::new(load(Vec::new())?)).await,
        Command::Check(options) => {
            let config = load(Vec::new())?;
            quiet_log(&config);
            check::run(&options, &config, out).await
        }
        Command::Audit(options) => {
            let config = load(Vec::new())?;
            quiet_log(&config);
            audit::run(options, &config, out).await
        }
        Command::Config(options) => show::run(&options, &load(Vec::new())?, out),
        Command::Demo(options) => {
            let scenario = options.scenario().map_err(of_demo)?;
            let config = load(options.settings(&scenario))?;
            demonstrate(&options, scenario, &config, out).await
        }
        Command::Emulator(options) => emulate(options, out).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tokenrelay", out);
            Ok(Exit::Done)
        }
    }
}

async fn demonstrate(
    options: &demo::Options,
    scenario: emulator::Scenario,
    config: &Config,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    quiet_log(config);
    match demo::run(options, scenario, config, out).await.map_err(of_demo)? {
        demo::Verdict::Right => Ok(Exit::Done),
        demo::Verdict::Wrong => Ok(Exit::Differences),
    }
}

fn of_demo(error: demo::Error) -> Failure {
    let exit = match &error {
        demo::Error::Faults(_) => Exit::Usage,
        demo::Error::Listen { .. } | demo::Error::Emulator(_) => Exit::Unavailable,
        demo::Error::Relay(error) => error.exit().into(),
        _ => Exit::Bug,
    };
    Failure::new(exit, error.into())
}

async fn emulate(options: EmulatorOptions, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    quiet_log(&Config::default());
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    let scenario = emulator::Scenario::read(&options.faults).map_err(|error| usage(error.into()))?;
    let config = emulator::Config {
        listen: options.listen,
        keys: options.key,
        immutable_namespaces: options.immutable,
        max_message_size: usize::try_from(options.max_message_size.as_u64()).unwrap_or(usize::MAX),
        ..emulator::Config::default()
    };
    let emulator = emulator::start(config).await.map_err(|error| match error {
        error @ emulator::Error::Key => usage(error.into()),
        error @ emulator::Error::Listen { .. } => Failure::new(Exit::Unavailable, error.into()),
    })?;
    emulator.play(scenario);
    let address = emulator.local_addr();
    writeln!(out, "emulator ready on {address}").and_then(|()| out.flush()).map_err(Failure::print)?;
    run::interrupted().await;
    emulator.stop().await;
    Ok(Exit::Done)
}

/// What commands print is for their readers; their log goes beside it, for people, and only what matters.
fn quiet_log(config: &Config) {
    let level = if config.log.level == config::Log::default().level { "warn" } else { &config.log.level };
    telemetry::log::init(LogFormat::Text, level, telemetry::log::To::Stderr);
}

/// Why a command has failed, and what the process ends with.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    fn new(exit: Exit, error: anyhow::Error) -> Self {
        Self { exit, error }
    }

    fn print(error: std::io::Error) -> Self {
        Self::new(Exit::Unavailable, anyhow::Error::new(error).context("print"))
    }
}

/// One line that names the thing and the remedy. Most errors have their causes in their own words: those are not said again.
fn complain(failure: &Failure) {
    let said = failure.error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.is_empty() => cause,
        cause if said.contains(&cause) => said,
        cause => format!("{said}: {cause}"),
    });
    let _nobody_reads = writeln!(std::io::stderr(), "tokenrelay: {said}");
}
