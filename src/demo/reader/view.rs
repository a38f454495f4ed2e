//! What an ordinary subscriber makes of a channel: messages by serial, guarded by version serial.
//!
//! Written from Ably's description of message interactions and sharing nothing with the relay or the emulator, so that a
//! misunderstanding of theirs shows. A create sets, an update replaces, an append concatenates, a delete deletes; what is
//! not newer than what is held is ignored, which makes overlaps of rewind, resume and live harmless. Where something was
//! missed, a full text that is no older than the first piece since has brought it.

mod per_token;
#[cfg(test)]
mod vectors;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

/// A message as it travels, by WebSocket or in history.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::demo) struct Wire {
    action: Option<u8>,
    serial: Option<String>,
    name: Option<String>,
    data: Option<Value>,
    extras: Option<Value>,
    version: Option<Version>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Version {
    serial: Option<String>,
}

const CREATE: u8 = 0;
const UPDATE: u8 = 1;
const DELETE: u8 = 2;
const APPEND: u8 = 5;

/// A message as a reader has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    version: String,
    name: String,
    text: String,
    headers: Map<String, Value>,
    deleted: bool,
    /// What was appended since something may be missing, each with its version.
    loose: Option<Vec<(String, String)>>,
}

/// The messages of one channel.
#[derive(Debug, Clone, Default)]
pub(in crate::demo) struct View {
    messages: BTreeMap<String, Held>,
    /// Appends that were taken as such, so that a test can tell streaming from full texts.
    pub(in crate::demo) appends: u64,
}

/// One message, as far as a comparison cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::demo) struct Seen {
    /// Header `responseId`.
    pub(in crate::demo) response_id: String,
    /// Header `part`.
    pub(in crate::demo) part: u32,
    /// Header `segment`.
    pub(in crate::demo) segment: u32,
    /// Header `status`.
    pub(in crate::demo) status: String,
    /// The text.
    pub(in crate::demo) text: String,
}

impl View {
    /// Takes one message in.
    pub(in crate::demo) fn apply(&mut self, wire: &Wire) {
        let Some(serial) = wire.serial.as_deref() else { return };
        let version = wire.version.as_ref().and_then(|version| version.serial.as_deref()).unwrap_or(serial);
        let action = wire.action.unwrap_or(CREATE);
        let held = self
            .messages
            .entry(serial.to_owned())
            .or_insert_with(|| Held { loose: (action == APPEND).then(Vec::new), ..Held::default() });
        let data = wire.data.as_ref().and_then(Value::as_str);
        let headers = wire.extras.as_ref().and_then(|extras| extras["headers"].as_object());
        if version <= held.version.as_str() {
            if let (CREATE | UPDATE, Some(text)) = (action, data) {
                held.complete(version, text);
            }
            return;
        }
        version.clone_into(&mut held.version);
        if let Some(name) = &wire.name {
            held.name.clone_from(name);
        }
        match action {
            CREATE | UPDATE => {
                (held.deleted, held.loose) = (false, None);
                if let Some(data) = data {
                    data.clone_into(&mut held.text);
                }
            }
            APPEND => {
                let piece = data.unwrap_or_default();
                held.text.push_str(piece);
                held.loose.iter_mut().for_each(|loose| loose.push((version.to_owned(), piece.to_owned())));
                self.appends += 1;
            }
            DELETE => held.deleted = true,
            _ => {}
        }
        if let Some(headers) = headers {
            held.headers.clone_from(headers);
        }
    }

    /// Messages were missed: those that may still be written may lack something.
    pub(in crate::demo) fn missed(&mut self) {
        let is_over =
            |held: &Held| matches!(&*held.header("status"), "complete" | "cancelled" | "error" | "superseded");
        self.messages.values_mut().filter(|held| !is_over(held)).for_each(|held| held.loose = Some(Vec::new()));
    }

