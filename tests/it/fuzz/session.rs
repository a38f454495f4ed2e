//! The session with any server: whatever comes, in whatever order, every operation is answered exactly once, and truly.
//!
//! The bytes decide what happens next. A model notes what was written under which number and what the server has said of it,
//! and looks at everything that the session asks for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokenrelay::ably::fault::{DISCONNECTED, Error};
use tokenrelay::ably::session::{Action, Details, Session, Settings};
use tokenrelay::ably::wire::{ConnectionDetails, Data, Encoding, ErrorInfo, ProtocolMessage, PublishResult, action};
use tokenrelay::engine::{Answer, Head, OpId, OpKind, Operation, Outcome, Publish, PublishName, Status, Time};

use super::feed::{Feed, STATUSES, cut};

const CONNECTION: u32 = 3;

/// What happened in a play; a test asks whether enough did.
#[derive(Debug, Default)]
pub(crate) struct Played {
    pub(crate) acked: u32,
    pub(crate) rejected: u32,
    pub(crate) unknown: u32,
    pub(crate) resent: u32,
    pub(crate) resumed: u32,
    pub(crate) lost: u32,
}

/// Plays what the bytes say, to the end.
pub(crate) fn check(bytes: &[u8]) -> Played {
    let mut world = World::new(Feed::new(bytes));
    while !world.feed.is_empty() {
        world.step();
        world.look();
    }
    world.end();
    world.played
}

/// The session, its server, and an eye on what the one makes of the other.
struct World<'a> {
    feed: Feed<'a>,
    settings: Settings,
    session: Session,
    now: Time,
    actions: Vec<Action>,
    /// Whether an operation was to create a message to append to, by number.
    sent: Vec<bool>,
    answered: HashSet<u32>,
    /// The connection that the server keeps for us, by its name.
    kept: Option<Arc<str>>,
    frames: Frames,
    /// What a new transport must begin with, once something is written to it.
    again: Option<VecDeque<u64>>,
    has_transport: bool,
    is_up: bool,
    is_closing: bool,
    is_closed: bool,
    /// The last frame was one that only the session can read, perhaps.
    blind: bool,
    played: Played,
}

/// What was written on the present connection, and what was said of it.
#[derive(Default)]
struct Frames {
    /// By number, and how often.
    written: HashMap<u64, (Vec<u8>, u32)>,
    /// The number of each operation.
    numbers: HashMap<u32, u64>,
    /// Without an answer, in order.
    pending: Vec<u64>,
    /// What the server has taken, and as what.
    taken: HashMap<u64, Vec<Option<String>>>,
    refused: HashSet<u64>,
}

impl<'a> World<'a> {
    fn new(mut feed: Feed<'a>) -> Self {
        let settings = Settings {
            connection: CONNECTION,
            encoding: feed.one_of(&[Encoding::Json, Encoding::Msgpack]),
            ack_timeout: Duration::from_secs(30),
            trust_resume: feed.flag(),
            seed: feed.below(256),
        };
        let now = Time::from_millis(1_000_000);
        Self {
            feed,
            settings,
            session: Session::new(settings, now),
            now,
            actions: Vec::new(),
            sent: Vec::new(),
            answered: HashSet::new(),
            kept: None,
            frames: Frames::default(),
            again: None,
            has_transport: false,
            is_up: false,
            is_closing: false,
            is_closed: false,
            blind: false,
            played: Played::default(),
        }
    }

    fn step(&mut self) {
        self.blind = false;
        match self.feed.below(100) {
            0..38 => self.send(),
            38..64 if self.is_up => self.answer(),
            64..69 if self.has_transport => {
                let reason = Error::TransportLost("reset".to_owned());
                self.session.disconnected(self.now, reason, &mut self.actions);
                self.has_transport = false;
            }
            69..73 => self.fail(),
            73..75 => self.connect(),
            75..78 => self.anything(),
            78 => {
                self.session.abandon(self.now, &mut self.actions);
                assert!(self.is_closing || self.session.in_flight() == (0, 0), "nothing is left of it");
            }
            79 => {
                let deadline = self.now + Duration::from_millis(self.feed.below(10_000));
                self.is_closing = true;
                self.session.close(deadline, &mut self.actions);
            }
            80 => self.receive(&ProtocolMessage { action: action::CLOSED, ..ProtocolMessage::default() }),
            81 => self.receive(&ProtocolMessage { action: action::AUTH, ..ProtocolMessage::default() }),
            82 => self.session.authorise("newer", &mut self.actions),
            83 => self.session.heard(self.now),
            _ if self.has_transport && !self.is_up => self.connect(),
            84..92 => self.wait(),
            _ => self.pass(),
        }
    }

