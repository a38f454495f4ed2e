//! The engine's rules one by one, as short stories. The simulator tells the long ones.

use std::time::Duration;

use super::*;

mod found;
mod given_up;
mod inherited;
mod looked;
mod makers;
mod pacing;
mod refused;
mod searched;
mod segments;
mod tokens;
mod verified;
mod whole;

/// One engine, one connection, and a channel that takes everything unless told otherwise.
struct Story {
    engine: Engine,
    shared: Shared,
    effects: Effects,
    now: Time,
    offset: Offset,
    answered: u64,
    reports: Vec<serde_json::Value>,
    dead_letters: Vec<(Offset, Refusal)>,
    read_backs: Vec<ReadBack>,
    look_ups: Vec<LookUp>,
    reloads: Vec<Reload>,
    notices: Vec<Notice>,
}

fn settings() -> Settings {
    Settings {
        topic: "tokens".into(),
        id_namespace: "test".into(),
        instance: "one".into(),
        relay_version: "0",
        channels: ChannelRules::new(
            Template::parse("ai:{key}").expect("a template"),
            "tokens".into(),
            &["ai:*".to_owned()],
        )
        .expect("rules"),
        idle: Duration::from_secs(600),
        remember: 100,
        reconcile: ReconcileSettings {
            when: ReconcileWhen::Eager,
            debounce: Duration::from_millis(250),
            attempts: 3,
            verify: Verify::Never,
            late_check: Duration::from_secs(10),
            verify_timeout: Duration::from_secs(30),
        },
        refused_hold: Duration::from_secs(600),
        whole: false,
        append_rollup: Duration::from_millis(40),
        pattern: Pattern::MessagePerResponse,
        batch: Batch::Array,
    }
}

const LIMITS: Limits = Limits {
    open_max: 100,
    stub_max: 100,
    text_bytes_max: 1 << 20,
    connections_max: 1,
    openings: 0,
    connection_idle: Duration::from_secs(60),
    connection_rate: 1_000_000,
    frame_rate: 0,
    channel_rate: 1_000_000,
    channel_bandwidth: 0,
    account_rate: 0,
    request_rate: 0,
    account_bandwidth: 0,
    refused_rate_hold: Duration::from_secs(600),
    read_back_rate: 0,
    in_flight_operations: 200,
    in_flight_bytes: 1 << 22,
    message_bytes_max: 65_536,
};

