//! Succession: when a key is rolled, the next connection is up before the old one ends.
//!
//! The file of a secret is looked at every few seconds. A connection that shows a key cannot show another, so with a new key
//! in the file the next connection is opened beside the old one. If Ably takes the key, the old one is given nothing more,
//! ends when all on it is answered, and the next one goes on under its number: messages begin there with their full text, as
//! on any other connection. One connection of a pool at a time, so that not all streams wait together. A token is shown on the
//! connection that there is. What Ably does not take is not used: the old connection goes on as if nothing were.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite;

use super::super::auth::{Auth, LOOK_EVERY, REFUSED_KEPT};
use super::super::fault::Error;
use super::super::pool::Event;
use super::super::session::{self, Action, Details, Session};
use super::super::transport::{self, Socket, Target};
use super::super::wire::Encoding;
use super::{Connection, Transport, framed};
use crate::engine::{ConnectionId, Time};

/// From the wish to connect to CONNECTED.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// From the wish to end to CLOSED.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the connections of a pool know together of their secrets.
#[derive(Debug, Default)]
pub(in crate::ably) struct Secrets {
    /// Whose turn it is to be replaced.
    turn: Arc<tokio::sync::Mutex<()>>,
    tried: Mutex<Option<Tried>>,
}

/// A secret that was tried while another served.
#[derive(Debug, Clone)]
struct Tried {
    auth: Auth,
    at: Instant,
    outcome: Trial,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    Taken,
    Refused,
    /// The attempt failed for something else.
    Undecided,
}

impl Secrets {
    /// What to show at the next attempt to connect, and whether it could be looked for. `former` was shown at the last one, and
    /// refused if something newer is asked for.
    pub(super) async fn next(&self, former: Auth, renew: bool) -> (Auth, Result<(), Error>) {
        let mut auth = former.clone();
        let renewed = if renew { auth.renew().await } else { auth.refresh().await };
        let auth = match renew {
            // There is nothing newer: what served before may serve still.
            true if auth.is_same_as(&former) => auth.taken_last(),
            true => auth,
            false => self.usable(auth),
        };
        (auth, renewed)
    }

    /// What to show on a connection that is up: if that is refused, so is the connection.
    pub(super) async fn newer(&self, mut auth: Auth) -> Result<Auth, Error> {
        auth.renew().await?;
        Ok(self.usable(auth))
    }

    /// Not what was refused when it was tried last, however long ago that was, while another serves.
    fn usable(&self, auth: Auth) -> Auth {
        let is_it = |tried: &Tried| tried.auth.is_same_as(&auth) && tried.outcome == Trial::Refused;
        let is_refused = self.lock().as_ref().is_some_and(is_it);
        if is_refused { auth.taken_last() } else { auth }
    }

    /// What came of a secret, if that is known and not long ago.
    fn tried(&self, auth: &Auth) -> Option<Tried> {
        let tried = self.lock();
        tried.as_ref().filter(|tried| tried.auth.is_same_as(auth) && tried.at.elapsed() < REFUSED_KEPT).cloned()
    }

    /// A secret was tried: nothing was wrong, or this. What has nothing to do with the secret says nothing of it.
    fn learn(&self, auth: &Auth, error: Option<&Error>) {
        let outcome = match error {
            None => Trial::Taken,
            Some(error) if error.is_fatal() || error.asks_for_newer() => Trial::Refused,
            Some(_) => Trial::Undecided,
        };
        *self.lock() = Some(Tried { auth: auth.clone(), at: Instant::now(), outcome });
    }

    /// A connection is up with a secret, whatever came of it before.
    pub(super) fn serves(&self, auth: &Auth) {
        auth.was_taken();
        if let Some(tried) = self.lock().as_mut().filter(|tried| tried.auth.is_same_as(auth)) {
            tried.outcome = Trial::Taken;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Tried>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What replaces a connection, and when.
pub(super) struct Succession {
    id: ConnectionId,
    settings: session::Settings,
    started: Instant,
    state: State,
    random: fastrand::Rng,
}

enum State {
    /// The secret is not from a file.
    Never,
    Resting {
        look_at: Time,
    },
    Looking(Looking),
    /// The next connection is up, and the old one ends.
    Held(Box<Heir>),
}

type Looking = Pin<Box<dyn Future<Output = Found> + Send>>;

/// What a look at the file has led to.
pub(super) enum Found {
    /// Nothing that can be used.
    Nothing,
    /// A token that is newer.
    Token(Auth),
    /// A connection with the new key.
    Heir(Box<Heir>),
}

/// A connection that is up and carries nothing yet.
pub(super) struct Heir {
    pub(super) auth: Auth,
    pub(super) socket: Box<Socket>,
    pub(super) session: Session,
    pub(super) details: Details,
    /// Until it has taken over.
    _turn: OwnedMutexGuard<()>,
}

impl Succession {
    pub(super) fn new(id: ConnectionId, settings: session::Settings, auth: &Auth, started: Instant) -> Self {
        let random = fastrand::Rng::with_seed(settings.seed);
        let mut new = Self { id, settings, started, state: State::Never, random };
        if auth.is_from_file() {
            new.rest(Time::default());
        }
        new
    }

    /// When [`tick`](Self::tick) is wanted.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Resting { look_at } => Some(look_at),
            State::Never | State::Looking(_) | State::Held(_) => None,
        }
    }

    /// Time has passed. One that is not up reads the file by itself when it connects.
    pub(super) fn tick(&mut self, now: Time, is_up: bool, auth: &Auth, target: &Arc<Target>) {
        if self.deadline().is_none_or(|look_at| now < look_at) {
            return;
        }
        match is_up {
            false => self.rest(now),
            true => {
                let look = look(self.id, self.settings, self.started, auth.clone(), target.clone());
                self.state = State::Looking(Box::pin(look));
            }
        }
    }

    /// What a look has led to. Never, while there is none.
    pub(super) async fn next(&mut self) -> Found {
        let State::Looking(looking) = &mut self.state else { return std::future::pending().await };
        let found = looking.as_mut().await;
        self.rest(Time::default() + self.started.elapsed());
        found
    }

    /// It takes over as soon as the old one has ended.
    pub(super) fn hold(&mut self, heir: Box<Heir>) {
        self.state = State::Held(heir);
    }

    /// Whether one waits for the end of the old one.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.state, State::Held(_))
    }

