//! What a reader of committed records sees, checked at every commit: results, dead letters and offsets (I3 to I8).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::broker::{Committed, Mark};
use super::tokens::{Tokens, Truth};
use crate::engine::{Head, Latest, Offset, OpKind, ReadBack, Serial, Status};
use crate::kafka::Handover;
use crate::sim::scene::{Broken, Kept, hold};

/// The code of what is larger than a message may be.
const TOO_LARGE: u32 = 40_009;

#[derive(Deserialize)]
struct Range {
    first: Offset,
    last: Offset,
    partition: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    kind: &'a str,
    response_id: &'a str,
    part: u32,
    outcome: &'a str,
    covered: Range,
    tokens: u64,
    bytes: usize,
    epoch: u64,
    op: Option<OpKind>,
    name: Option<&'a str>,
    op_seq: Option<u32>,
    cause: Option<&'a str>,
    operations: Option<u32>,
    rejected: Option<u32>,
    unknown: Option<u32>,
    repairs: Option<u32>,
    text_sha256: Option<&'a str>,
    reason: Option<&'a str>,
    cut: Option<Cut>,
    #[serde(borrow)]
    error: Option<Refusal<'a>>,
}

#[derive(Deserialize)]
struct Cut {
    limit: usize,
}

#[derive(Deserialize)]
struct Refusal<'a> {
    code: Option<u32>,
    class: &'a str,
}

/// What a record says of an operation.
#[derive(Debug)]
struct Operation {
    /// It carries all of the text, or the last of its parts.
    is_whole: bool,
    is_new_text: bool,
    outcome: Box<str>,
    /// The owner that was refused it, if that was about the operation itself.
    refused: Option<u64>,
    first: Offset,
    last: Offset,
}

/// What the results say of a response.
#[derive(Debug, Default)]
pub(super) struct Account {
    operations: BTreeMap<u32, Operation>,
    pub(super) settled: Option<Box<str>>,
    /// It was given up on for its silence, but it was not over: it opens again.
    pub(super) opens_again: bool,
    /// Its last record that is accounted for.
    through: Option<Offset>,
    /// Bytes of text in one message, at the most.
    limit: Option<usize>,
    /// Something of it was too large.
    too_large: bool,
}

/// The books.
#[derive(Debug)]
pub(super) struct Audit {
    /// Refusals after which a response is given up on.
    attempts: usize,
    /// By truth.
    pub(super) accounts: Vec<Account>,
    by_name: HashMap<(Box<str>, u32), usize>,
    pub(super) letters: Vec<(usize, Offset)>,
    pub(super) offsets: Vec<Offset>,
    epochs: Vec<u64>,
    /// Partitions whose dead letters nobody knows, and those of which results are gone, too.
    wordless: Vec<bool>,
    forgotten: Vec<bool>,
    owners: Vec<((usize, u32), u64)>,
    /// Messages that were seen to be changed by somebody else, and the responses that they are of.
    pub(super) others: HashSet<Serial>,
    /// Messages on which somebody has said that their response is given up on.
    pub(super) last_words: HashSet<Serial>,
    changed: HashSet<usize>,
}

impl Audit {
    pub(super) fn new(tokens: &Tokens, attempts: u32) -> Self {
        let names = tokens.truths.iter().enumerate();
        Self {
            attempts: attempts as usize,
            accounts: tokens.truths.iter().map(|_| Account::default()).collect(),
            by_name: names.map(|(i, truth)| ((truth.id.into(), truth.part), i)).collect(),
            letters: Vec::new(),
            offsets: (0..tokens.logs.len()).map(|partition| tokens.begins(partition)).collect(),
            epochs: vec![0; tokens.logs.len()],
            wordless: vec![false; tokens.logs.len()],
            forgotten: vec![false; tokens.logs.len()],
            owners: vec![((usize::MAX, 0), 0); tokens.logs.len()],
            others: HashSet::new(),
            last_words: HashSet::new(),
            changed: HashSet::new(),
        }
    }

    /// A message has been read.
    pub(super) fn read(&mut self, read_back: &ReadBack, latest: &Latest) {
        if matches!(latest, Latest::Deleted | Latest::Message { ours: false, .. }) {
            self.others.insert(read_back.serial.clone());
            self.is_others(&read_back.head);
        }
    }

    /// A message of a response was seen to be changed by somebody else.
    pub(super) fn is_others(&mut self, head: &Head) {
        self.changed.extend(self.by_name.get(&(head.response_id.clone(), head.part)));
    }

    /// Somebody has changed what Kafka holds of a partition. What was said of it may be said again then: what is promised is
    /// that texts are right, and, as long as results are there, that they are right.
    pub(super) fn meddled(&mut self, partition: usize, committed: Offset, forgets: bool) {
        self.offsets[partition] = committed;
        self.owners[partition] = ((usize::MAX, 0), self.epochs[partition]);
        self.wordless[partition] = true;
        self.forgotten[partition] |= forgets;
        if forgets {
            (self.epochs[partition], self.owners[partition].1) = (0, 0);
        }
    }

