//! Ably's wire: frames ("protocol messages") and messages in both encodings, for both ends of a connection.
//!
//! Facts: the Ably features specification 6.1 (protocol version 6), clauses TR (frames), TM (messages), CD (connection
//! details). Absent and null are the same; what we do not know is ignored. MessagePack bodies are maps with the JSON names
//! as keys.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// The protocol version that the relay speaks.
pub const VERSION: u8 = 6;

/// How frames and bodies are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// JSON text frames.
    Json,
    /// MessagePack binary frames.
    #[default]
    Msgpack,
}

impl Encoding {
    /// The value of the query parameter `format`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Msgpack => "msgpack",
        }
    }

    /// Decodes one frame or body.
    ///
    /// # Errors
    /// When the bytes are not well-formed, or a known field has a wrong type.
    pub fn decode<'a, T: Deserialize<'a>>(self, bytes: &'a [u8]) -> Result<T, Error> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|error| Error::json(&error)),
            Self::Msgpack => rmp_serde::from_slice(bytes).map_err(|error| Error::msgpack(&error)),
        }
    }

    /// Encodes one frame or body, behind what `out` already holds.
    ///
    /// # Errors
    /// Never for the types of this module; the encoders' signatures allow it.
    pub fn encode<T: Serialize>(self, value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Json => serde_json::to_writer(out, value).map_err(|error| Error::Encode(error.to_string())),
            Self::Msgpack => {
                let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
                value.serialize(&mut serializer).map_err(|error| Error::Encode(error.to_string()))
            }
        }
    }
}

/// Why bytes are no frame. Says what is wrong and where, and nothing of what they say: that may be a text, or a key to resume
/// with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The JSON is malformed or of the wrong shape.
    #[error("decode a JSON frame: {problem}, at line {line} column {column}")]
    Json {
        /// What is wrong.
        problem: &'static str,
        /// Where.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// The MessagePack is malformed or of the wrong shape.
    #[error("decode a MessagePack frame: {problem}")]
    MsgpackDecode {
        /// What is wrong.
        problem: &'static str,
    },
    /// The value has no such form.
    #[error("encode a frame: {0}")]
    Encode(String),
}

const EARLY: &str = "it ends too early";
const MISTYPED: &str = "a field has a wrong type";

impl Error {
    fn json(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        let problem = match error.classify() {
            Category::Eof => EARLY,
            Category::Data => MISTYPED,
            Category::Syntax | Category::Io => "it is not JSON",
        };
        Self::Json { problem, line: error.line(), column: error.column() }
    }

    fn msgpack(error: &rmp_serde::decode::Error) -> Self {
        use rmp_serde::decode::Error;
        let problem = match error {
            Error::InvalidMarkerRead(read) | Error::InvalidDataRead(read)
                if read.kind() == std::io::ErrorKind::UnexpectedEof =>
            {
                EARLY
            }
            Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) | Error::DepthLimitExceeded => {
                "it is not MessagePack"
            }
            Error::TypeMismatch(_)
            | Error::OutOfRange
            | Error::LengthMismatch(_)
            | Error::Uncategorized(_)
            | Error::Syntax(_)
            | Error::Utf8Error(_) => MISTYPED,
        };
        Self::MsgpackDecode { problem }
    }
}

/// Actions of frames (TR2).
pub mod action {
    /// A sign of life, or a ping when it has an id.
    pub const HEARTBEAT: u8 = 0;
    /// Frames were taken.
    pub const ACK: u8 = 1;
    /// Frames were refused.
    pub const NACK: u8 = 2;
    /// The connection is established, or its details changed.
    pub const CONNECTED: u8 = 4;
    /// The client leaves, and may resume.
    pub const DISCONNECT: u8 = 5;
    /// The server ends the transport; the client may resume.
    pub const DISCONNECTED: u8 = 6;
    /// The client ends the connection.
    pub const CLOSE: u8 = 7;
    /// The server confirms the end.
    pub const CLOSED: u8 = 8;
    /// An error of the connection, or of a channel when one is named.
    pub const ERROR: u8 = 9;
    /// The client wants a channel's messages.
    pub const ATTACH: u8 = 10;
    /// The channel's messages follow.
    pub const ATTACHED: u8 = 11;
    /// The client wants no more of a channel.
    pub const DETACH: u8 = 12;
    /// No more of a channel follows.
    pub const DETACHED: u8 = 13;
    /// Presence; not used here.
    pub const PRESENCE: u8 = 14;
    /// Messages.
    pub const MESSAGE: u8 = 15;
    /// New credentials, or a request for them.
    pub const AUTH: u8 = 17;
}

/// Actions of messages (TM5).
pub mod message_action {
    /// A new message.
    pub const CREATE: u8 = 0;
    /// A message's data, name or extras replaced.
    pub const UPDATE: u8 = 1;
    /// A message deleted.
    pub const DELETE: u8 = 2;
    /// Text added to a message.
    pub const APPEND: u8 = 5;
}

/// A frame, in either direction (TR4).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct ProtocolMessage<'a> {
    /// What the frame is; see [`action`].
    pub action: u8,
    /// Base of the ids of the messages in it, or of a ping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// Credentials, in AUTH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth<'a>>,
    /// The channel that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Cow<'a, str>>,
    /// Position in the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_serial: Option<Cow<'a, str>>,
    /// The connection, in CONNECTED and MESSAGE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<Cow<'a, str>>,
    /// The secret to resume with; a legacy duplicate of the one in the details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_key: Option<Cow<'a, str>>,
    /// What the server allows, in CONNECTED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_details: Option<ConnectionDetails<'a>>,
    /// How many frames an ACK or NACK covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo<'a>>,
    /// Flags of ATTACH and ATTACHED (TR3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<u64>,
    /// The frame's number on its connection; of ACK and NACK, that of the first frame covered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msg_serial: Option<u64>,
    /// Messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message<'a>>>,
    /// When, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// Channel parameters or publish parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    /// Serials given, one entry per frame that an ACK covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub res: Option<Vec<PublishResult<'a>>>,
}

