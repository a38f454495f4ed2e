//! A connection's task: owns the transport, and does what the session asks for.
//!
//! One loop. It waits for anything (frames, operations, the transport, time), takes all that is ready, lets the session
//! decide, feeds all frames to the socket and flushes once; answers go back as one batch. It reads while a flush is pending,
//! so a server that reads slowly cannot block us, nor we it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{self, Message};

use super::auth::Auth;
use super::fault::Error;
use super::lease::Lease;
use super::pool::{Command, Event, Settings};
use super::session::{self, Action, Session};
use super::transport::{self, Socket, Target};
use super::wire::Encoding;
use crate::engine::{Answer, ConnectionId, Time};
use relief::Relief;
use succession::{Found, Succession};

mod relief;
mod succession;

pub(super) use succession::Secrets;

/// Frames and batches that are taken at once before anything is done about them.
const TAKE_MAX: usize = 256;

/// A connection.
pub(super) struct Connection {
    id: ConnectionId,
    encoding: Encoding,
    auth: Auth,
    target: Arc<Target>,
    lease: Lease,
    /// How long an operation may be unanswered.
    patience: Duration,
    session: Session,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    transport: Transport,
    /// Newer credentials for a connection that is up, on their way.
    renewing: Option<Renewing>,
    started: Instant,
    /// What goes by request while there is no connection.
    relief: Relief,
    /// What takes its place when its key is rolled.
    succession: Succession,
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to, if it has not gone off.
    armed: Option<Time>,
    actions: Vec<Action>,
    answers: Vec<Answer>,
    batches: Vec<Command>,
    messages: Vec<Message>,
}

type Renewing = Pin<Box<dyn Future<Output = Result<Auth, Error>> + Send>>;

enum Transport {
    None,
    Opening(Pin<Box<dyn Future<Output = Opened> + Send>>),
    Open { socket: Box<Socket>, unflushed: bool },
}

/// What became of an attempt, and the credentials that it was made with.
struct Opened {
    auth: Auth,
    socket: Result<Box<Socket>, Error>,
}

