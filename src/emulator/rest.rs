//! The requests that the SDKs make, and the emulator's own: faults and counters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{
    DefaultBodyLimit, FromRequestParts, Query as Parameters, Request, State as Extract, WebSocketUpgrade,
};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use tokio::sync::watch;

use crate::ably::wire::{Encoding, Message, message_action};

use super::auth::{Credentials, TokenRequest};
use super::clock::now_ms;
use super::codec::{received, sent};
use super::connection::Publisher;
use super::errors::{Failure, failure};
use super::limits::{BATCH_BYTES, FRAME_BYTES};
use super::realtime;
use super::state::{Page, Publish, Query, Reply, Requested, When};
use super::{Scenario, Shared};

use reply::{encoding_of, error, for_browsers, preflight, respond};

mod batch;
mod reply;

/// What stays as it is in a query of a Link header.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
}

/// All routes. Paths are taken apart by hand: the SDKs do not agree on how to encode them.
pub(super) fn router(shared: Arc<Shared>, stopped: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/emulator/faults", get(faults).put(set_faults))
        .route("/emulator/stats", get(stats))
        .fallback(any(dispatch))
        .layer(DefaultBodyLimit::max(FRAME_BYTES))
        .with_state(Context { shared, stopped })
}

async fn faults(Extract(context): Extract<Context>) -> Response {
    axum::Json(context.shared.state().faults().clone()).into_response()
}

async fn set_faults(Extract(context): Extract<Context>, body: Bytes) -> Response {
    match Scenario::parse_json(&body) {
        Ok(scenario) => {
            let faults = scenario.faults.clone();
            context.shared.play(scenario);
            axum::Json(faults).into_response()
        }
        Err(problem) => (StatusCode::BAD_REQUEST, problem.to_string()).into_response(),
    }
}

async fn stats(Extract(context): Extract<Context>) -> Response {
    axum::Json(context.shared.state().stats()).into_response()
}

async fn dispatch(Extract(context): Extract<Context>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let uri = parts.uri.clone();
    let parameters: HashMap<String, String> =
        Parameters::try_from_uri(&uri).map(|Parameters(all)| all).unwrap_or_default();
    if uri.path() == "/"
        && let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await
    {
        let upgrade = upgrade.max_message_size(FRAME_BYTES * 2);
        return upgrade.on_upgrade(move |socket| realtime::serve(socket, parameters, context.shared, context.stopped));
    }
    if parts.method == Method::OPTIONS {
        return for_browsers(preflight());
    }
    let segments: Vec<String> = uri.path().split('/').filter(|segment| !segment.is_empty()).map(decoded).collect();
    let limit = if uri.path() == "/messages" { BATCH_BYTES } else { FRAME_BYTES };
    let Ok(body) = axum::body::to_bytes(body, limit).await else {
        return for_browsers(error(Encoding::Json, &failure(40009, 413, "Body too large")));
    };
    let call = Call { shared: &context.shared, headers: &parts.headers, parameters: &parameters, body: &body };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let answer = call.answer(&parts.method, &segments).unwrap_or_else(|failure| error(call.accepted(), &failure));
    for_browsers(held_back(answer, &context.shared).await)
}

/// How an answer to operations is kept from whoever asked.
#[derive(Debug, Clone)]
enum Kept {
    /// It comes a while later.
    Late,
    /// The connection ends without it.
    CutOff,
    /// It does not come as long as anybody would wait.
    Silence,
}

async fn held_back(answer: Response, shared: &Shared) -> Response {
    match answer.extensions().get() {
        None => answer,
        Some(Kept::Late) => {
            let delay = shared.state().delay();
            tokio::time::sleep(Duration::from_millis(delay)).await;
            answer
        }
        Some(Kept::CutOff) => {
            let broken = futures_util::stream::iter([Err::<Bytes, _>("cut off, as the faults say")]);
            Response::new(axum::body::Body::from_stream(broken))
        }
        Some(Kept::Silence) => {
            tokio::time::sleep(SILENCE).await;
            answer
        }
    }
}

/// Longer than clients wait.
const SILENCE: Duration = Duration::from_secs(60);

/// Path segments: percent-encoded by all SDKs, spaces as `+` by some.
fn decoded(segment: &str) -> String {
    percent_decode_str(&segment.replace('+', " ")).decode_utf8_lossy().into_owned()
}

struct Call<'a> {
    shared: &'a Arc<Shared>,
    headers: &'a HeaderMap,
    parameters: &'a HashMap<String, String>,
    body: &'a Bytes,
}

impl<'a> Call<'a> {
    fn answer(&self, method: &Method, segments: &[&str]) -> Result<Response, Failure> {
        let fault = self.shared.state().request_fault();
        let broken = || failure(50003, 503, "The emulator's faults broke the request off");
        match fault {
            None => self.route(method, segments),
            Some(When::Before) => Err(broken()),
            Some(When::After) => self.route(method, segments).and(Err(broken())),
        }
    }

