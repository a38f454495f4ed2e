//! Requests to Ably's REST API: where they go, what they say of themselves, and what their answers mean.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER, SERVER};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, RequestBuilder};

use super::auth::Auth;
use super::fault::{Error, rejection};
use super::pool::Settings;
use super::wire::{self, Encoding, ErrorInfo};
use crate::config::TCP_USER_TIMEOUT;
use crate::engine::Rejection;

/// How long a connection may take to be made [Ably: `httpOpenTimeout`].
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);

/// The longest wait that a server may ask for.
pub(super) const ASKED_WAIT_MAX: Duration = Duration::from_secs(60);

/// Ably's error code, where a proxy in front has dropped the body, as with 42922.
const CODE: HeaderName = HeaderName::from_static("x-ably-errorcode");
const MESSAGE: HeaderName = HeaderName::from_static("x-ably-errormessage");

/// Ably's error codes have at least five digits; what other servers put there are statuses.
const CODE_LEAST: u32 = 10_000;

/// Who we are, in base64. Tokens say it themselves; with a key, what is made without it belongs to nobody.
const CLIENT_ID: HeaderName = HeaderName::from_static("x-ably-clientid");

/// A client. It follows nobody elsewhere: what is sent is sent once, and with our credentials.
///
/// # Errors
/// When TLS cannot be set up.
pub(super) fn client() -> Result<Client, Error> {
    // Which of rustls' providers it takes; only the first call of a process counts.
    let _already = rustls::crypto::ring::default_provider().install_default();
    builder().build().map_err(|error| Error::TransportLost(error.to_string()))
}

fn builder() -> ClientBuilder {
    Client::builder()
        .connect_timeout(OPEN_TIMEOUT)
        // As with connections: what a request has left in our kernel must not land after the next owner's last look.
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .redirect(Policy::none())
}

/// A request for `path` at `host`, signed.
pub(super) fn request(
    client: &Client,
    settings: &Settings,
    auth: &Auth,
    method: Method,
    host: &str,
    path: &str,
) -> RequestBuilder {
    let (scheme, port) = (if settings.tls { "https" } else { "http" }, settings.port);
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = client
        .request(method, format!("{scheme}://{authority}/{path}"))
        .header(HeaderName::from_static("x-ably-version"), wire::VERSION.to_string())
        .header(HeaderName::from_static("ably-agent"), &settings.agent);
    let request = match auth.shows_token() || settings.client_id.is_empty() {
        true => request,
        false => request.header(CLIENT_ID, STANDARD.encode(&settings.client_id)),
    };
    auth.sign(request)
}

/// What bodies in an encoding are called.
pub(super) const fn media_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "application/json",
        Encoding::Msgpack => "application/x-msgpack",
    }
}

/// What Ably has refused a request with: the error in the body, else in the headers. `None` when there is neither: then
/// somebody on the way has answered, and nobody knows what became of the request.
pub(super) fn refusal(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Rejection> {
    // No map of MessagePack begins so; and who refuses at the edge need not speak it.
    let encoding = if body.first() == Some(&b'{') { Encoding::Json } else { Encoding::Msgpack };
    if let Ok(Failure { error }) = encoding.decode::<Failure<'_>>(body)
        && error.code >= CODE_LEAST
    {
        let status_code = if error.status_code == 0 { status } else { error.status_code };
        return Some(rejection(Some(&ErrorInfo { status_code, ..error })));
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text(CODE)?.parse().ok()?;
    let message = text(MESSAGE).unwrap_or("refused without a reason").into();
    Some(rejection(Some(&ErrorInfo { code, status_code: status, message, href: None })))
}

/// Whether Ably's edge has answered in place of Ably: then another host may [Ably: RSC15].
pub(super) fn is_edge(headers: &HeaderMap) -> bool {
    headers.get(SERVER).is_some_and(|server| server.as_bytes().eq_ignore_ascii_case(b"CloudFront"))
}

/// How long the server asks to be left alone: so many seconds, or until then.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let wait = until.duration_since(jiff::Timestamp::now());
    Some(wait.try_into().unwrap_or_default())
}

#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Failure<'a> {
    error: ErrorInfo<'a>,
}

#[cfg(test)]
mod tests;