fn event(kind: EventKind<'static>) -> Event<'static> {
    Event { response_id: "r".into(), part: 0, kind, seq: None, begins: None, channel: None, pattern: None }
}

fn token(text: &'static str) -> EventKind<'static> {
    EventKind::Token(text.into())
}

const END: EventKind<'static> = EventKind::End { final_text: None };

impl Story {
    fn new() -> Self {
        Self::with(settings(), LIMITS)
    }

    fn with(settings: Settings, limits: Limits) -> Self {
        let mut shared = Shared::new(limits, settings.append_rollup);
        shared.flow.up(0, "c0".into(), Pipelining::On, limits.message_bytes_max, None);
        Self {
            engine: Engine::new(settings.into(), 3, 0),
            shared,
            effects: Effects::default(),
            now: Time::from_millis(1_000_000_000),
            offset: 0,
            answered: 0,
            reports: Vec::new(),
            dead_letters: Vec::new(),
            read_backs: Vec::new(),
            look_ups: Vec::new(),
            reloads: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn apply(&mut self, input: Input<'_>) -> Vec<Operation> {
        self.engine.apply(self.now, input, &mut self.shared, &mut self.effects);
        let mut operations = Vec::new();
        for effect in self.effects.list.drain(..) {
            match effect {
                Effect::Send(operation) => operations.push(operation),
                Effect::Report(report) => {
                    let value = &self.effects.bytes[report.value];
                    self.reports.push(serde_json::from_slice(value).expect("a report is JSON"));
                }
                Effect::DeadLetter { offset, reason } => self.dead_letters.push((offset, reason)),
                Effect::ReadBack(read_back) => self.read_backs.push(*read_back),
                Effect::Notice(notice) => self.notices.push(notice),
                Effect::LookUp(look_up) => self.look_ups.push(*look_up),
                Effect::Reload(reload) => self.reloads.push(*reload),
            }
        }
        self.effects.clear();
        operations
    }

    fn events(&mut self, events: &[Event<'_>]) -> Vec<Operation> {
        let record = Record { offset: self.offset, time: self.now, key: "r", traceparent: None, events };
        self.offset += 1;
        self.apply(Input::Record(record))
    }

    fn says(&mut self, kind: EventKind<'static>) -> Vec<Operation> {
        self.events(&[event(kind)])
    }

    fn answer(&mut self, operation: &Operation, outcome: Outcome) -> Vec<Operation> {
        self.answered += 1;
        self.apply(Input::Answer(Answer { op: operation.id, connection: 0, outcome, resent: false }))
    }

    fn ack(&mut self, operation: &Operation) -> Vec<Operation> {
        let serial = format!("{:08}", self.answered + 1);
        self.answer(operation, Outcome::Acked { serial: Some(serial.into()) })
    }

    /// Taken after its frame was written again on a connection that was resumed.
    fn ack_resent(&mut self, operation: &Operation) -> Vec<Operation> {
        self.answered += 1;
        let outcome = Outcome::Acked { serial: Some(format!("{:08}", self.answered).into()) };
        self.apply(Input::Answer(Answer { op: operation.id, connection: 0, outcome, resent: true }))
    }

    fn reject(&mut self, operation: &Operation, class: Class, code: u32) -> Vec<Operation> {
        let rejection = Rejection { code, status_code: 400, class, message: String::new() };
        self.answer(operation, Outcome::Rejected(rejection))
    }

    fn after(&mut self, duration: Duration) -> Vec<Operation> {
        self.now = self.now + duration;
        self.apply(Input::Tick)
    }

    fn settle_reports(&mut self) -> Offset {
        let seq = self.reports.len() as u64;
        self.apply(Input::Durable(seq.saturating_sub(1)));
        self.engine.watermark()
    }
}

fn only(operations: Vec<Operation>) -> Operation {
    let [operation] = <[_; 1]>::try_from(operations).expect("one operation");
    operation
}

#[test]
fn a_response_is_created_appended_to_without_waiting_and_settled() {
    let mut story = Story::new();
    assert!(story.says(EventKind::Start).is_empty(), "an announcement has no text");
    let create = only(story.says(token("one ")));
    assert_eq!((create.kind, &*create.data, create.status), (OpKind::Create, "one ", Status::Streaming));
    assert_eq!(&*create.head.create_id, "test.tokens.3.0.0.0");
    assert!(story.says(token("two ")).is_empty(), "the serial is not known yet");
    assert!(story.says(token("three ")).is_empty());

    let held = only(story.ack(&create));
    assert_eq!((held.kind, &*held.data), (OpKind::Append, "two three "));
    let next = only(story.says(token("four")));
    let last = only(story.says(END));
    assert_eq!((last.kind, &*last.data, last.status), (OpKind::Append, "", Status::Complete));
    for operation in [&held, &next, &last] {
        assert!(story.ack(operation).is_empty());
    }

    assert_eq!(story.engine.open(), 0);
    assert_eq!(story.engine.watermark(), 0, "results are not durable yet");
    assert_eq!(story.settle_reports(), 6);
    let response = story.reports.last().expect("it was reported");
    assert_eq!(response["outcome"], "delivered");
    assert_eq!(response["tokens"], 4);
    assert_eq!(response["operations"], 4);
    assert_eq!(response["bytes"], 18);
    let covered: Vec<_> =
        story.reports.iter().map(|r| (r["covered"]["first"].clone(), r["covered"]["last"].clone())).collect();
    assert_eq!(covered, [(0, 1), (2, 3), (4, 4), (5, 5), (0, 5)].map(|(first, last)| (first.into(), last.into())));
}

#[test]
fn a_rejected_append_is_mended_by_the_full_text_once_all_is_answered() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let b = only(story.says(token("b")));
    let c = only(story.says(token("c")));
    assert!(story.reject(&b, Class::RateLimited, 42911).is_empty());
    assert!(story.says(token("d")).is_empty(), "no append on a tainted message");
    assert!(story.after(Duration::from_secs(1)).is_empty(), "c is not answered yet");

    assert!(story.ack(&c).is_empty(), "it may wait for others where it was taken");
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "abcd"));
    assert!(story.says(token("e")).is_empty(), "the repair is not answered yet");
    let e = only(story.ack(&update));
    assert_eq!((e.kind, &*e.data), (OpKind::Append, "e"));
    story.ack(&e);
    let end = only(story.says(END));
    story.ack(&end);
    assert_eq!(story.reports.last().expect("it was reported")["outcome"], "reconciled");
}

#[test]
fn an_update_that_lost_is_sent_again() {
    for serial in [None, Some("00000000".into())] {
        let mut story = Story::new();
        let create = only(story.says(token("a")));
        story.ack(&create);
        let b = only(story.says(token("b")));
        story.answer(&b, Outcome::Unknown(Doubt::Skipped));
        let update = only(story.after(Duration::from_secs(1)));
        assert!(story.answer(&update, Outcome::Acked { serial }).is_empty());
        let again = only(story.after(Duration::from_secs(1)));
        assert_eq!((again.kind, &*again.data), (OpKind::Update, "ab"));
    }
}

#[test]
fn a_create_in_doubt_is_repeated_unchanged_and_then_mended() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.says(token("b"));
    assert!(story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost)).is_empty());
    story.says(EventKind::End { final_text: Some("other".into()) });
    let again = only(story.after(Duration::from_secs(1)));
    assert_eq!((again.kind, &*again.data, again.status), (OpKind::Create, "a", Status::Streaming));
    assert_eq!(again.head, create.head);
    story.ack(&again);
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "other", Status::Complete));
    story.ack(&update);
    assert_eq!(story.reports.last().expect("it was reported")["outcome"], "reconciled");
}

