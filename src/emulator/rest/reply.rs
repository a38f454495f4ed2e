//! Answers as the SDKs want them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::ably::wire::Encoding;
use crate::emulator::errors::Failure;

pub(super) fn encoding_of(value: Option<&HeaderValue>) -> Encoding {
    let msgpack = value.and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("msgpack"));
    if msgpack { Encoding::Msgpack } else { Encoding::Json }
}

/// ably-js wants the content type without a charset, and always a body.
pub(super) fn respond<T: Serialize + ?Sized>(encoding: Encoding, status: StatusCode, body: &T) -> Response {
    let mut bytes = Vec::new();
    if let Err(error) = encoding.encode(&body, &mut bytes) {
        tracing::error!(%error, "emulator: a body could not be written");
    }
    let content_type = match encoding {
        Encoding::Json => "application/json",
        Encoding::Msgpack => "application/x-msgpack",
    };
    (status, [(header::CONTENT_TYPE, content_type)], bytes).into_response()
}

pub(super) fn error(encoding: Encoding, failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.status_code).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = respond(encoding, status, &serde_json::json!({"error": failure}));
    let headers = response.headers_mut();
    headers.insert("x-ably-errorcode", failure.code.into());
    if let Ok(message) = failure.message.parse() {
        headers.insert("x-ably-errormessage", message);
    }
    response
}

/// Lets pages from anywhere read the answer: the SDKs run in browsers, too.
pub(super) fn for_browsers(mut response: Response) -> Response {
    const EXPOSED: &str = "link,x-ably-errorcode,x-ably-errormessage";
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    response
}

/// What a browser asks before it sends a request with headers of its own.
pub(super) fn preflight() -> Response {
    const HEADERS: &str = "authorization,content-type,accept,x-ably-version,x-ably-clientid,ably-agent";
    let allowed = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET,POST,PATCH"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::OK, allowed).into_response()
}
