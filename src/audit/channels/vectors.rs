//! The vectors of the reader for front ends: where it shows a whole text, the audit finds nothing wrong, and only there.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{Found, Kind, Origin, Text, problem};
use crate::ably::wire::{Encoding, message_action};
use crate::audit::history::take;
use crate::vectors::{self, Response, Step, Vector};

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

/// Whether history could give these: nothing is missed, and nothing is appended to what is not there.
fn is_of_history(steps: &[Step]) -> bool {
    let mut serials = BTreeSet::new();
    steps.iter().all(|step| {
        let Some(message) = step.message.as_ref().filter(|_| !step.missed) else { return false };
        !serials.insert(message["serial"].to_string()) || message["action"] != message_action::APPEND
    })
}

#[test]
fn where_readers_show_a_whole_text_nothing_is_wrong_and_only_there() {
    let mut played = 0;
    for Vector { name, steps } in vectors::all().into_iter().filter(|vector| is_of_history(&vector.steps)) {
        let mut last: BTreeMap<(String, u32), Response> = BTreeMap::new();
        last.extend(steps.iter().filter_map(|step| step.response.clone()).map(|response| (response.key(), response)));
        let (mut messages, mut shown) = (BTreeMap::new(), BTreeMap::new());
        for (number, Step { message, response, .. }) in steps.into_iter().enumerate() {
            let message = message.expect("nothing is missed").to_string();
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
