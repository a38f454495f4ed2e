//! Compares what is on the channels with what the topic says should be there.
//!
//! Only responses that are settled are compared, but all are known, so that a message that is there twice is told from one
//! of a response that is still open. What is read may be behind: what differs is read again before it is said.

#[cfg(test)]
mod vectors;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::difference::{Findings, Kind, Place};
use super::history::{Found, History};
use super::{Counts, Error, tokens};

/// Channels that are read at once.
const PARALLEL: usize = 16;
/// How long to wait before what differs is read again.
const AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// What should be on a channel.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) channel: Box<str>,
    pub(super) response_id: Box<str>,
    pub(super) part: u32,
    pub(super) partition: i32,
    /// The first offset.
    pub(super) first: i64,
    /// When its first operation was sent, in milliseconds since the Unix epoch.
    pub(super) since: Option<i64>,
    /// Its text; none where nothing is promised of it.
    pub(super) text: Option<Text>,
}

/// A text and how it ends.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) bytes: u64,
    pub(super) hash: [u8; 32],
    pub(super) status: &'static str,
}

/// What is wrong with one response on its channel.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    kind: Kind,
    /// Which of the channel's expectations.
    index: usize,
    detail: String,
}

/// Whether an offset of a partition is part of the audit.
pub(super) type InRange<'a> = &'a (dyn Fn(i32, i64) -> bool + Sync);

