//! Reads record headers of any origin.
//!
//! Kafka does not check that header names are text, and rdkafka panics on one that is not. A record like that is
//! somebody else's mistake and must not end the process, so the panic is caught here and such headers are passed over.
//! (Nothing is copied or changed until then: what is written on goes through librdkafka's own copy.)

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers};

/// The record's headers whose names are text, in order.
pub fn headers<'a>(message: &'a BorrowedMessage<'_>) -> impl Iterator<Item = Header<'a, &'a [u8]>> {
    let headers = message.headers();
    let count = headers.map_or(0, Headers::count);
    (0..count).filter_map(move |index| {
        // Reading leaves nothing half done: the panic comes after the last call into librdkafka.
        catch_unwind(AssertUnwindSafe(|| headers?.try_get(index))).unwrap_or_default()
    })
}

/// The value of the last header with this name, as Kafka's own clients choose; none when it is null.
#[must_use]
pub fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    headers(message).filter(|header| header.key == name).last()?.value
}
