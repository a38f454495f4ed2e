//! Responses whose tokens are messages: what may be published, and what a reader makes of it.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use super::checks::Instance;
use super::frames::Token;
use super::scene::{Kept, SECOND, Scene, hold};
use super::server::Server;
use crate::engine::{Class, Operation, Outcome, Publish, PublishName, ReconcileWhen, Status};

/// For how long an id may be used again.
const SAME_ID: u64 = 100 * SECOND;

/// The books of a response whose tokens are messages.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// The bytes of each token.
    words: Vec<usize>,
    /// The first token that no publish has carried.
    next: usize,
    started: bool,
    /// The text is another one than its tokens.
    replaced: bool,
    /// The full text on its way: its round, and the byte that the next part begins with.
    round: Option<(u64, usize)>,
    repaired: bool,
    stopped: bool,
    /// A stop that holds tokens is not taken yet.
    unstopped: bool,
    /// Publishes by id, and when they were first sent.
    ids: HashMap<Box<str>, (u64, Publish, String, Status)>,
}

impl Tokens {
    pub(super) fn token(&mut self, text: &str) {
        self.words.push(text.len());
    }

    pub(super) fn replace(&mut self) {
        self.replaced = true;
    }

    /// Whether something is missing for that.
    pub(super) fn go_on(&mut self) -> bool {
        (self.stopped, self.round) = (false, None);
        std::mem::take(&mut self.unstopped)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether readers wait for its stop.
    pub(super) const fn awaits_stop(&self) -> bool {
        self.started && !self.stopped
    }

    /// Whether tokens that came have not been sent.
    pub(super) fn leaves_out(&self) -> bool {
        self.words[self.next..].iter().any(|word| *word > 0)
    }

    /// Where a token begins.
    fn place(&self, token: usize) -> usize {
        self.words[..token].iter().sum()
    }
}

impl Instance {
    /// A publish is sent.
    pub(super) fn publishes(&mut self, scene: &Scene, operation: &Operation, when: ReconcileWhen, room: usize) -> Kept {
        let name = self.name();
        let Some(publish) = operation.publish.as_deref() else {
            hold!(false, "{name}: {:?} among tokens", operation.kind);
            return Ok(());
        };
        hold!(operation.id.seq == self.operations, "I4: {name}: operation {} has another number", self.operations);
        let Some(mut tokens) = self.tokens.take() else {
            hold!(false, "{name}: a publish in the life of a message");
            return Ok(());
        };
        let kept = self.is_right(&mut tokens, scene, operation, publish, (when, room));
        self.tokens = Some(tokens);
        kept
    }

    fn is_right(
        &mut self,
        tokens: &mut Tokens,
        scene: &Scene,
        operation: &Operation,
        publish: &Publish,
        (when, room): (ReconcileWhen, usize),
    ) -> Kept {
        let name = self.name();
        let same = (scene.now, publish.clone(), operation.data.to_string(), operation.status);
        let known = tokens.ids.entry(publish.id.clone()).or_insert_with(|| same.clone());
        let alike = (&known.1, &known.2, known.3) == (&same.1, &same.2, same.3);
        hold!(alike, "R16: {name}: the id {} stands for two publishes", publish.id);
        hold!(scene.now < known.0 + SAME_ID, "R16: {name}: the id {} is used again too late", publish.id);
        let bytes: usize = publish.pieces.iter().map(|piece| piece.bytes).sum();
        hold!(bytes == operation.data.len(), "{name}: {bytes} bytes are shared out");
        let quiet = self.in_flight.is_empty();
        let expected = match publish.name {
            PublishName::Start | PublishName::Token => Status::Streaming,
            PublishName::ResponseComplete | PublishName::Stop => self.ended.unwrap_or(Status::Streaming),
        };
        hold!(operation.status == expected, "R18: {name}: status {:?}, not {expected:?}", operation.status);
        let ends = matches!(publish.name, PublishName::ResponseComplete | PublishName::Stop);
        hold!(!ends || (quiet && self.ended.is_some()), "R16: {name} ends before everything is answered");
        hold!((publish.name == PublishName::Start) != tokens.started, "R16: {name} starts once");
        tokens.started = true;
        match publish.name {
            PublishName::Start => Ok(()),
            PublishName::Token => self.is_next(tokens, operation, publish, room),
            PublishName::ResponseComplete => {
                self.tainted |= tokens.leaves_out();
                hold!(self.tainted && when != ReconcileWhen::Never, "R16: {name}: a full text that nobody needs");
                self.is_part(tokens, operation, publish)
            }
            PublishName::Stop => self.is_sum(tokens, publish),
        }
    }

