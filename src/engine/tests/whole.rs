//! Channels that take no changes: each response is one message, made at its end.

use super::*;

mod namespaces;

impl Story {
    /// Responses are published whole where messages cannot be changed.
    fn whole(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { whole: true, ..settings() };
        change(&mut settings);
        Self::with(settings, LIMITS)
    }

    /// The same, and that they cannot be changed is known: one message was made and could not be changed.
    fn without_rule(change: impl FnOnce(&mut Settings)) -> Self {
        let mut story = Self::whole(change);
        let create = only(story.of("first", token("x")));
        let update = only(story.ack(&create));
        assert!(story.no_rule(&update).is_empty());
        let anew = only(story.of("first", END));
        assert!(story.ack(&anew).is_empty());
        story
    }

    fn no_rule(&mut self, operation: &Operation) -> Vec<Operation> {
        self.reject(operation, Class::Channel, 93002)
    }

    /// An event of another response in the same namespace.
    fn of(&mut self, id: &'static str, kind: EventKind<'static>) -> Vec<Operation> {
        let channel = format!("ai:{id}");
        self.events(&[Event { response_id: id.into(), channel: Some(channel.into()), ..event(kind) }])
    }

    /// Taken, without a word of which message it is.
    fn ack_unnamed(&mut self, operation: &Operation) -> Vec<Operation> {
        self.answer(operation, Outcome::Acked { serial: None })
    }

    fn outcome(&self, id: &str) -> Option<&str> {
        let is_it = |report: &&serde_json::Value| report["kind"] == "response" && report["responseId"] == id;
        self.reports.iter().rfind(is_it)?["outcome"].as_str()
    }
}

#[test]
fn where_changes_are_taken_one_message_shows_it_and_the_others_follow() {
    let mut story = Story::whole(|_| {});
    let create = only(story.says(token("a")));
    assert!(story.of("s", token("x")).is_empty(), "one at a time tries");
    assert!(story.says(token("b")).is_empty());
    let update = only(story.ack(&create));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "ab", Status::Streaming));
    assert!(story.of("s", token("y")).is_empty());
    let other = only(story.ack(&update));
    assert_eq!((other.kind, &*other.data), (OpKind::Create, "xy"));
    assert_eq!(only(story.says(token("c"))).kind, OpKind::Append);
    let end = only(story.says(END));
    story.ack(&end);
    let third = only(story.of("t", token("x")));
    assert_eq!(third.kind, OpKind::Create, "that changes are taken is known");
}

#[test]
fn where_they_are_not_a_response_is_published_once_when_it_ends() {
    for named in [true, false] {
        let mut story = Story::without_rule(|_| {});
        for text in ["one ", "two ", "three"] {
            assert!(story.says(token(text)).is_empty());
        }
        assert!(story.after(Duration::from_secs(60)).is_empty());
        let create = only(story.says(END));
        let sent = (create.kind, &*create.data, create.status);
        assert_eq!(sent, (OpKind::Create, "one two three", Status::Complete));
        let sent = if named { story.ack(&create) } else { story.ack_unnamed(&create) };
        if named {
            // The rule may be on by now: the message is sent again as it is.
            let update = only(sent);
            assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, &*create.data, create.status));
            story.no_rule(&update);
        }
        // What was refused was an operation all the same.
        assert_eq!(story.outcome("r"), Some(if named { "reconciled" } else { "delivered" }));
        let operations = story.reports.iter().filter(|report| report["responseId"] == "r" && report["op"] == "create");
        assert_eq!(operations.map(|report| report["outcome"].clone()).collect::<Vec<_>>(), ["acked"]);

        story.of("s", token("more"));
        let create = only(story.of("s", EventKind::Cancel));
        assert_eq!((&*create.data, create.status), ("more", Status::Cancelled));
        let trials = story.ack(&create);
        assert_eq!(trials.is_empty(), named, "one was tried just now, or not: {trials:?}");
        trials.iter().for_each(|trial| assert!(story.no_rule(trial).is_empty()));
        assert_eq!(story.outcome("s"), Some("cancelled"));
    }
}