    fn route(&self, method: &Method, segments: &[&str]) -> Result<Response, Failure> {
        match (method.as_str(), segments) {
            ("GET", ["time"]) => Ok(self.respond(StatusCode::OK, &[now_ms()])),
            ("POST", ["keys", name, "requestToken"]) => self.request_token(name),
            ("POST", ["messages"]) => self.batch(),
            // Nothing is counted by the hour; but who may not ask is told so.
            ("GET", ["stats"]) => self.granted("statistics", "*").map(|()| self.respond::<[u8]>(StatusCode::OK, &[])),
            ("GET", ["channels", channel]) => self.status(channel),
            ("POST", ["channels", channel, "messages"]) => self.publish(channel),
            ("GET", ["channels", channel, "messages" | "history"]) => self.history(channel),
            ("GET", ["channels", channel, "messages", serial]) => {
                self.may_read(channel)?;
                let message = self.shared.state().message(channel, serial, now_ms())?;
                Ok(self.respond(StatusCode::OK, &sent(message, self.accepted())))
            }
            ("GET", ["channels", channel, "messages", serial, "versions"]) => {
                self.may_read(channel)?;
                let page = self.shared.state().versions(channel, serial, &self.query("forwards")?)?;
                Ok(self.page(page, "versions"))
            }
            ("PATCH", ["channels", channel, "messages", serial]) => self.mutate(channel, serial),
            _ => Err(failure(40400, 404, "Could not find path")),
        }
    }

    fn request_token(&self, name: &str) -> Result<Response, Failure> {
        let request: TokenRequest = self.content()?;
        let shown = self.credentials();
        let token = self.shared.state().request_token(name, &request, shown.as_ref(), now_ms())?;
        Ok(self.respond(StatusCode::CREATED, &token))
    }

    fn publish(&self, channel: &str) -> Result<Response, Failure> {
        let messages = self.content_messages()?;
        self.check_creates(&messages)?;
        let id = self.shared.state().request_id();
        self.perform(channel, messages, &id, |serials| {
            self.respond(StatusCode::CREATED, &Published { channel, message_id: &id, serials })
        })
    }

    fn mutate(&self, channel: &str, serial: &str) -> Result<Response, Failure> {
        let mut messages = self.content_messages()?;
        for message in &mut messages {
            if message.action.unwrap_or_default() == message_action::CREATE {
                return Err(failure(40000, 400, "A change must say its action"));
            }
            message.serial = Some(serial.to_owned().into());
        }
        let id = self.shared.state().request_id();
        self.perform(channel, messages, &id, |mut serials| {
            self.respond(StatusCode::OK, &Versioned { version_serial: serials.pop().flatten() })
        })
    }

    fn check_creates(&self, messages: &[Message<'_>]) -> Result<(), Failure> {
        if self.parameters.get("_forceNack").is_some_and(|yes| yes == "true") {
            return Err(failure(40099, 400, "Forced, as was asked"));
        }
        match messages.iter().all(|message| message.action.unwrap_or_default() == message_action::CREATE) {
            true => Ok(()),
            false => Err(failure(40000, 400, "Changes go to the message that they change")),
        }
    }

    fn status(&self, channel: &str) -> Result<Response, Failure> {
        self.granted("channel-metadata", channel)?;
        let (connections, attached) = self.shared.state().occupancy(channel);
        let status = serde_json::json!({
            "channelId": channel,
            "name": channel,
            "status": {"isActive": attached > 0, "occupancy": {"metrics": {
                "connections": connections, "subscribers": attached, "publishers": connections,
                "presenceConnections": 0, "presenceMembers": 0, "presenceSubscribers": 0,
            }}},
        });
        Ok(self.respond(StatusCode::OK, &status))
    }

    fn history(&self, channel: &str) -> Result<Response, Failure> {
        self.may_read(channel)?;
        let query = self.query("backwards")?;
        if query.until.is_some() && self.shared.state().faults().refuse_until_attach {
            self.shared.state().struck("refuse-until-attach");
            return Err(failure(40024, 400, "The point of attachment is unknown here, as the faults say"));
        }
        let page = self.shared.state().history(channel, &query, now_ms());
        Ok(self.page(page, "messages"))
    }

    /// Which part of a history is asked for.
    fn query(&self, direction: &str) -> Result<Query, Failure> {
        let parameter = |name: &str| self.parameters.get(name);
        let number = |name: &str, default: u64| match parameter(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| failure(40003, 400, format!("Invalid {name}"))),
        };
        let limit = usize::try_from(number("limit", 100)?).unwrap_or(usize::MAX);
        if !(1..=1_000).contains(&limit) {
            return Err(failure(40003, 400, "limit must be between 1 and 1000"));
        }
        let forwards = match parameter("direction").map_or(direction, String::as_str) {
            "forwards" => true,
            "backwards" => false,
            _ => return Err(failure(40003, 400, "direction must be forwards or backwards")),
        };
        Ok(Query {
            start: number("start", 0)?,
            end: number("end", u64::MAX)?,
            limit,
            forwards,
            after: parameter("cursor").cloned(),
            until: parameter("from_serial").or_else(|| parameter("fromSerial")).cloned(),
        })
    }

