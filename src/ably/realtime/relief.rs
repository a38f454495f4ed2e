//! Relief: while a WebSocket cannot be had but requests get through, operations go by request.
//!
//! Nothing of a message may be under way on two ways at once, else a late frame of the one lands on top of a text that was
//! mended over the other. So the connection is given up, with all that is unanswered on it, before the first request leaves;
//! and before a connection carries anything again, every request has had its answer or is known to have none. An answer does
//! not say that the text is published, though: either way messages go on with their full text, after a while.

use std::time::Duration;

use tokio::sync::mpsc;

use super::super::fault::Error;
use super::super::pool::{Command, Event, Settings};
use super::super::rest::Rest;
use super::super::session::Details;
use super::Connection;
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

impl Connection {
    /// Something has happened to what goes by request.
    pub(super) async fn relieved(&mut self, event: Option<Event>) -> Option<()> {
        let now = self.now();
        match event {
            Some(event @ Event::Up { .. }) => {
                let was_serving = self.relief.is_serving();
                if !self.relief.begin() {
                    return Some(());
                }
                tracing::warn!(
                    connection = self.id,
                    "no WebSocket to ably: operations go by request until there is one"
                );
                self.session.abandon(now, &mut self.actions);
                self.act().await?;
                if !was_serving {
                    self.go_over().await?;
                }
                self.tell(event).await
            }
            Some(event @ Event::Answers(_)) => self.tell(event).await,
            Some(Event::Closed { .. }) => Some(()),
            Some(event) if self.relief.is_serving() => self.tell(event).await,
            Some(_) => Some(()),
            None => {
                if self.relief.is_serving() {
                    self.go_over().await?;
                }
                match self.relief.ended(now) {
                    Some(details) => self.tell(Event::up(self.id, details)).await,
                    None => Some(()),
                }
            }
        }
    }

    /// From now on operations go another way. What was acknowledged on the former one the server may still hold back, to publish
    /// it with what comes next: what goes the other way could come before it.
    async fn go_over(&mut self) -> Option<()> {
        self.tell(Event::Replaced { connection: self.id }).await
    }

    /// There is a connection: it is used as soon as nothing is under way by request.
    pub(super) async fn up(&mut self, details: Details) -> Option<()> {
        self.target.secrets().serves(&self.auth);
        let was_serving = self.relief.is_serving();
        match self.relief.up(details, self.patience) {
            Some(details) => self.tell(Event::up(self.id, details)).await,
            None if was_serving => {
                let reason = Error::TransportLost("requests end, there is a WebSocket again".to_owned());
                self.tell(Event::Down { connection: self.id, reason }).await
            }
            None => Some(()),
        }
    }

    /// There is none.
    pub(super) async fn down(&mut self, reason: Error) -> Option<()> {
        let was_serving = self.relief.is_serving();
        self.relief.down(self.now());
        match was_serving {
            true => Some(()),
            false => self.tell(Event::Down { connection: self.id, reason }).await,
        }
    }

    /// Waits for the last answers to requests.
    pub(super) async fn end_relief(&mut self) -> Option<()> {
        while self.relief.is_serving() {
            match self.relief.next().await {
                Some(event @ Event::Answers(_)) => self.tell(event).await?,
                Some(_) => {}
                None => return Some(()),
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
