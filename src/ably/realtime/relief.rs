//! Relief: while a WebSocket cannot be had but requests get through, operations go by request.
//!
//! Nothing of a message may be under way on two ways at once, else a late frame of the one lands on top of a text that was
//! mended over the other. So the connection is given up, with all that is unanswered on it, before the first request leaves;
//! and before a connection carries anything again, every request has had its answer or is known to have none.

use std::time::Duration;

use tokio::sync::mpsc;

use super::super::pool::{Command, Event, Settings};
use super::super::rest::Rest;
use super::super::session::Details;
use crate::engine::{ConnectionId, Time};

/// Events that may wait.
const EVENTS: usize = 16;

/// What goes by request in place of a connection.
pub(super) struct Relief {
    id: ConnectionId,
    settings: Settings,
    state: State,
}

enum State {
    /// Nothing is wrong.
    Idle,
    /// There has been no connection for a while; then it is enough.
    Waiting { until: Time },
    /// Requests are tried.
    Trying(Lane),
    /// Requests it is.
    Serving(Lane),
    /// There is a connection again, unless it is gone already; requests end.
    Leaving(Lane, Option<Details>),
}

struct Lane {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
}

impl Relief {
    pub(super) fn new(id: ConnectionId, settings: Settings) -> Self {
        Self { id, settings, state: State::Idle }
    }

    /// When [`tick`](Self::tick) is wanted.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Idle | State::Trying(_) | State::Serving(_) | State::Leaving(..) => None,
        }
    }

    /// Whether operations go by request.
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.state, State::Serving(_) | State::Leaving(..))
    }

    /// There is no connection.
    pub(super) fn down(&mut self, now: Time) {
        match &mut self.state {
            State::Idle => self.state = State::Waiting { until: now + self.settings.requests_after },
            State::Leaving(_, held) => *held = None,
            State::Waiting { .. } | State::Trying(_) | State::Serving(_) => {}
        }
    }

    /// There is a connection. Given back, it may be used at once; otherwise requests have to end first.
    pub(super) fn up(&mut self, details: Details, patience: Duration) -> Option<Details> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Serving(lane) => {
                // If there is no room it is told at the next turn: the lane ends when it is dropped, too.
                let _ = lane.commands.try_send(Command::Close { deadline: patience });
                self.state = State::Leaving(lane, Some(details));
                None
            }
            State::Leaving(lane, _) => {
                self.state = State::Leaving(lane, Some(details));
                None
            }
            State::Idle | State::Waiting { .. } | State::Trying(_) => Some(details),
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Time) {
        if self.deadline().is_none_or(|until| now < until) {
            return;
        }
        let (commands, receiver) = mpsc::channel(self.settings.in_flight_operations as usize + 3);
        let (sender, events) = mpsc::channel(EVENTS);
        tokio::spawn(Rest::new(self.id, &self.settings, receiver, sender).run());
        self.state = State::Trying(Lane { commands, events });
    }

    /// A command for what goes by request; given back if nothing does, or if there is no room.
    pub(super) fn tell(&self, command: Command) -> Result<(), Command> {
        match &self.state {
            State::Serving(lane) | State::Leaving(lane, _) => {
                lane.commands.try_send(command).map_err(mpsc::error::TrySendError::into_inner)
            }
            State::Idle | State::Waiting { .. } | State::Trying(_) => Err(command),
        }
    }

    /// What happens to requests; `None` at their end. Never, while there are none.
    pub(super) async fn next(&mut self) -> Option<Event> {
        match &mut self.state {
            State::Trying(lane) | State::Serving(lane) | State::Leaving(lane, _) => lane.events.recv().await,
            State::Idle | State::Waiting { .. } => std::future::pending().await,
        }
    }

    /// Requests get through: from now on they serve. Whether they are wanted.
    pub(super) fn begin(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Trying(lane) | State::Serving(lane) => {
                self.state = State::Serving(lane);
                true
            }
            other => {
                self.state = other;
                false
            }
        }
    }

    /// Requests have ended. Gives the connection that was waiting for that.
    pub(super) fn ended(&mut self, now: Time) -> Option<Details> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Leaving(_, Some(details)) => Some(details),
            _ => {
                self.down(now);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
