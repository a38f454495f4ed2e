//! What the encoder writes, `wire` reads: for every kind of operation, in both encodings, whatever the texts.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::super::wire::{Data, ProtocolMessage};
use super::*;
use crate::engine::{Head, OpId, Piece, Publish, PublishName, Sender, Status, Sum};

fn operation(kind: OpKind, texts: [&str; 5], supersedes: Option<&str>, status: Status) -> Operation {
    let [channel, response_id, create_id, serial, data] = texts;
    let head = Head {
        channel: channel.into(),
        response_id: response_id.into(),
        part: 3,
        segment: 120,
        create_id: create_id.into(),
        supersedes: supersedes.map(Into::into),
        prev: supersedes.map(|_| "the one before".into()),
    };
    Operation {
        id: OpId { partition: 0, slot: 0, generation: 0, seq: 0 },
        connection: 0,
        kind,
        sender: Arc::new(Sender { instance: "relay \"1\"".into(), epoch: 4_097 }),
        head: Arc::new(head),
        serial: (kind != OpKind::Create).then(|| serial.into()),
        data: data.into(),
        keeps_text: false,
        status,
        segments: supersedes.map(|_| 121),
        publish: None,
    }
}

/// Every field of the frame against the operation.
fn check(operation: &Operation, encoding: Encoding, msg_serial: u64) {
    let frame = Encoder::new(encoding).encode(operation, msg_serial);
    let decoded: ProtocolMessage<'_> = encoding.decode(&frame).expect("decodes");
    let head = &operation.head;
    assert_eq!(decoded.action, action::MESSAGE);
    assert_eq!(decoded.channel.as_deref(), Some(&*head.channel));
    assert_eq!(decoded.msg_serial, Some(msg_serial));
    let messages = decoded.messages.expect("has messages");
    let [message] = &messages[..] else { panic!("one message") };
    let is_create = operation.kind == OpKind::Create;
    assert_eq!(message.id.as_deref(), is_create.then(|| format!("{}:0", head.create_id)).as_deref());
    assert_eq!(message.serial.as_deref(), operation.serial.as_deref());
    assert_eq!(message.name.as_deref(), Some("response"));
    assert_eq!(message.data, (!operation.keeps_text).then(|| Data::Text(operation.data.as_str().into())));
    assert_eq!(message.encoding, None);
    let expected = match operation.kind {
        OpKind::Create | OpKind::Publish => 0,
        OpKind::Update => 1,
        OpKind::Append => 5,
    };
    assert_eq!(message.action, Some(expected));
    let mut headers = serde_json::json!({
        "responseId": &*head.response_id, "part": "3", "segment": "120", "createId": &*head.create_id,
        "status": operation.status.as_str(),
    });
    if let Some(supersedes) = &head.supersedes {
        headers["supersedes"] = serde_json::json!(&**supersedes);
        headers["prev"] = "the one before".into();
        headers["segments"] = "121".into();
    }
    assert_eq!(message.extras, Some(serde_json::json!({ "headers": headers })));
    let metadata = message.version.as_ref().and_then(|version| version.metadata.clone());
    let phase = if operation.status.is_terminal() { "done" } else { "streaming" };
    let expected = [("phase", phase), ("instance", "relay \"1\""), ("epoch", "4097")];
    let expected = expected.map(|(name, value)| (name.into(), value.into())).into();
    assert_eq!(metadata, (!is_create).then_some(expected), "the first version has none");
}

#[test]
fn every_kind_is_complete_in_itself() {
    let texts = ["ai:x", "r-1", "ns.topic.0.7.0.0", "01826232498871-001@abcdefghij:000", " w\u{f6}rld"];
    for kind in [OpKind::Create, OpKind::Append, OpKind::Update] {
        for status in [Status::Streaming, Status::Complete, Status::Cancelled, Status::Error, Status::Abandoned] {
            for encoding in [Encoding::Json, Encoding::Msgpack] {
                check(&operation(kind, texts, None, status), encoding, 0);
                check(&operation(kind, texts, Some("old \"one\""), status), encoding, 300);
            }
        }
    }
}

