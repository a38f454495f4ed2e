//! Frames in both encodings: what was decoded is encoded and decoded again to the same; what the encoder makes of an operation
//! is that operation; and what is no frame is refused without a word of what it says.

use std::sync::Arc;

use serde_json::Value;
use tokenrelay::ably::encode::Encoder;
use tokenrelay::ably::wire::{Data, Encoding, Error, Message, ProtocolMessage};
use tokenrelay::engine::{Head, OpId, OpKind, Operation, Publish, PublishName, Sum};

use super::feed::{Feed, STATUSES, cut};

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
    let kind = feed.one_of(&[OpKind::Create, OpKind::Append, OpKind::Update, OpKind::Publish]);
    let head = Head {
        channel: feed.text().into(),
        response_id: feed.text().into(),
        part: feed.below(1 << 32) as u32,
        segment: feed.below(300) as u32,
        create_id: feed.text().into(),
        supersedes: feed.flag().then(|| feed.text().into()),
        prev: feed.flag().then(|| feed.text().into()),
    };
    let serial = matches!(kind, OpKind::Append | OpKind::Update).then(|| feed.text().into());
    let status = feed.one_of(&STATUSES);
    let (segments, keeps_text) = (feed.flag().then(|| feed.below(300) as u32), feed.flag() && kind == OpKind::Update);
    let msg_serial = feed.below(u64::MAX);
    let (mut publish, shares) = match kind {
        OpKind::Publish => (Some(Box::new(publish(&mut feed))), shares(&mut feed)),
        _ => (None, Vec::new()),
    };
    let data = String::from_utf8_lossy(feed.rest());
    if let Some(publish) = &mut publish {
        publish.pieces = cut(&data, &shares);
    }
    let data = data.as_ref().into();
    let id = OpId { partition: 0, slot: 0, generation: 0, seq: 0 };
    let (sender, head) = (Arc::default(), Arc::new(head));
    let operation =
        Operation { id, connection: 0, kind, sender, head, serial, data, keeps_text, status, segments, publish };
    for encoding in ENCODINGS {
        let bytes = Encoder::new(encoding).encode(&operation, msg_serial);
        let decoded: ProtocolMessage<'_> = encoding.decode(&bytes).expect("it decodes");
        let head = &operation.head;
        assert_eq!((decoded.msg_serial, decoded.channel.as_deref()), (Some(msg_serial), Some(&*head.channel)));
        let messages = decoded.messages.as_deref().expect("messages");
        match (&operation.publish, messages) {
            (Some(publish), messages) => is_published(&operation, publish, messages),
            (None, [message]) => is_written(&operation, message),
            (None, _) => panic!("one message"),
        }
        // A request carries the same without a frame.
        let body = Encoder::new(encoding).body(&operation);
        let alone: Vec<Message<'_>> = match operation.publish {
            Some(_) => encoding.decode(&body).expect("it decodes"),
            None => vec![encoding.decode(&body).expect("it decodes")],
        };
        assert_eq!(alone, messages);
    }
}

/// What a publish has besides, but for its pieces.
fn publish(feed: &mut Feed<'_>) -> Publish {
    let names = [PublishName::Start, PublishName::Token, PublishName::ResponseComplete, PublishName::Stop];
    Publish {
        name: feed.one_of(&names),
        id: feed.text().into(),
        epoch: feed.below(u64::MAX),
        seq: feed.below(1 << 40),
        pieces: Vec::new(),
        round: feed.flag().then(|| feed.below(u64::MAX)),
        segment: feed.flag().then(|| (feed.below(300) as u32, feed.below(300) as u32)),
        sum: feed.flag().then(|| Sum {
            tokens: feed.below(1 << 40),
            length: feed.below(1 << 40) as usize,
            sha256: feed.text().into(),
            repair: feed.flag(),
        }),
    }
}

/// How a publish is shared out: a few messages, or more than a byte can count.
fn shares(feed: &mut Feed<'_>) -> Vec<(usize, u64)> {
    let messages = feed.one_of(&[1, 2, 3, 17, 300]);
    (0..messages).map(|_| (feed.below(9) as usize, feed.below(400))).collect()
}

fn is_published(operation: &Operation, publish: &Publish, messages: &[Message<'_>]) {
    assert_eq!(messages.len(), publish.pieces.len());
    let (mut rest, mut seq) = (operation.data.as_str(), publish.seq);
    for (index, (message, piece)) in messages.iter().zip(&publish.pieces).enumerate() {
        let (data, behind) = rest.split_at(piece.bytes);
        assert_eq!(message.data, Some(Data::Text(data.into())));
        assert_eq!((message.action, message.serial.as_deref()), (Some(0), None));
        assert_eq!(message.id.as_deref(), Some(&*format!("{}:{index}", publish.id)));
        assert_eq!(message.name.as_deref(), Some(publish.name.as_str()));
        let (head, number) = (&operation.head, |number: u64| Some(number.to_string()));
        has_headers(
            message,
            &[
                ("responseId", Some(head.response_id.to_string())),
                ("part", number(head.part.into())),
                ("segment", number(publish.segment.map_or(0, |(segment, _)| segment).into())),
                ("seq", number(seq)),
                ("n", number(piece.tokens)),
                ("epoch", number(publish.epoch)),
                ("round", publish.round.map(|round| round.to_string())),
                ("segments", publish.segment.map(|(_, segments)| segments.to_string())),
                ("tokens", publish.sum.as_ref().map(|sum| sum.tokens.to_string())),
                ("length", publish.sum.as_ref().map(|sum| sum.length.to_string())),
                ("createId", Some(head.create_id.to_string())),
                ("status", Some(operation.status.as_str().to_owned())),
                ("sha256", publish.sum.as_ref().map(|sum| sum.sha256.to_string())),
                ("repair", publish.sum.as_ref().map(|sum| sum.repair.to_string())),
            ],
        );
        (rest, seq) = (behind, seq + piece.tokens);
    }
    assert_eq!(rest, "", "nothing is left over");
}

fn is_written(operation: &Operation, message: &Message<'_>) {
    let head = &operation.head;
    let id = (operation.kind == OpKind::Create).then(|| format!("{}:0", head.create_id));
    assert_eq!(message.data, (!operation.keeps_text).then(|| Data::Text(operation.data.as_str().into())));
    assert_eq!((message.serial.as_deref(), message.id.as_deref()), (operation.serial.as_deref(), id.as_deref()));
    has_headers(
        message,
        &[
            ("responseId", Some(head.response_id.to_string())),
            ("part", Some(head.part.to_string())),
            ("segment", Some(head.segment.to_string())),
            ("createId", Some(head.create_id.to_string())),
            ("status", Some(operation.status.as_str().to_owned())),
            ("supersedes", head.supersedes.as_deref().map(str::to_owned)),
            ("prev", head.prev.as_deref().map(str::to_owned)),
            ("segments", operation.segments.map(|segments| segments.to_string())),
        ],
    );
}

/// These headers, and no others.
fn has_headers(message: &Message<'_>, expected: &[(&str, Option<String>)]) {
    let headers = &message.extras.as_ref().expect("extras")["headers"];
    for (name, value) in expected {
        assert_eq!(headers.get(name).and_then(Value::as_str), value.as_deref(), "{name}");
    }
    let given = expected.iter().filter(|(_, value)| value.is_some()).count();
    assert_eq!(headers.as_object().map(serde_json::Map::len), Some(given));
}
