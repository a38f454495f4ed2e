//! Whoever gives out tokens: a small server as users have one, and what it takes to make a token.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A token of an emulator's, for the holder of its key.
pub(crate) async fn token(ably: SocketAddr, key: &str, request: &Value) -> String {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let (name, secret) = key.split_once(':').expect("a key");
    let asked = reqwest::Client::new()
        .post(format!("http://{ably}/keys/{name}/requestToken"))
        .basic_auth(name, Some(secret))
        .json(request);
    let given: Value = asked.send().await.expect("an answer").json().await.expect("details");
    given["token"].as_str().unwrap_or_else(|| panic!("no token: {given}")).to_owned()
}

/// What the next request is answered with.
#[derive(Debug, Clone)]
pub(crate) enum Gives {
    /// A token for such a request.
    Token(Value),
    /// Nothing, for now.
    Busy,
    /// Nothing, to those who ask so.
    Forbidden,
    /// What is no token of the emulator's.
    Another,
}

/// A server that gives out tokens of the emulator that a request names: `/HOST:PORT/…`.
pub(crate) struct Giver {
    address: SocketAddr,
    next: Arc<Mutex<VecDeque<Gives>>>,
    always: Arc<Mutex<Option<Gives>>>,
    given: Arc<Mutex<usize>>,
}

impl Giver {
    /// One that has this key.
    pub(crate) async fn start(key: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let giver = Self { address, next: Arc::default(), always: Arc::default(), given: Arc::default() };
        let (next, always, given) = (giver.next.clone(), giver.always.clone(), giver.given.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let gives = next.lock().expect("not poisoned").pop_front();
                let gives = gives.or_else(|| always.lock().expect("not poisoned").clone());
                *given.lock().expect("not poisoned") += 1;
                tokio::spawn(answer(stream, key, gives.unwrap_or_else(|| Gives::Token(json!({})))));
            }
        });
        giver
    }

    /// Where it is; `ADDRESS` stands for the emulator's.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/ADDRESS?for=relay", self.address)
    }

    /// What it answers next, before it gives tokens for everything again.
    pub(crate) fn then(&self, gives: impl IntoIterator<Item = Gives>) {
        self.next.lock().expect("not poisoned").extend(gives);
    }

    /// What it answers whenever it is not told otherwise; tokens for everything if that is nothing.
    pub(crate) fn always(&self, gives: Option<Gives>) {
        *self.always.lock().expect("not poisoned") = gives;
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        *self.given.lock().expect("not poisoned")
    }
}

async fn answer(mut stream: TcpStream, key: &str, gives: Gives) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let ably = request.split(['/', '?']).nth(1).and_then(|address| address.parse().ok()).expect("it names an emulator");
    let (status, body) = match gives {
        Gives::Token(asked) => ("200 OK", token(ably, key, &asked).await),
        Gives::Busy => ("503 Busy", String::new()),
        Gives::Forbidden => ("403 Forbidden", String::new()),
        Gives::Another => ("200 OK", "another.token".to_owned()),
    };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let _gone = stream.write_all(format!("{head}{body}").as_bytes()).await;
}
