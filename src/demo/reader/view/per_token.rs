//! What a subscriber makes of messages that are tokens: put in order by their numbers, what comes twice left out, all of it
//! replaced by a full text whose parts are all there. A hole is passed over until then.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Held, Seen};
use crate::demo::hex;

/// A full text, or what is there of it: how many parts there are to be, how many tokens they hold, the parts.
type Whole<'a> = (usize, u64, BTreeMap<u64, &'a str>);

/// The messages of one part of a response.
#[derive(Debug, Default)]
struct Tokens<'a> {
    /// By number of the first token; the one that holds more, of two.
    pieces: BTreeMap<u64, (u64, &'a str)>,
    /// Full texts by owner and round.
    rounds: BTreeMap<(u64, u64), Whole<'a>>,
    /// The ends by owner and round.
    stops: BTreeMap<(u64, u64), &'a Held>,
}

/// What is there of responses whose tokens are messages.
pub(super) fn seen<'a>(messages: impl Iterator<Item = &'a Held>) -> Vec<Seen> {
    let mut responses: BTreeMap<(String, u32), Tokens<'_>> = BTreeMap::new();
    for message in messages {
        let key = (message.header("responseId"), message.number("part") as u32);
        responses.entry(key).or_default().add(message);
    }
    responses.into_iter().map(|((response_id, part), tokens)| tokens.seen(response_id, part)).collect()
}

impl<'a> Tokens<'a> {
    fn add(&mut self, message: &'a Held) {
        let round = (message.number("epoch"), message.number("round"));
        let (seq, n) = (message.number("seq"), message.number("n"));
        if message.name == "stop" {
            self.stops.insert(round, message);
        }
        match &*message.name {
            "token" | "stop" => {
                let piece = self.pieces.entry(seq).or_default();
                *piece = (*piece).max((n, &message.text));
            }
            "response-complete" => {
                let parts = message.number("segments") as usize;
                let entry = self.rounds.entry(round).or_insert((parts, n, BTreeMap::new()));
                entry.2.insert(message.number("segment"), &message.text);
            }
            _ => {}
        }
    }

    fn seen(&self, response_id: String, part: u32) -> Seen {
        let whole = self.rounds.values().rev().find(|(parts, _, texts)| texts.len() == *parts);
        let (mut next, mut text) = match whole {
            Some((_, n, texts)) => (*n, texts.values().copied().collect()),
            None => (0, String::new()),
        };
        for (seq, (n, piece)) in &self.pieces {
            if *seq >= next {
                text.push_str(piece);
                next = seq + n;
            }
        }
        let stop = self.stops.values().next_back().filter(|stop| next <= stop.number("tokens"));
        let status = match stop {
            None => "streaming".to_owned(),
            Some(stop) if stop.header("status") == "failed" => stop.header("status"),
            Some(stop) if stop.number("length") != text.len() as u64 => "of another length".to_owned(),
            Some(stop) if whole.is_none() && stop.header("repair") == "true" => "without its full text".to_owned(),
            Some(stop) if !is_of(&text, &stop.header("sha256")) => "of another text".to_owned(),
            Some(stop) => stop.header("status"),
        };
        Seen { response_id, part, segment: 0, status, text }
    }
}

/// Whether this is the text of that hash, in hexadecimal; where none is said, it may be.
fn is_of(text: &str, hash: &str) -> bool {
    hash.is_empty() || hex(&Sha256::digest(text)) == hash
}

#[cfg(test)]
mod tests {
    use super::super::View;
    use serde_json::{Value, json};

    /// What is seen of messages, each with a name, a text, and headers.
    fn seen(messages: &[(&str, &str, Value)]) -> (String, String) {
        let mut view = View::default();
        for (at, (name, data, headers)) in messages.iter().enumerate() {
            let mut headers = headers.clone();
            (headers["responseId"], headers["part"], headers["epoch"]) = (json!("r"), json!("0"), json!("1"));
            let serial = format!("{at:03}");
            let wire = json!({ "serial": serial, "name": name, "data": data, "extras": { "headers": headers } });
            view.apply(&serde_json::from_value(wire).expect("is a message"));
        }
        let [seen] = &view.seen()[..] else { panic!("{view:?}") };
        (seen.text.clone(), seen.status.clone())
    }

    fn token(seq: u64, n: u64) -> Value {
        json!({ "seq": seq.to_string(), "n": n.to_string() })
    }

    fn full(segment: u64, segments: u64, round: u64, n: u64) -> Value {
        let [segment, segments, round, n] = [segment, segments, round, n].map(|value| value.to_string());
        json!({ "seq": "0", "n": n, "segment": segment, "segments": segments, "round": round })
    }

    fn stop(tokens: u64, length: u64) -> Value {
        let [tokens, length] = [tokens, length].map(|value| value.to_string());
        json!({ "seq": tokens, "n": "0", "tokens": tokens, "length": length, "round": "9", "status": "complete" })
    }

    #[test]
    fn tokens_are_put_in_order_and_count_once() {
        let all = [("start", "", token(0, 0)), ("token", "c", token(3, 1)), ("token", "ab", token(0, 3))];
        let again = [("token", "b", token(1, 1)), ("token", "c", token(3, 1)), ("stop", "", stop(4, 3))];
        assert_eq!(seen(&all), ("abc".to_owned(), "streaming".to_owned()));
        assert_eq!(seen(&[&all[..], &again].concat()), ("abc".to_owned(), "complete".to_owned()));
    }

    #[test]
    fn a_hole_stays_until_all_parts_of_a_full_text_are_there() {
        let hole = [("token", "a", token(0, 1)), ("token", "c", token(2, 1)), ("stop", "", stop(3, 3))];
        assert_eq!(seen(&hole), ("ac".to_owned(), "of another length".to_owned()));
        let half = [("response-complete", "ab", full(0, 2, 4, 3))];
        assert_eq!(seen(&[&hole[..], &half].concat()).0, "ac");
        let rest = [("response-complete", "c", full(1, 2, 4, 3)), ("response-complete", "x", full(0, 2, 5, 3))];
        assert_eq!(seen(&[&hole[..], &half, &rest].concat()), ("abc".to_owned(), "complete".to_owned()));
        let mut wrong = stop(3, 3);
        (wrong["round"], wrong["sha256"]) = (json!("10"), json!("00"));
        let other = [("stop", "", wrong)];
        assert_eq!(seen(&[&hole[..], &half, &rest, &other].concat()), ("abc".to_owned(), "of another text".to_owned()));
        let more = [("token", "d", token(3, 1))];
        assert_eq!(seen(&[&hole[..], &half, &rest, &more].concat()), ("abcd".to_owned(), "streaming".to_owned()));
    }
}
