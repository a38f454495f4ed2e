//! The session against hand-made servers, case by case: transports and connections here, answers in `answers`, newer
//! credentials in `credentials`. Random servers are in `tests/it/fuzz/session.rs`.

mod answers;
mod credentials;

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::wire::Encoding;
use super::*;
use crate::engine::{Head, OpId, Status};

const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// A session with its clock and what it last asked for.
struct Case {
    session: Session,
    now: Time,
    actions: Vec<Action>,
    next: u32,
}

fn settings() -> Settings {
    Settings { connection: 3, encoding: Encoding::Json, ack_timeout: ACK_TIMEOUT, trust_resume: false, seed: 7 }
}

fn operation(kind: OpKind, seq: u32) -> Operation {
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
        connection: 3,
        kind,
        sender: Arc::default(),
        head: Arc::new(head),
        serial: (kind != OpKind::Create).then(|| "S".into()),
        data: format!("text {seq}").into(),
        keeps_text: false,
        status: Status::Streaming,
        segments: None,
        publish: None,
    }
}

impl Case {
    /// Not connected; the first attempt was asked for.
    fn new(settings: Settings) -> Self {
        let now = Time::from_millis(1_000_000);
        let mut case = Self { session: Session::new(settings, now), now, actions: Vec::new(), next: 0 };
        case.tick();
        assert_eq!(case.take(), [Action::Connect { resume: None, renew: false, failures: 0 }]);
        case
    }

    /// Connected as `id`, with `key`.
    fn up(settings: Settings) -> Self {
        let mut case = Self::new(settings);
        case.connected("id-1", "key-1");
        assert!(matches!(&case.take()[..], [Action::Up(Details { resumed: false, .. })]));
        case
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn receive(&mut self, frame: &Value) {
        self.session.receive(self.now, frame.to_string().as_bytes(), &mut self.actions);
    }

    fn connected(&mut self, id: &str, key: &str) {
        let details = json!({"connectionKey": key, "maxMessageSize": 65536, "connectionStateTtl": 120_000,
            "maxIdleInterval": 15_000, "maxInboundRate": 50, "clientId": "*"});
        self.receive(&json!({"action": 4, "connectionId": id, "connectionDetails": details}));
    }

    fn send(&mut self, kind: OpKind) -> u32 {
        let seq = self.next;
        self.next += 1;
        self.session.send(self.now, &operation(kind, seq), &mut self.actions);
        seq
    }

    fn tick(&mut self) {
        self.session.tick(self.now, &mut self.actions);
    }

    /// Lets time pass, deadline by deadline, while the server sends signs of life.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.session.next_deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.tick();
        }
        self.now = end;
    }

    fn drop_transport(&mut self) {
        self.session.disconnected(self.now, Error::TransportLost("reset".into()), &mut self.actions);
    }

    /// The answers among the actions, by number of the operation.
    fn answers(&mut self) -> Vec<(u32, Outcome, bool)> {
        let answers = self.take().into_iter().filter_map(|action| match action {
            Action::Answer(answer) => Some((answer.op.seq, answer.outcome, answer.resent)),
            _ => None,
        });
        answers.collect()
    }
}

fn acked(serial: &str) -> Outcome {
    Outcome::Acked { serial: Some(serial.into()) }
}

fn unknown(doubt: Doubt) -> Outcome {
    Outcome::Unknown(doubt)
}

fn is_rejected(outcome: &Outcome, code: u32, class: Class) -> bool {
    matches!(outcome, Outcome::Rejected(rejection) if rejection.code == code && rejection.class == class)
}

fn written(actions: &[Action]) -> Vec<Bytes> {
    let frames = actions.iter().filter_map(|action| match action {
        Action::Write(bytes) => Some(bytes.clone()),
        _ => None,
    });
    frames.collect()
}

fn serial_of(frame: &Bytes) -> Option<u64> {
    serde_json::from_slice::<Value>(frame).expect("a frame")["msgSerial"].as_u64()
}

#[test]
fn a_connection_with_an_old_create_is_not_resumed() {
    for (seconds, resumed) in [(9, true), (10, false)] {
        let mut case = Case::up(settings());
        case.send(OpKind::Create);
        case.take();
        case.now = case.now + Duration::from_secs(seconds);
        case.drop_transport();
        case.tick();
        let actions = case.take();
        let key = actions.iter().find_map(|action| match action {
            Action::Connect { resume, .. } => Some(resume.is_some()),
            _ => None,
        });
        assert_eq!(key, Some(resumed), "after {seconds} s");
        assert_eq!(actions.contains(&Action::Lost), !resumed);
    }
}

