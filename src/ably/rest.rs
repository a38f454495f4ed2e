//! Operations as requests, for networks without WebSockets: a connection's task without a connection.
//!
//! Requests arrive in no order, so it says that a response may have one under way at a time, and what comes meanwhile is
//! joined. A request is never sent again: a create has an id for that and the engine repeats it; of an append nobody could
//! tell. What got no answer, or one that does not say what became of it (a timeout, a broken connection, a 5xx, or whatever
//! somebody on the way says in Ably's place), is unknown. What Ably refused, or what never left, is certain.
//!
//! Where tokens are messages, those of many responses go in one request ([`exchange::batch`]). Creates go one by one: no batch
//! can append, so it would save one request of each response, and its lost answer would leave a hundred creates in doubt, which
//! are looked for on Ably each by itself.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::auth::{Auth, LOOK_EVERY, REFUSED_KEPT};
use super::encode::Encoder;
use super::endpoint::Hosts;
use super::fault::{self, Error, Fate};
use super::http;
use super::pool::{Command, Event, Settings};
use super::session::retry;
use crate::engine::{Answer, ConnectionId, Doubt, OpId, OpKind, Operation, Outcome, Pipelining};
use exchange::{Api, Done, Parcel, Trouble};

mod exchange;

/// Commands that are taken at once.
const TAKE_MAX: usize = 256;

/// After so many failures in a row the next host is tried, and nothing is sent before it answers.
const FAILURES_MAX: u32 = 3;

/// How long another host than the first is kept [Ably: `fallbackRetryTimeout`].
const FALLBACK_KEPT: Duration = Duration::from_secs(600);

/// What Ably calls the connection of a request: nothing.
const ABLY_ID: &str = "rest";

/// A lane of requests.
pub(super) struct Rest {
    id: ConnectionId,
    settings: Settings,
    hosts: Hosts,
    auth: Auth,
    encoder: Encoder,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    state: State,
    under_way: HashSet<OpId, RandomState>,
    requests: FuturesUnordered<Boxed<Vec<Done>>>,
    answers: Vec<Answer>,
    /// Which host's turn it is, and since when.
    turn: (u32, Instant),
    /// While it is another's than the first: the first is asked whether it is back.
    returning: Option<Boxed<(Auth, Result<Api, Trouble>)>>,
    asked_at: Option<Instant>,
    /// When the file of the secret is looked at, and a look that is under way.
    look_at: Instant,
    looking: Option<Boxed<Result<Option<Auth>, Error>>>,
    /// In a row.
    failures: u32,
    closing: Option<Instant>,
    random: fastrand::Rng,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum State {
    Waiting { until: Instant },
    Asking(Boxed<(Auth, Result<Api, Trouble>)>),
    Up(Api),
}

/// What woke it.
enum Woken {
    Done(Vec<Done>),
    Asked(Auth, Result<Api, Trouble>),
    Looked(Result<Option<Auth>, Error>),
    Look,
    Return,
    Returned(Auth, Result<Api, Trouble>),
    Due,
    Told(Vec<Command>),
}

impl Rest {
    pub(super) fn new(
        id: ConnectionId,
        settings: &Settings,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let now = Instant::now();
        Self {
            id,
            hosts: Hosts::of(&settings.endpoint),
            auth: settings.auth.clone(),
            encoder: Encoder::new(settings.encoding),
            settings: settings.clone(),
            commands,
            events,
            state: State::Waiting { until: now },
            under_way: HashSet::default(),
            requests: FuturesUnordered::new(),
            answers: Vec::new(),
            turn: (0, now),
            returning: None,
            asked_at: None,
            look_at: now + LOOK_EVERY,
            looking: None,
            failures: 0,
            closing: None,
            random: fastrand::Rng::new(),
        }
    }

    /// Lives until it is closed, or nobody listens any more.
    pub(super) async fn run(mut self) {
        while let Some(woken) = self.woken().await {
            if self.act(woken).await.is_none() {
                return;
            }
        }
    }

    /// Waits for anything. `None` when nobody holds the pool any more.
    async fn woken(&mut self) -> Option<Woken> {
        let return_at = self.return_at();
        let Self { requests, state, commands, closing, looking, look_at, returning, .. } = self;
        let asked = async {
            match state {
                State::Waiting { until } => {
                    sleep_until(*until).await;
                    Woken::Due
                }
                State::Asking(asking) => {
                    let (auth, answer) = asking.await;
                    Woken::Asked(auth, answer)
                }
                State::Up(_) => std::future::pending().await,
            }
        };
        let looked = async {
            match looking {
                Some(looking) => Woken::Looked(looking.await),
                None => {
                    sleep_until(*look_at).await;
                    Woken::Look
                }
            }
        };
        let returned = async {
            match (returning, return_at) {
                (Some(returning), _) => {
                    let (auth, answer) = returning.await;
                    Woken::Returned(auth, answer)
                }
                (None, Some(at)) => {
                    sleep_until(at).await;
                    Woken::Return
                }
                (None, None) => std::future::pending().await,
            }
        };
        let end = async {
            match closing {
                Some(deadline) => sleep_until(*deadline).await,
                None => std::future::pending().await,
            }
        };
        let mut told = Vec::new();
        tokio::select! {
            biased;
            Some(done) = requests.next(), if !requests.is_empty() => Some(Woken::Done(done)),
            woken = asked => Some(woken),
            woken = looked => Some(woken),
            woken = returned => Some(woken),
            taken = commands.recv_many(&mut told, TAKE_MAX) => (taken > 0).then_some(Woken::Told(told)),
            () = end => Some(Woken::Due),
        }
    }

