//! What is on a channel, over REST: where a message is looked for whose create was never answered, and where texts are read
//! back.

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, LINK};
use reqwest::{Client, Method, Response};

use super::auth::Auth;
use super::endpoint::Hosts;
use super::fault::{Error, Fate};
use super::http;
use super::pool::Settings;
use super::wire::{self, Data, Encoding, Message};
use crate::engine::{Class, Found, Latest, LookUp, Rejection};

/// Pages that are looked at, of [`PAGE`] messages each, before we say that the message is not there.
const PAGES_MAX: usize = 10;
const PAGE: usize = 100;
/// The server's clock and ours may differ.
const CLOCKS_DIFFER_MS: u64 = 60_000;

/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Looks for a message among those that were created since.
///
/// # Errors
/// When the history cannot be read.
pub async fn look_up(client: &Client, settings: &Settings, look_up: &LookUp) -> Result<Found, Error> {
    let channel = &look_up.head.channel;
    let start = look_up.since.millis().saturating_sub(CLOCKS_DIFFER_MS);
    let mut path = format!("messages?direction=forwards&limit={PAGE}&start={start}");
    for _ in 0..PAGES_MAX {
        let page = match get(client, settings, channel, &path).await? {
            Answer::Body { body, next } => (body, next),
            Answer::Refusal(rejection) => match rejection.class {
                Class::Channel => return Ok(Found::Refused(rejection)),
                _ => return Err(refused(rejection)),
            },
        };
        let messages: Vec<Message<'_>> = Encoding::Json.decode(&page.0)?;
        if let Some(found) = messages.iter().find_map(|message| is_it(message, look_up)) {
            return Ok(found);
        }
        match page.1 {
            Some(next) => path = next,
            None => break,
        }
    }
    Ok(Found::Nothing)
}

/// Reads a message as it is by now. One that is not there is not there yet: reads are eventually consistent.
///
/// # Errors
/// When it cannot be read.
pub async fn read_back(client: &Client, settings: &Settings, channel: &str, serial: &str) -> Result<Latest, Error> {
    let path = format!("messages/{}", utf8_percent_encode(serial, NON_ALPHANUMERIC));
    let body = match get(client, settings, channel, &path).await? {
        Answer::Body { body, .. } => body,
        Answer::Refusal(rejection) => match rejection.class {
            Class::Channel | Class::Account => return Ok(Latest::Refused(rejection)),
            Class::MessageGone => return Ok(Latest::Unreadable),
            _ => return Err(refused(rejection)),
        },
    };
    let message: Message<'_> = Encoding::Json.decode(&body)?;
    Ok(latest(&message, serial))
}

/// What a message says of itself. A version of the relay's carries a phase; the first one is the create's.
fn latest(message: &Message<'_>, serial: &str) -> Latest {
    if message.action == Some(wire::message_action::DELETE) {
        return Latest::Deleted;
    }
    let version = message.version.as_ref();
    let version_serial = version.and_then(|version| version.serial.as_deref());
    let has_phase =
        version.and_then(|version| version.metadata.as_ref()).is_some_and(|data| data.contains_key("phase"));
    let header = |name: &str| message.extras.as_ref()?.get("headers")?.get(name)?.as_str();
    let text = match &message.data {
        Some(Data::Text(text)) => text.as_ref().to_owned(),
        Some(Data::Binary(_)) | None => String::new(),
    };
    Latest::Message {
        version: version_serial.map(Into::into),
        text,
        status: header("status").unwrap_or_default().to_owned(),
        ours: has_phase || version_serial.is_none_or(|version| version == serial),
    }
}

/// What a request was answered with.
enum Answer {
    Body { body: Bytes, next: Option<String> },
    Refusal(Rejection),
}

/// Reads a resource of a channel; with newer credentials when those that we have are too old.
async fn get(client: &Client, settings: &Settings, channel: &str, path: &str) -> Result<Answer, Error> {
    let mut auth = settings.auth.clone();
    auth.refresh().await?;
    match get_as(client, settings, &auth, channel, path).await? {
        Answer::Refusal(rejection) if Fate::of(rejection.code, rejection.status_code) == Fate::Renew => {
            auth.renew().await?;
            get_as(client, settings, &auth, channel, path).await
        }
        answer => Ok(answer),
    }
}