#[test]
fn a_resumed_connection_writes_the_same_again_before_anything_new() {
    for trust_resume in [false, true] {
        let mut case = Case::up(Settings { trust_resume, ..settings() });
        case.send(OpKind::Create);
        case.send(OpKind::Append);
        case.send(OpKind::Append);
        let sent = written(&case.take());
        case.receive(&json!({"action": 1, "msgSerial": 0, "count": 1, "res": [{"serials": ["M"]}]}));
        case.take();
        case.drop_transport();
        assert!(matches!(case.take()[..], [Action::Down(Error::TransportLost(_))]));
        case.send(OpKind::Append);
        assert_eq!(case.take(), [], "nothing is written while there is no transport");
        case.pass(Duration::from_secs(1));
        let resume = Some("key-1".into());
        assert_eq!(case.take(), [Action::Connect { resume, renew: false, failures: 0 }]);
        case.connected("id-1", "key-2");
        let actions = case.take();
        let again = written(&actions);
        assert_eq!(again[..2], sent[1..]);
        assert_eq!(serial_of(&again[2]), Some(3));
        assert!(matches!(actions.last(), Some(Action::Up(Details { resumed: true, .. }))));
        let res = json!([{"serials": ["V1"]}, {"serials": ["V2"]}, {"serials": ["V3"]}]);
        case.receive(&json!({"action": 1, "msgSerial": 1, "count": 3, "res": res}));
        let again = !trust_resume;
        assert_eq!(case.answers(), [(1, acked("V1"), again), (2, acked("V2"), again), (3, acked("V3"), false)]);
        // The newest key serves for the next time.
        case.drop_transport();
        case.pass(Duration::from_secs(1));
        assert!(case.take().contains(&Action::Connect { resume: Some("key-2".into()), renew: false, failures: 0 }));
    }
}

#[test]
fn another_connection_leaves_everything_unknown_and_counts_anew() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.drop_transport();
    case.send(OpKind::Append);
    case.pass(Duration::from_secs(1));
    case.take();
    case.connected("id-2", "key-2");
    let actions = case.take();
    assert_eq!(written(&actions), Vec::<Bytes>::new());
    let [Action::Answer(first), Action::Answer(second), Action::Lost, Action::Up(details)] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!((first.op.seq, &first.outcome), (0, &unknown(Doubt::ConnectionLost)));
    assert!(second.op.seq == 1 && is_rejected(&second.outcome, 80003, Class::Connection), "it was never written");
    assert!(!details.resumed && &*details.ably_id == "id-2");
    case.send(OpKind::Append);
    assert_eq!(serial_of(&written(&case.take())[0]), Some(0));
}

#[test]
fn an_unanswered_frame_costs_the_transport_and_then_the_connection() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.take();
    // The server is alive: only the answer is missing.
    let live = |case: &mut Case| {
        for _ in 0..3 {
            case.pass(Duration::from_secs(10));
            case.receive(&json!({"action": 0}));
        }
    };
    live(&mut case);
    assert_eq!(case.take()[..2], [Action::Hangup, Action::Down(Error::Overdue(ACK_TIMEOUT))]);
    case.pass(Duration::from_secs(1));
    case.take();
    case.connected("id-1", "key-2");
    case.take();
    live(&mut case);
    let actions = case.take();
    let [Action::Hangup, Action::Down(_), Action::Answer(answer), Action::Lost, Action::Connect { resume: None, .. }] =
        &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!((&answer.outcome, answer.resent), (&unknown(Doubt::ConnectionLost), true));
    assert_eq!(case.session.in_flight(), (0, 0));
}

#[test]
fn silence_costs_the_transport() {
    let mut case = Case::up(settings());
    case.pass(Duration::from_secs(24));
    assert_eq!(case.take(), []);
    case.session.heard(case.now);
    case.pass(Duration::from_secs(24));
    assert_eq!(case.take(), []);
    case.pass(Duration::from_secs(1));
    let actions = case.take();
    assert_eq!(actions[..2], [Action::Hangup, Action::Down(Error::Silent(Duration::from_secs(25)))]);
    assert!(matches!(&actions[2], Action::Connect { resume: Some(_), .. }));
}

