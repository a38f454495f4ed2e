//! What an audit has found: the kinds of difference, the first few of them in words, and how often each kind came.
//!
//! Texts never appear, only lengths, offsets and names.

use std::collections::BTreeMap;

use serde::Serialize;

/// What is wrong, as a word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A response is over and has no result.
    ResponseMissing,
    /// A response has more than one result.
    ResponseTwice,
    /// An operation that a result counts has none of its own.
    OperationMissing,
    /// An operation has more than one result.
    OperationTwice,
    /// No operation that was taken covers an offset of a response.
    OffsetUncovered,
    /// Two operations of a stream cover the same offset, or go back.
    CoveredOverlaps,
    /// A result covers other offsets than those of its response.
    CoveredWrong,
    /// A result counts tokens or bytes that are not in the topic.
    TokensWrong,
    /// A result's hash is that of another text.
    TextWrong,
    /// A result's counts are not the sums over its operations.
    CountsWrong,
    /// A result's outcome is not how the response ended.
    OutcomeWrong,
    /// A result lacks the reason that its outcome needs.
    ReasonMissing,
    /// Results name a channel that the records do not.
    ChannelWrong,
    /// A result speaks of what is not in the topic.
    ResultUnexplained,
    /// A record of the results topic is none, or not where it belongs.
    ResultUnreadable,
    /// An owner's number is lower than that of an earlier result.
    EpochFalls,
    /// A record that could not be relayed has no dead letter.
    LetterMissing,
    /// A record has more than one dead letter.
    LetterTwice,
    /// A dead letter's bytes are not those of its record.
    LetterChanged,
    /// A record has a dead letter, or one with this reason, and should not.
    LetterUnexplained,
    /// A response's message is not on its channel.
    MessageMissing,
    /// A response has more than one message on its channel.
    MessageTwice,
    /// A message has another text.
    MessageText,
    /// A message has another status.
    MessageStatus,
}

impl Kind {
    /// The word for tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ResponseMissing => "response-missing",
            Self::ResponseTwice => "response-twice",
            Self::OperationMissing => "operation-missing",
            Self::OperationTwice => "operation-twice",
            Self::OffsetUncovered => "offset-uncovered",
            Self::CoveredOverlaps => "covered-overlaps",
            Self::CoveredWrong => "covered-wrong",
            Self::TokensWrong => "tokens-wrong",
            Self::TextWrong => "text-wrong",
            Self::CountsWrong => "counts-wrong",
            Self::OutcomeWrong => "outcome-wrong",
            Self::ReasonMissing => "reason-missing",
            Self::ChannelWrong => "channel-wrong",
            Self::ResultUnexplained => "result-unexplained",
            Self::ResultUnreadable => "result-unreadable",
            Self::EpochFalls => "epoch-falls",
            Self::LetterMissing => "letter-missing",
            Self::LetterTwice => "letter-twice",
            Self::LetterChanged => "letter-changed",
            Self::LetterUnexplained => "letter-unexplained",
            Self::MessageMissing => "message-missing",
            Self::MessageTwice => "message-twice",
            Self::MessageText => "message-text",
            Self::MessageStatus => "message-status",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What is wrong.
    pub kind: Kind,
    /// The partition of the tokens topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Where: the first offset of the tokens topic that it is about, or the place in another topic that the detail names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// The response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_id: Option<String>,
    /// Which part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    /// The channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// In words: what is, and what should be.
    pub detail: String,
}

/// A place that a difference is about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place<'a> {
    pub(super) partition: Option<i32>,
    pub(super) offset: Option<i64>,
    pub(super) response: Option<(&'a str, u32)>,
    pub(super) channel: Option<&'a str>,
}

impl Place<'_> {
    /// An offset of a partition.
    pub(super) fn at(partition: i32, offset: i64) -> Self {
        Self { partition: Some(partition), offset: Some(offset), ..Self::default() }
    }
}

/// Differences so far: all are counted, the first few are kept.
#[derive(Debug)]
pub(super) struct Findings {
    kept_max: usize,
    pub(super) kept: Vec<Difference>,
    pub(super) by_kind: BTreeMap<Kind, u64>,
}

impl Findings {
    /// None yet; `kept_max` of them will be kept.
    pub(super) fn new(kept_max: usize) -> Self {
        Self { kept_max, kept: Vec::new(), by_kind: BTreeMap::new() }
    }

    /// Adds one.
    pub(super) fn add(&mut self, kind: Kind, place: Place<'_>, detail: impl FnOnce() -> String) {
        *self.by_kind.entry(kind).or_default() += 1;
        if self.kept.len() < self.kept_max {
            self.kept.push(Difference {
                kind,
                partition: place.partition,
                offset: place.offset,
                response_id: place.response.map(|(id, _)| id.to_owned()),
                part: place.response.map(|(_, part)| part),
                channel: place.channel.map(str::to_owned),
                detail: detail(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_json() {
        for kind in [Kind::ResponseMissing, Kind::LetterUnexplained, Kind::MessageText, Kind::EpochFalls] {
            assert_eq!(serde_json::to_value(kind).expect("a word"), kind.as_str());
        }
    }

    #[test]
    fn all_are_counted_and_some_are_kept() {
        let mut findings = Findings::new(1);
        for offset in 0..3 {
            findings.add(Kind::LetterMissing, Place::at(0, offset), || "none".to_owned());
        }
        assert_eq!((findings.kept.len(), findings.by_kind[&Kind::LetterMissing]), (1, 3));
        assert_eq!(findings.kept[0].offset, Some(0));
    }
}
