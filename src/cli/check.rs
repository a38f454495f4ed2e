//! `tokenrelay check`: is everything in place? One line for each thing that must be so; for what is not, what to change.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::{Exit, Failure};
use crate::ably::{self, Error as AblyError};
use crate::config::{Config, Delivery, NoMutable};
use crate::engine::{ChannelRules, Latest, Template};
use crate::kafka::client::Clients;
use crate::kafka::{self, results, topics};
use crate::pipeline;

/// How often what was written is looked at before it is said not to be there, and how long between: readings lag, and nobody
/// says when they no longer do.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// What `tokenrelay check` can be told.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// As JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// A channel that events will name: is it on the allow-list? May be repeated.
    #[arg(long, value_name = "NAME")]
    channel: Vec<String>,
}

/// What was found out of one thing.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    check: &'static str,
    ok: bool,
    message: String,
    #[serde(skip)]
    exit: Exit,
}

impl Finding {
    fn good(check: &'static str, message: String) -> Self {
        Self { check, ok: true, message, exit: Exit::Done }
    }

    fn bad(check: &'static str, exit: Exit, message: String) -> Self {
        Self { check, ok: false, message, exit }
    }
}

/// Checks everything, even behind a failure; ends with the code of the first.
pub(super) async fn run(options: &Options, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let mut findings = channels(options, config);
    findings.extend(kafka(config).await);
    findings.extend(ably(config).await);
    for finding in &findings {
        let line = match options.json {
            true => serde_json::to_string(finding).map_err(|error| Failure::new(Exit::Bug, error.into()))?,
            false => format!("{} {:12} {}", if finding.ok { "ok  " } else { "FAIL" }, finding.check, finding.message),
        };
        writeln!(out, "{line}").map_err(Failure::print)?;
    }
    Ok(findings.iter().find(|finding| !finding.ok).map_or(Exit::Done, |finding| finding.exit))
}

fn channels(options: &Options, config: &Config) -> Vec<Finding> {
    let allow = &config.ably.channels.allow;
    let rules = Template::parse(&config.input.channel)
        .and_then(|template| ChannelRules::new(template, config.kafka.tokens_topic.as_str().into(), allow));
    let rules = match rules {
        Ok(rules) => rules,
        Err(error) => return vec![Finding::bad("channels", Exit::Configuration, error.to_string())],
    };
    if allow.is_empty() {
        return vec![Finding::bad("channels", Exit::Configuration, pipeline::Error::NoChannels.to_string())];
    }
    let sample = "00000000-0000-4000-8000-000000000000";
    let mut wanted: Vec<(Option<&str>, String)> = vec![(None, format!("input.channel = {:?}", config.input.channel))];
    wanted.extend(options.channel.iter().map(|name| (Some(name.as_str()), format!("channel {name}"))));
    let judge = |(named, what): (Option<&str>, String)| match rules.resolve(named, sample) {
        Ok(channel) => Finding::good("channels", format!("{what}: {channel} is on the allow-list")),
        Err(_) => {
            let remedy = "add a glob for it to ably.channels.allow";
            Finding::bad(
                "channels",
                Exit::Configuration,
                format!("{what}: is not on the allow-list {allow:?}; {remedy}"),
            )
        }
    };
    wanted.into_iter().map(judge).collect()
}

async fn kafka(config: &Config) -> Vec<Finding> {
    let clients = match Clients::new(&config.kafka) {
        Ok(clients) => clients,
        Err(error) => return vec![of_kafka(&error)],
    };
    let (asked, delivery) = (clients.clone(), config.results.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let layout = topics::check(&asked)?;
        match delivery.delivery {
            Delivery::ExactlyOnce => results::check(&asked, delivery.transaction_timeout).map(|()| layout),
            Delivery::AtLeastOnce => Ok(layout),
        }
    });
    let checked = checked.await;
    match checked {
        Err(_) => vec![Finding::bad("kafka", Exit::Bug, "the check has panicked".to_owned())],
        Ok(Err(error)) => vec![of_kafka(&error)],
        Ok(Ok(layout)) => {
            let message =
                format!("topics are there: {} partitions of tokens, {} of results", layout.tokens, layout.results);
            let doubts = topics::doubts(&clients, &topics::describe(&clients).await);
            let doubts = doubts.into_iter().map(|doubt| Finding::bad("kafka", Exit::Configuration, doubt));
            std::iter::once(Finding::good("kafka", message)).chain(doubts).collect()
        }
    }
}