#[test]
fn lengths_and_numbers_of_every_size_are_read_back() {
    let long = "x".repeat(70_000);
    for bytes in [0, 1, 31, 32, 255, 256, 65_535, 65_536, 70_000] {
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let texts = ["c", "r", "i", "s", &long[..bytes]];
            check(&operation(OpKind::Append, texts, None, Status::Streaming), encoding, 1);
            let texts = ["c", "r", &long[..bytes.min(1_000)], "s", ""];
            check(&operation(OpKind::Create, texts, None, Status::Streaming), encoding, 1);
        }
    }
    for serial in [0, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            check(&operation(OpKind::Append, ["c", "r", "i", "s", "d"], None, Status::Streaming), encoding, serial);
        }
    }
}

#[test]
fn frames_do_not_disturb_each_other() {
    let mut encoder = Encoder::new(Encoding::Json);
    let texts = ["c", "r", "i", "s", "text"];
    let append = operation(OpKind::Append, texts, None, Status::Streaming);
    let frames: Vec<Bytes> = (0..2_000).map(|serial| encoder.encode(&append, serial)).collect();
    for (serial, frame) in (0..).zip(&frames) {
        let decoded: ProtocolMessage<'_> = Encoding::Json.decode(frame).expect("decodes");
        assert_eq!(decoded.msg_serial, Some(serial));
    }
}

#[test]
fn a_connection_is_ended_in_both_encodings() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let frame = Encoder::new(encoding).close();
        let decoded: ProtocolMessage<'_> = encoding.decode(&frame).expect("decodes");
        assert_eq!(decoded, ProtocolMessage { action: action::CLOSE, ..ProtocolMessage::default() });
    }
}

/// Says what a frame costs, for whoever runs it with `--nocapture`; asserts only that it ran.
#[test]
fn cost_of_a_frame() {
    let texts = ["ai:x", "chatcmpl-0123456789", "ns.topic.0.7.0.0", "01826232498871-001@abcdefghij:000", " token"];
    let append = operation(OpKind::Append, texts, None, Status::Streaming);
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut encoder = Encoder::new(encoding);
        let started = Instant::now();
        let bytes: usize = (0..10_000).map(|serial| encoder.encode(&append, serial).len()).sum();
        eprintln!("{encoding:?}: {} ns a frame of {} bytes", started.elapsed().as_nanos() / 10_000, bytes / 10_000);
        assert!(bytes > 0);
    }
}

proptest! {
    #[test]
    fn hostile_texts_are_read_back(
        channel in any::<String>(), response in any::<String>(), create in any::<String>(), serial in any::<String>(),
        data in any::<String>(), controls in "[\\x00-\\x1f\"\\\\\u{7f}\u{2028}\u{fffd}\u{10ffff}]*", msg_serial in any::<u64>(),
    ) {
        for kind in [OpKind::Create, OpKind::Append, OpKind::Update] {
            for encoding in [Encoding::Json, Encoding::Msgpack] {
                let texts: [&str; 5] = [&channel, &response, &create, &serial, &data];
                check(&operation(kind, texts, Some(&controls), Status::Complete), encoding, msg_serial);
                let texts: [&str; 5] = [&controls, &controls, &controls, &controls, &controls];
                check(&operation(kind, texts, None, Status::Streaming), encoding, msg_serial);
            }
        }
    }
}

/// The messages of a publish, as a frame carries them and as a request does.
fn published(publish: Publish, data: &str, encoding: Encoding) -> Vec<serde_json::Value> {
    let texts = ["ai:x", "r", "ns.t.0.7.3.0", "", data];
    let status = if publish.sum.is_some() { Status::Complete } else { Status::Streaming };
    let operation = operation(OpKind::Publish, texts, None, status);
    let operation = Operation { serial: None, publish: Some(Box::new(publish)), ..operation };
    let mut encoder = Encoder::new(encoding);
    let (frame, body) = (encoder.encode(&operation, 7), encoder.body(&operation));
    let frame: ProtocolMessage<'_> = encoding.decode(&frame).expect("decodes");
    let body: Vec<crate::ably::wire::Message<'_>> = encoding.decode(&body).expect("decodes");
    let messages = frame.messages.expect("has messages");
    let simple = |message: &crate::ably::wire::Message<'_>| {
        let Some(Data::Text(data)) = &message.data else { panic!("no text") };
        let headers = message.extras.as_ref().expect("has extras")["headers"].clone();
        serde_json::json!([message.id, message.action, message.name, data, headers])
    };
    assert_eq!(messages.iter().map(simple).collect::<Vec<_>>(), body.iter().map(simple).collect::<Vec<_>>());
    messages.iter().map(simple).collect()
}

