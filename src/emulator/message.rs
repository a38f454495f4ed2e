//! A message and what mutations make of it.

use std::borrow::Cow;

use serde_json::Value;

use crate::ably::wire::{Data, Message, MessageVersion, message_action};

use super::errors::{Failure, failure};
use super::faults::SizeIn;
use super::limits::{FOLDED_BYTES, OVERHEAD, VERSIONS_PER_MESSAGE};
use super::rollup::Rollup;

/// A change to a message.
#[derive(Debug, Clone)]
pub(super) struct Mutation {
    /// Update, delete or append.
    pub(super) action: u8,
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) data: Option<Data<'static>>,
    pub(super) encoding: Option<Cow<'static, str>>,
    pub(super) extras: Option<Value>,
    /// Who, why; the serial and time are the server's.
    pub(super) version: MessageVersion<'static>,
}

/// What a mutation makes of a message, where Ably's documentation leaves it open, and for whom.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// Somebody is attached who has to be told.
    pub(super) watched: bool,
    /// Extras that it leaves out are cleared, not kept.
    pub(super) clears: bool,
    /// A piece says only what the append has said.
    pub(super) bare: bool,
    /// Text of refused appends appears in every later append.
    pub(super) folds_again: bool,
    /// What was deleted stays so when it is appended to.
    pub(super) stays_deleted: bool,
    /// How long reading gives what was there before.
    pub(super) lag_ms: u64,
}

/// A message as the channel keeps it.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its number in the channel; subscribers have seen it or not by this.
    pub(super) number: u64,
    latest: Message<'static>,
    versions: Vec<Message<'static>>,
    /// Bytes of all that is kept.
    bytes: usize,
    /// Text of refused appends that will appear all the same.
    folded: String,
    /// What reading gives until then.
    before: Option<(u64, Box<Message<'static>>)>,
    /// Until then all that comes is refused.
    pub(super) refused_until: u64,
    /// Appends that wait, per connection.
    pub(super) rollups: Vec<(u64, Rollup)>,
}

impl Mutation {
    /// What a message with an action other than create asks for.
    pub(super) fn of(message: Message<'static>) -> Self {
        let delete = message.action == Some(message_action::DELETE);
        // The SDKs say an empty text where they mean none.
        let nothing = |data: &Data<'_>| delete && data_len(data) == 0;
        Self {
            action: message.action.unwrap_or_default(),
            name: message.name,
            data: message.data.filter(|data| !nothing(data)),
            encoding: message.encoding,
            extras: message.extras,
            version: MessageVersion { serial: None, timestamp: None, ..message.version.unwrap_or_default() },
        }
    }

    /// Bytes of its data.
    pub(super) fn data_len(&self) -> usize {
        self.data.as_ref().map_or(0, data_len)
    }
}

impl Stored {
    pub(super) fn new(number: u64, message: Message<'static>) -> Self {
        let bytes = 2 * kept_size(&message);
        let versions = vec![message.clone()];
        let (folded, rollups) = (String::new(), Vec::new());
        Self { number, versions, latest: message, bytes, folded, before: None, refused_until: 0, rollups }
    }