    /// Tokens are sent in order, each once; only what is too long for one message is left out.
    fn is_next(&mut self, tokens: &mut Tokens, operation: &Operation, publish: &Publish, room: usize) -> Kept {
        let (name, mut at) = (self.name(), publish.seq as usize);
        hold!(!tokens.replaced, "R16: {name}: a token of a text that is another one");
        hold!(at >= tokens.next, "P4: {name}: token {at} is sent again");
        for word in &tokens.words[tokens.next..at] {
            hold!(*word == 0 || *word > room / 2, "P4: {name}: a token of {word} bytes is left out");
            self.tainted |= *word > 0;
        }
        let (from, mut behind) = (tokens.place(at), 0);
        for piece in &publish.pieces {
            at += piece.tokens as usize;
            behind += piece.bytes;
            hold!(at <= tokens.words.len(), "{name}: a token that has not come");
            hold!(tokens.place(at) == from + behind, "R16: {name}: a message does not hold what it says");
        }
        hold!(self.text[from..from + behind] == *operation.data, "{name}: {:?} is not its text", operation.data);
        tokens.next = at;
        Ok(())
    }

    fn is_part(&mut self, tokens: &mut Tokens, operation: &Operation, publish: &Publish) -> Kept {
        let (name, Some(round), Some((part, parts))) = (self.name(), publish.round, publish.segment) else {
            hold!(false, "R16: {}: a full text without a number", self.name());
            return Ok(());
        };
        let from = tokens.round.filter(|(other, _)| *other == round).map_or(0, |(_, from)| from);
        hold!(from > 0 || part == 0, "R16: {name}: part {part} is the first of its round");
        let data = &*operation.data;
        let right = self.text.get(from..).is_some_and(|text| text.starts_with(data));
        hold!(right, "{name}: {data:?} is not its text from {from} on");
        let is_last = part + 1 == parts;
        hold!((from + data.len() == self.text.len()) == is_last, "R16: {name}: part {part} of {parts} ends too soon");
        let n = publish.pieces.iter().map(|piece| piece.tokens).sum::<u64>();
        hold!(n == tokens.words.len() as u64 && publish.seq == 0, "R16: {name}: a full text of {n} tokens");
        tokens.round = Some((round, from));
        self.updates += u32::from(is_last);
        Ok(())
    }

    fn is_sum(&mut self, tokens: &mut Tokens, publish: &Publish) -> Kept {
        let name = self.name();
        self.tainted |= tokens.leaves_out();
        hold!(!self.tainted, "R16: {name} stops though its text may not be there");
        let n = publish.pieces.iter().map(|piece| piece.tokens).sum::<u64>();
        hold!(publish.seq + n == tokens.words.len() as u64, "R16: {name} stops at token {}", publish.seq + n);
        let hash = Sha256::digest(self.text.as_bytes());
        let hash = hash.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let right = publish.sum.as_ref().is_some_and(|sum| {
            (sum.tokens, sum.length) == (tokens.words.len() as u64, self.text.len())
                && *sum.sha256 == *hash
                && sum.repair == tokens.repaired
        });
        hold!(right, "R16: {name}: the stop says {:?}", publish.sum);
        tokens.unstopped |= n > 0;
        Ok(())
    }