    /// `None` when it is over.
    async fn act(&mut self, woken: Woken) -> Option<()> {
        match woken {
            Woken::Done(done) => {
                self.all_done(done).await?;
                while let Some(Some(done)) = self.requests.next().now_or_never() {
                    self.all_done(done).await?;
                }
            }
            Woken::Asked(auth, answer) => {
                self.auth = auth;
                match answer {
                    Ok(api) => self.up(api).await?,
                    Err(trouble) => self.down(trouble).await?,
                }
            }
            Woken::Look => self.look(),
            Woken::Looked(found) => self.looked(found),
            Woken::Return => self.returning = Some(self.question(0)),
            Woken::Returned(auth, answer) => self.returned(auth, answer),
            Woken::Due => self.ask(),
            Woken::Told(commands) => commands.into_iter().for_each(|command| self.obey(command)),
        }
        if let Some(deadline) = self.closing {
            if !self.under_way.is_empty() && Instant::now() < deadline {
                return self.tell_answers().await;
            }
            self.give_up(Doubt::Stopped);
            self.tell(Event::Closed { connection: self.id }).await?;
            return None;
        }
        self.tell_answers().await
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Send(operations) => self.send(&operations),
            // Nobody may write to these messages on another way while a request of ours may still arrive.
            Command::Abandon => self.give_up(Doubt::NoAnswer),
            // Each request shows its own credentials: there is nothing to be replaced.
            Command::Leave => {}
            Command::Close { deadline } => self.closing = Some(Instant::now() + deadline),
        }
    }

    fn send(&mut self, operations: &[Operation]) {
        let State::Up(api) = &self.state else { return self.refuse(operations) };
        if self.closing.is_some() || !self.settings.lease.is_held() {
            return self.refuse(operations);
        }
        let mut publishes = Vec::new();
        for operation in operations {
            self.under_way.insert(operation.id);
            let parcel = Parcel::new(operation, self.encoder.body(operation));
            match operation.kind {
                OpKind::Publish => publishes.push(parcel),
                OpKind::Create | OpKind::Append | OpKind::Update => {
                    let (api, auth) = (api.clone(), self.auth.clone());
                    self.requests.push(Box::pin(async { vec![api.perform(auth, parcel).await] }));
                }
            }
        }
        for mut batch in exchange::batch::divide(publishes) {
            if batch.len() == 1
                && let Some(parcel) = batch.pop()
            {
                let (api, auth) = (api.clone(), self.auth.clone());
                self.requests.push(Box::pin(async { vec![api.perform(auth, parcel).await] }));
                continue;
            }
            let body = self.encoder.batch(batch.iter().map(Parcel::part));
            self.requests.push(Box::pin(api.clone().publish(self.auth.clone(), batch, body)));
        }
    }

    fn refuse(&mut self, operations: &[Operation]) {
        for operation in operations {
            self.answer(operation.id, Outcome::Rejected(fault::never_sent()));
        }
    }

    fn answer(&mut self, op: OpId, outcome: Outcome) {
        self.answers.push(Answer { op, connection: self.id, outcome, resent: false });
    }

    /// What is under way is not waited for any longer.
    fn give_up(&mut self, doubt: Doubt) {
        self.requests.clear();
        for op in std::mem::take(&mut self.under_way) {
            self.answer(op, Outcome::Unknown(doubt));
        }
    }

    async fn all_done(&mut self, all: Vec<Done>) -> Option<()> {
        for done in all {
            self.done(done).await?;
        }
        Some(())
    }

    /// An operation has its answer, or has none.
    async fn done(&mut self, done: Done) -> Option<()> {
        let Done { op, outcome, renewed, trouble } = done;
        self.under_way.remove(&op);
        self.answer(op, outcome);
        if let Some(auth) = renewed {
            self.auth = auth;
        }
        let Some(trouble) = trouble else {
            self.failures = 0;
            return Some(());
        };
        self.failures += 1;
        let Trouble { error, wait } = &trouble;
        let is_clear = error.is_fatal() || wait.is_some() || matches!(error, Error::Unreachable { .. });
        if matches!(self.state, State::Up(_)) && (is_clear || self.failures >= FAILURES_MAX) {
            return self.down(trouble).await;
        }
        Some(())
    }