    pub(super) fn is_meddled(&self, partition: usize) -> bool {
        self.wordless[partition]
    }

    /// Whether it is known to all that a response has failed: nobody goes on with it.
    pub(super) fn has_failed(&self, head: &Head) -> bool {
        let account = self.by_name.get(&(head.response_id.clone(), head.part)).map(|i| &self.accounts[*i]);
        account.is_some_and(|account| account.settled.as_deref() == Some("failed"))
    }

    /// A transaction has become visible.
    pub(super) fn committed(&mut self, tokens: &Tokens, committed: &Committed) -> Kept {
        for (partition, value) in &committed.results {
            let said: Said<'_> = serde_json::from_slice(value).map_err(|error| Broken(format!("a result: {error}")))?;
            self.result(tokens, *partition, &said)?;
        }
        for letter in &committed.letters {
            hold!(
                tokens.letters.contains(letter) || self.is_after_end(tokens, *letter),
                "I7: the record at {letter:?} went to the dead letters, but it is good"
            );
            let is_twice = self.letters.contains(letter) && !self.wordless[letter.0];
            hold!(!is_twice, "I7: two dead letters of the record at {letter:?}");
            self.letters.push(*letter);
        }
        committed.marks.iter().try_for_each(|mark| self.mark(tokens, mark))
    }

    /// What has failed is over, whatever was to come.
    fn is_after_end(&self, tokens: &Tokens, (partition, offset): (usize, Offset)) -> bool {
        let mut all = tokens.truths.iter().zip(&self.accounts);
        all.any(|(truth, account)| {
            let is_left = truth.partition == partition && account.settled.as_deref() == Some("failed");
            is_left && truth.events.contains(&offset)
        })
    }

    fn result(&mut self, tokens: &Tokens, partition: usize, said: &Said<'_>) -> Kept {
        hold!(
            said.epoch >= self.epochs[partition],
            "I8: epoch {} after {} in results partition {partition}",
            said.epoch,
            self.epochs[partition]
        );
        self.epochs[partition] = said.epoch;
        let i = self.by_name.get(&(said.response_id.into(), said.part));
        let Some(i) = i.copied() else { return Err(Broken(format!("I6: a result of {}", said.response_id))) };
        let (truth, account) = (&tokens.truths[i], &mut self.accounts[i]);
        if std::mem::take(&mut account.opens_again) {
            account.settled = None;
        }
        let name = truth.name();
        hold!(said.covered.partition == partition && truth.partition == partition, "{name}: results in {partition}");
        if self.forgotten[partition] {
            account.forget(truth, said);
            return Ok(());
        }
        match said.kind {
            "operation" => account.operation(&name, said),
            _ => account.response(truth, said, self.attempts, self.changed.contains(&i)),
        }
    }

    /// An offset has been committed.
    fn mark(&mut self, tokens: &Tokens, mark: &Mark) -> Kept {
        let Mark { by, partition, offset, metadata } = mark;
        let before = std::mem::replace(&mut self.offsets[*partition], *offset);
        hold!(*offset >= before, "I3: the committed offset of {partition} goes back from {before} to {offset}");
        let Some(handover) = Handover::parse(metadata, *offset) else {
            return Err(Broken(format!("I8: nobody understands {metadata:?}")));
        };
        let (former, epoch) = std::mem::replace(&mut self.owners[*partition], (*by, handover.epoch));
        let rises = if former == *by { handover.epoch == epoch } else { handover.epoch > epoch };
        hold!(rises, "I8: an owner of {partition} has epoch {}, the one before has {epoch}", handover.epoch);
        for (truth, account) in tokens.truths.iter().zip(&self.accounts) {
            let is_over = account.settled.is_some() && !account.opens_again;
            let mut open = truth.events.iter().filter(|event| Some(**event) > account.through);
            let is_passed = truth.partition == *partition && !is_over && open.any(|event| event < offset);
            hold!(!is_passed, "I3: {offset} of {partition} is committed, but {} is not settled", truth.name());
        }
        for letter in tokens.letters.iter().filter(|(at, record)| at == partition && record < offset) {
            hold!(
                self.letters.contains(letter),
                "I7: {offset} is committed, but the record at {letter:?} is not accounted for"
            );
        }
        Ok(())
    }
}

impl Account {
    /// What was said before may be said again.
    fn forget(&mut self, truth: &Truth, said: &Said<'_>) {
        if said.kind == "response" {
            self.settled = Some(said.outcome.into());
            self.opens_again = said.outcome == "abandoned" && said.covered.last < truth.last;
            self.through = self.through.max(Some(said.covered.last));
        }
    }

