//! One request and its answer.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Method, RequestBuilder};

use super::super::auth::Auth;
use super::super::fault::{self, Error, Fate};
use super::super::http;
use super::super::lease::Lease;
use super::super::pool::Settings;
use super::super::session::NOT_CAPABLE;
use crate::engine::{Class, Doubt, Head, OpId, OpKind, Operation, Outcome, Rejection};

pub(super) mod batch;

/// How long the question whether anybody is there may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A host that has answered.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    settings: Arc<Settings>,
    host: Arc<str>,
}

/// An operation, ready to be sent.
pub(super) struct Parcel {
    op: OpId,
    kind: OpKind,
    head: Arc<Head>,
    messages: usize,
    body: Bytes,
    method: Method,
    path: String,
}

/// What became of an operation, and what that says of the way there.
pub(super) struct Done {
    pub(super) op: OpId,
    pub(super) outcome: Outcome,
    /// Newer credentials.
    pub(super) renewed: Option<Auth>,
    pub(super) trouble: Option<Trouble>,
}

/// Something that is not about one operation alone.
pub(super) struct Trouble {
    pub(super) error: Error,
    /// How long the server asks to be left alone.
    pub(super) wait: Option<Duration>,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { error, wait: None }
    }
}

/// What a request was answered with.
enum Answer {
    Taken(Bytes),
    Refused(Rejection, Option<Duration>),
    /// Nothing of it has left.
    NotSent(Error),
    /// Nobody knows.
    Unknown(Trouble),
}

impl Parcel {
    pub(super) fn new(operation: &Operation, body: Bytes) -> Self {
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let channel = encoded(&operation.head.channel);
        let (method, path) = match &operation.serial {
            Some(serial) if operation.kind != OpKind::Create => {
                (Method::PATCH, format!("channels/{channel}/messages/{}", encoded(serial)))
            }
            _ => (Method::POST, format!("channels/{channel}/messages")),
        };
        let messages = operation.publish.as_ref().map_or(1, |publish| publish.pieces.len());
        Self { op: operation.id, kind: operation.kind, head: operation.head.clone(), messages, body, method, path }
    }

    /// Its channel, and what it says there.
    pub(super) fn part(&self) -> (&str, &[u8]) {
        (&self.head.channel, &self.body)
    }
}

impl Answer {
    /// What it says of an operation that was not taken, or of which it does not say what became of it.
    fn without_outcome(self) -> (Outcome, Option<Trouble>) {
        match self {
            Self::Refused(rejection, wait) => {
                let is_for_all = is_for_all(&rejection, wait);
                let trouble = is_for_all.then(|| Trouble { error: refused(rejection.clone()), wait });
                (Outcome::Rejected(rejection), trouble)
            }
            Self::NotSent(Error::NoLease) => (Outcome::Rejected(fault::never_sent()), None),
            Self::NotSent(error) => (Outcome::Rejected(fault::never_sent()), Some(error.into())),
            Self::Unknown(trouble) => (Outcome::Unknown(Doubt::NoAnswer), Some(trouble)),
            Self::Taken(_) => (Outcome::Unknown(Doubt::NoAnswer), Some(not_ably().into())),
        }
    }
}

/// Whether a host answers and takes our credentials, read again before; those that were taken last where these are no good.
pub(super) async fn ask(settings: Settings, mut auth: Auth, host: String) -> (Auth, Result<Api, Trouble>) {
    let api = match http::client() {
        Ok(client) => Api { client, settings: Arc::new(settings), host: host.into() },
        Err(error) => return (auth, Err(error.into())),
    };
    let asked = match auth.renew().await {
        Ok(()) => api.ask_as(&auth).await,
        Err(error) => Err(error.into()),
    };
    let trouble = match asked {
        Ok(()) => return (auth, Ok(api)),
        Err(trouble) => trouble,
    };
    let former = auth.taken_last();
    let is_other = match &trouble.error {
        Error::Credentials(_) => auth.is_from_file(),
        error => is_for_credentials(error) && !auth.is_same_as(&former),
    };
    if !is_other {
        return (auth, Err(trouble));
    }
    let asked = match api.ask_as(&former).await {
        Ok(()) => Ok(api),
        // What is to be mended is what was put there last.
        Err(other) => Err(if is_for_credentials(&other.error) { trouble } else { other }),
    };
    (former, asked)
}

