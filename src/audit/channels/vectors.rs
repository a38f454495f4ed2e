//! The vectors of the reader for front ends: where it shows a whole text, the audit finds nothing wrong, and only there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Found, Kind, Origin, Text, problem};
use crate::ably::wire::{Encoding, message_action};
use crate::audit::history::take;

#[derive(Deserialize)]
struct Vector {
    name: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    missed: bool,
    #[serde(default)]
    message: Value,
    response: Option<Response>,
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    response_id: String,
    part: u32,
    text: String,
    status: String,
    complete: bool,
    gap: bool,
}

impl Response {
    fn key(&self) -> (String, u32) {
        (self.response_id.clone(), self.part)
    }

    /// What the audit says to whoever expects this.
    fn verdict(&self, messages: &BTreeMap<String, Found>) -> Option<Kind> {
        let statuses = ["streaming", "complete", "cancelled", "error", "abandoned", "failed"];
        let status = statuses.into_iter().find(|status| *status == self.status).expect("a status");
        let text = Text { bytes: self.text.len() as u64, hash: Sha256::digest(&self.text).into(), status };
        let ours =
            |found: &&Found| !found.deleted && (&found.response_id, found.part) == (&self.response_id, self.part);
        let remade = |found: &Found| Origin::of(&found.create_id, "t").map_or(0, |origin| origin.remade);
        let messages: Vec<_> = messages.values().filter(ours).map(|found| (remade(found), found)).collect();
        problem(&text, &messages).map(|(kind, _)| kind)
    }
}

/// A message as it travels: with a number for its action.
fn wire(mut message: Value) -> Value {
    let names = ["message.create", "message.update", "message.delete", "meta", "message.summary", "message.append"];
    if let Some(number) = message["action"].as_str().and_then(|name| names.iter().position(|known| *known == name)) {
        message["action"] = number.into();
    }
    message
}

/// Whether history could give these: nothing is missed, and nothing is appended to what is not there.
fn is_of_history(steps: &[Step]) -> bool {
    let mut serials = BTreeSet::new();
    steps.iter().all(|step| {
        let is_append = wire(step.message.clone())["action"] == message_action::APPEND;
        !step.missed && (!serials.insert(step.message["serial"].to_string()) || !is_append)
    })
}

#[test]
fn where_readers_show_a_whole_text_nothing_is_wrong_and_only_there() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/reader/vectors.json");
    let text = std::fs::read_to_string(path).expect("vectors");
    let vectors: Vec<Vector> = serde_json::from_str(&text).expect("vectors");
    let mut played = 0;
    for Vector { name, steps } in vectors.into_iter().filter(|vector| is_of_history(&vector.steps)) {
        let mut last: BTreeMap<(String, u32), Response> = BTreeMap::new();
        last.extend(steps.iter().filter_map(|step| step.response.clone()).map(|response| (response.key(), response)));
        let (mut messages, mut shown) = (BTreeMap::new(), BTreeMap::new());
        for (number, Step { message, response, .. }) in steps.into_iter().enumerate() {
            let message = wire(message).to_string();
            take(&mut messages, &Encoding::Json.decode(message.as_bytes()).expect("a message"));
            shown.extend(response.map(|response| (response.key(), response)));
            for (key, response) in &shown {
                if response.complete {
                    assert_eq!(response.verdict(&messages), None, "{name}, step {number}");
                }
                let is_whole = !response.gap && response == &last[key];
                assert_eq!(last[key].verdict(&messages).is_none(), is_whole, "{name}, step {number}");
            }
            played += 1;
        }
    }
    assert!(played > 50, "only {played} steps");
}