    fn send(&mut self) {
        let drawn = self.feed.below(256) as usize;
        let kind = match drawn / 3 % 3 {
            2 => OpKind::Publish,
            _ => [OpKind::Append, OpKind::Create, OpKind::Update][drawn % 3],
        };
        let operation = operation(kind, self.sent.len() as u32, STATUSES[drawn % STATUSES.len()], 1 + drawn % 5);
        self.sent.push(kind == OpKind::Create);
        self.session.send(self.now, &operation, &mut self.actions);
    }

    fn pass(&mut self) {
        let most = self.feed.one_of(&[3_000, 3_000, 40_000, 200_000]);
        self.now = self.now + Duration::from_millis(self.feed.below(most));
        self.session.tick(self.now, &mut self.actions);
    }

    /// Until the session wants to be told the time.
    fn wait(&mut self) {
        if let Some(deadline) = self.session.next_deadline() {
            self.now = self.now.max(deadline);
            self.session.tick(self.now, &mut self.actions);
        }
    }

    fn connect(&mut self) {
        let id = match (self.feed.below(4), &self.kept) {
            (0..3, Some(kept)) => Some(kept.to_string()),
            (1, None) => None,
            _ => Some(format!("id-{}", self.feed.below(8))),
        };
        let key = (self.feed.below(8) > 0).then(|| "key".into());
        let details = ConnectionDetails {
            connection_key: key,
            connection_state_ttl: self.feed.one_of(&[Some(120_000), None, Some(5_000), Some(0)]),
            max_idle_interval: self.feed.one_of(&[Some(15_000), None, Some(0)]),
            ..ConnectionDetails::default()
        };
        let (connection_id, connection_details) = (id.map(Into::into), Some(details));
        let action = action::CONNECTED;
        self.receive(&ProtocolMessage { action, connection_id, connection_details, ..ProtocolMessage::default() });
    }

    fn fail(&mut self) {
        let any = self.feed.below(100_000) as u32;
        let code = self.feed.one_of(&[any, 40_142, 80_003, 42_921, 40_101, 50_003, 40_160]);
        let status_code = self.feed.one_of(&[400, 401, 403, 404, 429, 500, 503, 0]);
        let error = Some(ErrorInfo { code, status_code, ..ErrorInfo::default() }).filter(|_| self.feed.below(8) > 0);
        let channel = self.feed.flag().then(|| "ai:x".into());
        let action = self.feed.one_of(&[action::DISCONNECTED, action::ERROR]);
        self.receive(&ProtocolMessage { action, channel, error, ..ProtocolMessage::default() });
    }

    /// Any answer that a server could give, and some that none should.
    fn answer(&mut self) {
        let next = self.frames.written.len() as u64;
        let from = match self.frames.pending.first() {
            Some(first) if self.feed.below(4) > 0 => *first,
            _ => self.feed.below(next + 3),
        };
        let count = self.feed.below(5) as u32;
        let given = self.feed.below(u64::from(count) + 1);
        // One for each message of the frame, of which the first may be missing.
        let serial = |index: u64| {
            let number = from + index;
            let first = (number % 7 < 6).then(|| format!("V{number}").into());
            let more = (0..number % 3).map(|message| Some(format!("V{number}:{message}").into()));
            PublishResult { serials: std::iter::once(first).chain(more).collect() }
        };
        let action = self.feed.one_of(&[action::ACK, action::ACK, action::NACK]);
        let answer = ProtocolMessage {
            action,
            msg_serial: (self.feed.below(8) > 0).then_some(from),
            count: (self.feed.below(8) > 0).then_some(count),
            res: (self.feed.below(8) > 0).then(|| (0..given).map(serial).collect()),
            ..ProtocolMessage::default()
        };
        self.receive(&answer);
    }