#[test]
fn a_connection_that_is_down_too_long_is_lost() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.take();
    case.drop_transport();
    let mut lost = false;
    for _ in 0..130 {
        case.pass(Duration::from_secs(1));
        for action in case.take() {
            match action {
                Action::Connect { resume, .. } => {
                    assert_eq!(resume.is_none(), lost, "no resume once it is given up");
                    case.drop_transport();
                }
                Action::Answer(answer) => assert_eq!(answer.outcome, unknown(Doubt::ConnectionLost)),
                Action::Lost => lost = true,
                Action::Down(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(lost);
    case.send(OpKind::Append);
    assert!(is_rejected(&case.answers()[0].1, 80003, Class::Connection), "there is nothing to wait for");
}

#[test]
fn attempts_that_fail_wait_longer_and_longer() {
    let mut case = Case::new(settings());
    let mut waits = Vec::new();
    for failures in 1..=8 {
        case.drop_transport();
        assert!(matches!(case.take()[..], [Action::Down(_)]));
        let until = case.session.next_deadline().expect("tries again");
        waits.push(until.since(case.now).as_secs());
        case.now = until;
        case.tick();
        assert_eq!(case.take(), [Action::Connect { resume: None, renew: false, failures }]);
    }
    assert_eq!(waits[0], 1, "{waits:?}");
    assert!(waits.is_sorted_by_key(|wait| wait / 8) && waits[7] >= 24 && waits[7] <= 30, "{waits:?}");
}

#[test]
fn an_attempt_that_gets_no_answer_is_given_up() {
    let mut case = Case::new(settings());
    case.pass(Duration::from_secs(10));
    assert_eq!(case.take(), [Action::Hangup, Action::Down(Error::NoAnswer(OPEN_TIMEOUT))]);
}

#[test]
fn attempts_are_a_second_apart() {
    let mut case = Case::up(settings());
    case.drop_transport();
    case.tick();
    case.pass(Duration::from_millis(999));
    assert!(matches!(case.take()[..], [Action::Down(_)]));
    case.pass(Duration::from_millis(1));
    assert!(matches!(case.take()[..], [Action::Connect { .. }]));
}

#[test]
fn a_disconnection_is_followed_by_what_its_code_asks_for() {
    for (code, status, renews, at_least, at_most) in
        [(80003, 400, false, 0, 1), (40142, 401, true, 0, 1), (42921, 429, false, 15, 19), (40101, 401, false, 0, 1)]
    {
        let mut case = Case::up(settings());
        case.receive(&json!({"action": 6, "error": {"code": code, "statusCode": status, "message": "m"}}));
        let actions = case.take();
        assert!(matches!(&actions[..], [Action::Hangup, Action::Down(Error::Refused { .. })]), "{code}: {actions:?}");
        let until = case.session.next_deadline().expect("tries again");
        let wait = until.since(case.now).as_secs();
        assert!((at_least..=at_most).contains(&wait), "{code}: {wait}");
        case.now = until;
        case.tick();
        let resume = Some("key-1".into());
        assert_eq!(case.take(), [Action::Connect { resume, renew: renews, failures: 0 }], "{code}");
    }
}

#[test]
fn renewed_credentials_that_are_refused_too_need_a_person() {
    let mut case = Case::up(settings());
    let error = json!({"code": 40142, "statusCode": 401, "message": "expired"});
    case.receive(&json!({"action": 6, "error": error}));
    case.pass(Duration::from_secs(1));
    assert!(matches!(case.take().last(), Some(Action::Connect { renew: true, .. })));
    case.receive(&json!({"action": 9, "error": error}));
    assert!(matches!(case.take().last(), Some(Action::Fatal(Error::Refused { code: 40142, .. }))));
}

#[test]
fn an_error_of_the_connection_needs_a_person_or_patience() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.take();
    case.receive(&json!({"action": 9, "error": {"code": 40101, "statusCode": 401, "message": "no such key"}}));
    let actions = case.take();
    let [Action::Hangup, Action::Down(_), Action::Answer(answer), Action::Lost, Action::Fatal(error)] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!(answer.outcome, unknown(Doubt::ConnectionLost));
    assert!(error.to_string().contains("ably.key_file"));
    // It looks again, now and then, whether somebody has mended it.
    let wait = case.session.next_deadline().expect("tries again").since(case.now);
    assert!(wait >= Duration::from_secs(20) && wait <= Duration::from_secs(30));
    case.pass(Duration::from_secs(30));
    assert!(matches!(case.take()[..], [Action::Connect { resume: None, renew: true, .. }]));

    let mut case = Case::up(settings());
    case.receive(&json!({"action": 9, "error": {"code": 42921, "statusCode": 429, "message": "flood"}}));
    assert!(matches!(case.take()[..], [Action::Hangup, Action::Down(_)]));
    assert!(case.session.next_deadline().expect("tries again").since(case.now) >= Duration::from_secs(15));

    let mut case = Case::up(settings());
    let error = json!({"code": 40160, "statusCode": 401, "message": "denied"});
    case.receive(&json!({"action": 9, "channel": "ai:x", "error": error}));
    assert!(
        matches!(&case.take()[..], [Action::Notice(Error::Channel { code: 40160, .. })]),
        "the connection lives on"
    );
}

#[test]
fn details_may_change_on_a_live_transport() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.take();
    case.connected("id-1", "key-9");
    assert!(matches!(&case.take()[..], [Action::Up(Details { resumed: true, .. })]), "nothing is written again");
    case.send(OpKind::Append);
    assert_eq!(serial_of(&written(&case.take())[0]), Some(1), "numbers go on");
    case.drop_transport();
    case.pass(Duration::from_secs(1));
    assert!(matches!(case.take().last(), Some(Action::Connect { resume: Some(key), .. }) if &**key == "key-9"));
}

#[test]
fn a_connection_ends_when_everything_is_answered() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.take();
    case.session.close(case.now + Duration::from_secs(5), &mut case.actions);
    assert_eq!(case.take(), []);
    case.send(OpKind::Append);
    assert!(is_rejected(&case.answers()[0].1, 80003, Class::Connection));
    case.receive(&json!({"action": 1, "msgSerial": 0, "count": 1, "res": [{"serials": ["V"]}]}));
    let actions = case.take();
    assert!(matches!(&actions[..], [Action::Answer(_), Action::Write(close)] if close.as_ref() == b"{\"action\":7}"));
    case.receive(&json!({"action": 8}));
    assert_eq!(case.take(), [Action::Closed]);
    assert_eq!(case.session.next_deadline(), None);
}

