//! Frames in both encodings: what was decoded is encoded and decoded again to the same; what the encoder makes of an operation
//! is that operation; and what is no frame is refused without a word of what it says.

use std::sync::Arc;

use serde_json::Value;
use tokenrelay::ably::encode::Encoder;
use tokenrelay::ably::wire::{Data, Encoding, Error, Message, ProtocolMessage};
use tokenrelay::engine::{Head, OpId, OpKind, Operation, Status};

use super::feed::Feed;

const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::Msgpack];

pub(crate) fn check(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    match feed.below(3) {
        0 => frame(Encoding::Json, feed.rest()),
        1 => frame(Encoding::Msgpack, feed.rest()),
        _ => operation(feed),
    }
}

fn frame(encoding: Encoding, bytes: &[u8]) {
    let decoded: ProtocolMessage<'_> = match encoding.decode(bytes) {
        Ok(frame) => frame,
        Err(error) => return refused(&error),
    };
    // A number that is no integer may lose its last digit, and bytes have no JSON form.
    let messages = decoded.messages.as_deref().unwrap_or_default();
    if messages.iter().any(|message| has_fraction(message)) {
        return;
    }
    let has_bytes = messages.iter().any(|message| matches!(message.data, Some(Data::Binary(_))));
    for other in ENCODINGS {
        if other == Encoding::Json && has_bytes {
            continue;
        }
        let mut again = Vec::new();
        other.encode(&decoded, &mut again).expect("it encodes");
        match other.decode::<ProtocolMessage<'_>>(&again) {
            Ok(again) => assert_eq!(again, decoded, "in {other:?}"),
            // JSON may be nested less deep than MessagePack.
            Err(error) => assert!(other == Encoding::Json && encoding == Encoding::Msgpack, "{error}"),
        }
    }
}

fn has_fraction(message: &Message<'_>) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.is_f64(),
            Value::Array(values) => values.iter().any(within),
            Value::Object(fields) => fields.values().any(within),
            Value::Null | Value::Bool(_) | Value::String(_) => false,
        }
    }
    message.extras.iter().chain(&message.annotations).any(within)
}

/// What is wrong and where, and nothing of what the bytes say.
fn refused(error: &Error) {
    let said: String = error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect();
    let is_known = match error {
        Error::Json { .. } => {
            let problems = ["it is not JSON", "it ends too early", "a field has a wrong type"];
            problems.iter().any(|problem| said == format!("decode a JSON frame: {problem}, at line  column "))
        }
        Error::MsgpackDecode { .. } => {
            let problems = ["it is not MessagePack", "it ends too early", "a field has a wrong type"];
            problems.iter().any(|problem| said == format!("decode a MessagePack frame: {problem}"))
        }
        Error::Encode { .. } => false,
    };
    assert!(is_known, "{error}");
}

fn operation(mut feed: Feed<'_>) {
    let kind = feed.one_of(&[OpKind::Create, OpKind::Append, OpKind::Update]);
    let is_create = kind == OpKind::Create;
    let head = Head {
        channel: feed.text().into(),
        response_id: feed.text().into(),
        part: feed.below(1 << 32) as u32,
        segment: feed.below(300) as u32,
        create_id: feed.text().into(),
        supersedes: feed.flag().then(|| feed.text().into()),
        prev: feed.flag().then(|| feed.text().into()),
    };
    let serial = (!is_create).then(|| feed.text().into());
    let status = feed.one_of(&[Status::Streaming, Status::Complete, Status::Cancelled, Status::Error]);
    let (segments, keeps_text) = (feed.flag().then(|| feed.below(300) as u32), feed.flag() && kind == OpKind::Update);
    let msg_serial = feed.below(u64::MAX);
    let data = String::from_utf8_lossy(feed.rest()).as_ref().into();
    let id = OpId { partition: 0, slot: 0, generation: 0, seq: 0 };
    let (sender, head) = (Arc::default(), Arc::new(head));
    let operation =
        Operation { id, connection: 0, kind, sender, head, serial, data, keeps_text, status, segments, publish: None };
    for encoding in ENCODINGS {
        let bytes = Encoder::new(encoding).encode(&operation, msg_serial);
        let decoded: ProtocolMessage<'_> = encoding.decode(&bytes).expect("it decodes");
        let head = &operation.head;
        assert_eq!((decoded.msg_serial, decoded.channel.as_deref()), (Some(msg_serial), Some(&*head.channel)));
        let [message] = decoded.messages.as_deref().expect("messages") else { panic!("one message") };
        assert_eq!(message.data, (!keeps_text).then(|| Data::Text(operation.data.as_str().into())));
        assert_eq!(message.serial.as_deref(), operation.serial.as_deref());
        assert_eq!(message.id.as_deref(), is_create.then(|| format!("{}:0", head.create_id)).as_deref());
        let headers = &message.extras.as_ref().expect("extras")["headers"];
        let expected = [
            ("responseId", Some(head.response_id.to_string())),
            ("part", Some(head.part.to_string())),
            ("segment", Some(head.segment.to_string())),
            ("createId", Some(head.create_id.to_string())),
            ("status", Some(status.as_str().to_owned())),
            ("supersedes", head.supersedes.as_deref().map(str::to_owned)),
            ("prev", head.prev.as_deref().map(str::to_owned)),
            ("segments", segments.map(|segments| segments.to_string())),
        ];
        for (name, value) in expected {
            assert_eq!(headers.get(name).and_then(Value::as_str), value.as_deref(), "{name}");
        }
    }
}