/// Reads every channel and compares.
pub(super) async fn compare(
    history: &History,
    (topic, in_range): (&str, InRange<'_>),
    expected: Vec<Expected>,
    (findings, counts): (&mut Findings, &mut Counts),
    bar: &ProgressBar,
) -> Result<(), Error> {
    let mut channels: BTreeMap<Box<str>, Vec<Expected>> = BTreeMap::new();
    for one in expected {
        channels.entry(one.channel.clone()).or_default().push(one);
    }
    channels.retain(|_, all| all.iter().any(|one| one.text.is_some()));
    let mut read = stream::iter(channels)
        .map(|(channel, expected)| async move {
            let problems = look(history, topic, in_range, &channel, &expected).await?;
            Ok::<_, Error>((channel, expected, problems))
        })
        .buffered(PARALLEL);
    while let Some(read) = read.next().await {
        let (channel, expected, problems) = read?;
        bar.inc(1);
        counts.channels += 1;
        counts.messages += expected.iter().filter(|one| one.text.is_some()).count() as u64;
        for Problem { kind, index, detail } in problems {
            let one = &expected[index];
            let response = Some((&*one.response_id, one.part));
            let place = Place { response, channel: Some(&channel), ..Place::at(one.partition, one.first) };
            findings.add(kind, place, || detail);
        }
    }
    Ok(())
}

async fn look(
    history: &History,
    topic: &str,
    in_range: InRange<'_>,
    channel: &str,
    expected: &[Expected],
) -> Result<Vec<Problem>, Error> {
    let since = expected.iter().map(|one| one.since).min().flatten();
    let mut problems = problems(topic, in_range, expected, &history.read(channel, since).await?);
    for pause in AGAIN {
        if problems.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        problems = self::problems(topic, in_range, expected, &history.read(channel, since).await?);
    }
    Ok(problems)
}

/// What is wrong on one channel.
fn problems(topic: &str, in_range: InRange<'_>, expected: &[Expected], found: &[Found]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut messages: Vec<Vec<(u32, &Found)>> = vec![Vec::new(); expected.len()];
    for message in found {
        let Some(origin) = Origin::of(&message.create_id, topic) else { continue };
        let same = |one: &Expected| *one.response_id == *message.response_id && one.part == message.part;
        let begins = |one: &Expected| (one.partition, one.first) == (origin.partition, origin.first);
        if let Some(index) = expected.iter().position(|one| same(one) && begins(one)) {
            messages[index].push((origin.remade, message));
        } else if in_range(origin.partition, origin.first)
            && let Some(index) = expected.iter().position(same)
        {
            let detail = format!("message {} claims to begin at offset {}", message.serial, origin.first);
            problems.push(Problem { kind: Kind::MessageTwice, index, detail });
        }
    }
    for (index, (one, messages)) in expected.iter().zip(messages).enumerate() {
        if let Some(text) = &one.text
            && let Some((kind, detail)) = problem(text, &messages)
        {
            problems.push(Problem { kind, index, detail });
        }
    }
    problems
}

/// What is wrong with the messages of one response.
fn problem(expected: &Text, messages: &[(u32, &Found)]) -> Option<(Kind, String)> {
    if messages.iter().any(|(_, found)| found.numbers.is_some()) {
        return tokens::problem(expected, &messages.iter().map(|(_, found)| *found).collect::<Vec<_>>());
    }
    // One that was gone when it was to be changed has a successor.
    let is_newest = |(remade, found): &&(u32, &Found)| {
        messages.iter().all(|(other, message)| message.segment != found.segment || other <= remade)
    };
    let current = messages.iter().filter(is_newest).filter(|(_, found)| found.status != "superseded");
    let mut segments: Vec<&Found> = current.map(|(_, found)| *found).collect();
    segments.sort_by_key(|found| found.segment);
    let Some(last) = segments.last() else { return Some((Kind::MessageMissing, "it is not there".to_owned())) };
    if segments.windows(2).any(|pair| pair[0].segment == pair[1].segment) {
        return Some((Kind::MessageTwice, format!("{} messages where one should be", segments.len())));
    }
    if segments.iter().enumerate().any(|(index, found)| found.segment as usize != index) {
        return Some((Kind::MessageMissing, "one of its messages is not there".to_owned()));
    }
    let bytes: usize = segments.iter().map(|found| found.text.len()).sum();
    let hash = segments.iter().fold(Sha256::new(), |hash, found| hash.chain_update(&found.text)).finalize();
    if bytes as u64 != expected.bytes {
        return Some((Kind::MessageText, format!("its text has {bytes} bytes, it should have {}", expected.bytes)));
    }
    if *hash != expected.hash {
        return Some((Kind::MessageText, format!("its text of {bytes} bytes is another one")));
    }
    let (is, should) = (&last.status, expected.status);
    (is != should).then(|| (Kind::MessageStatus, format!("its status is {is:?}, it should be {should:?}")))
}

/// Which records a message says that it is of, by the name that it was created with.
struct Origin {
    partition: i32,
    first: i64,
    /// How many messages before it are gone.
    remade: u32,
}

impl Origin {
    /// From `<namespace>.<topic>.<partition>.<first offset>.<part>.<segment>[~<remade>]`.
    fn of(create_id: &str, topic: &str) -> Option<Self> {
        let mut words = create_id.rsplitn(5, '.');
        let (_, remade) = words.next()?.split_once('~').unwrap_or(("", "0"));
        let mut words = words.skip(1);
        let first = words.next()?.parse().ok()?;
        let partition = words.next()?.parse().ok()?;
        let place = words.next()?;
        let is_ours = place == topic || place.strip_suffix(topic).is_some_and(|rest| rest.ends_with('.'));
        is_ours.then_some(Self { partition, first, remade: remade.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(first: i64, text: &str) -> Expected {
        Expected {
            channel: "c".into(),
            response_id: "r".into(),
            part: 0,
            partition: 3,
            first,
            since: None,
            text: Some(Text { bytes: text.len() as u64, hash: Sha256::digest(text).into(), status: "complete" }),
        }
    }

    fn found(create_id: &str, text: &str) -> Found {
        Found {
            serial: create_id.to_owned(),
            response_id: "r".to_owned(),
            create_id: create_id.to_owned(),
            status: "complete".to_owned(),
            text: text.to_owned(),
            ..Found::default()
        }
    }

    fn kinds(expected: &[Expected], found: &[Found]) -> Vec<Kind> {
        let in_range = |partition: i32, offset: i64| partition == 3 && offset >= 5;
        problems("t.v1", &in_range, expected, found).into_iter().map(|problem| problem.kind).collect()
    }

    #[test]
    fn what_is_right_is_right() {
        let two = [expected(7, "one"), expected(90, "two")];
        assert_eq!(kinds(&two, &[found("ns.t.v1.3.7.0.0", "one"), found("ns.t.v1.3.90.0.0", "two")]), []);
        // Of before the range, and of another topic.
        let others = [found("ns.t.v1.3.7.0.0", "one"), found("ns.t.v1.3.1.0.0", "x"), found("ns.u.3.1.0.0", "x")];
        assert_eq!(kinds(&two[..1], &others), []);
        // The first one was gone.
        assert_eq!(kinds(&two[..1], &[found("ns.t.v1.3.7.0.0", "o"), found("ns.t.v1.3.7.0.0~1", "one")]), []);
    }

    #[test]
    fn every_kind_of_wrong_is_seen() {
        let one = [expected(7, "one")];
        assert_eq!(kinds(&one, &[]), [Kind::MessageMissing]);
        assert_eq!(kinds(&one, &[found("a name of somebody else's", "one")]), [Kind::MessageMissing]);
        let right = found("ns.t.v1.3.7.0.0", "one");
        assert_eq!(kinds(&one, &[found("ns.t.v1.3.7.0.0", "onE")]), [Kind::MessageText]);
        assert_eq!(kinds(&one, &[found("ns.t.v1.3.7.0.0", "on")]), [Kind::MessageText]);
        assert_eq!(kinds(&one, &[right.clone(), right.clone()]), [Kind::MessageTwice]);
        assert_eq!(kinds(&one, &[right.clone(), found("ns.t.v1.3.9.0.0", "e")]), [Kind::MessageTwice]);
        let streaming = Found { status: "streaming".to_owned(), ..right.clone() };
        assert_eq!(kinds(&one, &[streaming]), [Kind::MessageStatus]);
        let second = Found { segment: 1, ..right };
        assert_eq!(kinds(&one, &[second]), [Kind::MessageMissing]);
    }

    #[test]
    fn messages_that_continue_each_other_are_one_text() {
        let one = [expected(7, "one two")];
        let part = |create_id: &str, segment: u32, text: &str, status: &str| Found {
            segment,
            status: status.to_owned(),
            ..found(create_id, text)
        };
        let first = part("ns.t.v1.3.7.0.0", 0, "one ", "continued");
        let gone = part("ns.t.v1.3.7.0.1", 1, "tw", "streaming");
        let second = part("ns.t.v1.3.7.0.1~1", 1, "two", "complete");
        let surplus = part("ns.t.v1.3.7.0.2", 2, "", "superseded");
        assert_eq!(kinds(&one, &[first.clone(), gone, second.clone(), surplus]), []);
        assert_eq!(kinds(&one, &[second]), [Kind::MessageMissing]);
        assert_eq!(kinds(&one, &[first]), [Kind::MessageText]);
    }
}