/// What woke the connection.
enum Woken {
    /// Commands came.
    Told,
    /// An attempt to open a transport is over.
    Opened(Opened),
    /// There are newer credentials, or none.
    Renewed(Result<Auth, Error>),
    /// Messages came, and perhaps the end of the transport behind them.
    Received(Option<Error>),
    /// A deadline has come.
    Due,
    /// What happened to what goes by request; none at its end.
    Relief(Option<Event>),
    /// The file of its secret was looked at.
    Looked(Found),
    /// Nobody holds the pool any more.
    Forsaken,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        settings: &Settings,
        target: Arc<Target>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let session = session::Settings {
            connection: id,
            encoding: settings.encoding,
            ack_timeout: settings.ack_timeout,
            trust_resume: settings.trust_resume,
            seed: fastrand::u64(..),
        };
        let started = Instant::now();
        Self {
            id,
            encoding: settings.encoding,
            auth: settings.auth.clone(),
            target,
            lease: settings.lease.clone(),
            patience: settings.ack_timeout,
            session: Session::new(session, Time::default()),
            commands,
            events,
            transport: Transport::None,
            renewing: None,
            relief: Relief::new(id, settings.clone()),
            succession: Succession::new(id, session, &settings.auth, started),
            started,
            timer: Box::pin(tokio::time::sleep_until(started)),
            armed: None,
            actions: Vec::new(),
            answers: Vec::new(),
            batches: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// Lives until it is closed, or nobody listens any more.
    pub(super) async fn run(mut self) {
        loop {
            self.arm();
            match self.woken().await {
                Woken::Told => {}
                Woken::Opened(opened) => self.opened(opened),
                Woken::Renewed(renewed) => self.renewed(renewed),
                Woken::Received(end) => self.received(end),
                Woken::Due => {
                    let now = self.now();
                    self.relief.tick(now);
                    let is_up = self.session.is_up() && !self.relief.is_serving();
                    self.succession.tick(now, is_up, &self.auth, &self.target);
                    self.session.tick(now, &mut self.actions);
                }
                Woken::Looked(found) => {
                    if self.looked(found).await.is_none() {
                        return;
                    }
                }
                Woken::Relief(event) => {
                    if self.relieved(event).await.is_none() {
                        return;
                    }
                }
                Woken::Forsaken => return,
            }
            self.obey();
            if self.act().await.is_none() {
                return;
            }
        }
    }

    /// Waits for anything. Operations last: they wait for permits, and permits come with answers.
    async fn woken(&mut self) -> Woken {
        let Self { transport, messages, timer, armed, commands, batches, lease, renewing, relief, succession, .. } =
            self;
        tokio::select! {
            biased;
            woken = poll_fn(|context| transport.poll(lease, messages, context)) => woken,
            () = timer.as_mut(), if armed.is_some() => {
                *armed = None;
                Woken::Due
            }
            renewed = poll_fn(|context| poll_renewing(renewing, context)) => Woken::Renewed(renewed),
            event = relief.next() => Woken::Relief(event),
            found = succession.next() => Woken::Looked(found),
            taken = commands.recv_many(batches, TAKE_MAX) => if taken == 0 { Woken::Forsaken } else { Woken::Told },
        }
    }

    fn opened(&mut self, opened: Opened) {
        self.auth = opened.auth;
        match opened.socket {
            Ok(socket) => self.transport = Transport::Open { socket, unflushed: false },
            Err(error) => self.ended(error),
        }
    }

    /// The same token again would only be asked for again.
    fn renewed(&mut self, renewed: Result<Auth, Error>) {
        match renewed {
            Ok(auth) => {
                let token = auth.token().filter(|_| auth.is_newer_than(&self.auth));
                self.auth = auth;
                if let Some(token) = token {
                    self.session.authorise(token.expose(), &mut self.actions);
                }
            }
            Err(error) => tracing::warn!(connection = self.id, %error, "no newer token for ably"),
        }
    }

    fn received(&mut self, end: Option<Error>) {
        let now = self.now();
        for message in self.messages.drain(..) {
            match message {
                Message::Text(text) => self.session.receive(now, text.as_bytes(), &mut self.actions),
                Message::Binary(bytes) => self.session.receive(now, &bytes, &mut self.actions),
                Message::Ping(_) | Message::Pong(_) => self.session.heard(now),
                Message::Close(_) | Message::Frame(_) => {}
            }
        }
        if let Some(error) = end {
            self.ended(error);
        }
    }

    fn ended(&mut self, reason: Error) {
        self.transport = Transport::None;
        let now = self.now();
        self.session.disconnected(now, reason, &mut self.actions);
    }

    /// Tells the session what it is to send, all that has come.
    fn obey(&mut self) {
        let now = self.now();
        while self.batches.len() < TAKE_MAX
            && let Ok(command) = self.commands.try_recv()
        {
            self.batches.push(command);
        }
        for command in self.batches.drain(..) {
            match command {
                Command::Send(operations) => {
                    let Err(command) = self.relief.tell(Command::Send(operations)) else { continue };
                    let Command::Send(operations) = command else { continue };
                    for operation in &operations {
                        self.session.send(now, operation, &mut self.actions);
                    }
                }
                Command::Abandon => {
                    let _ = self.relief.tell(Command::Abandon);
                    self.session.abandon(now, &mut self.actions);
                }
                // What is sent behind this would be refused, and nothing is.
                Command::Leave if self.succession.is_held() => {
                    self.session.close(now + self.patience, &mut self.actions);
                }
                Command::Leave => {}
                Command::Close { deadline } => {
                    if let Some(heir) = self.succession.take() {
                        heir.dismiss(self.encoding);
                    }
                    let _ = self.relief.tell(Command::Close { deadline });
                    self.session.close(now + deadline, &mut self.actions);
                }
            }
        }
    }

    /// Does what the session asks for. `None` when that was the last.
    async fn act(&mut self) -> Option<()> {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Write(frame) => self.write(frame),
                Action::Answer(answer) => self.answers.push(answer),
                Action::Connect { resume, renew, failures } => self.connect(resume, renew, failures),
                Action::Renew => self.renew(),
                Action::Hangup => self.transport = Transport::None,
                Action::Up(details) => self.up(details).await?,
                Action::Down(reason) => self.down(reason).await?,
                Action::Lost => self.tell(Event::Lost { connection: self.id }).await?,
                Action::Fatal(error) => self.tell(Event::Fatal { connection: self.id, error }).await?,
                Action::Notice(notice) => tracing::debug!(connection = self.id, %notice, "ably says"),
                Action::Closed => {
                    self.tell_answers().await?;
                    self.end_relief().await?;
                    if let Transport::Open { socket, .. } = &self.transport {
                        transport::close_softly(socket);
                    }
                    self.transport = Transport::None;
                    let Some(heir) = self.succession.take() else {
                        self.tell(Event::Closed { connection: self.id }).await?;
                        return None;
                    };
                    self.succeed(*heir).await?;
                }
            }
        }
        self.actions = actions;
        self.tell_answers().await
    }

    /// Puts a frame into the socket's buffer. That never waits: what may be in flight bounds the buffer, and a failure shows
    /// at the flush.
    fn write(&mut self, frame: Bytes) {
        let Transport::Open { socket, unflushed } = &mut self.transport else { return };
        // A full buffer is written to the socket at once.
        if !self.lease.is_held() {
            *unflushed = true;
            return;
        }
        *unflushed = true;
        let _ = socket.start_send_unpin(framed(frame, self.encoding));
    }

    fn connect(&mut self, resume: Option<Arc<str>>, renew: bool, failures: u32) {
        let (target, former, id) = (self.target.clone(), self.auth.clone(), self.id);
        self.transport = Transport::Opening(Box::pin(async move {
            let (auth, renewed) = target.secrets().next(former, renew).await;
            let socket = match renewed {
                Ok(()) => target.open(&auth, resume.as_deref(), failures, id).await.map(Box::new),
                Err(error) => Err(error),
            };
            Opened { auth, socket }
        }));
    }

    /// A connection that shows a key cannot show another: with a new one the next connection is opened.
    fn renew(&mut self) {
        if !self.auth.shows_token() {
            return;
        }
        let (target, former) = (self.target.clone(), self.auth.clone());
        self.renewing = Some(Box::pin(async move { target.secrets().newer(former).await }));
    }

    /// Answers go before whatever else is told.
    async fn tell(&mut self, event: Event) -> Option<()> {
        self.tell_answers().await?;
        self.events.send(event).await.ok()
    }

    async fn tell_answers(&mut self) -> Option<()> {
        if self.answers.is_empty() {
            return Some(());
        }
        let capacity = self.answers.len();
        let answers = std::mem::replace(&mut self.answers, Vec::with_capacity(capacity));
        self.events.send(Event::Answers(answers)).await.ok()
    }

    /// Sets the timer, unless it will go off soon enough anyway: deadlines move with every answer, and mostly later.
    fn arm(&mut self) {
        let deadlines = [self.session.next_deadline(), self.relief.deadline(), self.succession.deadline()];
        let Some(deadline) = deadlines.into_iter().flatten().min() else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.timer.as_mut().reset(self.started + deadline.since(Time::default()));
            self.armed = Some(deadline);
        }
    }

    /// Time since the task began: the session asks for no other.
    fn now(&self) -> Time {
        Time::default() + self.started.elapsed()
    }
}