#[test]
fn a_connection_ends_at_its_deadline_whatever_is_unanswered() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.take();
    case.session.close(case.now + Duration::from_secs(5), &mut case.actions);
    case.pass(Duration::from_secs(5));
    let actions = case.take();
    let [Action::Hangup, Action::Answer(answer), Action::Closed] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(answer.outcome, unknown(Doubt::Stopped));
}

#[test]
fn a_connection_that_is_down_ends_at_once() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.drop_transport();
    case.take();
    case.session.close(case.now + Duration::from_secs(5), &mut case.actions);
    assert_eq!(case.answers(), [(0, unknown(Doubt::Stopped), false)]);
    assert_eq!(case.session.next_deadline(), None);
}

#[test]
fn what_has_ended_asks_for_nothing_more() {
    let mut case = Case::up(settings());
    case.drop_transport();
    case.session.close(case.now + Duration::from_secs(5), &mut case.actions);
    assert_eq!(case.take().last(), Some(&Action::Closed));
    case.now = case.now + Duration::from_secs(1_000);
    case.tick();
    assert_eq!(case.take(), []);
}

#[test]
fn the_server_may_close_without_being_asked() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.take();
    case.receive(&json!({"action": 8}));
    let actions = case.take();
    assert!(matches!(&actions[..], [Action::Hangup, Action::Down(_), Action::Answer(_), Action::Lost]), "{actions:?}");
}

#[test]
fn what_is_unanswered_when_a_connection_is_given_up_is_never_written_again() {
    let mut case = Case::up(settings());
    case.session.abandon(case.now, &mut case.actions);
    assert_eq!(case.take(), [], "nothing is unanswered");
    case.send(OpKind::Append);
    case.take();
    case.session.abandon(case.now, &mut case.actions);
    let actions = case.take();
    assert_eq!(actions.first(), Some(&Action::Hangup));
    assert_eq!(actions.last(), Some(&Action::Lost));
    case.actions = actions;
    assert_eq!(case.answers(), [(0, unknown(Doubt::ConnectionLost), false)]);
    case.pass(Duration::from_secs(2));
    assert!(case.take().contains(&Action::Connect { resume: None, renew: false, failures: 0 }));
    case.connected("id-2", "key-2");
    assert!(written(&case.take()).is_empty());
}

#[test]
fn a_newer_token_is_told_before_the_old_one_expires() {
    let mut case = Case::up(settings());
    case.receive(&json!({ "action": action::AUTH }));
    assert_eq!(case.take(), [Action::Renew]);
    case.session.authorise("newer", &mut case.actions);
    let [Action::Write(frame)] = &case.take()[..] else { panic!("one frame") };
    let frame: Value = serde_json::from_slice(frame).expect("JSON");
    assert_eq!(frame, json!({ "action": action::AUTH, "auth": { "accessToken": "newer" } }));
    case.drop_transport();
    case.take();
    case.session.authorise("newest", &mut case.actions);
    assert!(case.take().is_empty(), "the next attempt shows it");
}