fn of_kafka(error: &kafka::Error) -> Finding {
    let exit = match error.kind() {
        kafka::Kind::Configuration => Exit::Configuration,
        kafka::Kind::Refused => Exit::Refused,
        kafka::Kind::Unavailable => Exit::Unavailable,
    };
    Finding::bad("kafka", exit, error.to_string())
}

async fn ably(config: &Config) -> Vec<Finding> {
    let settings = match ably::Settings::from_config(&config.ably) {
        Ok(settings) => settings,
        Err(error) => return vec![of_ably("ably", &error)],
    };
    match ably::probe(settings.clone()).await {
        Err(error) => vec![of_ably("ably", &error)],
        Ok(details) => {
            let client = details.client_id.as_deref().unwrap_or("nobody in particular");
            let message = format!("connected as {client}; messages up to {} bytes", details.max_message_size);
            let connected = Finding::good("ably", message);
            let channel = &config.ably.check_channel;
            if channel.is_empty() {
                let message = "not checked: ably.check_channel names no channel that may be written to";
                return vec![connected, Finding::good("channel rule", message.to_owned())];
            }
            let rule = match ably::probe_channel(settings.clone(), channel).await {
                Ok(tried) => {
                    return vec![connected, takes_appends(channel), read_back(&settings, channel, &tried).await];
                }
                Err(AblyError::Channel { code: 93002, message, .. }) if config.ably.no_mutable == NoMutable::Whole => {
                    let remedy = ably::fault::remedy(93002).unwrap_or_default();
                    let does = "responses are published whole there, at their end (ably.no_mutable); to stream them";
                    let message = format!("note: {channel} takes no appends, 93002 ({message}): {does}, {remedy}");
                    Finding::good("channel rule", message)
                }
                Err(error) => of_ably("channel rule", &error),
            };
            vec![connected, rule]
        }
    }
}

fn takes_appends(channel: &str) -> Finding {
    Finding::good("channel rule", format!("{channel} takes creates and appends"))
}

/// Reads back what was written, as is done with a text that may not be what it should.
async fn read_back(settings: &ably::Settings, channel: &str, tried: &ably::Tried) -> Finding {
    const CHECK: &str = "reading back";
    let history = match ably::History::new(settings.clone()) {
        Ok(history) => history,
        Err(error) => return of_ably(CHECK, &error),
    };
    let mut latest = Ok(Latest::Unreadable);
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        latest = history.read_back(channel, &tried.serial).await;
        match &latest {
            Ok(Latest::Message { text, .. }) if *text == ably::Tried::TEXT => {
                return Finding::good(CHECK, format!("{channel} gives back what was written"));
            }
            Ok(Latest::Message { .. } | Latest::Unreadable) => {}
            Ok(Latest::Deleted | Latest::Refused(_)) | Err(_) => break,
        }
    }
    let message = match latest {
        Err(error) => return of_ably(CHECK, &error),
        Ok(Latest::Refused(refused)) => format!(
            "note: what is on {channel} may not be read, {} ({}): texts that may be wrong are sent again but never \
             verified, and messages whose creates were not answered are not found and may be there twice; give the \
             credentials the capability history on it",
            refused.code, refused.message
        ),
        Ok(_) => {
            format!("note: {channel} does not give back what was written a few seconds ago; texts are verified late")
        }
    };
    Finding::good(CHECK, message)
}

fn of_ably(check: &'static str, error: &AblyError) -> Finding {
    let exit = match error {
        AblyError::Channel { code: 93002, .. } => Exit::Configuration,
        AblyError::Channel { .. } => Exit::Refused,
        // Newer credentials were asked for, and refused as well.
        error if error.is_fatal() || error.asks_for_newer() => Exit::Refused,
        _ => Exit::Unavailable,
    };
    Finding::bad(check, exit, error.to_string())
}