    /// What is there now, without messages that were deleted or that another one is in the place of.
    pub(in crate::demo) fn seen(&self) -> Vec<Seen> {
        let replaced: BTreeSet<&str> =
            self.messages.values().filter_map(|held| held.headers.get("supersedes")?.as_str()).collect();
        let there = self.messages.iter().filter(|(serial, held)| !held.deleted && !replaced.contains(serial.as_str()));
        let (tokens, texts): (Vec<&Held>, Vec<&Held>) = there.map(|(_, held)| held).partition(|held| held.is_token());
        let mut seen: Vec<Seen> = texts.into_iter().map(Held::seen).collect();
        seen.extend(per_token::seen(tokens.into_iter()));
        seen
    }
}

impl Held {
    /// A full text that is not newer.
    fn complete(&mut self, version: &str, text: &str) {
        let first =
            |loose: &[(String, String)]| loose.first().map_or(self.version.clone(), |(version, _)| version.clone());
        if let Some(loose) = self.loose.take_if(|loose| version >= first(loose).as_str()) {
            let later = loose.iter().filter(|(piece, _)| piece.as_str() > version).map(|(_, text)| text.as_str());
            self.text = std::iter::once(text).chain(later).collect();
        }
    }

    fn seen(&self) -> Seen {
        Seen {
            response_id: self.header("responseId"),
            part: self.header("part").parse().unwrap_or_default(),
            segment: self.header("segment").parse().unwrap_or_default(),
            status: self.header("status"),
            text: self.text.clone(),
        }
    }

    /// Whether it is one of the messages of a response whose tokens are messages.
    fn is_token(&self) -> bool {
        self.headers.contains_key("seq")
    }

    fn number(&self, name: &str) -> u64 {
        self.header(name).parse().unwrap_or_default()
    }

    /// A header as text; numbers may travel as either.
    fn header(&self, name: &str) -> String {
        match self.headers.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) if !other.is_null() => other.to_string(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(view: &mut View, action: u8, version: &str, data: &str, status: &str) {
        let wire = serde_json::json!({
            "action": action, "serial": "s", "data": data, "version": { "serial": version },
            "extras": { "headers": { "responseId": "r", "part": 1, "segment": "0", "status": status } },
        });
        view.apply(&serde_json::from_value(wire).expect("is a message"));
    }

    #[test]
    fn versions_decide() {
        let mut view = View::default();
        apply(&mut view, CREATE, "s", "a", "streaming");
        apply(&mut view, APPEND, "t", "b", "streaming");
        apply(&mut view, APPEND, "t", "b", "streaming");
        apply(&mut view, UPDATE, "v", "abc", "complete");
        apply(&mut view, APPEND, "u", "late", "streaming");
        let seen = Seen { response_id: "r".into(), part: 1, segment: 0, status: "complete".into(), text: "abc".into() };
        assert_eq!(view.seen(), [seen]);
        assert_eq!(view.appends, 1);
        apply(&mut view, DELETE, "w", "", "complete");
        assert_eq!(view.seen(), []);
    }

    #[test]
    fn a_message_that_another_one_is_in_the_place_of_is_not_there() {
        let mut view = View::default();
        for (serial, text, supersedes) in [("s", "a", None), ("t", "abc", Some("s"))] {
            let headers = serde_json::json!({ "responseId": "r", "status": "streaming", "supersedes": supersedes });
            let wire = serde_json::json!({ "serial": serial, "data": text, "extras": { "headers": headers } });
            view.apply(&serde_json::from_value(wire).expect("is a message"));
        }
        let texts: Vec<String> = view.seen().into_iter().map(|seen| seen.text).collect();
        assert_eq!(texts, ["abc"]);
    }

    #[test]
    fn what_an_operation_leaves_out_stays() {
        let mut view = View::default();
        apply(&mut view, CREATE, "s", "a", "streaming");
        let bare = serde_json::json!({ "action": 5, "serial": "s", "data": "b", "extras": null, "version": { "serial": "t" } });
        view.apply(&serde_json::from_value(bare).expect("is a message"));
        assert_eq!(view.seen()[0].text, "ab");
        assert_eq!(view.seen()[0].status, "streaming");
    }
}