async fn get_as(client: &Client, settings: &Settings, auth: &Auth, channel: &str, path: &str) -> Result<Answer, Error> {
    let hosts = Hosts::of(&settings.endpoint);
    let (host, port) = (hosts.choose(0, 0), settings.port);
    let path = format!("channels/{}/{path}", utf8_percent_encode(channel, NON_ALPHANUMERIC));
    let request = http::request(client, settings, auth, Method::GET, host, &path)
        .timeout(ANSWER_WITHIN)
        .header(ACCEPT, http::media_type(Encoding::Json));
    let unreachable = |error: reqwest::Error| Error::Unreachable {
        host: host.to_owned(),
        port,
        reason: error.without_url().to_string(),
    };
    let response = request.send().await.map_err(unreachable)?;
    let next = next_page(&response);
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.map_err(unreachable)?;
    if !status.is_success() {
        return Ok(Answer::Refusal(http::refusal(Encoding::Json, status.as_u16(), &headers, &body)));
    }
    Ok(Answer::Body { body, next })
}

fn refused(rejection: Rejection) -> Error {
    let Rejection { code, status_code, message, .. } = rejection;
    Error::Refused { code, status_code, message }
}

fn is_it(message: &Message<'_>, look_up: &LookUp) -> Option<Found> {
    let headers = message.extras.as_ref()?.get("headers")?;
    let (serial, create_id) = (message.serial.as_deref()?, headers.get("createId")?.as_str()?);
    let status = headers.get("status").and_then(|status| status.as_str()).unwrap_or_default();
    if !look_up.seeks(serial, create_id, status) {
        return None;
    }
    let version = message.version.as_ref().and_then(|version| version.serial.as_deref()).map(Into::into);
    Some(Found::Message { serial: serial.into(), version })
}

