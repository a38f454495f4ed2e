//! The vectors of the reader for front ends: this one makes the same of them, but for those with a history, which it never reads.

use super::{Seen, View};
use crate::vectors::{self, Response, Step, Vector};

/// The messages of a response, up to the first that is missing, as one text; and how it ends. None where one is there twice,
/// or behind the end of the text: that is wrong in the end, and nothing is compared before.
fn joined(seen: &[Seen], response: &Response) -> Option<(String, String)> {
    let ours = |seen: &&Seen| (&seen.response_id, seen.part) == (&response.response_id, response.part);
    let mut messages: Vec<&Seen> = seen.iter().filter(ours).filter(|seen| seen.status != "superseded").collect();
    messages.sort_by_key(|seen| seen.segment);
    let is_open = |seen: &Seen| matches!(&*seen.status, "streaming" | "continued");
    if messages.windows(2).any(|pair| pair[0].segment == pair[1].segment || !is_open(pair[0])) {
        return None;
    }
    let follow = messages.iter().zip(0..).take_while(|(seen, number)| seen.segment == *number).count();
    let last = messages[..follow].last().map_or("streaming", |seen| &seen.status);
    let status = if last == "continued" { "streaming" } else { last };
    Some((messages[..follow].iter().map(|seen| seen.text.as_str()).collect(), status.to_owned()))
}

#[test]
fn the_vectors_of_readers_hold_here_too() {
    for Vector { name, steps } in vectors::all() {
        if steps.iter().any(|step| step.history) {
            continue;
        }
        let mut view = View::default();
        for (number, Step { missed, message, response, .. }) in steps.into_iter().enumerate() {
            if missed {
                view.missed();
            }
            if let Some(message) = message {
                view.apply(&serde_json::from_value(message).expect("a message"));
            }
            let Some(response) = response else { continue };
            let Some((text, status)) = joined(&view.seen(), &response) else { continue };
            assert_eq!(text, response.text, "{name}, step {number}");
            // What is over but not all here has a status of its own.
            if response.complete || !response.gap {
                assert_eq!(status, response.status, "{name}, step {number}");
            }
        }
    }
}
