//! The way out: an operation becomes the bytes of one frame, or of the body of one request.
//!
//! Written by hand because every token takes this way: into one buffer that is used again, without a tree in between. What
//! it writes, `wire` reads; a test holds the two together. Every operation is complete in itself (name, all headers, metadata),
//! since Ably replaces `extras` as a whole and drops operation metadata that is not repeated. Text goes without `encoding`:
//! only a string can be appended to.

mod batch;
mod publish;

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{Encoding, action, message_action};
use crate::engine::{MESSAGE_NAME, OpKind, Operation};

/// How much the buffer takes at once; frames are cut from it.
const CHUNK: usize = 64 * 1024;

/// What a message takes besides its texts, at most, and the frame around the first.
const FRAME_OVERHEAD: usize = 512;

/// What a part of a batch has besides its channel and its body.
const BATCH_OVERHEAD: usize = 64;

/// Makes frames of operations.
#[derive(Debug)]
pub struct Encoder {
    encoding: Encoding,
    buffer: BytesMut,
}

impl Encoder {
    /// An encoder for connections of this encoding.
    #[must_use]
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, buffer: BytesMut::new() }
    }

    /// The frame that carries `operation` as number `msg_serial` of its connection.
    pub fn encode(&mut self, operation: &Operation, msg_serial: u64) -> Bytes {
        self.make_room(operation);
        match self.encoding {
            Encoding::Json => json(&mut self.buffer, operation, msg_serial),
            Encoding::Msgpack => msgpack(&mut self.buffer, operation, msg_serial),
        }
        self.buffer.split().freeze()
    }

    /// The body of the request that carries `operation`: its message, without a frame around it.
    pub fn body(&mut self, operation: &Operation) -> Bytes {
        self.make_room(operation);
        match self.encoding {
            Encoding::Json => match &operation.publish {
                Some(publish) => publish::json(&mut self.buffer, operation, publish),
                None => json_message(&mut self.buffer, operation),
            },
            Encoding::Msgpack => match &operation.publish {
                Some(publish) => publish::msgpack(&mut self.buffer, operation, publish),
                None => msgpack_message(&mut self.buffer, operation),
            },
        }
        self.buffer.split().freeze()
    }

    /// The body of a request that carries several bodies, each with its channel.
    pub fn batch<'a>(&mut self, parts: impl ExactSizeIterator<Item = (&'a str, &'a [u8])> + Clone) -> Bytes {
        let bytes: usize = parts.clone().map(|(channel, body)| channel.len() * 2 + body.len() + BATCH_OVERHEAD).sum();
        self.buffer.reserve(bytes);
        batch::write(self.encoding, &mut self.buffer, parts);
        self.buffer.split().freeze()
    }

    fn make_room(&mut self, operation: &Operation) {
        let head = &operation.head;
        let names =
            head.response_id.len() + head.create_id.len() * 2 + operation.sender.instance.len() + FRAME_OVERHEAD;
        let messages = operation.publish.as_ref().map_or(1, |publish| publish.pieces.len());
        let wanted = operation.data.len() + head.channel.len() + names * messages;
        if self.buffer.capacity() < wanted {
            self.buffer.reserve(wanted.max(CHUNK));
        }
    }

    /// The frame that ends a connection.
    #[must_use]
    pub fn close(&self) -> Bytes {
        const _: () = assert!(action::CLOSE == 7, "the frames below say so");
        Bytes::from_static(match self.encoding {
            Encoding::Json => b"{\"action\":7}",
            Encoding::Msgpack => b"\x81\xa6action\x07",
        })
    }
}

/// What differs from one kind of operation to the next.
struct Fields {
    action: u8,
    is_create: bool,
    phase: &'static str,
}

impl Fields {
    fn of(operation: &Operation) -> Self {
        let action = match operation.kind {
            OpKind::Create | OpKind::Publish => message_action::CREATE,
            OpKind::Append => message_action::APPEND,
            OpKind::Update => message_action::UPDATE,
        };
        let phase = if operation.status.is_terminal() { "done" } else { "streaming" };
        Self { action, is_create: operation.kind == OpKind::Create, phase }
    }
}