/// The relative address of the next page, from the header `Link`.
fn next_page(response: &Response) -> Option<String> {
    let links = response.headers().get_all(LINK).into_iter().filter_map(|link| link.to_str().ok());
    let mut links = links.flat_map(|line| line.split(','));
    let next = links.find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once("<./")?;
    rest.split_once('>').map(|(path, _)| path.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{self, Secret};
    use crate::engine::{Head, OpId, Time};

    fn settings(listener: &TcpListener) -> Settings {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let config = config::Ably {
            key: Some(Secret::new("app.key:secret".to_owned())),
            endpoint: "127.0.0.1".to_owned(),
            port: listener.local_addr().expect("an address").port(),
            tls: false,
            ..config::Ably::default()
        };
        Settings::from_config(&config).expect("settings")
    }

    fn looking(create_id: &str, known: &[(u32, &str)]) -> LookUp {
        let head = Head {
            channel: "ai:x".into(),
            response_id: "x".into(),
            part: 0,
            segment: 0,
            create_id: create_id.into(),
            supersedes: None,
            prev: None,
        };
        LookUp {
            id: OpId { partition: 0, slot: 0, generation: 0, seq: 0 },
            head: head.into(),
            since: Time::from_millis(1_000_000),
            known: known.iter().map(|(segment, serial)| (*segment, (*serial).into())).collect(),
        }
    }

    #[test]
    fn what_should_not_be_there_is_told_from_what_should() {
        let one = looking("ns.t.0.7.0.0", &[]);
        assert!(one.seeks("s@1", "ns.t.0.7.0.0", "streaming"));
        assert!(!one.seeks("s@1", "ns.t.0.7.0.0~1", "streaming"), "it took the place of one that is gone");
        assert!(!one.seeks("s@1", "ns.t.0.7.0.0", "superseded"));
        // What was before the second message is not known any more.
        let others = looking("ns.t.0.7.0.2~2", &[(1, "s@1"), (2, "s@0"), (2, "s@2")]);
        for create_id in ["ns.t.0.7.0.1", "ns.t.0.7.0.2", "ns.t.0.7.0.2~1", "ns.t.0.7.0.2~2", "ns.t.0.7.0.3"] {
            assert!(others.seeks("s@9", create_id, "continued"), "{create_id}");
            assert!(!others.seeks("s@9", create_id, "superseded"), "{create_id}");
        }
        let right = [("s@1", "ns.t.0.7.0.1"), ("s@2", "ns.t.0.7.0.2~2"), ("s@0", "ns.t.0.7.0.2")];
        let not_ours = [("s@9", "ns.t.0.7.0.0"), ("s@9", "ns.t.0.8.0.2"), ("s@9", "ns.t.0.7.1.2"), ("s@9", "x")];
        for (serial, create_id) in right.into_iter().chain(not_ours) {
            assert!(!others.seeks(serial, create_id, "continued"), "{create_id} {serial}");
        }
    }

    async fn looks_up(listener: &TcpListener) -> Result<Found, Error> {
        let settings = settings(listener);
        look_up(&Client::new(), &settings, &looking("ns.t.0.7.0.0", &[])).await
    }

    /// Answers each request, on a connection of its own, with a status and a body.
    async fn answers(listener: &TcpListener, answers: &[(&str, &str)]) {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.expect("a request") > 0);
            }
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.expect("answered");
        }
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("binds")
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_not_waited_for() {
        let silent = listener().await;
        let looked = tokio::time::timeout(ANSWER_WITHIN * 2, looks_up(&silent)).await;
        assert!(matches!(looked.expect("in time"), Err(Error::Unreachable { .. })));
    }

    #[tokio::test]
    async fn a_channel_that_refuses_says_so() {
        let server = listener().await;
        let refusal = r#"{"error":{"code":40160,"statusCode":401,"message":"no capability"}}"#;
        let refuses = [("401 Unauthorized", refusal)];
        let (looked, ()) = tokio::join!(looks_up(&server), answers(&server, &refuses));
        match looked {
            Ok(Found::Refused(rejection)) => assert_eq!((rejection.code, rejection.class), (40160, Class::Channel)),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_message_says_whose_it_is() {
        let read = |body: &'static str| async move {
            let server = listener().await;
            let reads = async {
                let settings = settings(&server);
                read_back(&Client::new(), &settings, "ai:x", "s@1").await.expect("it is there")
            };
            let message = [("200 OK", body)];
            tokio::join!(reads, answers(&server, &message)).0
        };
        let message = |version: &str, status: &str, ours| Latest::Message {
            version: Some(version.into()),
            text: "t".to_owned(),
            status: status.to_owned(),
            ours,
        };
        let created = r#"{"data":"t","serial":"s@1","version":{"serial":"s@1"}}"#;
        assert_eq!(read(created).await, message("s@1", "", true));
        let updated = r#"{"data":"t","action":1,"extras":{"headers":{"status":"complete"}},
            "version":{"serial":"s@2","metadata":{"phase":"done"}}}"#;
        assert_eq!(read(updated).await, message("s@2", "complete", true));
        let foreign = r#"{"data":"t","action":1,"version":{"serial":"s@3"}}"#;
        assert_eq!(read(foreign).await, message("s@3", "", false));
        assert_eq!(read(r#"{"action":2,"version":{"serial":"s@4"}}"#).await, Latest::Deleted);
    }

    #[tokio::test]
    async fn a_message_that_is_not_there_is_not_there_yet() {
        let server = listener().await;
        let missing = ("404 Not Found", r#"{"error":{"code":40400,"statusCode":404,"message":"none"}}"#);
        let forbidden = ("401 Unauthorized", r#"{"error":{"code":40160,"statusCode":401,"message":"no history"}}"#);
        let reads = async {
            let settings = settings(&server);
            let client = Client::new();
            let first = read_back(&client, &settings, "ai:x", "s").await;
            (first, read_back(&client, &settings, "ai:x", "s").await)
        };
        let given = [missing, forbidden];
        let ((first, second), ()) = tokio::join!(reads, answers(&server, &given));
        assert_eq!(first.expect("read"), Latest::Unreadable);
        assert!(matches!(second, Ok(Latest::Refused(Rejection { code: 40160, .. }))));
    }

    #[tokio::test]
    async fn credentials_that_have_aged_are_renewed_once() {
        let server = listener().await;
        let aged = ("401 Unauthorized", r#"{"error":{"code":40142,"statusCode":401,"message":"expired"}}"#);
        let (then_empty, always) = ([aged, ("200 OK", "[]")], [aged, aged]);
        let (looked, ()) = tokio::join!(looks_up(&server), answers(&server, &then_empty));
        assert_eq!(looked.expect("renewed"), Found::Nothing);
        let (looked, ()) = tokio::join!(looks_up(&server), answers(&server, &always));
        assert!(matches!(looked, Err(Error::Refused { code: 40142, .. })));
    }
}
