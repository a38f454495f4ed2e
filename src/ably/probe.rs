//! Questions before the work begins: can we connect, and does a channel take what we would send?

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::fault::Error;
use super::history::History;
use super::pool::{Event, Pool, Settings};
use super::session::Details;
use crate::engine::{
    ConnectionId, Doubt, Found, Head, LookUp, OpId, OpKind, Operation, Outcome, Sender, Serial, Status, Time,
};

/// The connection that questions are asked on.
const CONNECTION: ConnectionId = 0;

/// How long a probe may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The answer that was asked for names this operation.
const OPERATION: OpId = OpId { partition: 0, slot: 0, generation: 0, seq: 0 };

/// How often a message is looked for that was taken without a serial, and how long between: histories lag, and nobody says
/// when they no longer do.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// The message that was made to try a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Ably's name for the connection that made it.
    pub ably_id: Arc<str>,
    /// Its serial.
    pub serial: Serial,
}

impl Tried {
    /// Its text.
    pub const TEXT: &'static str = "tokenrelay check";
}

/// Its text, as it is made and as it is appended to.
const PIECES: [&str; 2] = ["tokenrelay", " check"];

/// Connects once and says what the server allows.
///
/// # Errors
/// Why it could not; [`Error::is_fatal`] tells what a person must mend from what is only unreachable.
pub async fn probe(settings: Settings) -> Result<Details, Error> {
    let mut probe = Probe::open(settings);
    let details = probe.connected().await;
    probe.close().await;
    details
}

/// Makes a message on a channel and appends to it: so the channel's rule and our capabilities are known before the first
/// response. The message stays on the channel.
///
/// # Errors
/// Why it could not; [`Error::Channel`] when the channel refuses.
pub async fn probe_channel(settings: Settings, channel: &str) -> Result<Tried, Error> {
    let mut probe = Probe::open(settings.clone());
    let checked = probe.check(&settings, channel).await;
    probe.close().await;
    checked
}

struct Probe {
    pool: Pool,
    events: mpsc::Receiver<Event>,
}

impl Probe {
    fn open(settings: Settings) -> Self {
        let (sender, events) = mpsc::channel(16);
        let mut pool = Pool::new(settings, sender);
        pool.open(CONNECTION);
        Self { pool, events }
    }

    async fn connected(&mut self) -> Result<Details, Error> {
        match self.events.recv().await {
            Some(Event::Up { resumed, ably_id, max_message_size, max_inbound_rate, client_id, .. }) => {
                Ok(Details { resumed, ably_id, max_message_size, max_inbound_rate, client_id })
            }
            // It tries once more with whatever there is by now, and says whether that was refused, too.
            Some(Event::Down { reason, .. }) if reason.asks_for_newer() => Box::pin(self.connected()).await,
            Some(Event::Down { reason: error, .. } | Event::Fatal { error, .. }) => Err(error),
            Some(_) | None => Err(ended()),
        }
    }

    async fn check(&mut self, settings: &Settings, channel: &str) -> Result<Tried, Error> {
        let ably_id = self.connected().await?.ably_id;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("check.{}.{:08x}", since_epoch.as_millis(), fastrand::u32(..));
        let head = Arc::new(Head {
            channel: channel.into(),
            response_id: id.as_str().into(),
            part: 0,
            segment: 0,
            create_id: id.into(),
            supersedes: None,
            prev: None,
        });
        let serial = match self.ask(&head, None).await? {
            Some(serial) => serial,
            None => find(settings, head.clone(), since_epoch).await?,
        };
        self.ask(&head, Some(serial.clone())).await?;
        Ok(Tried { ably_id, serial })
    }

    /// Sends one operation, a create without a serial and an append with one, and waits for its answer. One without an answer
    /// says nothing of the channel.
    async fn ask(&mut self, head: &Arc<Head>, serial: Option<Serial>) -> Result<Option<Serial>, Error> {
        let (kind, data, status) = match serial {
            None => (OpKind::Create, PIECES[0], Status::Streaming),
            Some(_) => (OpKind::Append, PIECES[1], Status::Complete),
        };
        let id = OpId { seq: u32::from(serial.is_some()), ..OPERATION };
        let data = data.into();
        let operation = Operation {
            id,
            connection: CONNECTION,
            kind,
            sender: Arc::new(Sender { instance: "check".into(), epoch: 0 }),
            head: head.clone(),
            serial,
            data,
            keeps_text: false,
            status,
            segments: None,
            publish: None,
        };
        self.pool.send(CONNECTION, &mut vec![operation]);
        loop {
            match self.events.recv().await {
                Some(Event::Answers(answers)) => match answers.into_iter().next().map(|answer| answer.outcome) {
                    Some(Outcome::Acked { serial }) => return Ok(serial),
                    Some(Outcome::Rejected(refused)) => {
                        let (channel, code, message) = (head.channel.to_string(), refused.code, refused.message);
                        return Err(Error::Channel { channel, code, message });
                    }
                    Some(Outcome::Unknown(Doubt::NoSerial)) => return Ok(None),
                    Some(Outcome::Unknown(_)) | None => return Err(ended()),
                },
                Some(Event::Fatal { error, .. } | Event::Down { reason: error, .. }) => return Err(error),
                Some(_) => {}
                None => return Err(ended()),
            }
        }
    }

    async fn close(self) {
        let Self { mut pool, mut events } = self;
        let closing = pool.close(CLOSE_TIMEOUT);
        drop(pool);
        let drain = async { while events.recv().await.is_some() {} };
        tokio::join!(closing, drain);
    }
}

/// Looks for the message whose create was taken without a serial. Channels that lack the rule answer so, but not they alone:
/// an append tells.
async fn find(settings: &Settings, head: Arc<Head>, since_epoch: Duration) -> Result<Serial, Error> {
    let channel = head.channel.to_string();
    let since = Time::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or_default());
    let (history, look_up) =
        (History::new(settings.clone())?, LookUp { id: OPERATION, head, since, known: Vec::new() });
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        match history.look_up(&look_up).await? {
            Found::Message { serial, .. } => return Ok(serial),
            Found::Refused(refused) => {
                let words = refused.message;
                let message = format!("a message was taken without a serial, and may not be looked up: {words}");
                return Err(Error::Channel { channel, code: refused.code, message });
            }
            Found::Successor { .. } | Found::Others | Found::Unreadable | Found::Nothing => {}
        }
    }
    let message = "a message was taken without a serial, and is not in history".to_owned();
    Err(Error::Channel { channel, code: 93002, message })
}

fn ended() -> Error {
    Error::TransportLost("ended before the answer".to_owned())
}
