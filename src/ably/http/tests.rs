//! What requests say, how they travel, and what their answers mean.

mod parallel;

use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::*;
use crate::ably::fixtures;
use crate::config::{self, Secret, Transport};
use crate::engine::Class;

fn refused(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Option<Rejection> {
    let headers =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value"))).collect();
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
