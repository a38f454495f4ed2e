//! What there is at rest: every response settled, every text right, every offset committed (I1, I7, I12).

use super::world::Fleet;
use crate::sim::scene::{Broken, Kept, hold};

impl Fleet {
    /// Faults have ceased and nothing is due.
    pub(super) fn at_rest(&self) -> Kept {
        for (truth, account) in self.tokens.truths.iter().zip(&self.audit.accounts) {
            let name = truth.name();
            hold!(account.settled.is_some() && !account.opens_again, "I12: {name} never settles");
            let Some(message) = self.net.server.made(&truth.create_id()) else {
                return Err(Broken(format!("I1: {name} is not on its channel")));
            };
            hold!(message.text == truth.text, "I1: {name} reads {:?}, but is {:?}", message.text, truth.text);
            hold!(message.status == truth.status, "I1: {name} has status {:?}, not {:?}", message.status, truth.status);
        }
        for message in &self.net.server.messages {
            let known = self.net.server.made(&message.create_id).is_some_and(|other| other.serial == message.serial);
            let wanted = self.tokens.truths.iter().any(|truth| truth.create_id() == *message.create_id);
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
}
