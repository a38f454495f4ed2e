//! The demo's web page: served from the binary, for this machine only, with nothing from anywhere else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Json, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;

use super::Error;
use super::hub::{Hub, Told};
use super::world::Switchboard;

/// What the page's handlers share.
#[derive(Clone)]
struct Page {
    hub: Arc<Hub>,
    switchboard: Switchboard,
    subscribe: Arc<str>,
    policy: HeaderValue,
}

/// The faults that are on, in the notation of `--faults`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Faults {
    list: String,
}

/// Takes the page's address.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Serves the page until it fails. `subscribe` is where the page's subscriber connects.
pub(super) async fn serve(
    listener: TcpListener,
    hub: Arc<Hub>,
    board: Switchboard,
    subscribe: &str,
) -> Result<(), Error> {
    let origin = subscribe.split('?').next().unwrap_or(subscribe).trim_end_matches('/');
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' {origin}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let page = Page { hub, switchboard: board, subscribe: subscribe.into(), policy };
    let router = Router::new()
        .route("/", get(|state| file(state, "text/html; charset=utf-8", include_str!("page/index.html"))))
        .route("/app.js", get(|state| file(state, "text/javascript; charset=utf-8", include_str!("page/app.js"))))
        .route("/reader.js", get(|state| file(state, "text/javascript; charset=utf-8", include_str!("page/reader.js"))))
        .route(
            "/subscriber.js",
            get(|state| file(state, "text/javascript; charset=utf-8", include_str!("page/subscriber.js"))),
        )
        .route("/style.css", get(|state| file(state, "text/css; charset=utf-8", include_str!("page/style.css"))))
        .route("/icon.svg", get(|state| file(state, "image/svg+xml", include_str!("page/icon.svg"))))
        .route("/events", get(events))
        .route("/faults", get(faults).put(switch))
        .with_state(page);
    axum::serve(listener, router).await.map_err(Error::Page)
}

async fn file(State(page): State<Page>, kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, page.policy),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, content).into_response()
}

/// What was missed, then what happens. A page that lags too far behind is cut off; it comes back by itself.
async fn events(State(page): State<Page>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (missed, live) = page.hub.listen();
    let hello = Told { event: "hello", data: json!({ "subscribe": *page.subscribe }) };
    let live = stream::unfold(live, |mut live| async {
        match live.recv().await {
            Ok(told) => Some((told, live)),
            Err(RecvError::Lagged(_) | RecvError::Closed) => None,
        }
    });
    let told = stream::iter(std::iter::once(hello).chain(missed)).chain(live);
    Sse::new(told.map(|told| Ok(Event::default().event(told.event).data(told.data.to_string()))))
        .keep_alive(KeepAlive::default())
}

async fn faults(State(page): State<Page>) -> Json<Faults> {
    Json(Faults { list: page.switchboard.list() })
}

async fn switch(State(page): State<Page>, Json(faults): Json<Faults>) -> Response {
    match page.switchboard.set(&faults.list) {
        Ok(()) => {
            page.hub.faults(&faults.list);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