#[test]
fn a_message_that_was_begun_is_replaced_once_at_the_end() {
    let mut story = Story::whole(|_| {});
    let create = only(story.says(token("a")));
    let update = only(story.ack(&create));
    let append = only(story.ack(&update).into_iter().chain(story.says(token("b"))).collect());
    assert!(story.no_rule(&append).is_empty());
    assert!(story.says(token("c")).is_empty());
    assert!(story.of("s", token("x")).is_empty(), "what is new waits for its end");
    assert!(story.after(Duration::from_secs(20)).is_empty());
    let anew = only(story.says(END));
    assert_eq!((anew.kind, &*anew.data, anew.status), (OpKind::Create, "abc", Status::Complete));
    assert_eq!(&*anew.head.create_id, "test.tokens.3.0.0.0~1");
    assert_eq!(anew.head.supersedes.as_deref(), Some("00000001"));
    story.ack(&anew);
    assert_eq!(story.outcome("r"), Some("reconciled"));
    assert_eq!(story.engine.open(), 1);
    assert_eq!(story.reports.iter().filter(|report| report["outcome"] == "failed").count(), 0);
}

#[test]
fn a_message_that_was_begun_shows_every_half_minute_whether_the_rule_is_on() {
    let mut story = Story::whole(|_| {});
    let create = only(story.of("first", token("x")));
    let update = only(story.ack(&create));
    assert!(story.no_rule(&update).is_empty());
    let trial = only(story.after(Duration::from_secs(30)));
    assert_eq!((trial.kind, &*trial.data), (OpKind::Update, "x"));
    assert!(story.no_rule(&trial).is_empty());
    assert!(story.of("first", token("y")).is_empty());
    let trial = only(story.after(Duration::from_secs(30)));
    assert_eq!((trial.kind, &*trial.data), (OpKind::Update, "xy"));
    story.ack(&trial);
    assert_eq!(only(story.of("first", token("z"))).kind, OpKind::Append, "it goes on");
    assert_eq!(only(story.says(token("a"))).kind, OpKind::Create, "and so do others");
}

#[test]
fn a_message_that_was_begun_and_not_named_is_looked_for_to_be_replaced() {
    let found = Found::Message { serial: "00000001".into(), version: None };
    for (found, supersedes) in [(found, Some("00000001")), (Found::Nothing, None)] {
        let mut story = Story::whole(|_| {});
        let create = only(story.says(token("a")));
        assert!(story.ack_unnamed(&create).is_empty());
        assert!(story.says(token("b")).is_empty());
        assert!(story.after(Duration::from_secs(60)).is_empty());
        let mut sent = story.says(END);
        for _ in 0..5 {
            assert!(sent.is_empty());
            sent = story.after(Duration::from_secs(30));
            if let Some(look_up) = story.look_ups.pop() {
                sent.extend(story.apply(Input::LookedUp { id: look_up.id, found: found.clone() }));
            }
            if supersedes.is_some() {
                break;
            }
        }
        sent.extend(story.after(Duration::from_secs(30)));
        if supersedes.is_some() {
            // That it has a serial may mean that the rule is on.
            let trial = only(std::mem::take(&mut sent));
            assert_eq!((trial.kind, &*trial.data), (OpKind::Update, "ab"));
            sent = story.no_rule(&trial);
        }
        let anew = sent.pop().expect("it is made anew");
        assert_eq!((anew.kind, &*anew.data, anew.status), (OpKind::Create, "ab", Status::Complete));
        assert_eq!(anew.head.supersedes.as_deref(), supersedes);
        story.ack_unnamed(&anew);
        assert_eq!(story.outcome("r"), Some("reconciled"));
    }
}