    /// The one that takes over now, if one waits.
    pub(super) fn take(&mut self) -> Option<Box<Heir>> {
        if !self.is_held() {
            return None;
        }
        let State::Held(heir) = std::mem::replace(&mut self.state, State::Never) else { return None };
        self.rest(Time::default() + self.started.elapsed());
        Some(heir)
    }

    fn rest(&mut self, now: Time) {
        let look_at = now + LOOK_EVERY.mul_f64(0.8 + 0.2 * self.random.f64());
        self.state = State::Resting { look_at };
    }
}

impl Heir {
    /// It is not needed after all.
    pub(super) fn dismiss(self, encoding: Encoding) {
        dismiss(self.socket, self.session, encoding);
    }
}

impl Connection {
    /// The file of its secret was looked at.
    pub(super) async fn looked(&mut self, found: Found) -> Option<()> {
        match found {
            Found::Token(auth) => self.renewed(Ok(auth)),
            Found::Heir(heir) if self.session.is_up() && !heir.auth.is_same_as(&self.auth) => {
                self.succession.hold(heir);
                return self.tell(Event::Leaving { connection: self.id }).await;
            }
            // It was lost meanwhile, and shows the new key by itself when it connects.
            Found::Heir(heir) => heir.dismiss(self.encoding),
            Found::Nothing => {}
        }
        Some(())
    }

    /// The old connection has ended: the next one goes on under its number.
    pub(super) async fn succeed(&mut self, heir: Heir) -> Option<()> {
        let Heir { auth, socket, session, details, .. } = heir;
        tracing::info!(connection = self.id, "a connection with the new key has taken over");
        (self.auth, self.session) = (auth, session);
        self.transport = Transport::Open { socket, unflushed: false };
        self.tell(Event::Replaced { connection: self.id }).await?;
        self.up(details).await
    }
}

async fn look(
    id: ConnectionId,
    settings: session::Settings,
    started: Instant,
    former: Auth,
    target: Arc<Target>,
) -> Found {
    if former.changed().await.is_none() {
        return Found::Nothing;
    }
    let secrets = target.secrets();
    let turn = secrets.turn.clone().lock_owned().await;
    // It may have changed again while others had their turn.
    let Some(auth) = former.changed().await else { return Found::Nothing };
    match secrets.tried(&auth).map(|tried| tried.outcome) {
        Some(Trial::Taken) if auth.shows_token() => return Found::Token(auth),
        Some(Trial::Refused | Trial::Undecided) => return Found::Nothing,
        Some(Trial::Taken) | None => {}
    }
    let opened = timeout(OPEN_TIMEOUT, open(id, settings, started, &auth, &target)).await;
    let opened = opened.unwrap_or(Err(Error::NoAnswer(OPEN_TIMEOUT)));
    secrets.learn(&auth, opened.as_ref().err());
    match opened {
        Ok((socket, session, _)) if auth.shows_token() => {
            dismiss(socket, session, settings.encoding);
            Found::Token(auth)
        }
        Ok((socket, session, details)) => Found::Heir(Box::new(Heir { auth, socket, session, details, _turn: turn })),
        Err(error) => {
            tracing::warn!(connection = id, %error, "a new key or token is not used: the former one still is");
            Found::Nothing
        }
    }
}

