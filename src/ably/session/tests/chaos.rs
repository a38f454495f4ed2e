//! Random servers: whatever they do, every operation has exactly one answer, and none is acknowledged that the server has
//! not acknowledged under that number.

use std::collections::{HashMap, HashSet};

use super::*;

const SEEDS: u64 = 3_000;
const STEPS: usize = 120;

/// A server that does anything, and an eye on what the session makes of it.
struct World {
    random: fastrand::Rng,
    session: Session,
    now: Time,
    actions: Vec<Action>,
    sent: u32,
    answered: HashSet<u32>,
    /// The number of each operation on the present connection, once it was written.
    numbers: HashMap<u32, u64>,
    /// Frames by number, as they were first written on the present connection.
    frames: HashMap<u64, Bytes>,
    /// What the server has acknowledged on the present connection, creates only with a serial.
    acknowledged: HashSet<u64>,
    /// Unanswered, in the order in which they were written; to be written again after a resume.
    pending: Vec<u64>,
    /// What a resumed transport must begin with.
    again: Vec<u64>,
    has_transport: bool,
    is_up: bool,
    is_resume: bool,
    connections: u32,
    id: u32,
    is_closed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = Settings { seed, trust_resume: random.bool(), ..settings() };
        let now = Time::from_millis(1_000_000);
        Self {
            random,
            session: Session::new(settings, now),
            now,
            actions: Vec::new(),
            sent: 0,
            answered: HashSet::new(),
            numbers: HashMap::new(),
            frames: HashMap::new(),
            acknowledged: HashSet::new(),
            pending: Vec::new(),
            again: Vec::new(),
            has_transport: false,
            is_up: false,
            is_resume: false,
            connections: 0,
            id: 0,
            is_closed: false,
        }
    }

    fn step(&mut self) {
        match self.random.u8(0..100) {
            0..40 => self.send(),
            40..70 if self.is_up => self.answer(),
            70..75 if self.has_transport => {
                self.session.disconnected(self.now, Error::TransportLost("x".into()), &mut self.actions);
                self.has_transport = false;
            }
            75..78 if self.has_transport => {
                let codes = [(40142, 401), (80003, 400), (42921, 429), (40101, 401), (50003, 503)];
                let (code, status) = codes[self.random.usize(0..codes.len())];
                let action = if self.random.bool() { 6 } else { 9 };
                self.receive(&json!({"action": action, "error": {"code": code, "statusCode": status}}));
            }
            78..80 if self.is_up => self.connect(self.id),
            _ if self.has_transport && !self.is_up => self.connect_anyhow(),
            _ => self.pass(),
        }
        self.look();
    }

    fn send(&mut self) {
        let kind = [OpKind::Create, OpKind::Append, OpKind::Update][self.random.usize(0..3)];
        self.session.send(self.now, &operation(kind, self.sent), &mut self.actions);
        self.sent += 1;
    }

    fn pass(&mut self) {
        let most = if self.random.u8(0..20) == 0 { 200_000 } else { 3_000 };
        self.now = self.now + Duration::from_millis(self.random.u64(0..most));
        self.session.tick(self.now, &mut self.actions);
    }

    fn receive(&mut self, frame: &Value) {
        self.session.receive(self.now, frame.to_string().as_bytes(), &mut self.actions);
    }

    fn connect_anyhow(&mut self) {
        if self.is_resume && self.random.u8(0..3) > 0 {
            self.connect(self.id);
        } else {
            self.connections += 1;
            self.connect(self.connections);
        }
    }

    fn connect(&mut self, id: u32) {
        if id == self.id && !self.is_up {
            self.again = self.pending.clone();
        }
        self.id = id;
        let ttl = [0, 5_000, 120_000][self.random.usize(0..3)];
        let key = (self.random.u8(0..10) > 0).then(|| format!("key-{}", self.random.u32(..)));
        let details = json!({"connectionKey": key, "connectionStateTtl": ttl, "maxIdleInterval": 15_000});
        self.receive(&json!({"action": 4, "connectionId": format!("id-{id}"), "connectionDetails": details}));
    }

    /// Any answer that a server could give, and some that none should.
    fn answer(&mut self) {
        let next = self.frames.len() as u64;
        let from = match self.pending.first() {
            Some(first) if self.random.u8(0..4) > 0 => *first,
            _ => self.random.u64(0..next + 3),
        };
        let count = self.random.u64(0..5);
        let is_ack = self.random.bool();
        let says_count = self.random.u8(0..10) > 0;
        let says_from = self.random.u8(0..10) > 0;
        let given = self.random.u64(0..=count);
        let res: Vec<Value> = (0..given).map(|index| json!({"serials": [format!("V{}", from + index)]})).collect();
        let mut frame = json!({"action": if is_ack { 1 } else { 2 }, "res": res});
        if says_from {
            frame["msgSerial"] = json!(from);
        }
        if says_count {
            frame["count"] = json!(count);
        }
        if is_ack && says_from {
            let count = if says_count { count } else { 1 };
            self.acknowledged.extend((from..from + count).filter(|number| self.frames.contains_key(number)));
        }
        self.receive(&frame);
    }

    /// What the session asked for, against what it may.
    fn look(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Connect { resume, .. } => {
                    assert!(!self.is_up && !self.is_closed);
                    (self.has_transport, self.is_resume) = (true, resume.is_some());
                }
                Action::Write(frame) => self.wrote(&frame),
                Action::Answer(answer) => self.answered(&answer),
                Action::Up(details) => {
                    assert!(self.has_transport && self.again.is_empty(), "all is written again before anything else");
                    assert_eq!(&*details.ably_id, format!("id-{}", self.id));
                    self.is_up = true;
                }
                Action::Down(_) => (self.is_up, self.has_transport) = (false, false),
                Action::Hangup => self.has_transport = false,
                Action::Lost => {
                    assert_eq!(self.pending, Vec::<u64>::new(), "all is answered before");
                    self.forget();
                }
                Action::Closed => (self.is_closed, self.is_up) = (true, false),
                Action::Fatal(_) | Action::Notice(_) | Action::Renew => {}
            }
        }
        let (frames, bytes) = self.session.in_flight();
        assert_eq!(frames, self.sent as usize - self.answered.len());
        assert_eq!(frames == 0, bytes == 0);
    }

    fn forget(&mut self) {
        self.numbers.clear();
        self.frames.clear();
        self.acknowledged.clear();
        self.again.clear();
    }

    fn wrote(&mut self, frame: &Bytes) {
        assert!(self.has_transport, "written without a transport");
        let decoded: Value = serde_json::from_slice(frame).expect("a frame");
        let Some(number) = decoded["msgSerial"].as_u64() else { return };
        if let Some(expected) = (!self.again.is_empty()).then(|| self.again.remove(0)) {
            assert_eq!(number, expected, "written again in order");
            assert_eq!(self.frames[&number], frame, "and unchanged");
            return;
        }
        assert_eq!(number, self.frames.len() as u64, "numbers have no holes");
        let text = decoded["messages"][0]["data"].as_str().expect("text");
        let seq: u32 = text.trim_start_matches("text ").parse().expect("a number");
        self.frames.insert(number, frame.clone());
        self.numbers.insert(seq, number);
        self.pending.push(number);
    }

    fn answered(&mut self, answer: &Answer) {
        let seq = answer.op.seq;
        assert!(self.answered.insert(seq), "operation {seq} is answered twice");
        let number = self.numbers.remove(&seq);
        self.pending.retain(|pending| Some(*pending) != number);
        match &answer.outcome {
            Outcome::Acked { serial } => {
                let number = number.expect("it was written");
                assert!(self.acknowledged.contains(&number), "the server has not acknowledged {seq}");
                assert!(serial.as_deref().is_none_or(|serial| serial == format!("V{number}")));
            }
            Outcome::Unknown(_) => assert!(number.is_some(), "what was never written is not in doubt"),
            Outcome::Rejected(rejection) => assert!(number.is_some() || rejection.code == fault::DISCONNECTED),
        }
    }
}

#[test]
fn every_operation_is_answered_once_and_truly() {
    let mut outcomes = [0; 3];
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.session.close(world.now + Duration::from_secs(1), &mut world.actions);
        world.look();
        world.now = world.now + Duration::from_secs(1);
        world.session.tick(world.now, &mut world.actions);
        world.look();
        assert!(world.is_closed, "seed {seed}");
        assert_eq!(world.answered.len(), world.sent as usize, "seed {seed}");
        outcomes[0] += world.answered.len();
        outcomes[1] += world.connections as usize;
        outcomes[2] += usize::from(world.id > 0);
    }
    assert!(outcomes.iter().all(|count| *count > SEEDS as usize / 2), "the worlds are lively: {outcomes:?}");
}
