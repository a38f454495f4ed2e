//! The session: one connection to Ably across its transports, as a pure state machine.
//!
//! It owns what must not be lost when a transport is: the numbers of frames (`msgSerial`) and the frames without an answer.
//! No sockets and no clock: whoever owns the transport tells it what happened ([`send`](Session::send),
//! [`receive`](Session::receive), [`disconnected`](Session::disconnected), [`tick`](Session::tick)) and does what it asks for
//! ([`Action`]). Each operation gets exactly one answer, and it is `acked` only if the server said so for that very number.
//!
//! - A connection that is resumed (the same connection id) writes what is unanswered again, unchanged and under the same
//!   numbers, before anything new; such answers say `resent`, since nobody promises that the server recognised them.
//! - A connection that is lost (another id, too long down, refused for good) leaves everything unanswered unknown. What was
//!   never written is refused instead: that is certain.
//! - A connection with a create that has waited too long for its answer is not resumed: the frame might be written again
//!   after the server has forgotten the id of an earlier try, and make a second message.
//! - An answer that jumps over a frame leaves it unknown; a create without a serial is unknown; an answer that names no
//!   number, or one that was never used, settles nothing.
//! - A token that operations are refused for is renewed while the connection goes on, once for all that are refused meanwhile.
//! - A frame that is not answered for `ack_timeout` costs the connection its transport; not answered again, the connection.

mod asked;
mod ending;
mod incoming;
pub(super) mod retry;
mod unanswered;

use std::sync::Arc;
use std::time::Duration;

use super::encode::Encoder;
use super::fault::{self, Error};
use super::wire::{self, ConnectionDetails, ProtocolMessage, action};
use crate::engine::{Answer, Class, Doubt, OpKind, Operation, Outcome, Time};
pub use asked::{Action, Details, Settings};
use incoming::Incoming;
use unanswered::{Frame, Settled, Unanswered};

/// From the wish to connect to CONNECTED.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than it said the server may be silent.
const SILENCE_GRACE: Duration = Duration::from_secs(10);

/// How long a create may have waited for its answer when its connection is resumed. The server recognises its id for two
/// minutes after the first try; the engine repeats it within 100 s, which leaves this and the time that connecting takes.
const CREATE_RESUMED_WITHIN: Duration = Duration::from_secs(10);

/// How soon a newer token is asked for again where operations are refused: as often as what refuses is tried.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// The capability for an operation is missing: a token has those that were given when it was made.
pub(super) const NOT_CAPABLE: u32 = 40160;

/// How long the server keeps a connection without a transport, unless it says.
const STATE_TTL: Duration = Duration::from_secs(120);

/// Bytes of the largest message, unless the server says.
const MAX_MESSAGE_SIZE: u64 = 64 * 1024;

/// One connection to Ably.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    encoder: Encoder,
    link: Link,
    /// The connection that the server keeps for us.
    kept: Option<Kept>,
    unanswered: Unanswered,
    /// The connection was lost and there is none since.
    lost: bool,
    failures: u32,
    last_attempt: Option<Time>,
    credentials: Credentials,
    /// When newer ones were last asked for because an operation was refused.
    renewed_at: Option<Time>,
    closing: Option<Closing>,
    random: fastrand::Rng,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Waiting { until: Time },
    Opening { since: Time },
    Up { heard_at: Time },
    Closed,
}

/// What it takes to resume.
#[derive(Debug)]
struct Kept {
    ably_id: Arc<str>,
    key: Option<Arc<str>>,
    ttl: Duration,
    silence_max: Option<Duration>,
    down_since: Option<Time>,
}

/// Whether the server is content with our credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credentials {
    Good,
    /// It wants newer ones at the next attempt.
    Stale,
    /// It was given newer ones and has not said.
    Renewed,
}

#[derive(Debug, Clone, Copy)]
struct Closing {
    deadline: Time,
    asked: bool,
}