#[test]
fn a_create_long_in_doubt_is_looked_for_before_it_is_repeated() {
    let found = Found::Message { serial: "00000001".into(), version: None };
    for (found, expected) in [(found, OpKind::Update), (Found::Nothing, OpKind::Create)] {
        let mut story = Story::new();
        let create = only(story.says(token("a")));
        story.now = story.now + Duration::from_secs(600);
        assert!(story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost)).is_empty());
        assert!(story.after(Duration::from_secs(1)).is_empty(), "the server may have forgotten its id");
        let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
        story.apply(Input::LookedUp { id: op, found: Found::Unreadable });
        story.after(Duration::from_secs(2));
        let mut sent = story.apply(Input::LookedUp { id: op, found });
        sent.extend(story.after(Duration::from_secs(2)));
        assert_eq!(only(sent).kind, expected);
    }
}

#[test]
fn a_message_that_is_gone_is_made_anew_with_the_whole_text() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let b = only(story.says(token("b")));
    let anew = only(story.reject(&b, Class::MessageGone, 40400));
    assert_eq!((anew.kind, &*anew.data), (OpKind::Create, "ab"));
    assert_eq!(&*anew.head.create_id, "test.tokens.3.0.0.0~1");
    assert_eq!(anew.head.supersedes.as_deref(), Some("00000001"));
    story.ack(&anew);
    let covered = &story.reports.last().expect("it was reported")["covered"];
    assert_eq!((&covered["first"], &covered["last"]), (&0.into(), &1.into()), "what was lost with the old one");
    let end = only(story.says(END));
    story.ack(&end);
    assert_eq!(story.engine.open(), 0);
}

#[test]
fn a_message_whose_connection_changed_begins_with_the_full_text_but_not_at_once() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    assert!(story.apply(Input::Moved(0)).is_empty(), "nothing is to be said");
    assert!(story.says(token("b")).is_empty());
    assert!(story.after(Duration::from_millis(289)).is_empty(), "frames left behind may still land");
    let update = only(story.after(Duration::from_millis(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "ab"));
    story.ack(&update);
    let end = only(story.says(END));
    story.ack(&end);
    assert_eq!(story.reports.last().expect("it was reported")["outcome"], "delivered");
}

#[test]
fn what_may_not_leave_now_is_joined() {
    let mut story = Story::with(settings(), Limits { connection_rate: 10, ..LIMITS });
    let create = only(story.says(token("a")));
    story.ack(&create);
    for text in ["b", "c", "d"] {
        assert!(story.says(token(text)).is_empty(), "ten operations a second");
    }
    let joined = only(story.after(Duration::from_millis(101)));
    assert_eq!(&*joined.data, "bcd");
}

