//! What there is at rest: every response settled, every text right, every offset committed (I1, I7, I12).

use super::tokens::Truth;
use super::world::Fleet;
use crate::engine::Status;
use crate::sim::scene::{Broken, Kept, hold};

impl Fleet {
    /// Faults have ceased and nothing is due.
    pub(super) fn at_rest(&self) -> Kept {
        for (truth, account) in self.tokens.truths.iter().zip(&self.audit.accounts) {
            let name = truth.name();
            hold!(account.settled.is_some() && !account.opens_again, "I12: {name} never settles");
            self.reads(truth)?;
        }
        for message in self.net.server.messages.iter().filter(|message| message.status != Status::Superseded) {
            let known = self.net.server.made(&message.create_id).is_some_and(|other| other.serial == message.serial);
            let names = |truth: &Truth| truth.create_id(message.segment) == *message.create_id;
            let wanted = self.tokens.truths.iter().any(names);
            hold!(known && wanted, "I1: {} has a second message", message.response_id);
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

    /// What the messages of a response say together.
    fn reads(&self, truth: &Truth) -> Kept {
        let name = truth.name();
        let all = (0..).map_while(|segment| self.net.server.made(&truth.create_id(segment)));
        let shown: Vec<_> = all.filter(|message| message.status != Status::Superseded).collect();
        let text: String = shown.iter().map(|message| message.text.as_str()).collect();
        hold!(text == truth.text, "I1: {name} reads {text:?}, but is {:?}", truth.text);
        let Some((last, before)) = shown.split_last() else {
            return Err(Broken(format!("I1: {name} is not on its channel")));
        };
        hold!(last.status == truth.status, "I1: {name} has status {:?}, not {:?}", last.status, truth.status);
        let goes_on = before.iter().all(|message| message.status == Status::Continued);
        hold!(goes_on, "I1: {name} has messages in the middle that do not go on");
        Ok(())
    }
}
