//! Reading against a small server of our own making, and what is made of what it says.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::config::{self, Secret};
use crate::engine::{Head, OpId, Time};

const PATIENCE: Duration = Duration::from_secs(20);

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

fn history(listener: &TcpListener) -> History {
    History::new(settings(listener)).expect("a client")
}

async fn looks_up(listener: &TcpListener) -> Result<Found, Error> {
    history(listener).look_up(&looking("ns.t.0.7.0.0", &[])).await
}

/// Answers each request, on a connection of its own, with a status and a body.
async fn answers(listener: &TcpListener, answers: &[(&str, &str)]) {
    for (status, body) in answers {
        let accepted = timeout(PATIENCE, listener.accept()).await.expect("one more request in time");
        let (mut stream, _) = accepted.expect("accepts");
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
    let reads = async { history(&server).read_back("ai:x", "s@1").await.expect("it is there") };
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
    assert!(matches!(read(UPDATED, Some(&versions)).await, Latest::Message { ours: false, text, .. } if text == "x"));
    let ours = format!("[{CREATED},{UPDATED}]");
    assert!(matches!(read(UPDATED, Some(&ours)).await, Latest::Message { ours: true, .. }));
    assert!(matches!(read(UPDATED, Some("no list")).await, Latest::Message { ours: true, .. }), "all that is known");
}

#[tokio::test]
async fn a_message_that_is_not_there_is_not_there_yet() {
    let server = listener().await;
    let missing = ("404 Not Found", r#"{"error":{"code":40400,"statusCode":404,"message":"none"}}"#);
    let forbidden = ("401 Unauthorized", r#"{"error":{"code":40160,"statusCode":401,"message":"no history"}}"#);
    let reads = async {
        let history = history(&server);
        let first = history.read_back("ai:x", "s").await;
        (first, history.read_back("ai:x", "s").await)
    };
    let given = [missing, forbidden];
    let ((first, second), ()) = tokio::join!(reads, answers(&server, &given));
    assert_eq!(first.expect("read"), Latest::Unreadable);
    assert!(matches!(second, Ok(Latest::Refused(Rejection { code: 40160, .. }))));
}

#[tokio::test]
async fn another_host_is_asked_where_the_first_cannot_say() {
    let server = listener().await;
    let history = history(&server);
    let down = ("503 Service Unavailable", "");
    let ask = async |primary: &str, given: &[(&str, &str)]| {
        let hosts = Hosts::with(primary, &["127.0.0.1", "127.0.0.1"]);
        let asked = history.get_as(&hosts, &history.settings.auth, "channels/x/messages");
        tokio::join!(asked, answers(&server, given)).0
    };
    // Nobody listens at the first.
    assert!(matches!(ask("127.0.0.2", &[("200 OK", "[]")]).await, Ok(Answer::Body { .. })));
    assert!(matches!(ask("127.0.0.1", &[down, ("200 OK", "[]")]).await, Ok(Answer::Body { .. })));
    let says = ("503 Service Unavailable", r#"{"error":{"code":50003,"statusCode":503,"message":"away"}}"#);
    assert!(matches!(ask("127.0.0.1", &[down, down, says]).await, Ok(Answer::Refusal(_))));
}

#[tokio::test]
async fn what_is_not_ablys_word_says_nothing_of_a_message() {
    let server = listener().await;
    let history = history(&server);
    let (blocked, page) = (("403 Forbidden\r\nserver: CloudFront", "blocked"), ("404 Not Found", "nothing here"));
    let ask = async |given: &[(&str, &str)]| {
        let hosts = Hosts::with("127.0.0.1", &["127.0.0.1", "127.0.0.1"]);
        let asked = history.get_as(&hosts, &history.settings.auth, "channels/x/messages");
        tokio::join!(asked, answers(&server, given)).0
    };
    assert!(matches!(ask(&[blocked, page, ("200 OK", "[]")]).await, Ok(Answer::Body { .. })), "the next host may say");
    assert!(ask(&[page, blocked, page]).await.is_err(), "nobody can");
    let given = [page];
    let (read, ()) = tokio::join!(history.read_back("ai:x", "s"), answers(&server, &given));
    assert!(read.is_err(), "it is not gone");
}

#[tokio::test]
async fn whoever_asks_to_be_left_alone_is_read_from_later() {
    let server = listener().await;
    let history = history(&server);
    let busy = r#"{"error":{"code":42918,"statusCode":429,"message":"slow down"}}"#;
    let given = [("429 Too Many Requests\r\nretry-after: 2", busy), ("200 OK", "[]")];
    let reads = async {
        let first = history.look_up(&looking("ns.t.0.7.0.0", &[])).await;
        let (refused_at, another) = (Instant::now(), history.clone());
        let second = another.look_up(&looking("ns.t.0.7.0.0", &[])).await;
        (first, second, refused_at.elapsed())
    };
    let ((first, second, waited), ()) = tokio::join!(reads, answers(&server, &given));
    assert!(matches!(first, Err(Error::Refused { code: 42918, .. })), "{first:?}");
    assert_eq!(second.expect("read"), Found::Nothing);
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
}

/// A page with one message of somebody else's, and behind it another page.
const BUSY: (&str, &str) =
    ("200 OK\r\nlink: <./messages?from=1>; rel=\"next\"", r#"[{"serial":"s@1","id":"another:0","action":0}]"#);

#[tokio::test]
async fn a_message_that_was_not_looked_for_everywhere_may_be_there() {
    let server = listener().await;
    let serves = async {
        loop {
            answers(&server, &[BUSY]).await;
        }
    };
    tokio::select! {
        looked = looks_up(&server) => assert_eq!(looked.expect("read"), Found::Unreadable),
        () = serves => {}
    }
    let it = r#"[{"serial":"s@2","id":"ns.t.0.7.0.0:0","action":0}]"#;
    let pages: Vec<_> = std::iter::repeat_n(BUSY, 50).chain([("200 OK", it)]).collect();
    let (looked, ()) = tokio::join!(looks_up(&server), answers(&server, &pages));
    assert!(matches!(looked, Ok(Found::Message { serial, .. }) if &*serial == "s@2"), "5,000 others were made since");
}

#[tokio::test]
async fn a_new_key_that_is_not_taken_does_not_blind() {
    let (server, file) = (listener().await, tempfile::NamedTempFile::new().expect("a file"));
    std::fs::write(&file, "app.none:other").expect("written");
    let (key, key_file) = (Some(Secret::new("app.key:secret".to_owned())), file.path().to_owned());
    let auth = Auth::from_config(&config::Ably { key, key_file, ..config::Ably::default() }).expect("a key");
    let history = History::new(Settings { auth, ..settings(&server) }).expect("a client");
    let refusal = ("401 Unauthorized", r#"{"error":{"code":40101,"statusCode":401,"message":"none"}}"#);
    let aged = ("401 Unauthorized", r#"{"error":{"code":40144,"statusCode":401,"message":"no token"}}"#);
    let taken = ("200 OK", "[]");
    for given in [&[refusal, taken][..], &[aged, aged, taken], &[aged, refusal, taken]] {
        let serves = async {
            answers(&server, given).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            read = history.get("ai:x", "messages") => assert!(matches!(read, Ok(Answer::Body { .. }))),
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