    /// The latest version, whole.
    pub(super) fn latest(&self) -> &Message<'static> {
        &self.latest
    }

    /// Whether reading gives what was there before.
    pub(super) fn lags(&self, now_ms: u64) -> bool {
        self.before.as_ref().is_some_and(|(until, _)| now_ms < *until)
    }

    /// What reading gives: it may lag behind.
    pub(super) fn readable(&self, now_ms: u64) -> &Message<'static> {
        match &self.before {
            Some((until, before)) if now_ms < *until => before,
            _ => &self.latest,
        }
    }

    /// All versions but appends, oldest first, the latest as it is.
    pub(super) fn versions(&self) -> Vec<Message<'static>> {
        let mut versions = self.versions.clone();
        if versions.last().and_then(version_serial) != version_serial(&self.latest) {
            versions.push(self.latest.clone());
        }
        versions
    }

    /// Bytes of all that is kept of it.
    pub(super) const fn kept_bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that it would count with a mutation, appends that wait included.
    pub(super) fn size_with(&self, mutation: &Mutation, unit: SizeIn) -> usize {
        let latest = &self.latest;
        let text = |new: &Option<Cow<'_, str>>, old: &Option<Cow<'_, str>>| {
            new.as_ref().or(old.as_ref()).map_or(0, |text| text.len())
        };
        let extras = mutation.extras.as_ref().or(latest.extras.as_ref()).map_or(0, extras_len);
        let size_of = |data: &Option<Data<'_>>| data.as_ref().map_or(0, |data| data_size(data, unit));
        let folded = data_size(&Data::Text(self.folded.as_str().into()), unit);
        let waiting: usize = folded + self.rollups.iter().map(|(_, rollup)| rollup.size(unit)).sum::<usize>();
        let data = match (&mutation.data, mutation.action == message_action::APPEND) {
            (Some(_), false) => size_of(&mutation.data),
            _ => size_of(&latest.data) + waiting + size_of(&mutation.data),
        };
        text(&mutation.name, &latest.name) + text(&latest.client_id, &None) + data + extras
    }

    /// Whether a mutation can be applied.
    pub(super) fn accepts(&self, mutation: &Mutation) -> Result<(), Failure> {
        let mixed = matches!(
            (&self.latest.data, &mutation.data),
            (Some(Data::Text(_)), Some(Data::Binary(_))) | (Some(Data::Binary(_)), Some(Data::Text(_)))
        );
        if mutation.action == message_action::APPEND && mixed {
            return Err(failure(40013, 400, "Cannot append data of another type"));
        }
        Ok(())
    }

    /// Remembers text of a refused append: it will appear with the next one.
    pub(super) fn fold(&mut self, mutation: &Mutation) {
        if let Some(Data::Text(text)) = &mutation.data
            && self.folded.len() + text.len() <= FOLDED_BYTES
        {
            self.folded.push_str(text);
            self.bytes += text.len();
        }
    }

    /// Whether text of refused appends will appear with the next one.
    pub(super) fn folds(&self) -> bool {
        !self.folded.is_empty()
    }

    /// Applies a mutation. If it is watched, gives what subscribers get who have seen the message: for an append, the piece
    /// alone.
    pub(super) fn apply(
        &mut self,
        mut mutation: Mutation,
        version: String,
        now_ms: u64,
        manner: Manner,
    ) -> Option<Message<'static>> {
        let append = mutation.action == message_action::APPEND;
        let watched = manner.watched;
        self.remember(now_ms, manner.lag_ms);
        let folded = if append && manner.folds_again { self.folded.clone() } else { self.unfold() };
        if append
            && !folded.is_empty()
            && let Some(Data::Text(text)) = mutation.data.take()
        {
            mutation.data = Some(Data::Text(Cow::Owned(folded + &text)));
        }
        let before = kept_size(&self.latest);
        let said = manner.bare.then(|| (mutation.name.clone(), mutation.extras.clone()));
        let latest = &mut self.latest;
        latest.name = mutation.name.or(latest.name.take());
        latest.extras = mutation.extras.or(latest.extras.take().filter(|_| !manner.clears));
        if !append && mutation.data.is_some() {
            latest.encoding = mutation.encoding;
        }
        let piece = mutation.data.clone().filter(|_| append && watched);
        latest.data =
            if append { joined(latest.data.take(), mutation.data) } else { mutation.data.or(latest.data.take()) };
        let stays = manner.stays_deleted && latest.action == Some(message_action::DELETE);
        latest.action = Some(match append {
            true if stays => message_action::DELETE,
            true => message_action::UPDATE,
            false => mutation.action,
        });
        latest.version =
            Some(MessageVersion { serial: Some(version.into()), timestamp: Some(now_ms), ..mutation.version });
        self.bytes = self.bytes + kept_size(&self.latest) - before;
        if !append {
            self.keep_version();
        }
        match (watched, append) {
            (false, _) => None,
            (true, false) => Some(self.latest.clone()),
            (true, true) => {
                let whole = self.without_data();
                let (name, extras) = said.unwrap_or_else(|| (whole.name.clone(), whole.extras.clone()));
                Some(Message { name, extras, data: piece, action: Some(message_action::APPEND), ..whole })
            }
        }
    }

    /// Keeps what is there before a change, for those who read too early.
    fn remember(&mut self, now_ms: u64, lag_ms: u64) {
        if self.before.as_ref().is_none_or(|(until, _)| *until <= now_ms) {
            self.bytes -= self.before.take().map_or(0, |(_, before)| kept_size(&before));
            self.before = (lag_ms > 0).then(|| (now_ms + lag_ms, Box::new(self.latest.clone())));
            self.bytes += self.before.as_ref().map_or(0, |(_, before)| kept_size(before));
        }
    }

    fn unfold(&mut self) -> String {
        self.bytes -= self.folded.len();
        std::mem::take(&mut self.folded)
    }

    fn keep_version(&mut self) {
        self.bytes += kept_size(&self.latest);
        self.versions.push(self.latest.clone());
        if self.versions.len() > VERSIONS_PER_MESSAGE {
            // The original stays.
            self.bytes -= kept_size(&self.versions.remove(1));
        }
    }

    /// An update or delete by a connection comes: its appends that wait are superseded, or kept if the text is to stay.
    ///
    /// Those of other connections wait elsewhere, and know nothing of it.
    pub(super) fn supersede(&mut self, connection: u64, mutation: &Mutation, now_ms: u64) {
        let rollup = self.rollups.iter_mut().find(|(number, _)| *number == connection);
        if let Some((waiting, version)) = rollup.and_then(|(_, rollup)| rollup.flush(now_ms))
            && mutation.data.is_none()
        {
            self.apply(waiting, version, now_ms, Manner::default());
        }
    }

    /// The version serial of a rollup when it is published: the one that was promised, unless the message is past it.
    pub(super) fn version_of_rollup(&self, promised: String, fresh: &str) -> String {
        let latest = version_serial(&self.latest).unwrap_or_default();
        if latest < promised.as_str() { promised } else { fresh.to_owned() }
    }

    /// The rollup of a connection.
    pub(super) fn rollup(&mut self, connection: u64) -> &mut Rollup {
        let position = self.rollups.iter().position(|(number, _)| *number == connection);
        let position = position.unwrap_or_else(|| {
            self.rollups.retain(|(_, rollup)| rollup.is_waiting());
            self.rollups.push((connection, Rollup::new()));
            self.rollups.len() - 1
        });
        &mut self.rollups[position].1
    }

    fn without_data(&self) -> Message<'static> {
        let latest = &self.latest;
        Message {
            id: latest.id.clone(),
            name: latest.name.clone(),
            data: None,
            encoding: latest.encoding.clone(),
            client_id: latest.client_id.clone(),
            connection_id: latest.connection_id.clone(),
            connection_key: None,
            timestamp: latest.timestamp,
            extras: latest.extras.clone(),
            action: latest.action,
            serial: latest.serial.clone(),
            version: latest.version.clone(),
            annotations: None,
        }
    }
}