#[test]
fn what_the_server_publishes_together_counts_once() {
    let mut story = Story::with(settings(), Limits { connection_rate: 30, ..LIMITS });
    let create = only(story.says(token("a")));
    story.ack(&create);
    only(story.says(token("b")));
    only(story.says(token("c")));
    // That was all for now; but what follows is published with the last one, at the end of the window.
    for text in ["d", "e", "f"] {
        only(story.says(token(text)));
    }
    story.now = story.now + Duration::from_millis(40);
    only(story.says(token("g")));
    only(story.says(token("h")));
}

#[test]
fn late_events_are_refused_while_the_response_is_remembered() {
    let mut story = Story::with(Settings { remember: 1, ..settings() }, LIMITS);
    let create = only(story.events(&[event(token("a")), event(END)]));
    assert_eq!(create.status, Status::Complete);
    story.ack(&create);
    story.says(token("late"));
    assert_eq!(story.dead_letters, [(1, Refusal::AfterEnd)]);
    assert_eq!(story.settle_reports(), 1, "the dead letter is not durable");
    story.apply(Input::DeadLetterDurable(1));
    assert_eq!(story.engine.watermark(), 2);

    let other = Event { response_id: "s".into(), ..event(END) };
    let create = only(story.events(&[other]));
    story.ack(&create);
    assert_eq!(only(story.says(token("anew"))).kind, OpKind::Create, "it has been forgotten");
}

#[test]
fn an_idle_response_is_abandoned_and_opens_again_tainted() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    assert!(story.after(Duration::from_secs(3_600)).is_empty(), "nobody said that all had been read");
    story.apply(Input::CaughtUp(true));
    assert!(story.after(Duration::from_secs(599)).is_empty());
    let end = only(story.after(Duration::from_secs(1)));
    assert_eq!((end.kind, end.status), (OpKind::Append, Status::Abandoned));
    story.ack(&end);
    assert_eq!(story.reports.last().expect("it was reported")["outcome"], "abandoned");

    assert!(story.says(token("b")).is_empty());
    assert!(story.after(Duration::from_secs(1)).is_empty(), "its text has to be read again first");
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    let update = only(story.apply(Input::Reloaded { id: op, text: Some("a") }));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "ab", Status::Streaming));
}

#[test]
fn a_limit_on_open_responses_drops_texts_not_responses() {
    let mut story = Story::with(settings(), Limits { open_max: 2, ..LIMITS });
    for id in ["a", "b", "c", "d"] {
        assert!(story.shared.intake_open(), "there is always something to drop");
        let event = Event { response_id: id.into(), ..event(token("text")) };
        let create = only(story.events(&[event]));
        story.ack(&create);
    }
    assert_eq!(story.shared.usage(), Usage { open: 1, stubs: 3, text_bytes: 4 });
    let append = only(story.events(&[Event { response_id: "a".into(), ..event(token(" more")) }]));
    assert_eq!((append.kind, &*append.data), (OpKind::Append, " more"));
}

#[test]
fn at_the_limit_with_nothing_to_drop_intake_pauses_until_answers_come() {
    let mut story = Story::with(settings(), Limits { text_bytes_max: 4, ..LIMITS });
    let create = only(story.says(token("text")));
    assert!(!story.shared.intake_open());
    story.ack(&create);
    assert!(story.shared.intake_open());
}

#[test]
fn a_partition_that_leaves_gives_back_what_it_holds() {
    let mut story = Story::new();
    only(story.says(token("a")));
    assert_eq!((story.shared.flow.in_flight(), story.shared.usage().open), (1, 1));
    let other = Engine::new(settings().into(), 3, 0);
    let carrying = std::mem::replace(&mut story.engine, other).leave(&mut story.shared);
    assert_eq!(carrying, [0], "its operation is unanswered");
    assert_eq!((story.shared.flow.in_flight(), story.shared.usage()), (0, Usage::default()));
}

#[test]
fn a_drain_sends_nothing_new_and_keeps_the_watermark() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.apply(Input::Drain);
    assert!(story.ack(&create).is_empty());
    assert_eq!(story.engine.in_flight(), 0);
    story.settle_reports();
    assert_eq!(story.engine.watermark(), 0, "the response is open");
}
