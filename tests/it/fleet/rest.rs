//! What there is at rest: every response settled, every text right, every offset committed (I1, I7, I12).

use super::tokens::Truth;
use super::world::Fleet;
use crate::engine::Status;
use crate::sim::frames::Token;
use crate::sim::scene::{Broken, Kept, hold};
use crate::sim::server::Message;

impl Fleet {
    /// Faults have ceased and nothing is due.
    pub(super) fn at_rest(&self) -> Kept {
        for (truth, account) in self.tokens.truths.iter().zip(&self.audit.accounts) {
            let name = truth.name();
            hold!(account.settled.is_some() && !account.opens_again, "I12: {name} never settles");
            if account.settled.as_deref() != Some("failed") && !self.is_changed(truth) {
                self.reads(truth)?;
            }
        }
        let is_seen = |message: &&Message| message.status != Status::Superseded && self.plan.whole.is_none();
        for message in self.net.server.messages.iter().filter(is_seen) {
            let known = self.net.server.made(&message.create_id).is_some_and(|other| other.serial == message.serial);
            let names = |truth: &Truth| truth.create_id(message.segment) == *message.create_id;
            let owner = self.tokens.truths.iter().position(names);
            let is_left = owner.is_some_and(|i| self.audit.accounts[i].settled.as_deref() == Some("failed"));
            hold!(known && owner.is_some() || is_left, "I1: {} has a second message", message.response_id);
        }
        for (partition, log) in self.tokens.logs.iter().enumerate() {
            let end = log.last().map_or(0, |last| last.offset + 1);
            let committed = self.audit.offsets[partition];
            hold!(
                log.is_empty() || committed == end,
                "I12: {committed} of partition {partition} is committed, not {end}"
            );
        }
        hold!(self.net.operations.is_empty(), "I12: an operation is never answered");
        Ok(())
    }

    /// Whether somebody else has changed a message of a response, though nobody has seen it.
    fn is_changed(&self, truth: &Truth) -> bool {
        let mut all = (0..).map_while(|segment| self.net.server.made(&truth.create_id(segment)));
        all.any(|message| message.others.is_some())
    }

    /// What the messages of a response say together.
    fn reads(&self, truth: &Truth) -> Kept {
        let name = truth.name();
        let tokens = self.net.server.published.iter().filter(|token| *token.create_id == *truth.create_id(0));
        if tokens.clone().next().is_some() {
            if !self.audit.is_meddled(truth.partition) {
                once(&name, tokens.clone())?;
            }
            let (text, status) = crate::sim::tokens::read(tokens);
            hold!(text == truth.text, "I1: {name} reads {text:?}, but is {:?}", truth.text);
            hold!(status == Some(truth.status), "I1: {name} ends with {status:?}, not {:?}", truth.status);
            return Ok(());
        }
        // Who goes on where another one had given up need not know that: readers do not look at it.
        let gave_up = |message: &Message| self.audit.last_words.contains(&message.serial);
        if self.plan.whole.is_some() {
            let base = format!("fleet.tokens.{}.{}.{}", truth.partition, truth.first, truth.part);
            return self.net.server.reads_as(&name, &base, (&truth.text, truth.status), gave_up);
        }
        let all = (0..).map_while(|segment| self.net.server.made(&truth.create_id(segment)));
        let shown: Vec<_> = all.filter(|message| message.status != Status::Superseded).collect();
        let text: String = shown.iter().map(|message| message.text.as_str()).collect();
        hold!(text == truth.text, "I1: {name} reads {text:?}, but is {:?}", truth.text);
        let Some((last, before)) = shown.split_last() else {
            return Err(Broken(format!("I1: {name} is not on its channel")));
        };
        hold!(last.status == truth.status, "I1: {name} has status {:?}, not {:?}", last.status, truth.status);
        let goes_on = before.iter().all(|message| match message.status {
            Status::Failed => gave_up(message),
            status => status == Status::Continued,
        });
        hold!(goes_on, "I1: {name} has messages in the middle that do not go on");
        Ok(())
    }
}

/// No token is published in two publishes: what one owner may have sent, the next one sends with the full text.
fn once<'a>(name: &str, published: impl Iterator<Item = &'a Token>) -> Kept {
    let mut tokens: Vec<&Token> = published.filter(|token| *token.name == *"token").collect();
    tokens.sort_by_key(|token| (token.seq, token.round));
    for pair in tokens.windows(2) {
        let (one, other) = (pair[0], pair[1]);
        let is_same = (one.seq, one.n, one.round) == (other.seq, other.n, other.round);
        hold!(is_same || one.seq + one.n <= other.seq, "R16: {name}: token {} is published again", other.seq);
    }
    Ok(())
}
