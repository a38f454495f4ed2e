//! Tokens that a server of the user's gives out (`ably.auth_url`): fetched once, and shown by all connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Client;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::super::fault::Error;
use super::super::http;
use crate::config::Secret;

/// How long the server may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How soon it is asked again by whoever lacks a right: as often as what refuses is tried.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Ably takes no larger tokens; whoever sends more sends something else.
const TOKEN_BYTES_MAX: usize = 128 * 1024;

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(super) struct Tokens(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// It may hold secrets of its own: never shown.
    url: Secret,
    latest: Mutex<Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    token: Option<Secret>,
    asked_at: Option<Instant>,
}

/// What a server may give besides the bare token.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Token(String),
    Details { token: String },
}

impl Tokens {
    pub(super) fn new(url: Secret) -> Self {
        Self(Arc::new(Shared { url, latest: Mutex::default() }))
    }

    /// Another token than `former`: one that another connection has fetched meanwhile, or a new one.
    pub(super) async fn newer(&self, former: &Secret) -> Result<Secret, Error> {
        let mut latest = self.0.latest.lock().await;
        match latest.other_than(former) {
            Some(token) => Ok(token),
            None => self.fetch(&mut latest).await,
        }
    }

    /// Another token than `former`, asked for twice a minute at most: for whoever lacks a right, which may go on.
    pub(super) async fn again(&self, former: &Secret) -> Option<Secret> {
        let mut latest = self.0.latest.lock().await;
        if let Some(token) = latest.other_than(former) {
            return Some(token);
        }
        let is_due = latest.asked_at.is_none_or(|at| at.elapsed() >= AGAIN_AFTER);
        if is_due { self.fetch(&mut latest).await.ok() } else { None }
    }

    async fn fetch(&self, latest: &mut Latest) -> Result<Secret, Error> {
        latest.asked_at = Some(Instant::now());
        let token = fetch(&http::client()?, self.0.url.expose()).await?;
        latest.token = Some(token.clone());
        Ok(token)
    }
}

impl Latest {
    fn other_than(&self, former: &Secret) -> Option<Secret> {
        self.token.clone().filter(|token| token != former)
    }
}

async fn fetch(client: &Client, url: &str) -> Result<Secret, Error> {
    let failed = |error: reqwest::Error| Error::NoToken(error.without_url().to_string());
    let request =
        client.get(url).timeout(ANSWER_WITHIN).header(ACCEPT, "application/json, text/plain, application/jwt");
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    if status.is_server_error() {
        return Err(Error::NoToken(format!("it answers with status {status}")));
    }
    if !status.is_success() {
        return Err(Error::Credentials(format!("ably.auth_url answers with status {status}: it must give a token")));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > TOKEN_BYTES_MAX {
            return Err(Error::Credentials("ably.auth_url gives more than any token has".to_owned()));
        }
    }
    token(&body).map(Secret::new)
}

/// The token in an answer: bare, as a JSON string, or in Ably's `TokenDetails`.
fn token(body: &[u8]) -> Result<String, Error> {
    let none = |what: &str| Error::Credentials(format!("ably.auth_url gives {what}: it must give a token or a JWT"));
    let text = std::str::from_utf8(body).map_err(|_| none("bytes that are no text"))?.trim();
    let token = match serde_json::from_str(text) {
        Ok(Given::Token(token) | Given::Details { token }) => token,
        Err(_) if text.starts_with('{') && text.contains("\"mac\"") => return Err(none("a token request")),
        Err(_) => text.to_owned(),
    };
    match token.is_empty() || token.contains(|c: char| c.is_whitespace() || "<>{}\"".contains(c)) {
        true => Err(none("something else")),
        false => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn tokens_are_found_in_every_form_and_nothing_else_is_one() {
        for form in ["t.o:k-en", "\"t.o:k-en\"", "{\"token\": \"t.o:k-en\", \"expires\": 1}", "t.o:k-en\n"] {
            assert_eq!(token(form.as_bytes()).expect("a token"), "t.o:k-en");
        }
        for (bad, what) in [
            ("{\"keyName\": \"a.b\", \"nonce\": \"1\", \"mac\": \"x\"}", "a token request"),
            ("<html>Sign in</html>", "something else"),
            ("", "something else"),
            ("{}", "something else"),
        ] {
            let error = token(bad.as_bytes()).expect_err("none");
            assert!(error.is_fatal() && error.to_string().contains(what), "{error}");
        }
        assert!(token(b"\xff").is_err());
    }

    /// Answers each request, on a connection of its own.
    async fn serve(listener: TcpListener, answers: Vec<(&'static str, String)>) {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.expect("a request") > 0);
            }
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            // A client that has read enough may have gone.
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    }

    #[tokio::test]
    async fn one_token_is_fetched_for_all_and_another_when_it_has_aged() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/token?secret=hunter2", listener.local_addr().expect("an address"));
        let answers = vec![
            ("200 OK", "one".to_owned()),
            ("200 OK", "two".to_owned()),
            ("503 Busy", String::new()),
            ("403 No", String::new()),
            ("200 OK", "x".repeat(TOKEN_BYTES_MAX + 1)),
        ];
        let server = tokio::spawn(serve(listener, answers));
        let tokens = Tokens::new(Secret::new(url));
        assert!(!format!("{tokens:?}").contains("hunter2"));
        let none = Secret::new(String::new());
        let one = tokens.newer(&none).await.expect("a token");
        assert_eq!((one.expose(), tokens.newer(&none).await.expect("the same").expose()), ("one", "one"));
        let two = tokens.newer(&one).await.expect("another");
        assert_eq!((two.expose(), tokens.newer(&one).await.expect("the same").expose()), ("two", "two"));
        assert_eq!(tokens.again(&one).await.as_ref().map(Secret::expose), Some("two"), "somebody else has it already");
        assert_eq!(tokens.again(&two).await, None, "it was asked a moment ago");
        let busy = tokens.newer(&two).await.expect_err("busy");
        assert!(!busy.is_fatal() && busy.to_string().contains("503"), "{busy}");
        for _ in 0..2 {
            assert!(tokens.newer(&two).await.expect_err("no token").is_fatal());
        }
        server.await.expect("all is asked for");
        let gone = tokens.newer(&two).await.expect_err("nobody is there");
        assert!(!gone.is_fatal() && !gone.to_string().contains("hunter2"), "{gone}");
    }
}
