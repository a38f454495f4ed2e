//! Publishes: messages that nothing is added to, one or many in a frame. All of one publish have ids of one shape, so that the
//! server takes a repeated one for what it is: `<id>:0`, `<id>:1`, …

use bytes::{BufMut, BytesMut};

use super::{DIGITS_MAX, decimal, decimal_text, digits_of, json_escaped, json_str, map, text, text_header, uint};
use crate::ably::wire::message_action;
use crate::engine::{Operation, Piece, Publish};

/// A message of a publish.
struct Message<'a> {
    operation: &'a Operation,
    publish: &'a Publish,
    index: usize,
    data: &'a str,
    /// Its first token.
    seq: u64,
    tokens: u64,
}

/// The messages of a publish.
fn messages<'a>(operation: &'a Operation, publish: &'a Publish) -> impl Iterator<Item = Message<'a>> {
    let (mut rest, mut seq) = (&*operation.data, publish.seq);
    publish.pieces.iter().enumerate().map(move |(index, Piece { bytes, tokens })| {
        let (data, behind) = rest.split_at(*bytes);
        let message = Message { operation, publish, index, data, seq, tokens: *tokens };
        (rest, seq) = (behind, seq + tokens);
        message
    })
}

pub(super) fn json(out: &mut BytesMut, operation: &Operation, publish: &Publish) {
    out.put_u8(b'[');
    for message in messages(operation, publish) {
        if message.index > 0 {
            out.put_u8(b',');
        }
        json_message(out, &message);
    }
    out.put_u8(b']');
}

fn json_message(out: &mut BytesMut, message: &Message<'_>) {
    let Message { operation, publish, index, data, .. } = message;
    out.put_slice(b"{\"id\":\"");
    json_escaped(out, &publish.id);
    out.put_u8(b':');
    decimal(out, *index as u64);
    out.put_slice(b"\",\"action\":");
    decimal(out, u64::from(message_action::CREATE));
    out.put_slice(b",\"name\":");
    json_str(out, publish.name.as_str());
    out.put_slice(b",\"data\":");
    json_str(out, data);
    out.put_slice(b",\"extras\":{\"headers\":{\"responseId\":");
    json_str(out, &operation.head.response_id);
    message.numbers(|name, value| {
        out.put_slice(b",\"");
        out.put_slice(name.as_bytes());
        out.put_slice(b"\":\"");
        decimal(out, value);
        out.put_u8(b'"');
    });
    message.words(|name, value| {
        out.put_slice(b",\"");
        out.put_slice(name.as_bytes());
        out.put_slice(b"\":");
        json_str(out, value);
    });
    out.put_slice(b"}}}");
}

pub(super) fn msgpack(out: &mut BytesMut, operation: &Operation, publish: &Publish) {
    out.put_u8(0xdc);
    out.put_u16(u16::try_from(publish.pieces.len()).unwrap_or(u16::MAX));
    for message in messages(operation, publish) {
        msgpack_message(out, &message);
    }
}

fn msgpack_message(out: &mut BytesMut, message: &Message<'_>) {
    let Message { operation, publish, index, data, .. } = message;
    map(out, 5);
    text(out, "id");
    let mut digits = [0; DIGITS_MAX];
    let digits = digits_of(*index as u64, &mut digits);
    text_header(out, publish.id.len() + 1 + digits.len());
    out.put_slice(publish.id.as_bytes());
    out.put_u8(b':');
    out.put_slice(digits);
    text(out, "action");
    uint(out, u64::from(message_action::CREATE));
    text(out, "name");
    text(out, publish.name.as_str());
    text(out, "data");
    text(out, data);
    text(out, "extras");
    map(out, 1);
    text(out, "headers");
    let mut headers = 1;
    message.numbers(|_, _| headers += 1);
    message.words(|_, _| headers += 1);
    map(out, headers);
    text(out, "responseId");
    text(out, &operation.head.response_id);
    message.numbers(|name, value| {
        text(out, name);
        decimal_text(out, value);
    });
    message.words(|name, value| {
        text(out, name);
        text(out, value);
    });
}

impl Message<'_> {
    /// The headers that are numbers.
    fn numbers(&self, mut add: impl FnMut(&'static str, u64)) {
        let Publish { epoch, round, segment, sum, .. } = self.publish;
        add("part", u64::from(self.operation.head.part));
        add("segment", u64::from(segment.map_or(0, |(segment, _)| segment)));
        add("seq", self.seq);
        add("n", self.tokens);
        add("epoch", *epoch);
        if let Some(round) = round {
            add("round", *round);
        }
        if let Some((_, segments)) = segment {
            add("segments", u64::from(*segments));
        }
        if let Some(sum) = sum {
            add("tokens", sum.tokens);
            add("length", sum.length as u64);
        }
    }

    /// The headers that are words.
    fn words(&self, mut add: impl FnMut(&'static str, &str)) {
        add("createId", &self.operation.head.create_id);
        add("status", self.operation.status.as_str());
        if let Some(sum) = &self.publish.sum {
            add("sha256", &sum.sha256);
            add("repair", if sum.repair { "true" } else { "false" });
        }
    }
}
