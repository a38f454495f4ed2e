//! `tokenrelay audit`: is every text right, and every result there? A line for each difference, then how many of which kind.

use std::io::Write;

use super::{Exit, Failure};
use crate::audit::{self, Bound, Difference, Report, Request};
use crate::config::Config;
use crate::{kafka, pipeline};

const MORE: &str = "\
Reads as anybody could: it joins no group, commits nothing, and sees only what is committed. Give it the settings of the
relay. What has ended but lies at or above the group's committed offset counts as pending, not as missing, unless --at-rest
says that the relay has nothing left to do.

Memory: the results of one partition at a time, at some 24 bytes an operation and some hundred a response; with --ably also
some 200 bytes for every response of the range. Texts are hashed, not kept, so no difference shows any.

Exit codes: 0 nothing found · 1 differences · 69, 77, 78 no verdict: a service is away, refuses, or the settings are wrong";

/// What `tokenrelay audit` can be told.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
pub(super) struct Options {
    /// Where it begins: an offset (1000, or 0:1000,1:2000 by partition), a time (2026-01-31T08:00:00Z), or how long ago (2h).
    #[arg(long, value_name = "WHERE")]
    from: Option<Bound>,
    /// Where it ends, that not included. Without it, the end of the topic as it is now.
    #[arg(long, value_name = "WHERE")]
    to: Option<Bound>,
    /// Only this partition. May be repeated.
    #[arg(long, value_name = "NUMBER")]
    partition: Vec<i32>,
    /// Look at the channels, too: one request or more for each. The key needs the capability `history`.
    #[arg(long)]
    ably: bool,
    /// Results and dead letters may be there twice. So it is anyway with results.delivery = "at-least-once".
    #[arg(long)]
    at_least_once: bool,
    /// The relay has nothing left to do: what has ended and is not settled is a difference, whatever is committed.
    #[arg(long)]
    at_rest: bool,
    /// How many differences to print; all are counted.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
    /// As JSON, one object.
    #[arg(long)]
    json: bool,
}

/// Audits and prints what was found.
pub(super) async fn run(options: Options, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let decoder =
        pipeline::decoder(config).map_err(|error| Failure::new(Exit::Configuration, anyhow::Error::new(error)))?;
    let json = options.json;
    let request = Request {
        from: options.from,
        to: options.to,
        partitions: options.partition,
        ably: options.ably,
        at_least_once: options.at_least_once,
        at_rest: options.at_rest,
        kept_max: options.limit,
    };
    let report =
        audit::run(request, config, decoder).await.map_err(|error| Failure::new(exit(&error), error.into()))?;
    match json {
        true => {
            let text = serde_json::to_string(&report).map_err(|error| Failure::new(Exit::Bug, error.into()))?;
            writeln!(out, "{text}").map_err(Failure::print)?;
        }
        false => print(&report, out).map_err(Failure::print)?,
    }
    Ok(if report.clean { Exit::Done } else { Exit::Differences })
}

fn exit(error: &audit::Error) -> Exit {
    match error {
        audit::Error::Kafka(error) => match error.kind() {
            kafka::Kind::Configuration => Exit::Configuration,
            kafka::Kind::Refused => Exit::Refused,
            kafka::Kind::Unavailable => Exit::Unavailable,
        },
        audit::Error::NoPartition { .. } => Exit::Usage,
        audit::Error::Template(_) | audit::Error::Glob { .. } => Exit::Configuration,
        audit::Error::Credentials(_) | audit::Error::Refused { .. } => Exit::Refused,
        audit::Error::OpenTransaction { .. } | audit::Error::Unreadable { .. } => Exit::Unavailable,
        audit::Error::Client(_) | audit::Error::Panicked => Exit::Bug,
    }
}

fn print(report: &Report, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    for difference in &report.differences {
        writeln!(out, "{}", line(difference))?;
    }
    let total: u64 = report.differences_by_kind.values().sum();
    let more = total - report.differences.len() as u64;
    if more > 0 {
        writeln!(out, "… and {more} more; --limit {total} prints all")?;
    }
    if total > 0 {
        writeln!(out)?;
        for (kind, count) in &report.differences_by_kind {
            writeln!(out, "{:20}{count:>10}", kind.as_str())?;
        }
        writeln!(out)?;
    }
    let counts = &report.counts;
    let aside = [
        (counts.failed, "of them failed"),
        (counts.open, "open"),
        (counts.pending, "pending"),
        (counts.partial, "known in part"),
        (counts.unverifiable, "not to be verified any more"),
    ];
    let aside: String =
        aside.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}")).collect();
    writeln!(
        out,
        "{} records: {} responses settled{aside}; results of {} operations and {} responses, {} dead letters",
        counts.records, counts.settled, counts.operations, counts.responses, counts.letters
    )?;
    if counts.channels > 0 {
        writeln!(out, "{} channels: {} responses compared", counts.channels, counts.messages)?;
    }
    match total {
        0 => writeln!(out, "no differences"),
        1 => writeln!(out, "1 difference"),
        total => writeln!(out, "{total} differences"),
    }
}

/// One line; what others have named is escaped.
fn line(difference: &Difference) -> String {
    let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let place = format!("{}:{}", number(difference.partition.map(i64::from)), number(difference.offset));
    let part = difference.part.filter(|part| *part > 0).map(|part| format!("#{part}")).unwrap_or_default();
    let response = difference.response_id.as_deref().unwrap_or("-").escape_debug();
    let detail = difference.detail.escape_debug();
    format!("{:19} {place:>12}  {response}{part}  {detail}", difference.kind.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::audit::{Counts, Kind};

    #[test]
    fn a_table_has_a_line_for_each_and_the_sums() {
        let difference = Difference {
            kind: Kind::ResponseMissing,
            partition: Some(3),
            offset: Some(1_042),
            response_id: Some("r\n7".to_owned()),
            part: Some(1),
            channel: None,
            detail: "it has ended and has no result".to_owned(),
        };
        let report = Report {
            clean: false,
            ranges: Vec::new(),
            counts: Counts { records: 9, settled: 2, pending: 1, ..Counts::default() },
            differences_by_kind: BTreeMap::from([(Kind::ResponseMissing, 2)]),
            differences: vec![difference],
        };
        let mut out = Vec::new();
        print(&report, &mut out).expect("printed");
        let expected = "\
response-missing          3:1042  r\\n7#1  it has ended and has no result
… and 1 more; --limit 2 prints all

response-missing             2

9 records: 2 responses settled, 1 pending; results of 0 operations and 0 responses, 0 dead letters
2 differences
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
