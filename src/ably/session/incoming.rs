//! What the server says, as far as a publisher listens: decoded without a copy of anything that is not kept.
//!
//! Acknowledgements are most of it, so of each frame's serials only the first is read (a mutation has one, and so has each
//! create of ours), and messages are skipped unread.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::super::wire::{ConnectionDetails, ErrorInfo};

/// A frame from the server.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Incoming<'a> {
    pub(super) action: u8,
    #[serde(default)]
    pub(super) msg_serial: Option<u64>,
    #[serde(default)]
    pub(super) count: Option<u32>,
    #[serde(default, borrow)]
    pub(super) res: Option<Vec<Option<Given<'a>>>>,
    #[serde(default, borrow)]
    pub(super) error: Option<ErrorInfo<'a>>,
    #[serde(default)]
    pub(super) channel: Option<String>,
    #[serde(default)]
    pub(super) connection_id: Option<String>,
    #[serde(default)]
    pub(super) connection_key: Option<String>,
    #[serde(default, borrow)]
    pub(super) connection_details: Option<Box<ConnectionDetails<'a>>>,
}

impl Incoming<'_> {
    /// The serial that the `index`th frame of an acknowledgement was given.
    pub(super) fn serial(&self, index: u64) -> Option<&str> {
        let index = usize::try_from(index).ok()?;
        self.res.as_ref()?.get(index)?.as_ref()?.serials.0.as_deref()
    }
}

/// What one frame was given.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Given<'a> {
    #[serde(default, borrow)]
    serials: First<'a>,
}

/// The first of a list of texts, if there is one and it is not null.
#[derive(Debug, Default)]
struct First<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for First<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = First<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of serials")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(First(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let first = list.next_element::<Option<Text<'de>>>()?.flatten();
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first.map(|text| text.0)))
            }
        }

        deserializer.deserialize_any(List)
    }
}

/// A text that borrows from the frame whenever it can.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;

        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrowing)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::super::wire::{Encoding, ProtocolMessage, PublishResult, action};
    use super::*;

    #[test]
    fn an_acknowledgement_borrows_its_serials() {
        let serials = vec![Some("S8".into()), None];
        let res = vec![PublishResult { serials }, PublishResult { serials: vec![None] }, PublishResult::default()];
        let (msg_serial, count) = (Some(7), Some(3));
        let ack = ProtocolMessage { action: action::ACK, msg_serial, count, res: Some(res), ..Default::default() };
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let mut bytes = Vec::new();
            encoding.encode(&ack, &mut bytes).expect("encodes");
            let incoming: Incoming<'_> = encoding.decode(&bytes).expect("decodes");
            assert_eq!((incoming.msg_serial, incoming.count), (Some(7), Some(3)));
            let given = incoming.res.as_ref().and_then(|res| res[0].as_ref());
            assert!(matches!(given, Some(Given { serials: First(Some(Cow::Borrowed("S8"))) })));
            assert_eq!(
                [0, 1, 2, 3, u64::MAX].map(|index| incoming.serial(index)),
                [Some("S8"), None, None, None, None]
            );
        }
    }

    #[test]
    fn null_stands_for_nothing_anywhere() {
        for text in [
            r#"{"action":1,"msgSerial":0,"count":1,"res":null,"error":null,"channel":null,"connectionDetails":null}"#,
            r#"{"action":1,"msgSerial":0,"count":1,"res":[null]}"#,
            r#"{"action":1,"msgSerial":0,"count":1,"res":[{"serials":null}]}"#,
            r#"{"action":1,"msgSerial":0,"count":1,"res":[{"serials":[]}]}"#,
            r#"{"action":1,"msgSerial":0,"count":1,"res":[{}],"messages":[{"data":{"deep":[1]}}]}"#,
        ] {
            let incoming: Incoming<'_> = Encoding::Json.decode(text.as_bytes()).expect("decodes");
            assert_eq!(incoming.serial(0), None, "{text}");
        }
        let escaped = r#"{"action":1,"msgSerial":0,"res":[{"serials":["a\"b"]}]}"#;
        let incoming: Incoming<'_> = Encoding::Json.decode(escaped.as_bytes()).expect("decodes");
        assert_eq!(incoming.serial(0), Some("a\"b"));
    }

    /// Says what an acknowledgement costs, for whoever runs it with `--nocapture`; asserts only that it ran.
    #[test]
    fn cost_of_an_acknowledgement() {
        let given = || PublishResult { serials: vec![Some("01826232498871-001@abcdefghij:000".into())] };
        let (msg_serial, count, res) = (Some(1_000_000), Some(20), Some((0..20).map(|_| given()).collect()));
        let ack = ProtocolMessage { action: action::ACK, msg_serial, count, res, ..Default::default() };
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let mut bytes = Vec::new();
            encoding.encode(&ack, &mut bytes).expect("encodes");
            let started = Instant::now();
            let mut seen = 0;
            for _ in 0..1_000 {
                let incoming: Incoming<'_> = encoding.decode(&bytes).expect("decodes");
                seen += (0..20).filter_map(|index| incoming.serial(index)).count();
            }
            eprintln!("{encoding:?}: {} ns a frame acknowledged", started.elapsed().as_nanos() / 20_000);
            assert_eq!(seen, 20_000);
        }
    }
}