    /// The query of the next page, relative to this one.
    fn link(&self, path: &str, cursor: &str) -> String {
        let mut pairs: Vec<(&str, &str)> = self
            .parameters
            .iter()
            .filter(|(name, _)| *name != "cursor")
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        pairs.push(("cursor", cursor));
        pairs.sort_unstable();
        let encode = |text| utf8_percent_encode(text, QUERY).to_string();
        let query: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        format!("<./{path}?{}>; rel=\"next\"", query.join("&"))
    }

    fn page(&self, page: Page, path: &str) -> Response {
        let encoding = self.accepted();
        let messages: Vec<_> = page.messages.into_iter().map(|message| sent(message, encoding)).collect();
        let mut response = self.respond(StatusCode::OK, &messages);
        let link = page.next.map(|cursor| self.link(path, &cursor));
        if let Some(link) = link.and_then(|link| link.parse().ok()) {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }

    /// Does what one request asks for, and answers as far as the faults let it.
    fn perform(
        &self,
        channel: &str,
        messages: Vec<Message<'static>>,
        id: &str,
        answer: impl FnOnce(Vec<Option<String>>) -> Response,
    ) -> Result<Response, Failure> {
        let by = self.publisher()?;
        let publish = Publish { by, channel: channel.to_owned(), messages, id: id.to_owned(), now_ms: now_ms() };
        let Requested { reply, flush } = self.shared.state().request(publish);
        if let Some(flush) = flush {
            realtime::flush_later(self.shared.clone(), flush);
        }
        let (mut answer, kept) = match reply {
            Reply::Answer(settled) => (answer(settled?), Kept::Late),
            Reply::CutOff(late) => {
                if let Some((delay, publish)) = late {
                    realtime::apply_later(self.shared.clone(), delay, publish);
                }
                (Response::default(), Kept::CutOff)
            }
            Reply::Silence => (Response::default(), Kept::Silence),
        };
        answer.extensions_mut().insert(kept);
        Ok(answer)
    }

    fn may_read(&self, channel: &str) -> Result<(), Failure> {
        self.granted("history", channel)?;
        self.shared.state().reading()
    }

    fn granted(&self, operation: &str, channel: &str) -> Result<(), Failure> {
        self.publisher()?.grant.capability.allows(operation, channel)
    }

    /// Who sends the request.
    fn publisher(&self) -> Result<Arc<Publisher>, Failure> {
        let shown = self.credentials().ok_or_else(|| failure(40101, 401, "No authentication information provided"))?;
        let said = self.headers.get("x-ably-clientid").and_then(|value| STANDARD.decode(value).ok());
        let said = said.and_then(|bytes| String::from_utf8(bytes).ok());
        let agent = self.headers.get("ably-agent").and_then(|value| value.to_str().ok());
        let mut state = self.shared.state();
        state.check_agent(agent)?;
        let grant = state.let_in(&shown, now_ms())?.named(said)?;
        Ok(Arc::new(Publisher { connection: 0, connection_id: String::new(), grant }))
    }

    fn credentials(&self) -> Option<Credentials> {
        let text = |value: &str| STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(value) = self.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
            return match value.split_once(' ') {
                Some(("Basic", key)) => text(key).map(Credentials::Key),
                Some(("Bearer", token)) => Some(Credentials::Token(text(token).unwrap_or_else(|| token.to_owned()))),
                _ => None,
            };
        }
        let key = self.parameters.get("key").cloned().map(Credentials::Key);
        key.or_else(|| self.parameters.get("access_token").cloned().map(Credentials::Token))
    }

    fn content<T: serde::Deserialize<'a>>(&self) -> Result<T, Failure> {
        self.sent_as().decode(self.body).map_err(|error| failure(40001, 400, format!("Invalid body: {error}")))
    }

    /// One message, or several.
    fn content_messages(&self) -> Result<Vec<Message<'static>>, Failure> {
        let messages: Vec<Message<'a>> = match self.content() {
            Ok(messages) => messages,
            Err(_) => vec![self.content()?],
        };
        Ok(messages.into_iter().map(|message| received(message, self.sent_as())).collect())
    }

    fn sent_as(&self) -> Encoding {
        encoding_of(self.headers.get(header::CONTENT_TYPE))
    }

    fn accepted(&self) -> Encoding {
        match self.parameters.get("format").map(String::as_str) {
            Some("msgpack") => Encoding::Msgpack,
            Some(_) => Encoding::Json,
            None => encoding_of(self.headers.get(header::ACCEPT)),
        }
    }

    fn respond<T: Serialize + ?Sized>(&self, status: StatusCode, body: &T) -> Response {
        respond(self.accepted(), status, body)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Published<'a> {
    channel: &'a str,
    message_id: &'a str,
    serials: Vec<Option<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versioned {
    version_serial: Option<String>,
}