    /// Bytes that need not be a frame at all.
    fn anything(&mut self) {
        let bytes = self.feed.some();
        self.hear(bytes);
        self.session.receive(self.now, bytes, &mut self.actions);
    }

    fn receive(&mut self, frame: &ProtocolMessage<'_>) {
        let mut bytes = Vec::new();
        self.settings.encoding.encode(frame, &mut bytes).expect("it encodes");
        self.hear(&bytes);
        self.session.receive(self.now, &bytes, &mut self.actions);
    }

    /// Notes what the server says of frames.
    fn hear(&mut self, bytes: &[u8]) {
        let said: Result<Said, _> = self.settings.encoding.decode(bytes);
        let Ok(said) = said else {
            self.blind = true;
            return;
        };
        let Some(from) = said.msg_serial else { return };
        let end = from.saturating_add(said.count.map_or(1, u64::from));
        let frames = &mut self.frames;
        let covered: Vec<u64> = frames.written.keys().copied().filter(|number| (from..end).contains(number)).collect();
        for number in covered {
            let given = said.res.as_ref().and_then(|res| res.get((number - from) as usize)?.as_ref());
            let serial = given.and_then(|given| given.serials.as_ref()?.first()?.clone());
            match said.action {
                action::ACK => frames.taken.entry(number).or_default().push(serial),
                action::NACK => drop(frames.refused.insert(number)),
                _ => {}
            }
        }
    }

