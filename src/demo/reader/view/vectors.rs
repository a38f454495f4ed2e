//! The vectors of the reader for front ends: this one makes the same of them.

use serde::Deserialize;
use serde_json::Value;

use super::{Seen, View};

#[derive(Deserialize)]
struct Vector {
    name: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    missed: bool,
    message: Option<Value>,
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    response_id: String,
    part: u32,
    text: String,
    status: String,
    complete: bool,
    gap: bool,
}

/// A message as it travels: with a number for its action.
fn wire(mut message: Value) -> super::Wire {
    let names = ["message.create", "message.update", "message.delete", "meta", "message.summary", "message.append"];
    if let Some(number) = message["action"].as_str().and_then(|name| names.iter().position(|known| *known == name)) {
        message["action"] = number.into();
    }
    serde_json::from_value(message).expect("a message")
}

/// The messages of a response, up to the first that is missing, as one text; and how it ends.
fn joined(seen: &[Seen], response: &Response) -> (String, String) {
    let ours = |seen: &&Seen| (&seen.response_id, seen.part) == (&response.response_id, response.part);
    let mut messages: Vec<&Seen> = seen.iter().filter(ours).filter(|seen| seen.status != "superseded").collect();
    messages.sort_by_key(|seen| seen.segment);
    let follow = messages.iter().zip(0..).take_while(|(seen, number)| seen.segment == *number).count();
    let last = messages[..follow].last().map_or("streaming", |seen| &seen.status);
    let status = if last == "continued" { "streaming" } else { last };
    (messages[..follow].iter().map(|seen| seen.text.as_str()).collect(), status.to_owned())
}

#[test]
fn the_vectors_of_readers_hold_here_too() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/reader/vectors.json");
    let text = std::fs::read_to_string(path).expect("vectors");
    let vectors: Vec<Vector> = serde_json::from_str(&text).expect("vectors");
    assert!(vectors.len() > 15);
    for Vector { name, steps } in vectors {
        let mut view = View::default();
        for (number, Step { missed, message, response }) in steps.into_iter().enumerate() {
            if missed {
                view.missed();
            }
            message.into_iter().for_each(|message| view.apply(&wire(message)));
            let Some(response) = response else { continue };
            let (text, status) = joined(&view.seen(), &response);
            assert_eq!(text, response.text, "{name}, step {number}");
            // What is over but not all here has a status of its own.
            if response.complete || !response.gap {
                assert_eq!(status, response.status, "{name}, step {number}");
            }
        }
    }
}
