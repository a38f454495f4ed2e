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
        problem(&text, &self.messages(messages)).map(|(kind, _)| kind)
    }

    /// Its messages, each with how many before it are gone.
    fn messages<'a>(&self, messages: &'a BTreeMap<String, Found>) -> Vec<(u32, &'a Found)> {
        let ours =
            |found: &&Found| !found.deleted && (&*found.response_id, found.part) == (&*self.response_id, self.part);
        let remade = |found: &Found| Origin::of(&found.create_id, "t").map_or(0, |origin| origin.remade);
        messages.values().filter(ours).map(|found| (remade(found), found)).collect()
    }

    /// Whether something is left over that is to be emptied: a second message of one create, or what is behind the end of
    /// the text. Readers know that it does not count.
    fn has_leftovers(&self, messages: &BTreeMap<String, Found>) -> bool {
        let mut current = self.messages(messages);
        current.retain(|(_, found)| found.status != "superseded" && found.numbers.is_none());
        current.sort_by_key(|(remade, found)| (found.segment, *remade));
        let is_open = |found: &Found| matches!(&*found.status, "streaming" | "continued");
        current.windows(2).any(|pair| {
            let [(remade, found), (other, next)] = [pair[0], pair[1]];
            (found.segment, remade) == (next.segment, other) || (found.segment < next.segment && !is_open(found))
        })
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
                if response.has_leftovers(&messages) {
                    assert!(last[key].verdict(&messages).is_some(), "{name}, step {number}");
                    continue;
                }
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