    /// A publish has its outcome.
    pub(super) fn publish_outcome(&mut self, now: u64, operation: &Operation, outcome: &Outcome, resent: bool) {
        let (Some(tokens), Some(publish)) = (&mut self.tokens, operation.publish.as_deref()) else { return };
        let taken = matches!(outcome, Outcome::Acked { .. }) && !resent;
        let is_last = publish.segment.is_some_and(|(part, parts)| part + 1 == parts);
        match publish.name {
            PublishName::Start | PublishName::Token => self.tainted |= !taken,
            PublishName::ResponseComplete if taken => {
                let round = tokens.round.as_mut().filter(|(round, _)| publish.round == Some(*round));
                let Some((_, from)) = round else { return };
                *from += operation.data.len();
                if is_last {
                    (self.tainted, tokens.repaired, tokens.round) = (false, true, None);
                    tokens.next = tokens.words.len();
                }
            }
            PublishName::Stop if taken => (tokens.stopped, tokens.unstopped) = (self.ended.is_some(), false),
            PublishName::ResponseComplete | PublishName::Stop => {}
        }
        let is_piece = matches!(publish.name, PublishName::Start | PublishName::Token);
        if let Outcome::Rejected(rejection) = outcome {
            match rejection.class {
                Class::Operation | Class::MessageGone if !is_piece => {
                    (self.refusals, self.refused_at) = (self.refusals + 1, now);
                }
                Class::Channel => self.channel_refused = self.channel_refused.or(Some(now)),
                _ => {}
            }
        } else if matches!(outcome, Outcome::Acked { .. }) {
            self.channel_refused = None;
            if !is_piece && taken && (publish.name == PublishName::Stop || is_last) {
                self.refusals = 0;
            }
        }
    }

    /// What readers make of what was published.
    pub(super) fn reads_as(&self, server: &Server) -> (String, Option<Status>) {
        read(self.published(server))
    }

    /// What was published of it.
    pub(super) fn published<'a>(&self, server: &'a Server) -> impl Iterator<Item = &'a Token> {
        let first = format!("sim.tokens.{}.{}.{}.0", self.partition, self.hold_first(), self.part);
        server.published.iter().filter(move |token| *token.create_id == *first)
    }
}

/// The status that readers see last, whatever they have of the text.
pub(super) fn last_stop<'a>(messages: impl Iterator<Item = &'a Token>) -> Option<Status> {
    let stops = messages.filter(|message| *message.name == *"stop");
    stops.max_by_key(|stop| stop.round).map(|stop| stop.status)
}

/// A full text, or what is there of it: how many parts there are to be, how many tokens they hold, the parts.
type Whole<'a> = (u64, u64, BTreeMap<u64, &'a str>);

/// Puts messages together as a reader does.
pub(super) fn read<'a>(messages: impl Iterator<Item = &'a Token>) -> (String, Option<Status>) {
    let mut pieces: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
    let mut rounds: BTreeMap<(u64, u64), Whole<'_>> = BTreeMap::new();
    let mut stops = BTreeMap::new();
    for message in messages {
        if *message.name == *"stop" {
            stops.insert(message.round, message);
        }
        match &*message.name {
            "token" | "stop" => {
                let piece = pieces.entry(message.seq).or_default();
                *piece = (*piece).max((message.n, &message.text));
            }
            "response-complete" => {
                let round = rounds.entry(message.round).or_insert((message.segments, message.n, BTreeMap::new()));
                round.2.insert(message.segment, &message.text);
            }
            _ => {}
        }
    }
    let whole = rounds.values().rev().find(|(parts, _, texts)| texts.len() as u64 == *parts);
    let (mut next, mut text) =
        whole.map_or((0, String::new()), |(_, n, texts)| (*n, texts.values().copied().collect()));
    for (seq, (n, piece)) in pieces {
        if seq == next {
            text.push_str(piece);
            next += n;
        }
    }
    let stop = stops.values().next_back().filter(|stop| next <= stop.seq + stop.n && stop.length == text.len() as u64);
    (text, stop.map(|stop| stop.status))
}