fn json(out: &mut BytesMut, operation: &Operation, msg_serial: u64) {
    out.put_slice(b"{\"action\":");
    decimal(out, u64::from(action::MESSAGE));
    out.put_slice(b",\"channel\":");
    json_str(out, &operation.head.channel);
    out.put_slice(b",\"msgSerial\":");
    decimal(out, msg_serial);
    out.put_slice(b",\"messages\":");
    if let Some(publish) = &operation.publish {
        publish::json(out, operation, publish);
    } else {
        out.put_u8(b'[');
        json_message(out, operation);
        out.put_u8(b']');
    }
    out.put_u8(b'}');
}

fn json_message(out: &mut BytesMut, operation: &Operation) {
    let (head, fields) = (&*operation.head, Fields::of(operation));
    out.put_u8(b'{');
    if fields.is_create {
        out.put_slice(b"\"id\":\"");
        json_escaped(out, &head.create_id);
        out.put_slice(b":0\",");
    } else if let Some(serial) = &operation.serial {
        out.put_slice(b"\"serial\":");
        json_str(out, serial);
        out.put_slice(b",");
    }
    out.put_slice(b"\"action\":");
    decimal(out, u64::from(fields.action));
    out.put_slice(b",\"name\":");
    json_str(out, MESSAGE_NAME);
    if !operation.keeps_text {
        out.put_slice(b",\"data\":");
        json_str(out, &operation.data);
    }
    out.put_slice(b",\"extras\":{\"headers\":{\"responseId\":");
    json_str(out, &head.response_id);
    out.put_slice(b",\"part\":\"");
    decimal(out, u64::from(head.part));
    out.put_slice(b"\",\"segment\":\"");
    decimal(out, u64::from(head.segment));
    out.put_slice(b"\",\"createId\":");
    json_str(out, &head.create_id);
    out.put_slice(b",\"status\":");
    json_str(out, operation.status.as_str());
    if let Some(supersedes) = &head.supersedes {
        out.put_slice(b",\"supersedes\":");
        json_str(out, supersedes);
    }
    if let Some(prev) = &head.prev {
        out.put_slice(b",\"prev\":");
        json_str(out, prev);
    }
    if let Some(segments) = operation.segments {
        out.put_slice(b",\"segments\":\"");
        decimal(out, u64::from(segments));
        out.put_slice(b"\"");
    }
    out.put_slice(b"}}");
    if !fields.is_create {
        out.put_slice(b",\"version\":{\"metadata\":{\"phase\":");
        json_str(out, fields.phase);
        out.put_slice(b",\"instance\":");
        json_str(out, &operation.sender.instance);
        out.put_slice(b",\"epoch\":\"");
        decimal(out, operation.sender.epoch);
        out.put_slice(b"\"}}");
    }
    out.put_u8(b'}');
}

fn json_str(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    json_escaped(out, text);
    out.put_u8(b'"');
}

/// Copies runs of plain bytes; only quotes, backslashes and control characters need an escape.
fn json_escaped(out: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, byte) in bytes.iter().copied().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.put_slice(&bytes[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            _ => {
                out.put_slice(b"\\u00");
                out.put_u8(HEX[usize::from(byte >> 4)]);
                out.put_u8(HEX[usize::from(byte & 0xf)]);
            }
        }
    }
    out.put_slice(&bytes[plain..]);
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn msgpack(out: &mut BytesMut, operation: &Operation, msg_serial: u64) {
    map(out, 4);
    text(out, "action");
    uint(out, u64::from(action::MESSAGE));
    text(out, "channel");
    text(out, &operation.head.channel);
    text(out, "msgSerial");
    uint(out, msg_serial);
    text(out, "messages");
    if let Some(publish) = &operation.publish {
        publish::msgpack(out, operation, publish);
    } else {
        out.put_u8(0x91);
        msgpack_message(out, operation);
    }
}

