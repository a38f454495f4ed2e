//! Lines: who waits for a budget, in the order in which they came.
//!
//! Whoever is refused takes a ticket and keeps it until it is served, in whichever line it waits. Nobody passes those with
//! older tickets in the same line, so that one who always wants more cannot starve the others, whatever wakes them first.

use std::collections::VecDeque;

/// A place in the order of all who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Gives out tickets.
#[derive(Debug, Default)]
pub(super) struct Tickets(u64);

impl Tickets {
    pub(super) fn next(&mut self) -> Ticket {
        self.0 += 1;
        Ticket(self.0)
    }
}

/// Those who wait for one budget, oldest first.
#[derive(Debug, Default)]
pub(super) struct Line(VecDeque<Ticket>);

impl Line {
    /// How many are before that ticket; all of them, if there is none yet.
    pub(super) fn ahead_of(&self, ticket: Option<Ticket>) -> usize {
        ticket.map_or(self.0.len(), |ticket| self.0.partition_point(|other| *other < ticket))
    }

    pub(super) fn join(&mut self, ticket: Ticket) {
        if let Err(at) = self.0.binary_search(&ticket) {
            self.0.insert(at, ticket);
        }
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        if let Ok(at) = self.0.binary_search(&ticket) {
            self.0.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_keeps_its_place() {
        let (mut tickets, mut line) = (Tickets::default(), Line::default());
        let all: Vec<Ticket> = (0..4).map(|_| tickets.next()).collect();
        for ticket in [&all[2], &all[0], &all[3], &all[1], &all[1]] {
            line.join(*ticket);
        }
        assert_eq!(all.iter().map(|ticket| line.ahead_of(Some(*ticket))).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(line.ahead_of(None), 4);
        line.leave(all[1]);
        line.leave(all[1]);
        assert_eq!((line.ahead_of(Some(all[2])), line.ahead_of(None)), (1, 3));
    }
}
