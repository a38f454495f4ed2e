//! The admin server: `/livez`, `/readyz`, `/metrics`, `/version`. It has nothing to hide and nothing to change, and listens on
//! loopback unless told otherwise.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Health, Metrics};

/// What OpenMetrics calls itself.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {source}; change admin.listen")]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

/// A running admin server. Dropping it stops it.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Admin {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
struct Told {
    metrics: Metrics,
    health: Health,
}

/// Starts the admin server.
///
/// # Errors
/// When the address is taken, or not ours.
pub async fn start(address: SocketAddr, metrics: Metrics, health: Health) -> Result<Admin, Error> {
    let refused = |source| Error { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(all_metrics))
        .route("/version", get(version))
        .with_state(Told { metrics, health });
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin server has ended");
        }
    });
    Ok(Admin { address, task })
}

async fn livez(State(told): State<Told>) -> Response {
    match told.health.is_live() {
        true => (StatusCode::OK, "alive\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the loop has not turned for too long\n").into_response(),
    }
}

async fn readyz(State(told): State<Told>) -> Response {
    let (reasons, notes) = (told.health.reasons(), told.health.notes());
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let page = serde_json::json!({"ready": reasons.is_empty(), "reasons": reasons, "notes": notes});
    (status, Json(page)).into_response()
}

async fn all_metrics(State(told): State<Told>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], told.metrics.encode()).into_response()
}

async fn version() -> Response {
    Json(serde_json::json!({"name": "tokenrelay", "version": env!("CARGO_PKG_VERSION")})).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_tells_what_there_is() {
        // The client insists on a provider for TLS, though none is used here.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let health = Health::new();
        let admin =
            start(SocketAddr::from(([127, 0, 0, 1], 0)), Metrics::new(), health.clone()).await.expect("it listens");
        let url = |path: &str| format!("http://{}{path}", admin.local_addr());
        let get = |path: &str| reqwest::get(url(path));

        let starting = get("/readyz").await.expect("answers");
        assert_eq!(starting.status(), 503);
        assert!(starting.text().await.expect("text").contains("the process is starting"));
        health.clear("starting");
        health.note("unverified", "texts are not read back".to_owned());
        let ready = get("/readyz").await.expect("answers");
        assert_eq!(ready.status(), 200);
        assert!(ready.text().await.expect("text").contains("texts are not read back"));
        assert_eq!(get("/livez").await.expect("answers").status(), 200);
        assert!(get("/metrics").await.expect("answers").text().await.expect("text").contains("tokenrelay_build_info"));
        let version = get("/version").await.expect("answers").text().await.expect("text");
        assert!(version.contains(env!("CARGO_PKG_VERSION")));
    }
}
