//! Requests over TLS: many at once on one connection, by HTTP/2.

use std::sync::Arc;

use axum::http::Response;
use reqwest::Certificate;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;

const REQUESTS: usize = 50;

/// Of nobody: signed by itself, for 127.0.0.1, until 2120; made with `openssl ca -selfsign`.
const CERTIFICATE: &str = concat!(
    "MIIBVzCB/6ADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCWxvY2FsaG9zdDAgFw0yMDAxMDEwMDAwMDBaGA8yMTIw",
    "MDEwMTAwMDAwMFowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECfEgdP1gLoxnY1Ub",
    "lvSr3yqw6iIQcUEWYPw4NWCvfzya6rLWtp9/DhfI5Xe5XfnB3+ccEqBuyEMLL4npffdMEKNAMD4wDwYDVR0RBAgwBocEfwAA",
    "ATAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBQK34NbeNJJou3STUWkfXQnJ6h+FjAKBggqhkjOPQQDAgNHADBEAiAnIvqdt4NC",
    "SGSBizIeOXfj1e4icGMIdp1KVIj+wPinbAIgH7op+TGFMptvYioyW/tSACatK90zPxqyaWk+W/Wmn2E=",
);
const ITS_KEY: &str = concat!(
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUlTcagDPwzwTm0gqnvj9UIiHEtrq5XhUQpj4qW3jnRChRANC",
    "AAQJ8SB0/WAujGdjVRuW9KvfKrDqIhBxQRZg/Dg1YK9/PJrqsta2n38OF8jld7ld+cHf5xwSoG7IQwsviel990wQ",
);

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).expect("base64")
}

/// A server that would speak either.
fn acceptor() -> TlsAcceptor {
    let key = PrivatePkcs8KeyDer::from(decoded(ITS_KEY));
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![decoded(CERTIFICATE).into()], key.into()).expect("they fit");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Answers the first request of a connection, and then none before there are [`REQUESTS`] of them.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor) {
    let stream = acceptor.accept(stream).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    let (mut held, mut wanted) = (Vec::new(), 1);
    while let Some(request) = connection.accept().await {
        held.push(request.expect("a request").1);
        if held.len() == wanted {
            held.drain(..).for_each(|mut reply| _ = reply.send_response(Response::new(()), true).expect("sent"));
            wanted = REQUESTS;
        }
    }
}

#[tokio::test]
async fn requests_over_tls_share_one_connection() {
    let certificate = Certificate::from_der(&decoded(CERTIFICATE)).expect("a certificate");
    let _already = rustls::crypto::ring::default_provider().install_default();
    let client = builder().tls_certs_only([certificate]).build().expect("a client");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let settings = fixtures::settings(Transport::Rest, listener.local_addr().expect("an address").port());
    let settings = Settings { tls: true, ..settings };
    let (accepted, mut connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let acceptor = acceptor();
        while let Ok((stream, _)) = listener.accept().await {
            accepted.send(tokio::spawn(serve(stream, acceptor.clone()))).expect("wanted");
        }
    });
    let ask = || request(&client, &settings, &settings.auth, Method::GET, "127.0.0.1", "time").send();
    let ask = async || timeout(Duration::from_secs(20), ask()).await.expect("in time").expect("an answer");
    assert_eq!(ask().await.version(), reqwest::Version::HTTP_2);
    let all = futures_util::future::join_all((0..REQUESTS).map(|_| ask())).await;
    assert!(all.iter().all(|answer| answer.version() == reqwest::Version::HTTP_2));
    drop((all, client));
    connections.recv().await.expect("one").await.expect("no assertion failed");
    assert!(connections.is_empty(), "one is enough");
}