fn version_serial<'a>(message: &'a Message<'_>) -> Option<&'a str> {
    message.version.as_ref()?.serial.as_deref()
}

/// Bytes of a payload.
pub(super) fn data_len(data: &Data<'_>) -> usize {
    match data {
        Data::Text(text) => text.len(),
        Data::Binary(bytes) => bytes.len(),
    }
}

/// What a payload counts, in that unit.
pub(super) fn data_size(data: &Data<'_>, unit: SizeIn) -> usize {
    match (data, unit) {
        (Data::Text(text), SizeIn::Utf16) => text.encode_utf16().count(),
        _ => data_len(data),
    }
}

/// Text and more text, bytes and more bytes; of two kinds, the new.
pub(super) fn joined(old: Option<Data<'static>>, new: Option<Data<'static>>) -> Option<Data<'static>> {
    match (old, new) {
        (Some(Data::Text(text)), Some(Data::Text(more))) => {
            let mut text = text.into_owned();
            text.push_str(&more);
            Some(Data::Text(Cow::Owned(text)))
        }
        (Some(Data::Binary(bytes)), Some(Data::Binary(more))) => {
            let mut bytes = bytes.into_owned();
            bytes.extend_from_slice(&more);
            Some(Data::Binary(Cow::Owned(bytes)))
        }
        (old, new) => new.or(old),
    }
}

fn extras_len(extras: &Value) -> usize {
    // Counted without writing it down: appends repeat their extras.
    match extras {
        Value::Null => 4,
        Value::Bool(yes) => 5 - usize::from(*yes),
        Value::Number(number) => number.to_string().len(),
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.len().saturating_sub(1) + items.iter().map(extras_len).sum::<usize>(),
        Value::Object(fields) => {
            let inner: usize = fields.iter().map(|(name, value)| name.len() + 3 + extras_len(value)).sum();
            2 + fields.len().saturating_sub(1) + inner
        }
    }
}