#[test]
fn a_create_whose_answer_is_lost_is_repeated_and_not_changed() {
    let mut story = Story::without_rule(|_| {});
    story.says(token("a"));
    let create = only(story.says(END));
    assert!(story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost)).is_empty());
    let again = only(story.after(Duration::from_secs(1)));
    assert_eq!((&again.head, &again.data, again.status), (&create.head, &create.data, create.status));
    assert!(story.ack(&again).is_empty());
    assert_eq!(story.outcome("r"), Some("reconciled"));
}

#[test]
fn long_texts_are_messages_that_are_made_as_they_fill() {
    let mut story = Story::with(Settings { whole: true, ..settings() }, Limits { message_bytes_max: 1_140, ..LIMITS });
    let first = only(story.of("first", token("x")));
    let update = only(story.ack(&first));
    story.no_rule(&update);
    assert!(story.says(token("0123456789 0123456789 0123456789 0123456789 0123456789 ")).is_empty());
    let one = only(story.says(token("0123456789 0123456789 0123456789 0123456789 0123456789 ")));
    assert_eq!((one.kind, one.status), (OpKind::Create, Status::Continued));
    assert!(story.ack_unnamed(&one).is_empty());
    let two = only(story.says(END));
    assert_eq!((two.kind, two.head.segment, two.status, two.segments), (OpKind::Create, 1, Status::Complete, Some(2)));
    assert_eq!(format!("{}{}", one.data, two.data).len(), 110);
    story.ack_unnamed(&two);
    assert_eq!(story.outcome("r"), Some("delivered"));
}

#[test]
fn an_idle_response_ends_abandoned_and_is_published_anew_if_it_goes_on() {
    let mut story = Story::without_rule(|settings| settings.idle = Duration::from_secs(20));
    story.apply(Input::CaughtUp(true));
    story.says(token("a"));
    let sent = story.after(Duration::from_secs(20));
    let create = sent.iter().find(|operation| *operation.head.response_id == *"r").expect("it is idle");
    assert_eq!((create.kind, create.status), (OpKind::Create, Status::Abandoned));
    story.ack(create);
    assert_eq!(story.outcome("r"), Some("abandoned"));
    story.says(token("b"));
    story.says(END);
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    let mut sent = story.after(Duration::from_secs(1));
    sent.extend(story.apply(Input::Reloaded { id: op, text: Some("a") }));
    let anew = sent.iter().rfind(|operation| *operation.head.response_id == *"r").expect("it is made anew");
    assert_eq!((anew.kind, &*anew.data, anew.status), (OpKind::Create, "ab", Status::Complete));
    assert!(anew.head.supersedes.is_some());
}

#[test]
fn text_that_waits_for_its_end_makes_room() {
    let settings = Settings { whole: true, ..settings() };
    let mut story = Story::with(settings, Limits { text_bytes_max: 4, ..LIMITS });
    let create = only(story.of("first", token("x")));
    let update = only(story.ack(&create));
    story.no_rule(&update);
    assert!(story.says(token("text")).is_empty());
    assert!(story.shared.intake_open(), "its end may stand behind the pause");
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    assert!(story.says(END).is_empty());
    let create = only(story.apply(Input::Reloaded { id: op, text: Some("text") }));
    assert_eq!((create.kind, &*create.data), (OpKind::Create, "text"));
}

#[test]
fn tokens_that_are_messages_need_no_rule() {
    let mut story = Story::whole(|settings| settings.pattern = Pattern::MessagePerToken);
    let sent = story.says(token("a"));
    assert!(!sent.is_empty() && sent.iter().all(|operation| operation.kind == OpKind::Publish));
}