/// Whether others might be let in where we were not.
fn is_for_credentials(error: &Error) -> bool {
    let Error::Refused { code, status_code, .. } = error else { return false };
    matches!(Fate::of(*code, *status_code), Fate::Fatal | Fate::Renew)
}

impl Api {
    /// Other credentials, if their file holds some and they are taken.
    pub(super) async fn look(self, auth: Auth) -> Result<Option<Auth>, Error> {
        let Some(newer) = auth.changed().await else { return Ok(None) };
        self.ask_as(&newer).await.map(|()| Some(newer)).map_err(|trouble| trouble.error)
    }

    /// Asks something that needs none of what we may do; whatever else is said of it.
    async fn ask_as(&self, auth: &Auth) -> Result<(), Trouble> {
        let question = self.request(auth, Method::GET, "stats?limit=1").timeout(ASK_TIMEOUT);
        match self.exchange(question).await {
            Answer::NotSent(error) => return Err(error.into()),
            Answer::Unknown(trouble) => return Err(trouble),
            Answer::Refused(rejection, wait) => match rejection.class {
                Class::Account | Class::Token | Class::RateLimited => {
                    return Err(Trouble { error: refused(rejection), wait });
                }
                Class::Operation | Class::Channel | Class::MessageGone | Class::Transient | Class::Connection => {}
            },
            Answer::Taken(_) => {}
        }
        auth.was_taken();
        Ok(())
    }

    /// Sends an operation once; a second time only if it was refused for credentials that have aged, or were rolled.
    pub(super) async fn perform(self, auth: Auth, parcel: Parcel) -> Done {
        let (answer, renewed) = self.send(auth, &parcel.method, &parcel.path, &parcel.body).await;
        let taken = if let Answer::Taken(body) = &answer { self.outcome(parcel.kind, body) } else { None };
        let (outcome, trouble) = taken.map_or_else(|| answer.without_outcome(), |outcome| (outcome, None));
        Done { op: parcel.op, outcome, renewed, trouble }
    }

    /// The answer, and the credentials that it was given to if they are newer.
    async fn send(&self, auth: Auth, method: &Method, path: &str, body: &Bytes) -> (Answer, Option<Auth>) {
        let answer = self.send_as(&auth, method, path, body).await;
        if let Answer::Refused(rejection, _) = &answer
            && let Some(newer) = newer(auth, rejection).await
        {
            let answer = self.send_as(&newer, method, path, body).await;
            if let Answer::Taken(_) = &answer {
                newer.was_taken();
            }
            return (answer, Some(newer));
        }
        (answer, None)
    }

    async fn send_as(&self, auth: &Auth, method: &Method, path: &str, body: &Bytes) -> Answer {
        let body = Guarded { bytes: Some(body.clone()), lease: self.settings.lease.clone() };
        let request = self
            .request(auth, method.clone(), path)
            .timeout(self.settings.ack_timeout)
            .header(CONTENT_TYPE, http::media_type(self.settings.encoding))
            .body(reqwest::Body::wrap(body));
        self.exchange(request).await
    }

    fn request(&self, auth: &Auth, method: Method, path: &str) -> RequestBuilder {
        let request = http::request(&self.client, &self.settings, auth, method, &self.host, path);
        request.header(ACCEPT, http::media_type(self.settings.encoding))
    }