/// Opens a connection and waits for what Ably says first.
async fn open(
    id: ConnectionId,
    settings: session::Settings,
    started: Instant,
    auth: &Auth,
    target: &Target,
) -> Result<(Box<Socket>, Session, Details), Error> {
    let mut socket = Box::new(target.open(auth, None, 0, id).await?);
    let ended = || Error::TransportLost("closed by the server".to_owned());
    let first = loop {
        let message = socket.next().await.ok_or_else(ended)?;
        let message = message.map_err(|error| Error::TransportLost(error.to_string()))?;
        if message.is_text() || message.is_binary() {
            break message.into_data();
        }
    };
    let now = Time::default() + started.elapsed();
    let (mut session, mut actions) = (Session::new(settings, now), Vec::new());
    // It asks for the transport that there is.
    session.tick(now, &mut actions);
    session.receive(now, &first, &mut actions);
    for action in actions {
        match action {
            Action::Up(details) => return Ok((socket, session, details)),
            Action::Down(reason) => return Err(reason),
            _ => {}
        }
    }
    Err(Error::Frame("the first frame is none that answers".to_owned()))
}

/// Says goodbye on a connection that has carried nothing: one that is only dropped Ably keeps for two minutes, among those
/// that the account may have.
fn dismiss(mut socket: Box<Socket>, mut session: Session, encoding: Encoding) {
    let mut actions = Vec::new();
    session.close(Time::default(), &mut actions);
    let goodbye = async move {
        for action in actions {
            if let Action::Write(frame) = action {
                socket.send(framed(frame, encoding)).await?;
            }
        }
        // It answers with CLOSED, and ends the transport.
        while socket.next().await.transpose()?.is_some_and(|message| !message.is_close()) {}
        transport::close_softly(&socket);
        Ok::<(), tungstenite::Error>(())
    };
    tokio::spawn(timeout(CLOSE_TIMEOUT, goodbye));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Secret};

    const KEYS: [&str; 3] = ["a.first:1", "a.second:2", "a.third:3"];

    /// Tokens are signed with what the file holds: the first key, which has served.
    fn signing(file: &tempfile::NamedTempFile) -> Auth {
        put(file, KEYS[0]);
        let (key, key_file) = (Some(Secret::new(KEYS[0].into())), file.path().to_owned());
        let jwt = config::Jwt { key, key_file, ..config::Jwt::default() };
        let auth = Auth::from_config(&config::Ably { jwt, ..config::Ably::default() }).expect("a key");
        auth.was_taken();
        auth
    }

    fn put(file: &tempfile::NamedTempFile, key: &str) {
        std::fs::write(file.path(), key).expect("written");
    }

    fn is(auth: &Auth, key: &str) -> bool {
        auth.is_same_as(&Auth::key(key).expect("a key"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_up_is_not_shown_what_was_refused() {
        let (file, secrets) = (tempfile::NamedTempFile::new().expect("a file"), Secrets::default());
        let first = signing(&file);
        put(&file, KEYS[1]);
        let refused = |code, status_code| Some(Error::Refused { code, status_code, message: String::new() });
        let lost = Error::TransportLost("reset".to_owned());
        for (error, shown) in [
            (refused(40101, 401), KEYS[0]),
            (refused(40142, 401), KEYS[0]),
            (refused(42920, 429), KEYS[1]),
            (Some(Error::NoAnswer(OPEN_TIMEOUT)), KEYS[1]),
            (Some(lost), KEYS[1]),
            (Some(Error::NoLease), KEYS[1]),
            (None, KEYS[1]),
        ] {
            let auth = Auth::key(KEYS[1]).expect("a key");
            secrets.learn(&auth, error.as_ref());
            // Until it is tried again, too.
            for is_known in [true, false] {
                assert_eq!(secrets.tried(&auth).is_some(), is_known);
                assert!(is(&secrets.newer(first.clone()).await.expect("one"), shown), "{error:?}");
                let (next, renewed) = secrets.next(first.clone(), false).await;
                assert!(is(&next, shown) && renewed.is_ok());
                tokio::time::advance(REFUSED_KEPT).await;
            }
        }
    }

    #[tokio::test]
    async fn what_was_refused_and_serves_is_shown_again() {
        let (file, secrets) = (tempfile::NamedTempFile::new().expect("a file"), Secrets::default());
        let first = signing(&file);
        put(&file, KEYS[1]);
        let mut second = first.clone();
        second.renew().await.expect("another");
        let error = Error::Refused { code: 40101, status_code: 401, message: String::new() };
        secrets.learn(&second, Some(&error));
        assert!(is(&secrets.newer(first.clone()).await.expect("one"), KEYS[0]));
        secrets.serves(&second);
        first.was_taken();
        assert!(is(&secrets.newer(first).await.expect("one"), KEYS[1]), "it was taken since");
    }

    #[tokio::test]
    async fn what_has_served_serves_again_when_what_came_after_it_is_refused() {
        let (file, secrets) = (tempfile::NamedTempFile::new().expect("a file"), Secrets::default());
        let mut auth = signing(&file);
        // What the file holds, whether the last attempt was refused, what is shown at the next.
        for (holds, renew, shown) in [
            (KEYS[1], false, KEYS[1]),
            (KEYS[1], true, KEYS[0]),
            (KEYS[1], true, KEYS[1]),
            (KEYS[2], true, KEYS[2]),
            (KEYS[2], true, KEYS[0]),
        ] {
            put(&file, holds);
            auth = secrets.next(auth, renew).await.0;
            assert!(is(&auth, shown), "{shown} is shown next");
        }
    }
}