/// What a message counts against the limit: name, client id, data, extras.
pub(super) fn size(message: &Message<'_>, unit: SizeIn) -> usize {
    let text = |value: &Option<Cow<'_, str>>| value.as_ref().map_or(0, |text| text.len());
    let extras = message.extras.as_ref().map_or(0, extras_len);
    text(&message.name)
        + text(&message.client_id)
        + message.data.as_ref().map_or(0, |data| data_size(data, unit))
        + extras
}

/// What keeping a message takes: that, and all else that clients say and the server adds.
fn kept_size(message: &Message<'_>) -> usize {
    let text = |value: &Option<Cow<'_, str>>| value.as_ref().map_or(0, |text| text.len());
    let version = message.version.as_ref().map_or(0, |version| {
        let metadata = version.metadata.iter().flatten().map(|(name, value)| name.len() + value.len() + OVERHEAD / 4);
        text(&version.serial) + text(&version.client_id) + text(&version.description) + metadata.sum::<usize>()
    });
    size(message, SizeIn::Bytes)
        + [&message.id, &message.encoding, &message.connection_id, &message.serial].into_iter().map(text).sum::<usize>()
        + message.annotations.as_ref().map_or(0, extras_len)
        + version
        + OVERHEAD
}

/// A copy of a message that borrows nothing.
pub(super) fn owned(message: Message<'_>) -> Message<'static> {
    let text = |value: Option<Cow<'_, str>>| value.map(|text| Cow::Owned(text.into_owned()));
    Message {
        id: text(message.id),
        name: text(message.name),
        data: message.data.map(Data::into_owned),
        encoding: text(message.encoding),
        client_id: text(message.client_id),
        connection_id: text(message.connection_id),
        connection_key: None,
        timestamp: message.timestamp,
        extras: message.extras,
        action: message.action,
        serial: text(message.serial),
        version: message.version.map(owned_version),
        annotations: message.annotations,
    }
}

fn owned_version(version: MessageVersion<'_>) -> MessageVersion<'static> {
    let text = |value: Option<Cow<'_, str>>| value.map(|text| Cow::Owned(text.into_owned()));
    let metadata = version.metadata.map(|metadata| {
        metadata.into_iter().map(|(k, v)| (Cow::Owned(k.into_owned()), Cow::Owned(v.into_owned()))).collect()
    });
    MessageVersion {
        serial: text(version.serial),
        timestamp: version.timestamp,
        client_id: text(version.client_id),
        description: text(version.description),
        metadata,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHED: Manner =
        Manner { watched: true, clears: false, bare: false, folds_again: false, stays_deleted: false, lag_ms: 0 };

    fn stored(text: &'static str) -> Stored {
        let version = MessageVersion { serial: Some("1".into()), ..MessageVersion::default() };
        Stored::new(
            0,
            Message {
                serial: Some("1".into()),
                name: Some("n".into()),
                data: Some(Data::Text(text.into())),
                extras: Some(serde_json::json!({"headers": {"a": 1, "b": 2}})),
                version: Some(version),
                ..Message::default()
            },
        )
    }

    fn mutation(action: u8, text: &'static str) -> Mutation {
        Mutation {
            action,
            name: None,
            data: Some(Data::Text(text.into())),
            encoding: None,
            extras: None,
            version: MessageVersion::default(),
        }
    }

    #[test]
    fn an_append_adds_and_subscribers_get_the_piece() {
        let mut message = stored("one");
        let delta =
            message.apply(mutation(message_action::APPEND, " two"), "2".to_owned(), 5, WATCHED).expect("a piece");
        assert_eq!((delta.data, delta.action), (Some(Data::Text(" two".into())), Some(message_action::APPEND)));
        assert_eq!(delta.name.as_deref(), Some("n"), "what is not said is carried forward");
        assert_eq!(message.latest().data, Some(Data::Text("one two".into())));
        assert_eq!(message.latest().action, Some(message_action::UPDATE));
        assert_eq!(message.versions().len(), 2);
    }

    #[test]
    fn extras_are_replaced_as_a_whole() {
        let mut message = stored("one");
        let extras = Some(serde_json::json!({"headers": {"a": 3}}));
        let update = message.apply(
            Mutation { extras: extras.clone(), ..mutation(message_action::UPDATE, "x") },
            "2".to_owned(),
            5,
            WATCHED,
        );
        let update = update.expect("the whole");
        assert_eq!((update.data, update.extras), (Some(Data::Text("x".into())), extras));
    }

    #[test]
    fn refused_text_can_appear_with_the_next_append() {
        let mut message = stored("a");
        message.fold(&mutation(message_action::APPEND, "b"));
        let nobody = message.apply(mutation(message_action::APPEND, "c"), "2".to_owned(), 5, Manner::default());
        assert_eq!((message.latest().data.clone(), nobody), (Some(Data::Text("abc".into())), None));
    }

    #[test]
    fn data_of_another_type_cannot_be_appended() {
        let bytes = Mutation { data: Some(Data::Binary(vec![1].into())), ..mutation(message_action::APPEND, "") };
        assert_eq!(stored("a").accepts(&bytes).expect_err("it is refused").code, 40013);
    }

    #[test]
    fn the_size_is_that_of_the_whole() {
        let mut message = stored("one");
        assert_eq!(size(message.latest(), SizeIn::Bytes), 1 + 3 + r#"{"headers":{"a":1,"b":2}}"#.len());
        let append = mutation(message_action::APPEND, "four");
        assert_eq!(message.size_with(&append, SizeIn::Bytes), size(message.latest(), SizeIn::Bytes) + 4);
        assert_eq!(
            message.size_with(&mutation(message_action::UPDATE, "four"), SizeIn::Bytes),
            size(message.latest(), SizeIn::Bytes) + 1
        );
        message.apply(append, "2".to_owned(), 5, Manner::default());
        assert_eq!(message.kept_bytes(), kept(&message));
    }

    fn kept(message: &Stored) -> usize {
        let before = message.before.iter().map(|(_, before)| &**before);
        let all = message.versions.iter().chain([message.latest()]).chain(before);
        all.map(kept_size).sum::<usize>() + message.folded.len()
    }

    #[test]
    fn all_that_is_kept_of_a_message_is_counted() {
        let long = "x".repeat(500_000);
        let version = MessageVersion {
            description: Some(long.clone().into()),
            metadata: Some([("why".into(), long.clone().into())].into()),
            ..MessageVersion::default()
        };
        let create = Message {
            id: Some(long.clone().into()),
            encoding: Some(long.clone().into()),
            annotations: Some(serde_json::json!({"summary": {"x": long}})),
            ..Message::default()
        };
        let mut message = Stored::new(0, create);
        assert_eq!(size(message.latest(), SizeIn::Bytes), 0, "none of it counts against the limit of a message");
        assert!(message.kept_bytes() >= 2 * 1_500_000 && message.kept_bytes() == kept(&message));
        let lags = Manner { lag_ms: 10, ..Manner::default() };
        for (at, action) in [(1, message_action::UPDATE), (2, message_action::APPEND), (20, message_action::UPDATE)] {
            let change = Mutation { version: version.clone(), ..mutation(action, "x") };
            message.fold(&mutation(message_action::APPEND, "refused"));
            message.apply(change, at.to_string(), at, lags);
            assert_eq!(message.kept_bytes(), kept(&message));
        }
        // The create; and two versions, the latest, and what was before it, each without the encoding of the create.
        assert!(message.kept_bytes() >= 1_500_000 + 4 * 2_000_000, "{}", message.kept_bytes());
    }

    #[test]
    fn texts_of_refused_appends_have_a_bound_and_count() {
        let mut message = stored("one");
        let size = |message: &Stored| message.size_with(&mutation(message_action::APPEND, "x"), SizeIn::Bytes);
        let before = size(&message);
        for _ in 0..FOLDED_BYTES {
            message.fold(&mutation(message_action::APPEND, "refused"));
        }
        let folded = FOLDED_BYTES / "refused".len() * "refused".len();
        assert_eq!(
            (message.folded.len(), size(&message), message.kept_bytes()),
            (folded, before + folded, kept(&message))
        );
    }

    #[test]
    fn an_update_without_text_keeps_the_appends_that_wait() {
        let window = std::time::Duration::from_secs(1);
        for (text, expected) in [(None, "one two"), (Some("new"), "new")] {
            let mut message = stored("one");
            let rollup = message.rollup(7);
            rollup.append(mutation(message_action::APPEND, "!"), 5_000, window, "2", false);
            rollup.append(mutation(message_action::APPEND, " two"), 5_000, window, "3", false);
            let data = text.map(|text: &str| Data::Text(text.to_owned().into()));
            let update = Mutation { data, ..mutation(message_action::UPDATE, "") };
            message.supersede(7, &update, 5_001);
            message.apply(update, "4".to_owned(), 5_001, Manner::default());
            assert_eq!(message.latest().data, Some(Data::Text(expected.into())));
            assert!(message.rollup(7).flush(5_002).is_none());
        }
    }
}
