//! Looks things up again: texts that were dropped from memory, in the topic; messages of creates long in doubt, in their
//! channel's history. Each is a task that tries until it has an answer, and how many run at once is bounded.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::quiet::Quiet;
use crate::ably;
use crate::decode::{Decoder, Raw};
use crate::engine::{EventKind, Found, Latest, LookUp, OpId, ReadBack, Reload};
use crate::kafka::reader::Reader;
use crate::kafka::{self, header, source::Lag};

/// Of each kind, so many run at once.
const AT_ONCE: usize = 8;
const BEFORE_NEXT_TRY: Duration = Duration::from_millis(500);

/// What has been found out.
#[derive(Debug)]
pub(super) enum Done {
    /// A text; none when its records are gone.
    Reloaded { partition: i32, id: OpId, text: Option<String> },
    /// A message, or that there is none.
    LookedUp { partition: i32, id: OpId, found: Found },
    /// What a message is.
    ReadBack { partition: i32, id: OpId, latest: Latest },
    /// How far behind each partition is.
    Lag(Result<Vec<Lag>, kafka::Error>),
}

/// Looks things up again.
#[derive(Debug)]
pub(super) struct Again {
    reader: Reader,
    decoder: Arc<Decoder>,
    ably: ably::History,
    reloads: Arc<Semaphore>,
    look_ups: Arc<Semaphore>,
    read_backs: Arc<Semaphore>,
    quiet: Quiet,
    pub(super) tasks: JoinSet<Done>,
}

impl Again {
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(reader: Reader, decoder: Decoder, ably: ably::Settings) -> Result<Self, ably::Error> {
        let [reloads, look_ups, read_backs] = [(); 3].map(|()| Arc::new(Semaphore::new(AT_ONCE)));
        let (decoder, ably) = (Arc::new(decoder), ably::History::new(ably)?);
        let (quiet, tasks) = (Quiet::default(), JoinSet::new());
        Ok(Self { reader, decoder, ably, reloads, look_ups, read_backs, quiet, tasks })
    }

    /// Reads a text again.
    pub(super) fn reload(&mut self, partition: i32, reload: Reload) {
        let (reader, decoder, permits) = (self.reader.clone(), self.decoder.clone(), self.reloads.clone());
        let quiet = self.quiet.clone();
        self.tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let reload = Arc::new(reload);
            let text = loop {
                match read(&reader, &decoder, partition, &reload).await {
                    Ok(text) => break Some(text),
                    Err(kafka::Error::Gone { .. }) => break None,
                    Err(error) => {
                        later(&quiet, &error, partition);
                        sleep(BEFORE_NEXT_TRY).await;
                    }
                }
            };
            Done::Reloaded { partition, id: reload.id, text }
        });
    }

    /// Looks for a message.
    pub(super) fn look_up(&mut self, look_up: LookUp) {
        let (ably, permits, quiet) = (self.ably.clone(), self.look_ups.clone(), self.quiet.clone());
        self.tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let found = match ably.look_up(&look_up).await {
                Ok(found) => found,
                Err(error) => {
                    unreadable(&quiet, &error, &look_up.head.channel);
                    Found::Unreadable
                }
            };
            Done::LookedUp { partition: look_up.id.partition, id: look_up.id, found }
        });
    }

    /// Reads a message back.
    pub(super) fn read_back(&mut self, read_back: ReadBack) {
        let (ably, permits) = (self.ably.clone(), self.read_backs.clone());
        self.tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let ReadBack { id, head, serial } = read_back;
            let latest = ably.read_back(&head.channel, &serial).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "a message cannot be read back");
                Latest::Unreadable
            });
            Done::ReadBack { partition: id.partition, id, latest }
        });
    }
}

/// Many texts may be wanted while Kafka is away.
fn later(quiet: &Quiet, error: &kafka::Error, partition: i32) {
    if let Some(suppressed) = quiet.due("text") {
        tracing::warn!(%error, partition, suppressed, "a text is read again later");
    }
}

/// After a takeover many messages may be looked for.
fn unreadable(quiet: &Quiet, error: &ably::Error, channel: &str) {
    if let Some(suppressed) = quiet.due("history") {
        tracing::warn!(%error, channel, suppressed, "the channel's history cannot be read");
    }
}

async fn read(
    reader: &Reader,
    decoder: &Arc<Decoder>,
    partition: i32,
    reload: &Arc<Reload>,
) -> Result<String, kafka::Error> {
    let (first, last) = reload.offsets;
    loop {
        let (decoder, wanted) = (decoder.clone(), reload.clone());
        let add = move |text: &mut String, message: &BorrowedMessage<'_>| add_tokens(text, message, &decoder, &wanted);
        match reader.read(partition, first..=last, String::new(), add) {
            Some(reading) => return reading.await,
            None => sleep(BEFORE_NEXT_TRY).await,
        }
    }
}

fn add_tokens(text: &mut String, message: &BorrowedMessage<'_>, decoder: &Decoder, wanted: &Reload) {
    let raw = Raw { key: message.key(), value: message.payload(), header: |name: &str| header(message, name) };
    let mut events = Vec::new();
    if decoder.decode(&raw, &mut events).is_ok() {
        for event in events {
            if let EventKind::Token(token) = &event.kind
                && event.part == wanted.part
                && *event.response_id == *wanted.response_id
            {
                text.push_str(token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::quiet::tests::Log;
    use super::*;

    #[test]
    fn what_cannot_be_looked_up_is_one_line_however_many_want_it() {
        let quiet = Quiet::default();
        let log = Log::of(|| {
            for turn in 0..1_000 {
                unreadable(&quiet, &ably::Error::Silent(BEFORE_NEXT_TRY), &format!("ai:{turn}"));
                later(&quiet, &kafka::Error::Settings { reason: String::new() }, turn);
            }
        });
        assert_eq!(log.len(), 2, "{log:?}");
    }
}