#[test]
fn what_goes_on_in_a_new_process_tries_to_be_changed() {
    let mut story = Story::whole(|_| {});
    let create = only(story.says(token("a")));
    let update = only(story.ack(&create));
    story.ack(&update);
    let append = only(story.says(token("b")));
    story.ack(&append);
    story.inherit(2, false, &[]);
    // It knows nothing of namespaces.
    story.shared = Shared::new(LIMITS, Duration::from_millis(40));
    story.shared.flow.up(0, "c1".into(), Pipelining::On, LIMITS.message_bytes_max, None);
    for text in ["a", "b", "c"] {
        assert!(story.says(token(text)).is_empty());
    }
    let trial = only(story.after(Duration::from_secs(1)));
    assert_eq!((trial.kind, &*trial.data, trial.serial.as_deref()), (OpKind::Update, "abc", Some("00000001")));
    story.ack(&trial);
    assert_eq!(only(story.says(token("d"))).kind, OpKind::Append);
}

#[test]
fn a_message_that_an_owner_before_us_has_replaced_is_not_where_the_text_goes() {
    let mut story = Story::whole(|settings| settings.reconcile.verify = Verify::AfterUnknown);
    let create = only(story.says(token("a")));
    let update = only(story.ack(&create));
    story.ack(&update);
    story.inherit(2, false, &[]);
    story.says(token("a"));
    story.says(END);
    let update = only(story.after(Duration::from_secs(3)));
    assert_eq!((update.serial.as_deref(), update.status), (Some("00000001"), Status::Complete));
    story.ack(&update);
    while story.look_ups.is_empty() {
        let read_back = story.read_backs.pop().expect("it is in doubt");
        let (text, version) = ("a".to_owned(), Some("00000099".into()));
        let latest = Latest::Message { version, text, status: "complete".to_owned(), ours: true };
        story.apply(Input::ReadBack { id: read_back.id, latest });
        story.after(Duration::from_secs(10));
    }
    let look_up = story.look_ups.pop().expect("it may have made another one");
    let found = Found::of(&look_up, "test.tokens.3.0.0.0~2", "00000077".into(), None, Some("00000001"));
    assert!(matches!(&found, Found::Successor { of, .. } if **of == *"00000001"));
    let mut sent = story.apply(Input::LookedUp { id: look_up.id, found });
    sent.extend(story.after(Duration::from_secs(3)));
    let update = only(sent);
    assert_eq!((update.serial.as_deref(), &*update.data, update.status), (Some("00000077"), "a", Status::Complete));
    assert_eq!(update.head.supersedes.as_deref(), Some("00000001"));
    assert_eq!(&*update.head.create_id, "test.tokens.3.0.0.0~2", "its own name, whatever else was made before");
}

#[test]
fn what_an_owner_before_us_has_published_is_not_appended_to() {
    let mut story = Story::without_rule(|_| {});
    story.says(token("a"));
    let create = only(story.says(END));
    story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost));
    story.settle_reports();
    story.inherit(4, false, &[]);
    story.shared = Shared::new(LIMITS, Duration::from_millis(40));
    story.shared.flow.up(0, "c1".into(), Pipelining::On, LIMITS.message_bytes_max, None);
    story.says(token("a"));
    let mut sent = story.says(END);
    sent.extend(story.after(Duration::from_secs(1)));
    let again = only(sent);
    assert_eq!((again.kind, &again.head.create_id), (OpKind::Create, &create.head.create_id));
    let other = only(story.of("s", token("x")));
    let update = only(story.ack(&other));
    let mut sent = story.ack(&again);
    // Now it is known that changes are taken.
    sent.extend(story.ack(&update));
    sent.extend(story.after(Duration::from_secs(1)));
    let update = only(sent);
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "a", Status::Complete));
    story.ack(&update);
    assert_eq!(story.outcome("r"), Some("reconciled"));
}

