//! Batches: what is published to many channels in one request.

use bytes::{BufMut, BytesMut};

use super::{json_str, map, text};
use crate::ably::wire::Encoding;

/// Writes a batch of bodies that are encoded already, each with its channel.
pub(super) fn write<'a>(
    encoding: Encoding,
    out: &mut BytesMut,
    parts: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>,
) {
    match encoding {
        Encoding::Json => json(out, parts),
        Encoding::Msgpack => msgpack(out, parts),
    }
}

fn json<'a>(out: &mut BytesMut, parts: impl Iterator<Item = (&'a str, &'a [u8])>) {
    out.put_u8(b'[');
    for (index, (channel, messages)) in parts.enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(b"{\"channels\":");
        json_str(out, channel);
        out.put_slice(b",\"messages\":");
        out.put_slice(messages);
        out.put_u8(b'}');
    }
    out.put_u8(b']');
}

fn msgpack<'a>(out: &mut BytesMut, parts: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>) {
    out.put_u8(0xdc);
    out.put_u16(u16::try_from(parts.len()).unwrap_or(u16::MAX));
    for (channel, messages) in parts {
        map(out, 2);
        text(out, "channels");
        text(out, channel);
        text(out, "messages");
        out.put_slice(messages);
    }
}
