//! Requests to Ably's REST API: where they go, what they say of themselves, and what their answers mean.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER, SERVER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder};

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
    let client = Client::builder()
        .connect_timeout(OPEN_TIMEOUT)
        // As with connections: what a request has left in our kernel must not land after the next owner's last look.
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .redirect(Policy::none())
        .build();
    client.map_err(|error| Error::TransportLost(error.to_string()))
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

/// Whether Ably's edge has answered in place of Ably: then another host may [RSC15].
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
mod tests {
    use tokio::net::TcpSocket;
    use tokio::time::timeout;

    use super::*;
    use crate::ably::fixtures;
    use crate::config::{self, Secret, Transport};
    use crate::engine::Class;

    fn refused(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Option<Rejection> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")))
            .collect();
        refusal(status, &headers, body)
    }

    #[test]
    fn a_refusal_is_read_wherever_it_stands() {
        let error = serde_json::json!({"error": {"code": 40160, "statusCode": 401, "message": "no capability"}});
        for body in [error.to_string().into_bytes(), rmp_serde::to_vec_named(&error).expect("encoded")] {
            let Rejection { code, class, message, .. } = refused(401, &[], &body).expect("Ably's");
            assert_eq!((code, class, &*message), (40160, Class::Channel, "no capability"));
        }
        let headers = [("x-ably-errorcode", "42922"), ("x-ably-errormessage", "slow down")];
        let Rejection { code, class, message, .. } = refused(429, &headers, b"<html>").expect("Ably's");
        assert_eq!((code, class, &*message), (42922, Class::RateLimited, "slow down"));
    }

    #[test]
    fn what_somebody_on_the_way_says_is_no_refusal() {
        // Of an operation that would be certain: that it was not done, or that its message is gone.
        for status in [400, 401, 404, 408, 413, 418, 429, 503] {
            for body in ["", "<html>", r#"{"error":{"code":404,"message":"no route"}}"#, r#"{"error":{}}"#, "{}"] {
                assert_eq!(refused(status, &[("server", "CloudFront")], body.as_bytes()), None, "{status} {body}");
            }
        }
    }

    /// The header of a request that says whose it is, decoded.
    fn said(auth: Auth, client_id: &str) -> Option<String> {
        let client_id = client_id.to_owned();
        let settings = Settings { client_id, auth, ..fixtures::settings(Transport::Rest, 1) };
        let client = client().expect("a client");
        let request = request(&client, &settings, &settings.auth, Method::GET, "127.0.0.1", "time");
        let request = request.build().expect("a request");
        let said = request.headers().get("x-ably-clientid")?;
        String::from_utf8(STANDARD.decode(said).expect("base64")).ok()
    }

    #[test]
    fn requests_with_a_key_say_who_we_are() {
        let key = || Auth::key("app.id:secret").expect("a key");
        assert_eq!(said(key(), "the relay").as_deref(), Some("the relay"));
        assert_eq!(said(key(), ""), None, "we may be anyone");
        let token = config::Ably { token: Some(Secret::new("t".into())), ..config::Ably::default() };
        assert_eq!(said(Auth::from_config(&token).expect("a token"), "the relay"), None, "tokens say it themselves");
    }

    #[tokio::test]
    async fn bytes_that_nobody_takes_are_taken_back() {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a small buffer");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("an address");
        let body = vec![0; 32 << 20];
        let request = client().expect("a client").post(format!("http://{address}")).body(body).send();
        let silent = async {
            let _never_read = listener.accept().await.expect("accepts");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            sent = timeout(TCP_USER_TIMEOUT * 3, request) => assert!(sent.expect("in time").is_err()),
            () = silent => {}
        }
    }

    #[test]
    fn seconds_to_wait_and_dates_are_read() {
        let after = |value: &str| retry_after(&[(RETRY_AFTER, value.parse().expect("a value"))].into_iter().collect());
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO), "it is over");
        let later = after("Tue, 19 Jan 2038 03:14:07 GMT");
        assert!(later.is_some_and(|later| later > Duration::from_secs(3_600)), "{later:?}");
        assert_eq!(after("soon"), None);
    }
}
