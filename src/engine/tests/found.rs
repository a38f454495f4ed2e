//! What the simulator found, each as a short story.

use super::*;

#[test]
fn an_event_that_comes_while_its_response_is_being_abandoned_goes_on() {
    let mut story = Story::new();
    story.apply(Input::CaughtUp(true));
    let create = only(story.says(token("a")));
    story.ack(&create);
    let end = only(story.after(Duration::from_secs(600)));
    assert_eq!(end.status, Status::Abandoned);
    assert!(story.says(token("b")).is_empty(), "readers are told that it ended; that must be replaced");
    story.ack(&end);
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "ab", Status::Streaming));
    story.ack(&update);
    let end = only(story.says(END));
    story.ack(&end);
    assert_eq!(story.engine.open(), 0);
    assert!(story.dead_letters.is_empty());
}

#[test]
fn a_create_that_said_abandoned_and_is_repeated_does_not_end_what_went_on() {
    let mut story = Story::new();
    story.apply(Input::CaughtUp(true));
    story.says(EventKind::Start);
    let create = only(story.after(Duration::from_secs(600)));
    assert_eq!((create.kind, create.status), (OpKind::Create, Status::Abandoned));
    story.says(token("a"));
    story.reject(&create, Class::Transient, 50003);
    let again = only(story.after(Duration::from_secs(1)));
    assert_eq!((again.kind, again.status), (OpKind::Create, Status::Abandoned));
    story.ack(&again);
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((&*update.data, update.status), ("a", Status::Streaming));
    story.ack(&update);
    assert_eq!(story.engine.open(), 1, "its producer has not ended it");
}

#[test]
fn a_final_text_that_comes_while_a_full_text_is_in_flight_is_not_taken_for_sent() {
    let other = EventKind::End { final_text: Some("other".into()) };
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    assert!(story.says(other.clone()).is_empty());
    story.ack(&create);
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "other"));

    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.answer(&append, Outcome::Unknown(Doubt::Skipped));
    let update = only(story.after(Duration::from_secs(1)));
    story.says(other);
    story.ack(&update);
    let again = only(story.after(Duration::from_secs(1)));
    assert_eq!((again.kind, &*again.data, again.status), (OpKind::Update, "other", Status::Complete));
}

#[test]
fn a_text_that_is_said_anew_needs_no_reload() {
    let mut story = Story::with(settings(), Limits { open_max: 1, ..LIMITS });
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.ack(&append);
    story.apply(Input::Moved(0));
    story.says(token("c"));
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    story.after(Duration::from_secs(1));
    assert!(story.says(EventKind::End { final_text: Some("other".into()) }).is_empty());
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!(&*update.data, "other");
    story.apply(Input::Reloaded { id: op, text: Some("ab") });
    story.ack(&update);
    assert_eq!(story.reports.last().expect("it was reported")["outcome"], "reconciled");
}

#[test]
fn what_cannot_be_read_again_takes_no_room() {
    let mut story = Story::with(settings(), Limits { text_bytes_max: 4, ..LIMITS });
    let create = only(story.says(token("text")));
    story.ack(&create);
    story.apply(Input::Moved(0));
    story.says(token(" and more"));
    assert!(!story.shared.intake_open());
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    story.after(Duration::from_secs(1));
    let last_word = only(story.apply(Input::Reloaded { id: op, text: None }));
    assert!(story.shared.intake_open(), "its end may stand behind the pause");
    story.says(END);
    story.ack(&last_word);
    assert_eq!(story.reports.last().expect("it was reported")["reason"], "input-lost");
}

#[test]
fn a_final_text_for_what_was_given_up_on_is_only_counted() {
    let settings = Settings { reconcile: ReconcileSettings { attempts: 1, ..settings().reconcile }, ..settings() };
    let mut story = Story::with(settings, LIMITS);
    let create = only(story.says(token("a")));
    story.reject(&create, Class::Operation, 40013);
    story.says(EventKind::End { final_text: Some("other".into()) });
    assert_eq!(story.reports.last().expect("it was reported")["reason"], "refused-40013");
}

/// Half minutes until the channel has refused for longer than `refused_hold`, or is never asked again.
fn refused_for_long(story: &mut Story, mut refuse: impl FnMut(&mut Story)) {
    for _ in 0..24 {
        refuse(story);
        story.now = story.now + Duration::from_secs(30);
    }
    story.says(END);
    assert_eq!(story.engine.open(), 0);
    assert_eq!(story.reports.last().expect("it was reported")["reason"], "channel-refused-40160");
}

#[test]
fn a_create_that_is_refused_for_long_is_given_up() {
    let mut story = Story::new();
    let mut sent = story.says(token("a"));
    refused_for_long(&mut story, |story| {
        sent.extend(story.after(Duration::ZERO));
        if let Some(create) = sent.pop() {
            assert_eq!((create.kind, sent.len()), (OpKind::Create, 0), "a refused create made nothing to look for");
            sent = story.reject(&create, Class::Channel, 40160);
        }
    });
}

