//! The vectors of the reader for front ends, as everything here that reads channels is tested with them.

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

#[derive(Deserialize)]
pub(crate) struct Step {
    #[serde(default)]
    pub(crate) missed: bool,
    /// The message was read from the history.
    #[serde(default)]
    pub(crate) history: bool,
    /// As it travels: with a number for its action.
    pub(crate) message: Option<Value>,
    pub(crate) response: Option<Response>,
}

/// What a reader shows of a response.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    pub(crate) response_id: String,
    pub(crate) part: u32,
    pub(crate) text: String,
    pub(crate) status: String,
    pub(crate) complete: bool,
    pub(crate) gap: bool,
}

/// All of them.
pub(crate) fn all() -> Vec<Vector> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/reader/vectors.json");
    let text = std::fs::read_to_string(path).expect("vectors");
    let mut vectors: Vec<Vector> = serde_json::from_str(&text).expect("vectors");
    assert!(vectors.len() > 15, "only {} vectors", vectors.len());
    let steps = vectors.iter_mut().flat_map(|vector| &mut vector.steps);
    steps.filter_map(|step| step.message.as_mut()).for_each(number);
    vectors
}

/// Files name actions as clients do.
fn number(message: &mut Value) {
    let names = ["message.create", "message.update", "message.delete", "meta", "message.summary", "message.append"];
    if let Some(number) = message["action"].as_str().and_then(|name| names.iter().position(|known| *known == name)) {
        message["action"] = number.into();
    }
}
