//! The loop and its connections: opened as channels need them, closed when none does, and what is heard of them.

use super::relay::Relay;
use crate::ably::Event;
use crate::engine::Input;

impl Relay<'_> {
    /// There are the connections that there should be.
    pub(super) fn open_connections(&mut self) {
        let flow = &self.partitions.shared.flow;
        if self.opened == flow.opened() {
            return;
        }
        self.opened = flow.opened();
        (0..flow.connections()).filter(|connection| flow.is_wanted(*connection)).for_each(|c| self.pool.open(c));
    }

    /// Connections that nothing has needed for a while end.
    pub(super) fn close_idle_connections(&mut self) {
        for connection in self.partitions.shared.flow.close_idle(self.clock.now()) {
            tracing::debug!(connection, "closed: nothing has needed it for a while");
            self.pool.close_one(connection);
        }
    }

    /// Connections that are to be replaced are told so behind the last that is sent on them.
    pub(super) fn leave_connections(&mut self) {
        let Self { leaving, pool, out, .. } = self;
        leaving.retain(|connection| {
            let waits = out.operations.get(*connection as usize).is_some_and(|operations| !operations.is_empty());
            if !waits {
                pool.leave(*connection);
            }
            waits
        });
    }

    /// Relays of one group share what the account may do, each by the partitions that it has.
    pub(super) fn share_account(&mut self) {
        let numbers = self.partitions.numbers();
        let highest = numbers.last().map_or(0, |number| usize::try_from(*number).unwrap_or_default() + 1);
        self.all_partitions = self.all_partitions.max(highest);
        self.partitions.shared.flow.share(self.clock.now(), numbers.len(), self.all_partitions);
    }

    /// Takes what happened on connections, all that waits.
    pub(super) fn ably(&mut self, first: Event) {
        let now = self.clock.now();
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Event::Answers(answers) => {
                    for answer in answers {
                        self.partitions.apply(now, answer.op.partition, Input::Answer(answer), &mut self.out);
                    }
                }
                Event::Up {
                    connection, ably_id, pipelining, max_message_size, max_inbound_rate, client_id, ..
                } => {
                    let bytes = usize::try_from(max_message_size).unwrap_or(usize::MAX);
                    let rate = max_inbound_rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
                    let client_id = self.identity.is(client_id);
                    let flow = &mut self.partitions.shared.flow;
                    flow.up(connection, ably_id, pipelining, bytes, rate);
                    flow.identify(connection, client_id);
                    self.metrics.connection_up();
                    self.health.clear("ably");
                }
                Event::Down { connection, reason } => {
                    let flow = &mut self.partitions.shared.flow;
                    flow.down(connection);
                    reason.code().into_iter().for_each(|code| flow.broken_off(now, connection, code));
                    if !flow.any_up() {
                        self.health.set("ably", reason.to_string());
                    }
                }
                Event::Lost { connection } => {
                    self.metrics.connection_lost();
                    self.partitions.apply_all(now, || Input::Moved(connection), &mut self.out);
                }
                Event::Leaving { connection } => {
                    self.partitions.shared.flow.down(connection);
                    self.leaving.push(connection);
                }
                Event::Replaced { connection } => {
                    self.partitions.apply_all(now, || Input::Moved(connection), &mut self.out);
                }
                Event::Closed { connection } => self.partitions.shared.flow.closed(connection),
                Event::Fatal { error, .. } => self.health.set("ably", error.to_string()),
            }
            next = self.events.try_recv().ok();
        }
        self.partitions.tick_due(now, true, &mut self.out);
    }
}