    /// What the session asked for, against what it may.
    fn look(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            let is_harmless = matches!(action, Action::Answer(_) | Action::Notice(_));
            assert!(!self.is_closed || is_harmless, "{action:?} after its end");
            match action {
                Action::Connect { resume, .. } => {
                    assert!(!self.is_up, "it has a transport");
                    assert!(resume.is_none() || self.kept.is_some(), "there is nothing to resume");
                    (self.has_transport, self.again) = (true, None);
                }
                Action::Write(frame) => self.wrote(&frame),
                Action::Answer(answer) => self.answered(&answer),
                Action::Up(details) => self.up(&details),
                Action::Down(_) => (self.is_up, self.has_transport) = (false, false),
                Action::Hangup => self.has_transport = false,
                Action::Lost => {
                    assert!(self.frames.pending.is_empty(), "all is answered before");
                    self.played.lost += 1;
                    (self.kept, self.frames) = (None, Frames::default());
                }
                Action::Closed => (self.is_closed, self.is_up, self.has_transport) = (true, false, false),
                Action::Fatal(_) | Action::Notice(_) | Action::Renew => {}
            }
        }
        let (frames, bytes) = self.session.in_flight();
        assert_eq!(frames, self.sent.len() - self.answered.len(), "what is not answered is in flight");
        assert_eq!(frames == 0, bytes == 0);
        assert_eq!(self.session.next_deadline().is_none() && !self.is_up, self.is_closed, "it is never left alone");
    }

    fn up(&mut self, details: &Details) {
        assert!(self.has_transport, "it has no transport");
        let again = self.again.take().unwrap_or_else(|| self.frames.pending.clone().into());
        assert!(self.is_up || again.is_empty(), "all is written again before it is up");
        assert_eq!(details.resumed, self.kept.as_ref() == Some(&details.ably_id), "it is the one that was kept");
        assert!(details.resumed || self.kept.is_none(), "what was kept is lost first");
        self.played.resumed += u32::from(details.resumed && !self.is_up);
        (self.kept, self.is_up) = (Some(details.ably_id.clone()), true);
    }

    fn wrote(&mut self, frame: &[u8]) {
        assert!(self.has_transport, "it has no transport");
        let decoded: ProtocolMessage<'_> = self.settings.encoding.decode(frame).expect("a frame");
        let Some(number) = decoded.msg_serial else { return };
        let frames = &mut self.frames;
        if !self.is_up {
            let again = self.again.get_or_insert_with(|| frames.pending.clone().into());
            if let Some(expected) = again.pop_front() {
                assert_eq!(number, expected, "it is written again in order");
                let (before, times) = frames.written.get_mut(&number).expect("it was written before");
                assert_eq!(before, frame, "and unchanged");
                *times += 1;
                return;
            }
        }
        assert_eq!(number, frames.written.len() as u64, "numbers have no holes");
        let messages = decoded.messages.expect("it carries a message");
        let texts = messages.iter().map(|message| match &message.data {
            Some(Data::Text(text)) => &**text,
            other => panic!("a text, not {other:?}"),
        });
        let seq: u32 = texts.collect::<String>().trim_start_matches("text ").parse().expect("a number");
        frames.written.insert(number, (frame.to_vec(), 1));
        frames.numbers.insert(seq, number);
        frames.pending.push(number);
    }

    fn answered(&mut self, answer: &Answer) {
        let seq = answer.op.seq;
        assert!(self.answered.insert(seq), "operation {seq} is answered twice");
        assert_eq!(answer.connection, CONNECTION);
        let frames = &mut self.frames;
        let number = frames.numbers.remove(&seq);
        frames.pending.retain(|pending| Some(*pending) != number);
        let times = number.and_then(|number| frames.written.get(&number)).map_or(0, |(_, times)| *times);
        assert_eq!(answer.resent, times > 1 && !self.settings.trust_resume, "{seq} was written {times} times");
        self.played.resent += u32::from(answer.resent);
        match &answer.outcome {
            Outcome::Acked { serial } => {
                let number = number.expect("it was written");
                let said =
                    frames.taken.get(&number).is_some_and(|said| said.contains(&serial.as_deref().map(str::to_owned)));
                assert!(said || self.blind, "the server has not said {serial:?} of {seq}");
                assert!(serial.is_some() || !self.sent[seq as usize], "a create without a serial is in doubt");
                self.played.acked += 1;
            }
            Outcome::Unknown(_) => {
                assert!(number.is_some(), "what was never written is not in doubt");
                self.played.unknown += 1;
            }
            Outcome::Rejected(rejection) => {
                let said = number.map_or(rejection.code == DISCONNECTED, |number| frames.refused.contains(&number));
                assert!(said || self.blind, "the server has not refused {seq}");
                self.played.rejected += 1;
            }
        }
    }

    /// It closes in time, and then nothing is unanswered.
    fn end(&mut self) {
        self.session.close(self.now + Duration::from_secs(1), &mut self.actions);
        self.look();
        // An earlier wish to close may have had more time.
        self.now = self.now + Duration::from_secs(10);
        self.session.tick(self.now, &mut self.actions);
        self.look();
        assert!(self.is_closed, "it closes at its deadline");
        assert_eq!(self.answered.len(), self.sent.len(), "every operation is answered");
    }
}

/// An answer as the model reads it; what the session reads besides does not matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    action: u8,
    msg_serial: Option<u64>,
    count: Option<u32>,
    res: Option<Vec<Option<Given>>>,
}

#[derive(Deserialize)]
struct Given {
    serials: Option<Vec<Option<String>>>,
}

fn operation(kind: OpKind, seq: u32, status: Status, messages: usize) -> Operation {
    let text = format!("text {seq}");
    let publish = || Publish {
        name: PublishName::Token,
        id: "p".into(),
        epoch: 1,
        seq: 0,
        pieces: cut(&text, &vec![(1, 1); messages]),
        round: None,
        segment: None,
        sum: None,
    };
    let publish = (kind == OpKind::Publish).then(|| Box::new(publish()));
    let head = Head {
        channel: "ai:x".into(),
        response_id: "r".into(),
        part: 0,
        segment: 0,
        create_id: "c".into(),
        supersedes: None,
        prev: None,
    };
    Operation {
        id: OpId { partition: 0, slot: 0, generation: 0, seq },
        connection: CONNECTION,
        kind,
        sender: Arc::default(),
        head: Arc::new(head),
        serial: matches!(kind, OpKind::Append | OpKind::Update).then(|| "S".into()),
        data: text.into(),
        keeps_text: false,
        status,
        segments: None,
        publish,
    }
}
