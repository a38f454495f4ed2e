//! Responses whose tokens are messages, as a reader has them that reads the channel from its beginning: in order, each token
//! once, the newest whole full text in the place of those that it holds.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::channels::Text;
use super::difference::Kind;
use super::history::Found;

/// What a message says that is a token, or frames tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) seq: u64,
    pub(super) n: u64,
    /// The owner's number, and that of a full text or an end.
    pub(super) round: (u64, u64),
    pub(super) segments: u64,
}

/// A full text, or what is there of it.
type Whole<'a> = (&'a Numbers, BTreeMap<u32, &'a str>);

/// What is wrong with the messages of one response, if they are tokens; none if they are not.
pub(super) fn problem(expected: &Text, messages: &[&Found]) -> Option<(Kind, String)> {
    let named = |name: &'static str| {
        messages
            .iter()
            .filter(move |found| found.name == name)
            .filter_map(|found| Some((found, found.numbers.as_ref()?)))
    };
    let mut rounds: BTreeMap<(u64, u64), Whole<'_>> = BTreeMap::new();
    for (found, numbers) in named("response-complete") {
        rounds.entry(numbers.round).or_insert((numbers, BTreeMap::new())).1.insert(found.segment, &found.text);
    }
    let mut pieces: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
    for (found, numbers) in named("token").chain(named("stop")) {
        let piece = pieces.entry(numbers.seq).or_default();
        *piece = (*piece).max((numbers.n, &found.text));
    }
    let whole = rounds.values().rev().find(|(numbers, parts)| parts.len() as u64 == numbers.segments);
    let mut next = whole.map_or(0, |(numbers, _)| numbers.n);
    let parts = whole.into_iter().flat_map(|(_, parts)| parts.values().copied());
    let (mut bytes, mut hash) = (0, Sha256::new());
    let mut add = |text: &str| {
        bytes += text.len() as u64;
        hash.update(text);
    };
    parts.for_each(&mut add);
    for (seq, (n, text)) in pieces {
        if seq == next {
            add(text);
            next += n;
        }
    }
    let should = expected.bytes;
    if bytes != should {
        return Some((Kind::MessageText, format!("its tokens have {bytes} bytes, they should have {should}")));
    }
    if *hash.finalize() != expected.hash {
        return Some((Kind::MessageText, format!("its tokens of {bytes} bytes are another text")));
    }
    let stop = named("stop").max_by_key(|(_, numbers)| numbers.round);
    let (is, should) = (stop.map_or("streaming", |(found, _)| &*found.status), expected.status);
    (is != should).then(|| (Kind::MessageStatus, format!("its status is {is:?}, it should be {should:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str, seq: u64, n: u64) -> Found {
        let numbers = Some(Numbers { seq, n, round: (1, 9), segments: 0 });
        Found {
            name: name.to_owned(),
            text: text.to_owned(),
            status: "complete".to_owned(),
            numbers,
            ..Found::default()
        }
    }

    fn part(text: &str, segment: u32, segments: u64, round: u64) -> Found {
        let numbers = Some(Numbers { seq: 0, n: 3, round: (1, round), segments });
        Found { segment, numbers, ..found("response-complete", text, 0, 3) }
    }

    fn kind(messages: &[Found]) -> Option<Kind> {
        let expected = Text { bytes: 3, hash: Sha256::digest("abc").into(), status: "complete" };
        problem(&expected, &messages.iter().collect::<Vec<_>>()).map(|(kind, _)| kind)
    }

    #[test]
    fn tokens_count_once_and_in_order() {
        let stop = found("stop", "", 3, 0);
        let right = [found("start", "", 0, 0), found("token", "c", 2, 1), found("token", "ab", 0, 2), stop.clone()];
        assert_eq!(kind(&right), None);
        assert_eq!(kind(&[&right[..], &[found("token", "b", 1, 1)]].concat()), None);
        assert_eq!(kind(&right[..3]), Some(Kind::MessageStatus));
        assert_eq!(kind(&[right[1].clone(), stop.clone()]), Some(Kind::MessageText));
        let other = found("token", "xb", 0, 2);
        assert_eq!(kind(&[right[1].clone(), other, stop]), Some(Kind::MessageText));
    }

    #[test]
    fn a_full_text_counts_when_all_of_it_is_there() {
        let stop = found("stop", "", 3, 0);
        let (first, second) = (part("ab", 0, 2, 4), part("c", 1, 2, 4));
        assert_eq!(kind(&[first.clone(), second.clone(), stop.clone(), part("x", 0, 2, 7)]), None);
        assert_eq!(kind(&[first, stop]), Some(Kind::MessageText));
    }
}