#[test]
fn a_publish_is_an_array_under_one_name() {
    let pieces = [("o\"ne", 1), ("\u{f6}", 2)].map(|(text, tokens)| Piece { bytes: text.len(), tokens });
    let tokens = Publish {
        name: PublishName::Token,
        id: "ns.t.0.7.3.0.5.9".into(),
        epoch: 5,
        seq: 40,
        pieces: pieces.into(),
        round: None,
        segment: None,
        sum: None,
    };
    let many = Publish { pieces: vec![Piece { bytes: 1, tokens: 1 }; 20], ..tokens.clone() };
    let sum = Sum { tokens: 3, length: 6, sha256: "ab".into(), repair: true };
    let stop = Publish {
        name: PublishName::Stop,
        pieces: vec![Piece::default()],
        round: Some(9),
        sum: Some(sum),
        ..tokens.clone()
    };
    let part = Publish {
        name: PublishName::ResponseComplete,
        seq: 0,
        pieces: vec![Piece { bytes: 3, tokens: 42 }],
        round: Some(8),
        segment: Some((1, 2)),
        ..tokens.clone()
    };
    let headers = |seq: &str, n: &str| {
        serde_json::json!({
            "responseId": "r", "part": "3", "segment": "0", "createId": "ns.t.0.7.3.0", "status": "streaming",
            "seq": seq, "n": n, "epoch": "5",
        })
    };
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let expected = [
            serde_json::json!(["ns.t.0.7.3.0.5.9:0", 0, "token", "o\"ne", headers("40", "1")]),
            serde_json::json!(["ns.t.0.7.3.0.5.9:1", 0, "token", "\u{f6}", headers("41", "2")]),
        ];
        assert_eq!(published(tokens.clone(), "o\"ne\u{f6}", encoding), expected);
        assert_eq!(published(many.clone(), &"x".repeat(20), encoding).len(), 20);
        let mut last = headers("40", "0");
        for (name, value) in [("round", "9"), ("tokens", "3"), ("length", "6"), ("sha256", "ab"), ("repair", "true")] {
            last[name] = value.into();
        }
        last["status"] = "complete".into();
        let expected = serde_json::json!(["ns.t.0.7.3.0.5.9:0", 0, "stop", "", last]);
        assert_eq!(published(stop.clone(), "", encoding), [expected]);
        let mut whole = headers("0", "42");
        (whole["round"], whole["segment"], whole["segments"]) = ("8".into(), "1".into(), "2".into());
        let expected = serde_json::json!(["ns.t.0.7.3.0.5.9:0", 0, "response-complete", "abc", whole]);
        assert_eq!(published(part.clone(), "abc", encoding), [expected]);
    }
}

#[test]
fn a_batch_names_the_channel_of_each_body() {
    #[derive(serde::Deserialize)]
    struct Part<'a> {
        channels: &'a str,
        messages: Vec<serde_json::Value>,
    }
    let channels = ["ai:x", "[?rewind=1]ai:y"];
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let mut encoder = Encoder::new(encoding);
        let bodies = channels.map(|channel| {
            let publish = Publish {
                name: PublishName::Token,
                id: "ns".into(),
                epoch: 5,
                seq: 40,
                pieces: vec![Piece { bytes: channel.len(), tokens: 1 }],
                round: None,
                segment: None,
                sum: None,
            };
            let operation = operation(OpKind::Publish, [channel, "r", "c", "", channel], None, Status::Streaming);
            encoder.body(&Operation { serial: None, publish: Some(Box::new(publish)), ..operation })
        });
        let batch = encoder.batch(channels.into_iter().zip(bodies.iter().map(|body| &**body)));
        let parts: Vec<Part<'_>> = encoding.decode(&batch).expect("decodes");
        let said: Vec<_> = parts.iter().map(|part| (part.channels, part.messages[0]["data"].as_str())).collect();
        assert_eq!(said, channels.map(|channel| (channel, Some(channel))));
    }
}