/// A frame as the transport takes it.
fn framed(frame: Bytes, encoding: Encoding) -> Message {
    let data = match encoding {
        Encoding::Json => Data::Text,
        Encoding::Msgpack => Data::Binary,
    };
    Message::Frame(Frame::message(frame, OpCode::Data(data), true))
}

fn poll_renewing(renewing: &mut Option<Renewing>, context: &mut Context<'_>) -> Poll<Result<Auth, Error>> {
    let Some(future) = renewing else { return Poll::Pending };
    let renewed = ready!(future.as_mut().poll(context));
    *renewing = None;
    Poll::Ready(renewed)
}

impl Transport {
    /// Flushes what is to be flushed and takes the messages that are there. What was to be flushed is thrown away with the
    /// transport when the lease has run out meanwhile: this is the last place to notice that we were frozen.
    fn poll(&mut self, lease: &Lease, messages: &mut Vec<Message>, context: &mut Context<'_>) -> Poll<Woken> {
        let (socket, unflushed) = match self {
            Self::None => return Poll::Pending,
            Self::Opening(opening) => {
                let opened = ready!(opening.as_mut().poll(context));
                *self = Self::None;
                return Poll::Ready(Woken::Opened(opened));
            }
            Self::Open { socket, unflushed } => (socket, unflushed),
        };
        let lost = |error: tungstenite::Error| Some(Error::TransportLost(error.to_string()));
        let mut end = None;
        if *unflushed {
            if !lease.is_held() {
                return Poll::Ready(Woken::Received(Some(Error::NoLease)));
            }
            match socket.poll_flush_unpin(context) {
                Poll::Ready(Ok(())) => *unflushed = false,
                // What the server said before is still to be read.
                Poll::Ready(Err(error)) => end = lost(error),
                Poll::Pending => {}
            }
        }
        while messages.len() < TAKE_MAX {
            let over = match socket.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => {
                    messages.push(message);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => lost(error),
                Poll::Ready(None) => Some(Error::TransportLost("closed by the server".to_owned())),
                Poll::Pending => break,
            };
            end = end.or(over);
            break;
        }
        if messages.is_empty() && end.is_none() {
            return Poll::Pending;
        }
        Poll::Ready(Woken::Received(end))
    }
}

#[cfg(test)]
mod tests;