impl Session {
    /// A session that wants to connect at once.
    #[must_use]
    pub fn new(settings: Settings, now: Time) -> Self {
        Self {
            settings,
            encoder: Encoder::new(settings.encoding),
            link: Link::Waiting { until: now },
            kept: None,
            unanswered: Unanswered::default(),
            lost: false,
            failures: 0,
            last_attempt: None,
            credentials: Credentials::Good,
            renewed_at: None,
            closing: None,
            random: fastrand::Rng::with_seed(settings.seed),
        }
    }

    /// When [`tick`](Self::tick) is wanted next, at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let closing = self.closing.map(|closing| closing.deadline);
        let link = match self.link {
            Link::Waiting { until } => Some(until),
            Link::Opening { since } => Some(since + OPEN_TIMEOUT),
            Link::Up { .. } => self.silent_at().into_iter().chain(self.overdue_at()).min(),
            Link::Closed => return None,
        };
        [closing, link, self.expires_at()].into_iter().flatten().min()
    }

    /// Operations without an answer, and the bytes of their frames.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        self.unanswered.size()
    }

    /// Whether it is connected, and nobody has asked it to close.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. }) && self.closing.is_none()
    }

    /// Sends an operation. While the connection may still be resumed it waits for that; when it is lost, it is refused.
    pub fn send(&mut self, now: Time, operation: &Operation, actions: &mut Vec<Action>) {
        if self.closing.is_some() || self.lost || self.link == Link::Closed {
            let (op, connection) = (operation.id, self.settings.connection);
            let outcome = Outcome::Rejected(fault::never_sent());
            return actions.push(Action::Answer(Answer { op, connection, outcome, resent: false }));
        }
        let bytes = self.encoder.encode(operation, self.unanswered.next_serial());
        let is_up = matches!(self.link, Link::Up { .. });
        if is_up {
            actions.push(Action::Write(bytes.clone()));
        }
        let is_create = operation.kind == OpKind::Create;
        let op = operation.id;
        let frame = Frame { op, is_create, bytes, came_at: now, sent_at: now, resent: false, overdue: false };
        self.unanswered.push(frame, is_up);
    }

    /// There is a newer token for a connection that is up: the server is told of it before the old one expires. It answers with
    /// CONNECTED; if it does not come in time, it disconnects with a token error, and credentials are renewed then.
    pub fn authorise(&mut self, token: &str, actions: &mut Vec<Action>) {
        if !matches!(self.link, Link::Up { .. }) {
            return;
        }
        let auth = Some(wire::Auth { access_token: Some(token.into()) });
        let frame = ProtocolMessage { action: action::AUTH, auth, ..ProtocolMessage::default() };
        let mut bytes = Vec::new();
        match self.settings.encoding.encode(&frame, &mut bytes) {
            Ok(()) => actions.push(Action::Write(bytes.into())),
            Err(error) => actions.push(Action::Notice(error.into())),
        }
    }

    /// Something came from the server that is no frame of the protocol: a ping.
    pub fn heard(&mut self, now: Time) {
        if let Link::Up { heard_at } = &mut self.link {
            *heard_at = now;
        }
    }

    /// A frame came from the server.
    pub fn receive(&mut self, now: Time, frame: &[u8], actions: &mut Vec<Action>) {
        self.heard(now);
        let frame: Incoming<'_> = match self.settings.encoding.decode(frame) {
            Ok(frame) => frame,
            Err(error) => return actions.push(Action::Notice(error.into())),
        };
        match (frame.action, self.link) {
            (action::ACK, Link::Up { .. }) => self.acked(&frame, actions),
            (action::NACK, Link::Up { .. }) => self.nacked(now, &frame, actions),
            (action::CONNECTED, Link::Opening { .. } | Link::Up { .. }) => self.connected(now, &frame, actions),
            (action::DISCONNECTED, Link::Opening { .. } | Link::Up { .. }) => self.ended(now, &frame, false, actions),
            (action::ERROR, Link::Opening { .. } | Link::Up { .. }) => match &frame.channel {
                Some(channel) => actions.push(Action::Notice(Error::channel(channel, frame.error.as_ref()))),
                None => self.ended(now, &frame, true, actions),
            },
            (action::CLOSED, Link::Opening { .. } | Link::Up { .. }) => self.closed(now, actions),
            (action::AUTH, Link::Up { .. }) => actions.push(Action::Renew),
            // Signs of life, and channels that we do not listen to.
            _ => {}
        }
        self.close_when_answered(actions);
    }

    /// The transport ended, or could not be opened.
    pub fn disconnected(&mut self, now: Time, reason: Error, actions: &mut Vec<Action>) {
        if matches!(reason, Error::NoToken(_)) && self.credentials == Credentials::Renewed {
            // What would be shown next is what the server did not want any more.
            self.credentials = Credentials::Stale;
        }
        match self.link {
            Link::Opening { .. } | Link::Up { .. } if self.closing.is_some() => self.stop(actions),
            Link::Opening { .. } | Link::Up { .. } if reason.is_fatal() => self.fatal(now, reason, actions),
            Link::Opening { .. } | Link::Up { .. } => self.down(now, reason, actions),
            Link::Waiting { .. } | Link::Closed => {}
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.link == Link::Closed {
            return;
        }
        let is_due = |time: Option<Time>| time.is_some_and(|time| time <= now);
        if is_due(self.closing.map(|closing| closing.deadline)) {
            return self.stop(actions);
        }
        if is_due(self.expires_at()) {
            return self.expired(now, actions);
        }
        match self.link {
            Link::Waiting { until } if until <= now => self.connect(now, actions),
            Link::Opening { since } if since + OPEN_TIMEOUT <= now => {
                actions.push(Action::Hangup);
                self.down(now, Error::NoAnswer(OPEN_TIMEOUT), actions);
            }
            Link::Up { .. } if is_due(self.overdue_at()) => self.overdue(now, actions),
            Link::Up { .. } if is_due(self.silent_at()) => {
                let silence = self.kept.as_ref().and_then(|kept| kept.silence_max).unwrap_or_default();
                actions.push(Action::Hangup);
                self.down(now, Error::Silent(silence), actions);
            }
            Link::Waiting { .. } | Link::Opening { .. } | Link::Up { .. } | Link::Closed => {}
        }
    }

    /// Ends the connection once everything is answered, or at `deadline`: what is unanswered then stays unknown.
    pub fn close(&mut self, deadline: Time, actions: &mut Vec<Action>) {
        match self.link {
            Link::Up { .. } => {
                let closing = self.closing.get_or_insert(Closing { deadline, asked: false });
                closing.deadline = closing.deadline.min(deadline);
                self.close_when_answered(actions);
            }
            Link::Waiting { .. } | Link::Opening { .. } => self.stop(actions),
            Link::Closed => {}
        }
    }

    fn connect(&mut self, now: Time, actions: &mut Vec<Action>) {
        let is_stale = |came_at: Time| now.since(came_at) >= CREATE_RESUMED_WITHIN;
        if self.kept.is_some() && self.unanswered.oldest_create().is_some_and(is_stale) {
            self.lose(Doubt::ConnectionLost, actions);
        }
        self.link = Link::Opening { since: now };
        self.last_attempt = Some(now);
        let renew = self.credentials == Credentials::Stale;
        if renew {
            self.credentials = Credentials::Renewed;
        }
        let resume = self.kept.as_ref().and_then(|kept| kept.key.clone());
        actions.push(Action::Connect { resume, renew, failures: self.failures });
    }

    fn connected(&mut self, now: Time, frame: &Incoming<'_>, actions: &mut Vec<Action>) {
        let Some(ably_id) = frame.connection_id.as_deref() else {
            actions.push(Action::Hangup);
            return self.down(now, Error::Frame("CONNECTED names no connection".to_owned()), actions);
        };
        let resumed = self.kept.as_ref().is_some_and(|kept| *kept.ably_id == *ably_id);
        let had_transport = matches!(self.link, Link::Up { .. });
        if self.kept.is_some() && !resumed {
            self.lose(Doubt::ConnectionLost, actions);
        }
        let ably_id: Arc<str> = match self.kept.take() {
            Some(kept) if resumed => kept.ably_id,
            _ => ably_id.into(),
        };
        let nothing = ConnectionDetails::default();
        let details = frame.connection_details.as_deref().unwrap_or(&nothing);
        let key = details.connection_key.as_deref().or(frame.connection_key.as_deref());
        self.kept = Some(Kept::new(ably_id.clone(), key, details));
        self.link = Link::Up { heard_at: now };
        self.failures = 0;
        self.credentials = Credentials::Good;
        self.lost = false;
        if !had_transport {
            self.unanswered.write_all(now, |bytes| actions.push(Action::Write(bytes)));
        }
        actions.push(Action::Up(Details {
            resumed,
            ably_id,
            max_message_size: details.max_message_size.unwrap_or(MAX_MESSAGE_SIZE),
            max_inbound_rate: details.max_inbound_rate,
            client_id: details.client_id.as_deref().map(Into::into),
        }));
    }

    fn acked(&mut self, frame: &Incoming<'_>, actions: &mut Vec<Action>) {
        self.answered(frame, actions, |covered, index| match frame.serial(index).map(Arc::from) {
            None if covered.is_create => Outcome::Unknown(Doubt::NoSerial),
            serial => Outcome::Acked { serial },
        });
    }

    fn nacked(&mut self, now: Time, frame: &Incoming<'_>, actions: &mut Vec<Action>) {
        let rejection = fault::rejection(frame.error.as_ref());
        self.answered(frame, actions, |_, _| Outcome::Rejected(rejection.clone()));
        let may_help = rejection.class == Class::Token || rejection.code == NOT_CAPABLE;
        if may_help && self.renewed_at.is_none_or(|last| now.since(last) >= RENEW_AGAIN) {
            self.renewed_at = Some(now);
            actions.push(Action::Renew);
        }
    }

    /// Settles what an answer covers, and what it has jumped over.
    fn answered(&mut self, frame: &Incoming<'_>, actions: &mut Vec<Action>, outcome: impl Fn(&Frame, u64) -> Outcome) {
        let Some(from) = frame.msg_serial else {
            return actions.push(Action::Notice(Error::Frame("an answer names no frame".to_owned())));
        };
        let (connection, trust_resume) = (self.settings.connection, self.settings.trust_resume);
        // The least that an answer without a count can mean.
        let count = frame.count.map_or(1, u64::from);
        let was_sent = self.unanswered.settle(from, count, |settled, how| {
            let outcome = match how {
                Settled::Skipped => Outcome::Unknown(Doubt::Skipped),
                Settled::Covered(index) => outcome(&settled, index),
            };
            let resent = settled.resent && !trust_resume;
            actions.push(Action::Answer(Answer { op: settled.op, connection, outcome, resent }));
        });
        if !was_sent {
            actions.push(Action::Notice(Error::Frame(format!("frame {from} is answered, which is not in flight"))));
        }
    }

    fn close_when_answered(&mut self, actions: &mut Vec<Action>) {
        let is_answered = self.unanswered.is_empty();
        if let (Link::Up { .. }, Some(closing)) = (self.link, &mut self.closing)
            && is_answered
            && !closing.asked
        {
            closing.asked = true;
            actions.push(Action::Write(self.encoder.close()));
        }
    }

    fn silent_at(&self) -> Option<Time> {
        let Link::Up { heard_at } = self.link else { return None };
        Some(heard_at + self.kept.as_ref()?.silence_max?)
    }

    fn overdue_at(&self) -> Option<Time> {
        Some(self.unanswered.oldest_written()?.sent_at + self.settings.ack_timeout)
    }

    fn expires_at(&self) -> Option<Time> {
        let kept = self.kept.as_ref()?;
        Some(kept.down_since? + kept.ttl)
    }
}

impl Kept {
    fn new(ably_id: Arc<str>, key: Option<&str>, details: &ConnectionDetails<'_>) -> Self {
        let ttl = details.connection_state_ttl.map_or(STATE_TTL, Duration::from_millis);
        let silence_max = details.max_idle_interval.filter(|millis| *millis > 0).map(Duration::from_millis);
        let silence_max = silence_max.map(|silence| silence + SILENCE_GRACE);
        Self { ably_id, key: key.map(Into::into), ttl, silence_max, down_since: None }
    }
}

#[cfg(test)]
mod tests;