#[test]
fn who_never_reads_makes_anew_what_an_owner_before_may_have_made() {
    for is_taken_over in [true, false] {
        let mut story = Story::without_rule(|_| {});
        story.settle_reports();
        if is_taken_over {
            // It had read the first event, and may have published as much under the same name.
            story.inherit(story.offset + 1, false, &[]);
        }
        assert!(story.says(token("a")).is_empty());
        let mut sent = story.says(END);
        sent.extend(story.after(Duration::from_secs(1)));
        let create = only(sent);
        assert_eq!((create.kind, &*create.data), (OpKind::Create, "a"));
        let mut sent = story.ack(&create);
        sent.extend(story.after(Duration::from_secs(1)));
        let anew = sent.iter().filter(|operation| operation.kind == OpKind::Create);
        let anew: Vec<_> = anew.map(|operation| &*operation.head.create_id).collect();
        let expected = create.head.create_id.to_string() + "~1";
        assert_eq!(anew, if is_taken_over { vec![&*expected] } else { vec![] });
    }
}

#[test]
fn what_was_replaced_twice_is_not_taken_for_one_too_many() {
    let mut story = Story::without_rule(|settings| {
        (settings.idle, settings.reconcile.verify) = (Duration::from_secs(20), Verify::AfterUnknown);
    });
    story.apply(Input::CaughtUp(true));
    let (mut serials, mut all) = (Vec::new(), String::new());
    for text in ["a", "b", "c"] {
        story.says(token(text));
        let before = all.clone();
        all.push_str(text);
        let mut sent = story.after(Duration::from_secs(20));
        for _ in 0..5 {
            sent.extend(story.after(Duration::from_secs(1)));
            for reload in std::mem::take(&mut story.reloads) {
                sent.extend(story.apply(Input::Reloaded { id: reload.id, text: Some(&before) }));
            }
        }
        let mut create = only(sent);
        if create.kind == OpKind::Update {
            create = only(story.no_rule(&create));
        }
        assert_eq!((create.kind, create.head.supersedes.as_ref()), (OpKind::Create, serials.last()));
        if text == "c" {
            story.answer(&create, Outcome::Unknown(Doubt::NoAnswer));
            create = only(story.after(Duration::from_secs(1)));
        }
        serials.push(format!("{:08}", story.answered + 1).into());
        story.ack(&create).iter().for_each(|trial| assert!(story.no_rule(trial).is_empty()));
    }
    let latest = |status: &str| {
        let (text, version) = (all.clone(), serials.last().cloned());
        Latest::Message { version, text, status: status.to_owned(), ours: true }
    };
    while story.look_ups.is_empty() {
        let read_back = story.read_backs.pop().expect("it is in doubt");
        story.apply(Input::ReadBack { id: read_back.id, latest: latest("abandoned") });
        story.after(Duration::from_secs(10));
    }
    let mut known: Vec<Serial> = story.look_ups[0].known.iter().map(|(_, serial)| serial.clone()).collect();
    known.sort();
    assert_eq!(known, serials);
}

#[test]
fn that_a_message_was_not_found_to_be_read_back_is_said() {
    let mut story = Story::without_rule(|settings| settings.reconcile.verify = Verify::Always);
    story.notices.clear();
    story.says(token("a"));
    let create = only(story.says(END));
    assert!(story.ack_unnamed(&create).is_empty());
    for _ in 0..5 {
        let look_up = story.look_ups.pop().expect("it is looked for");
        assert!(story.apply(Input::LookedUp { id: look_up.id, found: Found::Nothing }).is_empty());
        assert!(story.after(Duration::from_secs(60)).is_empty());
    }
    let report = story.reports.last().expect("it is over");
    assert_eq!((&report["responseId"], &report["verified"]), (&"r".into(), &false.into()));
    assert!(matches!(story.notices[..], [Notice::Unverified { rejection: None, .. }]), "{:?}", story.notices);
}

#[test]
fn with_fail_nothing_waits() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.no_rule(&append);
    assert_eq!(story.notices.len(), 1);
    assert!(matches!(story.notices[0], Notice::Rejected { .. }));
}
