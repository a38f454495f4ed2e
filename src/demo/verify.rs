//! Compares what readers see with what was produced. A text is wrong when it differs, when its end is not marked as it
//! ended, when it is there twice, or when something is there that nobody produced.

use std::collections::{BTreeMap, BTreeSet};

use super::generator::{Expected, Script};
use super::reader::Seen;

/// What must be on a channel.
#[derive(Debug, Clone, Default)]
pub(super) struct Promises {
    channels: BTreeMap<String, Vec<(String, Expected)>>,
}

/// Something on a channel that is not as it was produced. Lengths only: texts never leave the process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The response.
    pub response_id: String,
    /// Which part of it.
    pub part: u32,
    /// The channel.
    pub channel: String,
    /// What is wrong.
    pub what: String,
}

impl Promises {
    /// Adds what a script promises.
    pub(super) fn add(&mut self, script: &Script) {
        let channel = self.channels.entry(script.channel.clone()).or_default();
        channel.extend(script.expected.iter().map(|expected| (script.id.clone(), expected.clone())));
    }

    /// The channels, in order.
    pub(super) fn channels(&self) -> Vec<String> {
        self.channels.keys().cloned().collect()
    }

    /// All parts of all responses.
    pub(super) fn parts(&self) -> impl Iterator<Item = &(String, Expected)> {
        self.channels.values().flatten()
    }

    /// What differs on one channel.
    pub(super) fn differences(&self, channel: &str, seen: &[Seen]) -> BTreeSet<Difference> {
        let promised = self.channels.get(channel).map_or(&[][..], Vec::as_slice);
        let mut differences: BTreeSet<Difference> = promised
            .iter()
            .filter_map(|(id, expected)| {
                let what = difference(id, expected, seen)?;
                Some(Difference { response_id: id.clone(), part: expected.part, channel: channel.to_owned(), what })
            })
            .collect();
        let known = |s: &Seen| promised.iter().any(|(id, expected)| *id == s.response_id && expected.part == s.part);
        differences.extend(seen.iter().filter(|s| !known(s)).map(|stray| Difference {
            response_id: stray.response_id.clone(),
            part: stray.part,
            channel: channel.to_owned(),
            what: "nobody produced it".to_owned(),
        }));
        differences
    }
}

/// What is wrong with the messages of one part of a response, if anything.
pub(super) fn difference(id: &str, expected: &Expected, seen: &[Seen]) -> Option<String> {
    let ours = |seen: &&Seen| seen.response_id == id && seen.part == expected.part && seen.status != "superseded";
    let mut segments: Vec<&Seen> = seen.iter().filter(ours).collect();
    segments.sort_by_key(|seen| seen.segment);
    let Some(last) = segments.last() else { return Some("it is not there".to_owned()) };
    if segments.iter().enumerate().any(|(index, seen)| seen.segment as usize != index) {
        return Some("a message of it is there twice, or missing".to_owned());
    }
    let text: String = segments.iter().map(|seen| seen.text.as_str()).collect();
    if text != expected.text {
        let same = text.bytes().zip(expected.text.bytes()).take_while(|(ours, theirs)| ours == theirs).count();
        let (is, should) = (text.len(), expected.text.len());
        return Some(format!("its text of {is} bytes should have {should} and differs from byte {same} on"));
    }
    (last.status != expected.status).then(|| format!("its status is {:?}, not {:?}", last.status, expected.status))
}

#[cfg(test)]
mod tests {
    use super::super::generator;
    use super::*;

    fn promised() -> (Promises, String, Vec<Seen>) {
        let script = generator::script(5, 0);
        let mut promises = Promises::default();
        promises.add(&script);
        let seen = script.expected.iter().map(|expected| Seen {
            response_id: script.id.clone(),
            part: expected.part,
            segment: 0,
            status: expected.status.to_owned(),
            text: expected.text.clone(),
        });
        (promises, script.channel.clone(), seen.collect())
    }

    fn whats(promises: &Promises, channel: &str, seen: &[Seen]) -> Vec<String> {
        promises.differences(channel, seen).into_iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn the_right_text_is_right() {
        let (promises, channel, seen) = promised();
        assert_eq!(whats(&promises, &channel, &seen), [""; 0]);
    }

    #[test]
    fn every_kind_of_wrong_is_seen() {
        let (promises, channel, seen) = promised();
        assert_eq!(whats(&promises, &channel, &[]), ["it is not there"]);
        let mut hole = seen.clone();
        hole[0].text.remove(0);
        assert!(whats(&promises, &channel, &hole)[0].contains("differs from byte 0 on"));
        let mut open = seen.clone();
        open[0].status = "streaming".to_owned();
        assert!(whats(&promises, &channel, &open)[0].starts_with("its status is \"streaming\""));
        let twice = [seen.clone(), seen.clone()].concat();
        assert_eq!(whats(&promises, &channel, &twice), ["a message of it is there twice, or missing"]);
        let mut stray = seen.clone();
        stray.push(Seen { response_id: "other".to_owned(), ..seen[0].clone() });
        assert_eq!(whats(&promises, &channel, &stray), ["nobody produced it"]);
    }
}
