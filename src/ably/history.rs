//! What is on a channel, over REST: where a message is looked for whose create was never answered, and where texts are read
//! back.
//!
//! What is read back says whose it is. A version is a relay's if its metadata carries `instance` and `epoch`, as every
//! operation of a relay's does that changes a message; which instance, and which epoch, does not matter: partitions move
//! between processes that need not know of each other, and epochs begin anew when an operator has reset offsets and results.
//! Earlier relays wrote a `phase` alone: that counts, too, so that an upgrade gives up on nothing. The first version is
//! the create's, which carries no metadata. Every other version is somebody else's. So is every deletion, for no relay deletes.
//!
//! An append of ours can come after somebody's edit and make the latest version; Ably keeps the edit among the versions, and
//! there it is found.

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
use super::wire::{self, Data, Encoding, Message, MessageVersion};
use crate::engine::{Class, Found, Latest, LookUp, Rejection};

/// Pages that are looked at, of [`PAGE`] messages each, before we say that the message is not there.
const PAGES_MAX: usize = 10;
const PAGE: usize = 100;
/// The server's clock and ours may differ.
const CLOCKS_DIFFER_MS: u64 = 60_000;

/// Hosts that are asked besides the first [Ably: `httpMaxRetryCount`].
const FALLBACKS_MAX: u32 = 3;

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
    let latest = latest(&Encoding::Json.decode(&body)?, serial);
    if !matches!(latest, Latest::Message { ours: true, .. }) {
        return Ok(latest);
    }
    // The latest version is ours; without the others that is all that is known.
    let others = in_versions(client, settings, channel, serial, &path).await;
    Ok(others
        .unwrap_or_else(|error| {
            tracing::debug!(%error, "the versions of a message cannot be read");
            None
        })
        .unwrap_or(latest))
}

/// The first version of a message that is not ours, if there is one.
async fn in_versions(
    client: &Client,
    settings: &Settings,
    channel: &str,
    serial: &str,
    message: &str,
) -> Result<Option<Latest>, Error> {
    let mut path = format!("{message}/versions?limit={PAGE}");
    for _ in 0..PAGES_MAX {
        let (body, next) = match get(client, settings, channel, &path).await? {
            Answer::Body { body, next } => (body, next),
            Answer::Refusal(rejection) => return Err(refused(rejection)),
        };
        let versions: Vec<Message<'_>> = Encoding::Json.decode(&body)?;
        let mut all = versions.iter().map(|version| latest(version, serial));
        if let Some(other) = all.find(|version| !matches!(version, Latest::Message { ours: true, .. })) {
            return Ok(Some(other));
        }
        match next {
            Some(next) => path = format!("{message}/{next}"),
            None => break,
        }
    }
    Ok(None)
}

/// What a message says of itself.
fn latest(message: &Message<'_>, serial: &str) -> Latest {
    if message.action == Some(wire::message_action::DELETE) {
        return Latest::Deleted;
    }
    let version = message.version.as_ref();
    let version_serial = version.and_then(|version| version.serial.as_deref());
    let header = |name: &str| message.extras.as_ref()?.get("headers")?.get(name)?.as_str();
    let text = match &message.data {
        Some(Data::Text(text)) => text.as_ref().to_owned(),
        Some(Data::Binary(_)) | None => String::new(),
    };
    let is_first = version_serial.is_none_or(|version| version == serial);
    Latest::Message {
        version: version_serial.map(Into::into),
        text,
        status: header("status").unwrap_or_default().to_owned(),
        ours: is_first || version.is_some_and(is_relays),
    }
}

