//! What a fault needs to have something to act on. In a cell that lacks it nothing of the fault can be seen, and the row says
//! why; everywhere else it must strike.

use std::path::Path;

use toml::{Table, Value};

/// Parts of other faults: they say of what kind these are.
const KINDS: [&str; 14] = [
    "about",
    "after",
    "drop-as",
    "fail-reads-code",
    "fatal-as",
    "fatal-code",
    "gone-code",
    "lose-ops",
    "odd",
    "refuse-code",
    "reject-code",
    "reject-ops",
    "resume-code",
    "told-rate",
];

/// Where nothing comes of some faults: on a transport or in a pattern, and why.
type Lack = (&'static str, &'static str, &'static [&'static str]);

const LACKS: [Lack; 10] = [
    (
        "rest",
        "requests are on no connection",
        &["channels-per-connection", "count-frames", "fatal-rate-limit", "hang-up", "rate-limit", "refuse-websockets"],
    ),
    ("rest", "nothing is resumed, and no frame comes again", &["refuse-resume", "resent"]),
    ("rest", "a request has one answer, which can be for nothing else", &["merge-acks", "odd-answers"]),
    (
        "rest",
        "requests are not rolled up unless that is switched on",
        &["null-serials", "own-serials", "update-overtakes"],
    ),
    ("rest", "a text has one request at a time: behind a refusal comes its update", &["fold-again", "reject-run"]),
    ("rest", "nobody is told of channels", &["channel-errors", "detach"]),
    ("rest", "a token is shown with each request, and none while it is up", &["refuse-tokens", "token-life"]),
    ("realtime", "nothing is requested", &["rest-rollup"]),
    ("message-per-response", "no message is one of an array", &["count-each"]),
    (
        "message-per-token",
        CREATED,
        &[
            "bare-pieces",
            "clear-omitted",
            "count-frames",
            "deleted",
            "fold-again",
            "foreign-deletes",
            "foreign-updates",
            "gone-after",
            "null-serials",
            "null-updates",
            "own-serials",
            "read-lag",
            "refuse-empty",
            "reject-fold",
            "reject-run",
            "rest-rollup",
            "stale-updates",
            "update-overtakes",
            "whole-pieces",
        ],
    ),
];

/// In a scenario, for one fault: why nobody demands that it strikes.
const MAY: [(&str, &str, &str); 3] = [
    (
        "01-late-resume",
        "resent",
        "what requests have taken over from is not resumed: a relay that resumed it would write its frames again",
    ),
    (
        "06-unanswered-then-resumed",
        "resent",
        "a connection that leaves frames unanswered for too long is given up: a relay that resumed it would write them again",
    ),
    (
        "10e-overtaken-rollup",
        "update-overtakes",
        "a full text is sent when no append waits any more: one that was sent earlier would overtake some",
    ),
];

const CREATED: &str = "tokens are messages of their own: none is appended to or updated";

/// A fault of a scenario in a cell.
pub(super) struct Need {
    pub(super) fault: String,
    /// Why it cannot strike there, if it cannot.
    pub(super) lacks: Option<&'static str>,
    /// Why it need not strike, if it need not.
    pub(super) may: Option<&'static str>,
}

/// The faults that a scenario switches on at some time.
pub(super) fn of(scenario: &Path, pattern: &str, transport: &str) -> Vec<Need> {
    let text = std::fs::read_to_string(scenario).expect("a scenario");
    let file: Table = toml::from_str(&text).expect("it is TOML");
    let then = file.get("then").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table);
    let mut needs: Vec<Need> = Vec::new();
    for step in std::iter::once(&file).chain(then) {
        for fault in step.keys().filter(|key| !["settings", "then"].contains(&key.as_str())) {
            if KINDS.contains(&fault.as_str()) || needs.iter().any(|need| need.fault == *fault) {
                continue;
            }
            let lacks = lacks(step, fault, pattern, transport);
            let name = scenario.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let may = MAY.iter().find(|(of, which, _)| *of == name && which == fault).map(|(_, _, why)| *why);
            needs.push(Need { fault: fault.clone(), lacks, may });
        }
    }
    needs
}

fn lacks(step: &Table, fault: &str, pattern: &str, transport: &str) -> Option<&'static str> {
    let only = match fault {
        "reject" | "reject-applied" => step.get("reject-ops"),
        "lose-ack" | "skip-ack" | "drop" => step.get("lose-ops"),
        _ => None,
    };
    let only = only.and_then(Value::as_array);
    let creates = only.is_none_or(|operations| operations.iter().any(|name| name.as_str() == Some("create")));
    if pattern == "message-per-token" && !creates {
        return Some(CREATED);
    }
    let lack = LACKS.iter().find(|(place, _, faults)| [pattern, transport].contains(place) && faults.contains(&fault));
    lack.map(|(_, why, _)| *why)
}