/// Credentials in band.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct Auth<'a> {
    /// A token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Cow<'a, str>>,
}

/// What the server allows on a connection (CD2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct ConnectionDetails<'a> {
    /// The identity of the client; `*` when it may assume any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Cow<'a, str>>,
    /// The secret to resume with; may change at each CONNECTED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_key: Option<Cow<'a, str>>,
    /// Bytes of the largest message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_size: Option<u64>,
    /// Bytes of the largest frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_frame_size: Option<u64>,
    /// Frames a second from the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_inbound_rate: Option<u64>,
    /// Messages a second to the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_outbound_rate: Option<u64>,
    /// How long the connection's state survives without a transport, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_state_ttl: Option<u64>,
    /// The longest silence of the server, in milliseconds; 0 for no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_idle_interval: Option<u64>,
    /// Which server; for debugging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<Cow<'a, str>>,
    /// Which site; for debugging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_code: Option<Cow<'a, str>>,
}

/// What went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct ErrorInfo<'a> {
    /// Ably's error code.
    #[serde(default)]
    pub code: u32,
    /// The HTTP status that goes with it.
    #[serde(default)]
    pub status_code: u16,
    /// In words.
    #[serde(default)]
    pub message: Cow<'a, str>,
    /// Where to read about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub href: Option<Cow<'a, str>>,
}

/// The serials that one frame was given, one per message; null where a version was discarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct PublishResult<'a> {
    /// The serials.
    #[serde(default)]
    pub serials: Vec<Option<Cow<'a, str>>>,
}

/// A message, in either direction (TM2).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct Message<'a> {
    /// Idempotency id of a create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// Event name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// Payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data<'a>>,
    /// Steps of the payload's encoding, joined by `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Cow<'a, str>>,
    /// Who published it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Cow<'a, str>>,
    /// Through which connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<Cow<'a, str>>,
    /// On behalf of which connection (REST).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_key: Option<Cow<'a, str>>,
    /// When it was created, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// User space is `headers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extras: Option<serde_json::Value>,
    /// What it does; see [`message_action`]. Absent means create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<u8>,
    /// The message's permanent identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Cow<'a, str>>,
    /// Which version of it this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<MessageVersion<'a>>,
    /// Aggregates of annotations; passed through, never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<serde_json::Value>,
}

/// Which version of a message, and who made it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct MessageVersion<'a> {
    /// Ordered as text among the versions of one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Cow<'a, str>>,
    /// When, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Cow<'a, str>>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Cow<'a, str>>,
    /// Why, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

/// A payload: text or bytes. Objects travel as JSON text with `encoding: "json"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes; only MessagePack carries them as such.
    Binary(Cow<'a, [u8]>),
}

impl Data<'_> {
    /// A copy that borrows nothing.
    #[must_use]
    pub fn into_owned(self) -> Data<'static> {
        match self {
            Self::Text(text) => Data::Text(Cow::Owned(text.into_owned())),
            Self::Binary(bytes) => Data::Binary(Cow::Owned(bytes.into_owned())),
        }
    }
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Binary(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("text or bytes")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Data::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Data::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Data::Binary(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Data::Binary(Cow::Owned(bytes.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_round_trip() {
        let frame = ProtocolMessage {
            action: action::MESSAGE,
            channel: Some("ai:x".into()),
            msg_serial: Some(2),
            messages: Some(vec![Message {
                serial: Some("S".into()),
                data: Some(Data::Text(" w\u{f6}rld".into())),
                action: Some(message_action::APPEND),
                extras: Some(serde_json::json!({"headers": {"status": "streaming"}})),
                ..Message::default()
            }]),
            ..ProtocolMessage::default()
        };
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let mut bytes = Vec::new();
            encoding.encode(&frame, &mut bytes).expect("encodes");
            let decoded: ProtocolMessage<'_> = encoding.decode(&bytes).expect("decodes");
            assert_eq!(decoded, frame);
        }
    }

    #[test]
    fn what_is_no_frame_is_not_quoted() {
        for text in
            [r#"{"action":"hunter2"}"#, r#"{"action":4,"connectionDetails":"hunter2"}"#, r#""hunter2""#, "{\"hunter2"]
        {
            let mut packed = Vec::new();
            let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|_| "hunter2".into());
            Encoding::Msgpack.encode(&value, &mut packed).expect("encodes");
            for (encoding, bytes) in [(Encoding::Json, text.as_bytes()), (Encoding::Msgpack, &packed)] {
                let error = encoding.decode::<ProtocolMessage<'_>>(bytes).expect_err("it is none");
                assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
            }
        }
    }

    #[test]
    fn null_is_absent_and_the_unknown_is_ignored() {
        let text = br#"{"action":1,"msgSerial":7,"count":2,"channel":null,"later":{"a":[1]},"res":[{"serials":["S8"]},{"serials":[null]}]}"#;
        let frame: ProtocolMessage<'_> = Encoding::Json.decode(text).expect("decodes");
        assert_eq!(frame.channel, None);
        assert_eq!(frame.res.expect("has serials")[1].serials, [None]);
    }
}