    fn operation(&mut self, name: &str, said: &Said<'_>) -> Kept {
        let (Some(op), Some(seq), Some(cause)) = (said.op, said.op_seq, said.cause) else {
            return Err(Broken(format!("{name}: a record of an operation without op, opSeq or cause")));
        };
        hold!(self.settled.is_none(), "I11: {name} is settled, but an operation of it is recorded");
        hold!(!self.operations.contains_key(&seq), "I4: two results of operation {seq} of {name}");
        self.cut(name, said)?;
        let (first, last) = (said.covered.first, said.covered.last);
        let is_new_text = matches!(cause, "stream" | "final");
        let is_whole =
            (op == OpKind::Update && cause != "final") || (said.name == Some("response-complete") && first <= last);
        let refused = said.error.as_ref().filter(|error| matches!(error.class, "operation" | "message-gone"));
        let refused = refused.map(|_| said.epoch);
        self.operations
            .insert(seq, Operation { is_whole, is_new_text, outcome: said.outcome.into(), refused, first, last });
        Ok(())
    }

    /// All owners cut alike, whatever each is told; until something is too large.
    fn cut(&mut self, name: &str, said: &Said<'_>) -> Kept {
        self.too_large |= said.error.as_ref().is_some_and(|error| error.code == Some(TOO_LARGE));
        let Some(Cut { limit }) = said.cut else { return Ok(()) };
        let before = self.limit.replace(limit).unwrap_or(limit);
        let holds = limit == before || (limit < before && self.too_large);
        hold!(holds, "R13: {name} is cut at {limit} bytes, and was at {before}");
        Ok(())
    }

    fn response(&mut self, truth: &Truth, said: &Said<'_>, attempts: usize, is_changed: bool) -> Kept {
        let name = truth.name();
        hold!(self.settled.is_none(), "I6: {name} has two results");
        self.settled = Some(said.outcome.into());
        if said.outcome == "abandoned" && said.covered.last < truth.last {
            (self.opens_again, self.through) = (true, Some(said.covered.last));
            return self.sums_up(&name, said);
        }
        if said.outcome == "failed" || is_changed {
            let is_left = said.reason == Some("changed-by-other") && is_changed;
            let may_fail = is_left || self.is_given_up(said, attempts);
            let is_right = said.outcome == "failed" && may_fail;
            hold!(is_right, "R4: {name} is {}, reason {:?}; changed: {is_changed}", said.outcome, said.reason);
            if said.covered.last == truth.last {
                is_text(truth, said)?;
            }
            return self.sums_up(&name, said);
        }
        let expected = match truth.status {
            Status::Complete | Status::Error => ["delivered", "reconciled"],
            Status::Cancelled => ["cancelled"; 2],
            _ => ["abandoned"; 2],
        };
        hold!(expected.contains(&said.outcome), "I1: {name} is {}, not {expected:?}", said.outcome);
        is_text(truth, said)?;
        self.sums_up(&name, said)?;
        self.covers(truth)
    }

    /// Whether the owner that gives it up was refused often enough: who takes over begins to count anew.
    fn is_given_up(&self, said: &Said<'_>, attempts: usize) -> bool {
        let refusals = self.operations.values().filter(|operation| operation.refused == Some(said.epoch)).count();
        said.reason.is_some_and(|reason| reason.starts_with("refused-")) && refusals >= attempts
    }

    fn sums_up(&self, name: &str, said: &Said<'_>) -> Kept {
        let count = |outcome: &str| {
            let those = self.operations.values().filter(|operation| *operation.outcome == *outcome);
            Some(those.count() as u32)
        };
        let next = self.operations.last_key_value().map_or(0, |(seq, _)| seq + 1);
        let updates = self.operations.values().filter(|operation| operation.is_whole).count() as u32;
        hold!(said.operations == Some(next), "I6: {name}: {:?} operations, but the last is {next}", said.operations);
        hold!(said.rejected == count("rejected"), "I6: {name}: {:?} were refused", said.rejected);
        hold!(said.unknown == count("unknown"), "I6: {name}: {:?} are unknown", said.unknown);
        hold!(said.repairs >= Some(updates), "I6: {name}: {:?} repairs, not {updates}", said.repairs);
        Ok(())
    }

    fn covers(&self, truth: &Truth) -> Kept {
        let name = truth.name();
        let acked = || self.operations.values().filter(|operation| *operation.outcome == *"acked");
        let mut through = Offset::MIN;
        for operation in acked().filter(|operation| operation.is_new_text && operation.first <= operation.last) {
            let (first, last) = (operation.first, operation.last);
            hold!(first > through, "I5: {name}: {first} to {last} is covered by two operations");
            through = last;
        }
        for token in &truth.tokens {
            let is_covered = acked().any(|operation| (operation.first..=operation.last).contains(token));
            hold!(is_covered, "I5: {name}: the token at {token} is covered by nothing that was taken");
        }
        Ok(())
    }
}

/// Whether a result speaks of all of the text, also when that was given up on.
fn is_text(truth: &Truth, said: &Said<'_>) -> Kept {
    let (name, tokens) = (truth.name(), truth.tokens.len());
    hold!(said.tokens == tokens as u64, "I6: {name} has {} tokens, not {tokens}", said.tokens);
    hold!(said.bytes == truth.text.len(), "I6: {name} has {} bytes, not {}", said.bytes, truth.text.len());
    let digest = Sha256::digest(truth.text.as_bytes());
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hold!(said.text_sha256 == Some(&*sha256), "I6: {name} has another text than its hash says");
    Ok(())
}
