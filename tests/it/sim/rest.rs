//! What there is at rest: the texts on the channels, and that nothing is left over (I1, I7, I12).

use super::checks::{Checks, Instance};
use super::fault::Fault;
use super::scene::{Broken, Kept, SECOND, START, hold};
use super::server::{Message, Server};
use super::topic::Log;
use crate::engine::{Status, Verify};

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
            if settled == "failed" {
                instance.shows_its_end(server)?;
            } else if instance.tokens.is_some() {
                let status = instance.ended.or(Some(Status::Abandoned));
                let (text, said) = instance.reads_as(server);
                hold!(text == instance.text, "I1: {name} reads {text:?}, but is {:?}", instance.text);
                hold!(said == status, "I1: {name} ends with {said:?}, not {status:?}");
            } else if instance.is_whole {
                let base = format!("sim.tokens.{}.{}.{}", instance.partition, instance.hold_first(), instance.part);
                let status = instance.ended.unwrap_or(Status::Abandoned);
                server.reads_as(&name, &base, (&instance.text, status), |_| false)?;
            } else if !self.is_changed(instance, server)? {
                hold!(instance.create.is_some(), "I1: {name} was never created");
                self.reads(instance, server)?;
            }
        }
        if self.plan.whole.is_some() { self.are_trials() } else { self.no_message_is_left_over(server) }
    }

    /// Messages that were begun before all was there are no more than may be tried.
    fn are_trials(&self) -> Kept {
        let mut begun: Vec<_> = self.instances.iter().flat_map(|instance| &instance.wholes).collect();
        begun.retain(|(_, create, _)| create.status == Status::Streaming);
        begun.sort_by_key(|(time, ..)| *time);
        let every = self.plan.tried_every_s * SECOND;
        let off = begun.windows(2).filter(|pair| pair[1].0 < START + 300 * SECOND);
        for pair in off.filter(|_| every > 0) {
            let (one, other) = (pair[0].0, pair[1].0);
            hold!(other >= one + every, "R15: a message is begun at {one}, the next at {other}");
        }
        Ok(())
    }

    /// Whether somebody else has changed a message of a response without being seen. Who always reads, and reads what is
    /// there, sees what was done before the end.
    fn is_changed(&self, instance: &Instance, server: &Server) -> Kept<bool> {
        let creates = instance.creates().into_iter();
        let all = creates.filter_map(|create| server.made(&create.head.create_id)).filter(|message| !message.gone);
        let changed = all.filter_map(|message| message.others).map(|(since, _)| since).min();
        let Some(since) = changed else { return Ok(false) };
        let sees = self.plan.verify == Verify::Always && self.plan.odds.of(Fault::StaleRead) == 0;
        let name = instance.name();
        hold!(!sees || since >= instance.settled_at, "R17: {name} did not see what somebody else has changed");
        Ok(true)
    }

    /// What the messages of a response say together.
    fn reads(&self, instance: &Instance, server: &Server) -> Kept {
        let (name, mut text, count) = (instance.name(), String::new(), instance.shows());
        let status = instance.ended.unwrap_or(Status::Abandoned);
        for create in instance.creates() {
            let segment = create.head.segment;
            let Some(message) = server.made(&create.head.create_id) else {
                // One too many that was gone before it could be emptied never got that name.
                if segment >= count {
                    continue;
                }
                return Err(Broken(format!("I1: message {segment} of {name} is not on its channel")));
            };
            if message.gone && segment >= count {
                continue;
            }
            hold!(!message.gone || segment + 1 < count, "I1: message {segment} of {name} is gone");
            text.push_str(&message.text);
            let status = match segment + 1 {
                n if n < count => Status::Continued,
                n if n == count => status,
                _ => Status::Superseded,
            };
            let said = message.status;
            hold!(said == status, "I1: message {segment} of {name} has status {said:?}, not {status:?}");
        }
        hold!(text == instance.text, "I1: {name} reads {text:?}, but is {:?}", instance.text);
        Ok(())
    }

    /// One message for each response, not counting those that are gone.
    fn no_message_is_left_over(&self, server: &Server) -> Kept {
        let is_seen = |message: &&Message| !message.gone && message.status != Status::Superseded;
        for message in server.messages.iter().filter(is_seen) {
            let known = server.made(&message.create_id).is_some_and(|other| other.serial == message.serial);
            let first = |create_id: &str| create_id.split('~').next().map(str::to_owned);
            let is_its = |instance: &&Instance| {
                let mut creates = instance.creates().into_iter();
                creates.any(|create| first(&create.head.create_id) == first(&message.create_id))
            };
            // Of one that was given up nobody has looked for more.
            let owner = self.instances.iter().find(is_its);
            let right = owner.is_some_and(|owner| {
                let wanted = owner.creates().iter().any(|create| create.head.create_id == message.create_id);
                (known && wanted) || owner.settled == Some("failed")
            });
            hold!(right, "I1: {} has a second message", message.response_id);
        }
        Ok(())
    }
}