    /// Asks the host whose turn it is whether it answers and takes our credentials.
    fn ask(&mut self) {
        if self.closing.is_some() {
            return;
        }
        if self.turn.0 > 0 && self.turn.1.elapsed() >= FALLBACK_KEPT {
            self.turn = (0, Instant::now());
        }
        self.asked_at = Some(Instant::now());
        self.state = State::Asking(self.question(self.turn.0));
    }

    fn question(&self, turn: u32) -> Boxed<(Auth, Result<Api, Trouble>)> {
        let host = self.hosts.choose(turn, self.id).to_owned();
        Box::pin(exchange::ask(self.settings.clone(), self.auth.clone(), host))
    }

    /// When the first host is to be asked whether it is back.
    fn return_at(&self) -> Option<Instant> {
        let is_elsewhere = matches!(self.state, State::Up(_)) && self.hosts.is_fallback(self.turn.0);
        is_elsewhere.then(|| self.turn.1 + FALLBACK_KEPT)
    }

    /// The first host is used again if it answers; what is under way elsewhere goes on there. If it does not, the other one is
    /// kept for as long again.
    fn returned(&mut self, auth: Auth, answer: Result<Api, Trouble>) {
        self.returning = None;
        self.turn.1 = Instant::now();
        match answer {
            Ok(api) => {
                tracing::info!(connection = self.id, "requests go to the first host again");
                self.turn.0 = 0;
                self.auth = auth;
                self.state = State::Up(api);
            }
            Err(Trouble { error, .. }) => tracing::debug!(connection = self.id, %error, "the first host is not back"),
        }
    }

    /// Looks whether there are other credentials. While nothing gets through they are read again anyway.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_EVERY;
        if let State::Up(api) = &self.state
            && self.auth.is_from_file()
        {
            self.looking = Some(Box::pin(api.clone().look(self.auth.clone())));
        }
    }

    /// What is refused is not used: what served until now goes on serving.
    fn looked(&mut self, found: Result<Option<Auth>, Error>) {
        self.looking = None;
        match found {
            Ok(None) => {}
            Ok(Some(auth)) => {
                tracing::info!(connection = self.id, "requests show the new key or token from now on");
                self.auth = auth;
            }
            Err(error) => {
                tracing::warn!(connection = self.id, %error, "a new key or token is not used: the former one still is");
                self.look_at = Instant::now() + REFUSED_KEPT;
            }
        }
    }

    async fn up(&mut self, api: Api) -> Option<()> {
        self.failures = 0;
        self.state = State::Up(api);
        let event = Event::Up {
            connection: self.id,
            resumed: false,
            ably_id: ABLY_ID.into(),
            pipelining: Pipelining::Off,
            max_message_size: self.settings.max_message_size,
            max_inbound_rate: None,
            client_id: Some(&*self.settings.client_id).filter(|id| !id.is_empty()).map(Into::into),
        };
        self.tell(event).await
    }

    /// Nothing is sent until a host has answered again.
    async fn down(&mut self, Trouble { error, wait }: Trouble) -> Option<()> {
        let now = Instant::now();
        let was_up = matches!(self.state, State::Up(_));
        self.returning = None;
        self.failures = if was_up { 0 } else { self.failures.saturating_add(1) };
        let fate = match &error {
            Error::Refused { code, status_code, .. } => Fate::of(*code, *status_code),
            _ if error.is_fatal() => Fate::Fatal,
            _ => Fate::Again,
        };
        let delay = match fate {
            Fate::Again if was_up => Duration::ZERO,
            Fate::Again => retry::delay(self.failures, &mut self.random),
            Fate::Slowly => retry::slow_delay(self.failures, &mut self.random),
            Fate::Renew | Fate::Fatal => retry::fatal_delay(&mut self.random),
        };
        if fate == Fate::Again && wait.is_none() {
            self.turn = (self.turn.0 + 1, now);
        }
        let earliest = self.asked_at.map_or(now, |asked_at| asked_at + retry::SPACING);
        let until = (now + wait.map_or(delay, |wait| wait.min(http::ASKED_WAIT_MAX))).max(earliest);
        self.state = State::Waiting { until };
        self.tell(Event::Down { connection: self.id, reason: error.clone() }).await?;
        match fate {
            Fate::Fatal | Fate::Renew => self.tell(Event::Fatal { connection: self.id, error }).await,
            Fate::Again | Fate::Slowly => Some(()),
        }
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
        let answers = std::mem::take(&mut self.answers);
        self.events.send(Event::Answers(answers)).await.ok()
    }
}

#[cfg(test)]
mod tests;