    async fn exchange(&self, request: RequestBuilder) -> Answer {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if is_without_lease(&error) => return Answer::NotSent(Error::NoLease),
            Err(error) if error.is_connect() => {
                return Answer::NotSent(self.unreachable(innermost(&error.without_url())));
            }
            Err(error) => return Answer::Unknown(lost(error).into()),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return Answer::Unknown(lost(error).into()),
        };
        if status.is_success() {
            return Answer::Taken(body);
        }
        let wait = http::retry_after(&headers);
        match http::refusal(status.as_u16(), &headers, &body) {
            None => {
                let edge = || self.unreachable(format!("its edge answers for it, with status {status}"));
                let error = if http::is_edge(&headers) { edge() } else { not_ably() };
                Answer::Unknown(Trouble { error, wait })
            }
            Some(rejection) if status.is_server_error() => Answer::Unknown(Trouble { error: refused(rejection), wait }),
            Some(rejection) => Answer::Refused(rejection, wait),
        }
    }

    /// What the body of a success says; `None` when it is not Ably's.
    fn outcome(&self, kind: OpKind, body: &[u8]) -> Option<Outcome> {
        let taken: Taken<'_> = self.settings.encoding.decode(body).ok()?;
        let serial = |serial: Option<Cow<'_, str>>| serial.map(|serial| Arc::from(&*serial));
        Some(match kind {
            OpKind::Create => match serial(taken.serials?.into_iter().next().flatten()) {
                None => Outcome::Unknown(Doubt::NoSerial),
                serial => Outcome::Acked { serial },
            },
            OpKind::Publish => Outcome::Acked { serial: serial(taken.serials?.into_iter().next().flatten()) },
            OpKind::Append | OpKind::Update => Outcome::Acked { serial: serial(taken.version_serial?) },
        })
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { host: self.host.to_string(), port: self.settings.port, reason }
    }
}

/// Credentials that may be taken where these were refused, if that is what the refusal is about.
async fn newer(mut auth: Auth, rejection: &Rejection) -> Option<Auth> {
    if rejection.code == NOT_CAPABLE {
        return auth.more_capable().await;
    }
    match Fate::of(rejection.code, rejection.status_code) {
        Fate::Renew => auth.renew().await.is_ok().then_some(auth),
        Fate::Fatal if rejection.class == Class::Account => auth.changed().await,
        Fate::Fatal | Fate::Again | Fate::Slowly => None,
    }
}

/// Whether a refusal concerns all that goes by request. A channel that is too busy does not: the engine slows that channel
/// down, as it does on connections, where nobody says for how long.
fn is_for_all(rejection: &Rejection, wait: Option<Duration>) -> bool {
    match rejection.class {
        Class::Account | Class::Token => true,
        Class::RateLimited if matches!(rejection.code, 42913 | 42914) => false,
        Class::RateLimited | Class::Transient | Class::Connection => wait.is_some(),
        Class::Operation | Class::Channel | Class::MessageGone => false,
    }
}

fn lost(error: reqwest::Error) -> Error {
    Error::TransportLost(innermost(&error.without_url()))
}

fn not_ably() -> Error {
    Error::Frame("a request has an answer that is not Ably's; check ably.endpoint and ably.port".to_owned())
}

fn refused(rejection: Rejection) -> Error {
    let Rejection { code, status_code, message, .. } = rejection;
    Error::Refused { code, status_code, message }
}

/// The cause that says most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// What taken operations are answered with. A field that is absent says that somebody else has answered; null is Ably's word
/// for "none".
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Taken<'a> {
    #[serde(default, borrow)]
    serials: Option<Vec<Option<Cow<'a, str>>>>,
    #[serde(default, borrow, deserialize_with = "present")]
    version_serial: Option<Option<Cow<'a, str>>>,
}

/// Tells null from absent.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<Cow<'de, str>>>, D::Error> {
    serde::Deserialize::deserialize(from).map(Some)
}

/// A body that leaves only while we may write: it is asked for when there is a connection to put it on, which may be long
/// after the request was made.
struct Guarded {
    bytes: Option<Bytes>,
    lease: Lease,
}

/// Nothing may be written any more.
#[derive(Debug, thiserror::Error)]
#[error("nothing may be written")]
struct WithoutLease;

impl Body for Guarded {
    type Data = Bytes;
    type Error = WithoutLease;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WithoutLease>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        Poll::Ready(Some(if self.lease.is_held() { Ok(Frame::data(bytes)) } else { Err(WithoutLease) }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

fn is_without_lease(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<WithoutLease>() {
            return true;
        }
        cause = error.source();
    }
    false
}
