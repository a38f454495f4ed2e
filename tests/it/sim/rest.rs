//! What there is at rest: the texts on the channels, and that nothing is left over (I1, I7, I12).

use super::checks::Checks;
use super::scene::{Broken, Kept, hold};
use super::server::Server;
use super::topic::Log;
use crate::engine::Status;

impl Checks {
    /// Faults have ceased and nothing is due.
    pub(super) fn at_rest(&self, server: &Server, logs: &[Log]) -> Kept {
        for (p, (partition, log)) in self.partitions.iter().zip(logs).enumerate() {
            let end = log.last().map_or(partition.next, |last| last.offset + 1);
            hold!(partition.next == end, "I12: partition {p} was read up to {}, not {end}", partition.next);
            hold!(
                partition.watermark == end,
                "I12: partition {p} may be committed up to {}, not {end}",
                partition.watermark
            );
        }
        for instance in &self.instances {
            let name = instance.name();
            let Some(settled) = instance.settled else { return Err(Broken(format!("I12: {name} never settles"))) };
            let updates = instance.updates;
            hold!(
                updates <= self.plan.updates_max,
                "R4: {name} took {updates} full texts: there is no pause between them"
            );
            let Some(create) = &instance.create else {
                hold!(settled == "failed", "I1: {name} was never created");
                continue;
            };
            if settled == "failed" {
                continue;
            }
            let Some(message) = server.made(&create.head.create_id) else {
                return Err(Broken(format!("I1: {name} is not on its channel")));
            };
            hold!(!message.gone, "I1: the message of {name} is gone");
            hold!(message.text == instance.text, "I1: {name} reads {:?}, but is {:?}", message.text, instance.text);
            let status = instance.ended.unwrap_or(Status::Abandoned);
            hold!(message.status == status, "I1: {name} has status {:?}, not {status:?}", message.status);
        }
        self.no_message_is_left_over(server)
    }

    /// One message for each response, not counting those that are gone.
    fn no_message_is_left_over(&self, server: &Server) -> Kept {
        for message in server.messages.iter().filter(|message| !message.gone) {
            let known = server.made(&message.create_id).is_some_and(|other| other.serial == message.serial);
            let wanted = self.instances.iter().any(|instance| {
                instance.create.as_ref().is_some_and(|create| create.head.create_id == message.create_id)
            });
            hold!(known && wanted, "I1: {} has a second message", message.response_id);
        }
        Ok(())
    }
}