fn msgpack_message(out: &mut BytesMut, operation: &Operation) {
    let (head, fields) = (&*operation.head, Fields::of(operation));
    let has_identity = fields.is_create || operation.serial.is_some();
    let entries = [true, true, !operation.keeps_text, true, has_identity, !fields.is_create];
    map(out, entries.into_iter().map(u8::from).sum());
    if fields.is_create {
        text(out, "id");
        text_header(out, head.create_id.len() + 2);
        out.put_slice(head.create_id.as_bytes());
        out.put_slice(b":0");
    } else if let Some(serial) = &operation.serial {
        text(out, "serial");
        text(out, serial);
    }
    text(out, "action");
    uint(out, u64::from(fields.action));
    text(out, "name");
    text(out, MESSAGE_NAME);
    if !operation.keeps_text {
        text(out, "data");
        text(out, &operation.data);
    }
    text(out, "extras");
    map(out, 1);
    text(out, "headers");
    msgpack_headers(out, operation);
    if !fields.is_create {
        text(out, "version");
        map(out, 1);
        text(out, "metadata");
        map(out, 3);
        text(out, "phase");
        text(out, fields.phase);
        text(out, "instance");
        text(out, &operation.sender.instance);
        text(out, "epoch");
        decimal_text(out, operation.sender.epoch);
    }
}

fn msgpack_headers(out: &mut BytesMut, operation: &Operation) {
    let head = &*operation.head;
    let more = [head.supersedes.is_some(), head.prev.is_some(), operation.segments.is_some()];
    map(out, 5 + more.into_iter().map(u8::from).sum::<u8>());
    text(out, "responseId");
    text(out, &head.response_id);
    text(out, "part");
    decimal_text(out, u64::from(head.part));
    text(out, "segment");
    decimal_text(out, u64::from(head.segment));
    text(out, "createId");
    text(out, &head.create_id);
    text(out, "status");
    text(out, operation.status.as_str());
    if let Some(supersedes) = &head.supersedes {
        text(out, "supersedes");
        text(out, supersedes);
    }
    if let Some(prev) = &head.prev {
        text(out, "prev");
        text(out, prev);
    }
    if let Some(segments) = operation.segments {
        text(out, "segments");
        decimal_text(out, u64::from(segments));
    }
}

/// A map of at most 15 entries.
fn map(out: &mut BytesMut, entries: u8) {
    out.put_u8(0x80 | entries);
}

fn text(out: &mut BytesMut, text: &str) {
    text_header(out, text.len());
    out.put_slice(text.as_bytes());
}

fn text_header(out: &mut BytesMut, bytes: usize) {
    if bytes < 32 {
        out.put_u8(0xa0 | bytes as u8);
    } else if let Ok(bytes) = u8::try_from(bytes) {
        out.put_slice(&[0xd9, bytes]);
    } else if let Ok(bytes) = u16::try_from(bytes) {
        out.put_u8(0xda);
        out.put_u16(bytes);
    } else {
        out.put_u8(0xdb);
        out.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

fn uint(out: &mut BytesMut, value: u64) {
    if value < 128 {
        out.put_u8(value as u8);
    } else if let Ok(value) = u8::try_from(value) {
        out.put_slice(&[0xcc, value]);
    } else if let Ok(value) = u16::try_from(value) {
        out.put_u8(0xcd);
        out.put_u16(value);
    } else if let Ok(value) = u32::try_from(value) {
        out.put_u8(0xce);
        out.put_u32(value);
    } else {
        out.put_u8(0xcf);
        out.put_u64(value);
    }
}

fn decimal_text(out: &mut BytesMut, value: u64) {
    let mut digits = [0; DIGITS_MAX];
    let digits = digits_of(value, &mut digits);
    text_header(out, digits.len());
    out.put_slice(digits);
}

fn decimal(out: &mut BytesMut, value: u64) {
    let mut digits = [0; DIGITS_MAX];
    out.put_slice(digits_of(value, &mut digits));
}

/// Digits of the largest `u64`.
const DIGITS_MAX: usize = 20;

fn digits_of(mut value: u64, digits: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut first = DIGITS_MAX;
    loop {
        first -= 1;
        digits[first] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[first..];
        }
    }
}

#[cfg(test)]
mod tests;