/// Whether a relay made a version that is not the first.
fn is_relays(version: &MessageVersion<'_>) -> bool {
    let word = |name: &str| version.metadata.as_ref()?.get(name).map(|word| &**word);
    match (word("instance"), word("epoch")) {
        (Some(_), Some(epoch)) => epoch.parse::<u64>().is_ok(),
        (None, None) => matches!(word("phase"), Some("streaming" | "done")),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What a request was answered with.
enum Answer {
    Body { body: Bytes, next: Option<String> },
    Refusal(Rejection),
}

/// Reads a resource of a channel; with newer credentials when those that we have are too old, with those that were taken last
/// when what is in their file by now is not.
async fn get(client: &Client, settings: &Settings, channel: &str, path: &str) -> Result<Answer, Error> {
    let hosts = Hosts::of(&settings.endpoint);
    let path = format!("channels/{}/{path}", utf8_percent_encode(channel, NON_ALPHANUMERIC));
    let mut auth = settings.auth.clone();
    auth.refresh().await?;
    let mut answer = get_as(client, settings, &hosts, &auth, &path).await?;
    let mut renewed = Ok(());
    if let Answer::Refusal(rejection) = &answer
        && Fate::of(rejection.code, rejection.status_code) == Fate::Renew
    {
        renewed = auth.renew().await;
        if renewed.is_ok() {
            answer = get_as(client, settings, &hosts, &auth, &path).await?;
        }
    }
    let former = auth.taken_last();
    match answer {
        Answer::Refusal(Rejection { class: Class::Account | Class::Token, .. }) if !auth.is_same_as(&former) => {
            get_as(client, settings, &hosts, &former, &path).await
        }
        answer => renewed.map(|()| answer),
    }
}

/// Asks one host after the other until one can say.
async fn get_as(client: &Client, settings: &Settings, hosts: &Hosts, auth: &Auth, path: &str) -> Result<Answer, Error> {
    let mut answer = get_at(client, settings, hosts.choose(0, 0), auth, path).await;
    for turn in 1..=hosts.fallbacks().min(FALLBACKS_MAX) {
        match &answer {
            Ok(Answer::Refusal(rejection)) if rejection.status_code >= 500 => {}
            Ok(_) => break,
            Err(_) => {}
        }
        answer = get_at(client, settings, hosts.choose(turn, 0), auth, path).await;
    }
    answer
}

async fn get_at(client: &Client, settings: &Settings, host: &str, auth: &Auth, path: &str) -> Result<Answer, Error> {
    let port = settings.port;
    let request = http::request(client, settings, auth, Method::GET, host, path)
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
    let header = |name: &str| message.extras.as_ref()?.get("headers")?.get(name)?.as_str();
    // Whoever has changed it may have taken its headers away, but not its id.
    let by_id = || message.id.as_deref()?.strip_suffix(":0");
    let (serial, create_id) = (message.serial.as_deref()?, header("createId").or_else(by_id)?);
    if !look_up.seeks(serial, create_id, header("status").unwrap_or_default()) {
        return None;
    }
    if !matches!(latest(message, serial), Latest::Message { ours: true, .. }) {
        return Some(Found::Others);
    }
    let version = message.version.as_ref().and_then(|version| version.serial.as_deref()).map(Into::into);
    Some(Found::of(look_up, create_id, serial.into(), version, header("supersedes")))
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

    #[test]
    fn what_is_found_may_be_somebody_elses() {
        let found = |message: &str| {
            let message = serde_json::from_str::<Message<'_>>(message).expect("a message");
            is_it(&message, &looking("ns.t.0.7.0.0", &[]))
        };
        let headers = r#""extras":{"headers":{"createId":"ns.t.0.7.0.0","status":"streaming"}}"#;
        let ours = format!(r#"{{"serial":"s@1","action":0,{headers},"version":{{"serial":"s@1"}}}}"#);
        let (serial, version) = ("s@1".into(), Some("s@1".into()));
        assert_eq!(found(&ours), Some(Found::Message { serial, version }));
        let deleted = format!(r#"{{"serial":"s@1","action":2,{headers},"version":{{"serial":"s@2"}}}}"#);
        assert_eq!(found(&deleted), Some(Found::Others));
        let stripped = r#"{"serial":"s@1","id":"ns.t.0.7.0.0:0","action":1,"extras":{},"version":{"serial":"s@2"}}"#;
        assert_eq!(found(stripped), Some(Found::Others), "the id stays");
        assert_eq!(found(r#"{"serial":"s@1","id":"another:0","action":1,"version":{"serial":"s@2"}}"#), None);
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

    const CREATED: &str = r#"{"data":"t","serial":"s@1","version":{"serial":"s@1"}}"#;
    const UPDATED: &str = r#"{"data":"t","action":1,"extras":{"headers":{"status":"complete"}},
        "version":{"serial":"s@2","metadata":{"phase":"done","instance":"one","epoch":"3"}}}"#;

    /// Reads a message that is this, and its versions if those are asked for.
    async fn read(message: &str, versions: Option<&str>) -> Latest {
        let server = listener().await;
        let reads = async {
            let settings = settings(&server);
            read_back(&Client::new(), &settings, "ai:x", "s@1").await.expect("it is there")
        };
        let given: Vec<_> = [Some(message), versions].into_iter().flatten().map(|body| ("200 OK", body)).collect();
        tokio::join!(reads, answers(&server, &given)).0
    }

    #[tokio::test]
    async fn a_message_says_whose_it_is() {
        let message = |version: &str, status: &str, ours| Latest::Message {
            version: Some(version.into()),
            text: "t".to_owned(),
            status: status.to_owned(),
            ours,
        };
        assert_eq!(read(CREATED, Some("[]")).await, message("s@1", "", true));
        assert_eq!(read(UPDATED, Some("[]")).await, message("s@2", "complete", true));
        let by = |metadata: &str| {
            let version = format!(r#"{{"data":"t","action":1,"version":{{"serial":"s@3","metadata":{metadata}}}}}"#);
            serde_json::from_str::<Message<'_>>(&version).map(|message| latest(&message, "s@1")).expect("a version")
        };
        for (metadata, ours) in [
            (r#"{"phase":"streaming","instance":"another","epoch":"900"}"#, true),
            (r#"{"instance":"another","epoch":"0"}"#, true),
            (r#"{"phase":"done"}"#, true),
            (r#"{"phase":"moderated"}"#, false),
            (r#"{"phase":"done","instance":"another"}"#, false),
            (r#"{"phase":"done","epoch":"7"}"#, false),
            (r#"{"phase":"done","instance":"another","epoch":"soon"}"#, false),
            ("{}", false),
        ] {
            assert_eq!(by(metadata), message("s@3", "", ours), "{metadata}");
        }
        let foreign = r#"{"data":"t","action":1,"version":{"serial":"s@3"}}"#;
        assert_eq!(read(foreign, None).await, message("s@3", "", false));
        assert_eq!(read(r#"{"action":2,"version":{"serial":"s@4"}}"#, None).await, Latest::Deleted);
    }

    #[tokio::test]
    async fn what_somebody_else_has_done_is_found_below_what_is_ours() {
        let deleted = r#"{"data":"t","action":2,"version":{"serial":"s@1a"}}"#;
        let edited = r#"{"data":"x","action":1,"version":{"serial":"s@1b"}}"#;
        let first = [CREATED, deleted, edited, UPDATED].join(",");
        assert_eq!(read(UPDATED, Some(&format!("[{first}]"))).await, Latest::Deleted);
        let versions = format!("[{CREATED},{edited},{UPDATED}]");
        assert!(
            matches!(read(UPDATED, Some(&versions)).await, Latest::Message { ours: false, text, .. } if text == "x")
        );
        let ours = format!("[{CREATED},{UPDATED}]");
        assert!(matches!(read(UPDATED, Some(&ours)).await, Latest::Message { ours: true, .. }));
        assert!(
            matches!(read(UPDATED, Some("no list")).await, Latest::Message { ours: true, .. }),
            "all that is known"
        );
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
    async fn another_host_is_asked_where_the_first_cannot_say() {
        let server = listener().await;
        let settings = settings(&server);
        let down = ("503 Service Unavailable", "");
        let ask = async |primary: &str, given: &[(&str, &str)]| {
            let hosts = Hosts::with(primary, &["127.0.0.1", "127.0.0.1"]);
            let (client, auth) = (Client::new(), &settings.auth);
            let asked = get_as(&client, &settings, &hosts, auth, "channels/x/messages");
            tokio::join!(asked, answers(&server, given)).0
        };
        // Nobody listens at the first.
        assert!(matches!(ask("127.0.0.2", &[("200 OK", "[]")]).await, Ok(Answer::Body { .. })));
        assert!(matches!(ask("127.0.0.1", &[down, ("200 OK", "[]")]).await, Ok(Answer::Body { .. })));
        assert!(matches!(ask("127.0.0.1", &[down, down, down]).await, Ok(Answer::Refusal(_))));
    }

    #[tokio::test]
    async fn a_new_key_that_is_not_taken_does_not_blind() {
        let (server, file) = (listener().await, tempfile::NamedTempFile::new().expect("a file"));
        std::fs::write(&file, "app.none:other").expect("written");
        let (key, key_file) = (Some(Secret::new("app.key:secret".to_owned())), file.path().to_owned());
        let auth = Auth::from_config(&config::Ably { key, key_file, ..config::Ably::default() }).expect("a key");
        let settings = Settings { auth, ..settings(&server) };
        let refusal = ("401 Unauthorized", r#"{"error":{"code":40101,"statusCode":401,"message":"none"}}"#);
        let aged = ("401 Unauthorized", r#"{"error":{"code":40144,"statusCode":401,"message":"no token"}}"#);
        let (client, taken) = (Client::new(), ("200 OK", "[]"));
        for given in [&[refusal, taken][..], &[aged, aged, taken], &[aged, refusal, taken]] {
            let serves = async {
                answers(&server, given).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                read = get(&client, &settings, "ai:x", "messages") => assert!(matches!(read, Ok(Answer::Body { .. }))),
                () = serves => {}
            }
        }
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