#[test]
fn a_channel_that_takes_a_message_again_takes_the_rest_of_it_at_once() {
    for (code, is_free) in [(40160, true), (93002, false)] {
        let mut story = Story::new();
        let create = only(story.says(token("a")));
        assert!(story.reject(&create, Class::Channel, code).is_empty());
        assert!(story.says(token("b")).is_empty());
        let probe = only(story.after(Duration::from_secs(30)));
        let mut sent = story.ack(&probe);
        sent.extend(story.after(Duration::from_secs(1)));
        assert_eq!(
            sent.len(),
            usize::from(is_free),
            "without the rule only a change shows that there is one: {sent:?}"
        );
    }
}

#[test]
fn whoever_waits_for_a_channel_follows_the_probe_that_was_taken() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.reject(&create, Class::Channel, 40160);
    let other = Event { response_id: "s".into(), channel: Some("ai:r".into()), ..event(token("x")) };
    assert!(story.events(&[other]).is_empty());
    let probe = only(story.after(Duration::from_secs(30)));
    story.ack(&probe);
    let follows = only(story.after(Duration::from_secs(5)));
    assert_ne!(follows.head.response_id, probe.head.response_id);
}

#[test]
fn a_channel_that_refuses_to_be_looked_at_for_long_is_given_up() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.now = story.now + Duration::from_secs(600);
    story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost));
    let rejection = Rejection { code: 40160, status_code: 401, class: Class::Channel, message: String::new() };
    refused_for_long(&mut story, |story| {
        assert!(story.after(Duration::ZERO).is_empty());
        let Some(open) = story.engine.find("r", 0) else { return };
        let id = story.engine.op_id(open, 0);
        story.apply(Input::LookedUp { id, found: Found::Refused(rejection.clone()) });
    });
}

#[test]
fn too_many_stubs_elsewhere_end_nothing_that_has_its_text() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    story.shared.usage.stubs = LIMITS.stub_max + 1;
    assert!(story.after(Duration::from_secs(1)).is_empty());
    story.shared.usage.stubs = 0;
    assert_eq!(only(story.says(token("b"))).kind, OpKind::Append);
}

#[test]
fn what_opens_again_asks_for_the_time_again() {
    let mut story = Story::with(Settings { idle: Duration::from_secs(1), ..settings() }, LIMITS);
    story.apply(Input::CaughtUp(true));
    let of_other = |kind| Event { response_id: "s".into(), channel: Some("ai:r".into()), ..event(kind) };
    let create = only(story.says(token("a")));
    story.ack(&create);
    let create = only(story.events(&[of_other(token("x"))]));
    story.ack(&create);
    let refused = only(story.events(&[of_other(token("y"))]));
    let accepted = only(story.events(&[of_other(token("z"))]));
    story.reject(&refused, Class::Channel, 93002);
    assert!(story.says(token("b")).is_empty(), "the channel refuses for half a minute");
    story.ack(&accepted);
    let append = only(story.says(token("c")));
    story.ack(&append);
    let end = story.after(Duration::from_secs(1));
    let end = end.iter().find(|operation| *operation.head.response_id == *"r").expect("it is idle");
    story.ack(end);

    story.after(Duration::from_secs(60));
    story.says(END);
    assert!(story.engine.next_deadline().is_some(), "its text is wanted after the debounce");
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    story.after(Duration::from_secs(1));
    let update = only(story.apply(Input::Reloaded { id: op, text: Some("abc") }));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "abc", Status::Complete));
}

#[test]
fn a_text_whose_connection_changed_makes_room_like_any_other() {
    let mut story = Story::with(settings(), Limits { open_max: 1, ..LIMITS });
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    assert!(!story.shared.intake_open());
    story.apply(Input::Moved(0));
    story.ack(&append);
    assert!(story.shared.intake_open(), "what it waits for may stand behind the pause");
}

#[test]
fn a_full_text_does_not_overtake_an_append_that_the_server_still_holds() {
    let rollup = Duration::from_millis(500);
    let mut story = Story::with(Settings { append_rollup: rollup, ..settings() }, LIMITS);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let (refused, taken) = (only(story.says(token("b"))), only(story.says(token("c"))));
    story.reject(&refused, Class::Operation, 40_013);
    story.now = story.now + Duration::from_millis(400);
    assert!(story.ack(&taken).is_empty());
    assert!(story.after(Duration::from_millis(500)).is_empty(), "it may land after the text that holds it already");
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "abc"));
    story.ack(&update);
    let append = only(story.says(token("d")));
    story.ack(&append);
    story.says(EventKind::End { final_text: Some("other".into()) });
    assert!(story.after(Duration::from_millis(500)).is_empty(), "nor after one that the producer decides");
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "other"));
}
