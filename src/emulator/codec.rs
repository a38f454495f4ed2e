//! Frames and messages as the client's encoding can carry them.

use axum::extract::ws;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::ably::wire::{Data, Encoding, Message, ProtocolMessage};

use super::message::owned;

/// A frame in the client's encoding. JSON has no bytes: there they travel as base64.
pub(super) fn encode(encoding: Encoding, frame: &ProtocolMessage<'_>) -> ws::Message {
    let mut out = Vec::with_capacity(256);
    let for_json = frame
        .messages
        .as_ref()
        .filter(|_| encoding == Encoding::Json)
        .filter(|messages| messages.iter().any(is_binary));
    let written = match for_json {
        None => encoding.encode(frame, &mut out),
        Some(messages) => {
            let messages = messages.iter().cloned().map(|message| sent(message, encoding)).collect();
            encoding.encode(&ProtocolMessage { messages: Some(messages), ..frame.clone() }, &mut out)
        }
    };
    if let Err(error) = written {
        tracing::error!(%error, "emulator: a frame could not be written");
    }
    match encoding {
        Encoding::Msgpack => ws::Message::Binary(out.into()),
        Encoding::Json => ws::Message::Text(String::from_utf8(out).unwrap_or_default().into()),
    }
}

fn is_binary(message: &Message<'_>) -> bool {
    matches!(message.data, Some(Data::Binary(_)))
}

/// A message as the encoding can carry it.
pub(super) fn sent(mut message: Message<'_>, encoding: Encoding) -> Message<'_> {
    if encoding == Encoding::Json
        && let Some(Data::Binary(bytes)) = &message.data
    {
        message.data = Some(Data::Text(STANDARD.encode(bytes).into()));
        let encoding =
            message.encoding.take().map_or_else(|| "base64".to_owned(), |encoding| format!("{encoding}/base64"));
        message.encoding = Some(encoding.into());
    }
    message
}

/// A message as a client sent it, with bytes as bytes.
pub(super) fn received(message: Message<'_>, encoding: Encoding) -> Message<'static> {
    let mut message = owned(message);
    let steps = message.encoding.as_deref().unwrap_or_default();
    if encoding == Encoding::Json
        && let (true, Some(Data::Text(text))) = (steps.ends_with("base64"), &message.data)
        && let Ok(bytes) = STANDARD.decode(text.as_bytes())
    {
        let rest = steps.strip_suffix("base64").map(|rest| rest.trim_end_matches('/').to_owned());
        message.data = Some(Data::Binary(bytes.into()));
        message.encoding = rest.filter(|rest| !rest.is_empty()).map(Into::into);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_through_json_as_base64() {
        let message = || Message { data: Some(Data::Binary(vec![0, 255].into())), ..Message::default() };
        let json = sent(message(), Encoding::Json);
        assert_eq!((json.data.clone(), json.encoding.as_deref()), (Some(Data::Text("AP8=".into())), Some("base64")));
        assert_eq!(received(json, Encoding::Json), message());
        assert_eq!(sent(message(), Encoding::Msgpack), message());
        let nested = Message {
            encoding: Some("utf-8/base64".into()),
            data: Some(Data::Text("AP8=".into())),
            ..Message::default()
        };
        assert_eq!(received(nested, Encoding::Json).encoding.as_deref(), Some("utf-8"));
    }
}
