//! What is given up on, and what readers are told of it.

use super::*;

/// Attempts are counted fast.
fn impatient() -> Settings {
    Settings { reconcile: ReconcileSettings { attempts: 1, ..settings().reconcile }, ..settings() }
}

/// A message of which an append and then the full text were refused. Gives what the engine sends after that, when it may.
fn given_up(settings: Settings, class: Class, code: u32) -> (Story, Vec<Operation>) {
    let mut story = Story::with(settings, LIMITS);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    assert!(story.reject(&append, Class::Operation, 40013).is_empty());
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data, update.keeps_text), (OpKind::Update, "ab", false));
    let mut sent = story.reject(&update, class, code);
    sent.extend(story.after(Duration::from_secs(30)));
    (story, sent)
}

fn said(operation: &Operation) -> (OpKind, &str, bool, Status, Option<&str>) {
    let Operation { kind, data, keeps_text, status, serial, .. } = operation;
    (*kind, data, *keeps_text, *status, serial.as_deref())
}

const LAST_WORD: (OpKind, &str, bool, Status, Option<&str>) =
    (OpKind::Update, "", true, Status::Failed, Some("00000001"));

#[test]
fn readers_are_told_at_once_and_nothing_is_said_after_that() {
    let (mut story, sent) = given_up(impatient(), Class::Operation, 40013);
    let last = only(sent);
    assert_eq!(said(&last), LAST_WORD);
    assert!(story.ack(&last).is_empty());
    assert!(story.says(token("c")).is_empty());
    assert!(story.says(END).is_empty());
    let [.., operation, response] = &story.reports[..] else { panic!("{:?}", story.reports) };
    assert_eq!((&response["outcome"], &response["reason"]), (&"failed".into(), &"refused-40013".into()));
    assert_eq!(
        (&response["operations"], &response["repairs"], &response["rejected"]),
        (&4.into(), &1.into(), &2.into())
    );
    assert_eq!(
        (&operation["op"], &operation["cause"], &operation["tokens"]),
        (&"update".into(), &"final".into(), &0.into())
    );
    assert!(operation["covered"]["first"].as_i64() > operation["covered"]["last"].as_i64(), "it carries nothing");
}

#[test]
fn whatever_becomes_of_the_last_word_it_is_over() {
    let outcomes = [
        Outcome::Acked { serial: None },
        Outcome::Unknown(Doubt::NoAnswer),
        Outcome::Rejected(Rejection { code: 50003, status_code: 500, class: Class::Transient, message: String::new() }),
    ];
    for outcome in outcomes {
        let (mut story, sent) = given_up(impatient(), Class::Operation, 40013);
        assert!(story.says(END).is_empty());
        assert_eq!(story.engine.open(), 1, "the last word is not answered");
        assert!(story.answer(&only(sent), outcome).is_empty());
        assert_eq!((story.engine.open(), story.shared.usage()), (0, Usage::default()));
    }
}

#[test]
fn the_last_word_waits_for_a_connection_but_not_for_long() {
    for comes_back in [true, false] {
        let mut story = Story::with(impatient(), LIMITS);
        let create = only(story.says(token("a")));
        story.ack(&create);
        let update = only(
            story
                .says(EventKind::End { final_text: Some("other".into()) })
                .into_iter()
                .chain(story.after(Duration::from_secs(1)))
                .collect(),
        );
        story.shared.flow.down(0);
        story.reject(&update, Class::Operation, 40013);
        assert!(story.after(Duration::from_secs(1)).is_empty());
        assert_eq!(story.engine.open(), 1);
        if comes_back {
            story.shared.flow.up(0, "c0".into(), Pipelining::On, LIMITS.message_bytes_max, None);
            let last = only(story.apply(Input::Tick));
            assert_eq!(said(&last), LAST_WORD);
            story.ack(&last);
        } else {
            assert!(story.after(Duration::from_secs(5)).is_empty());
        }
        assert_eq!(story.engine.open(), 0, "comes back: {comes_back}");
    }
}

#[test]
fn nothing_is_said_where_messages_are_not_changed() {
    let hold = Settings { refused_hold: Duration::ZERO, ..impatient() };
    let (mut story, sent) = given_up(hold, Class::Channel, 93002);
    assert!(sent.is_empty(), "{sent:?}");
    story.says(END);
    assert_eq!(story.reports.last().expect("it was reported")["reason"], "channel-refused-93002");
}

#[test]
fn a_message_that_is_gone_hears_no_last_word() {
    let (mut story, sent) = given_up(impatient(), Class::MessageGone, 40400);
    assert!(sent.is_empty(), "{sent:?}");
    story.says(END);
    assert_eq!(story.reports.last().expect("it was reported")["reason"], "refused-40400");
}

#[test]
fn tokens_that_are_messages_stop_as_failed() {
    let mut story = Story::with(Settings { pattern: Pattern::MessagePerToken, ..impatient() }, LIMITS);
    let sent = story.says(token("one"));
    story.ack(&sent[0]);
    story.reject(&sent[1], Class::Operation, 40013);
    story.says(END);
    let complete = only(story.after(Duration::from_secs(1)));
    let mut sent = story.reject(&complete, Class::Operation, 40013);
    sent.extend(story.after(Duration::from_secs(30)));
    let last = only(sent);
    let publish = last.publish.as_deref().expect("a publish");
    let sum = publish.sum.as_ref().expect("a sum");
    assert_eq!((publish.name.as_str(), last.status, sum.tokens, sum.repair), ("stop", Status::Failed, 1, false));
    story.ack(&last);
    assert_eq!(story.engine.open(), 0);
    assert_eq!(story.reports.last().expect("it was reported")["reason"], "refused-40013");
}

#[test]
fn the_last_word_does_not_wait_as_long_as_another_try_would() {
    let mut story = Story::with(
        Settings { reconcile: ReconcileSettings { attempts: 8, ..settings().reconcile }, ..settings() },
        LIMITS,
    );
    let create = only(story.says(token("a")));
    story.ack(&create);
    let mut refused = only(story.says(END));
    for _ in 0..8 {
        story.reject(&refused, Class::Operation, 40013);
        refused = only(story.after(Duration::from_secs(30)));
    }
    assert!(!refused.keeps_text);
    story.reject(&refused, Class::Operation, 40013);
    let last = only(story.after(Duration::from_secs(1)));
    assert_eq!(said(&last), LAST_WORD);
}

#[test]
fn who_waits_behind_others_waits_no_longer_for_its_last_word() {
    let reconcile = ReconcileSettings { verify: Verify::AfterUnknown, ..impatient().reconcile };
    let limits = Limits { in_flight_operations: 1, ..LIMITS };
    let mut story = Story::with(Settings { reconcile, ..impatient() }, limits);
    let of = |id: &'static str, kind| Event { response_id: id.into(), ..event(kind) };
    let create = only(story.says(token("a")));
    story.ack(&create);
    let mut sent = story.says(EventKind::End { final_text: Some("other".into()) });
    sent.extend(story.after(Duration::from_secs(1)));
    let update = only(sent);
    assert!(story.events(&[of("s", token("x"))]).is_empty() && story.events(&[of("t", token("y"))]).is_empty());
    let other = only(story.reject(&update, Class::Operation, 40013));
    assert_eq!(&*other.head.response_id, "s", "it has the only place, and t is the next");
    assert!(story.after(Duration::from_secs(1)).is_empty());
    let ReadBack { id, .. } = story.read_backs.pop().expect("a look before it is written");
    let latest =
        Latest::Message { version: Some("00000001".into()), text: "a".into(), status: "streaming".into(), ours: true };
    assert!(story.apply(Input::ReadBack { id, latest }).is_empty());
    for _ in 0..8 {
        assert!(story.after(Duration::from_secs(1)).is_empty());
    }
    assert_eq!(story.engine.open(), 2, "it is over, the others are not");
}

#[test]
fn who_leaves_settles_without_a_last_word() {
    let mut story = Story::with(impatient(), LIMITS);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let end = only(
        story
            .says(EventKind::End { final_text: Some("other".into()) })
            .into_iter()
            .chain(story.after(Duration::from_secs(1)))
            .collect(),
    );
    story.apply(Input::Drain);
    assert!(story.reject(&end, Class::Operation, 40013).is_empty());
    assert_eq!(story.engine.open(), 0);
}

#[test]
fn patience_is_for_what_holds_something_up() {
    let mut story = Story::with(impatient(), LIMITS);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.reject(&append, Class::Operation, 40013);
    let update = only(story.after(Duration::from_secs(1)));
    story.shared.flow.down(0);
    story.reject(&update, Class::Operation, 40013);
    assert!(story.after(Duration::from_secs(60)).is_empty());
    story.shared.flow.up(0, "c0".into(), Pipelining::On, LIMITS.message_bytes_max, None);
    assert_eq!(said(&only(story.apply(Input::Tick))), LAST_WORD, "it goes on, and its readers still wait");
}

/// Sixteen bytes of text fit into a message.
fn short() -> Story {
    let overhead = 1_024 + "r".len() + "test.tokens.3.0.0.0".len();
    Story::with(impatient(), Limits { message_bytes_max: overhead + 16, ..LIMITS })
}

#[test]
fn the_last_word_is_said_where_readers_look() {
    let mut story = short();
    let create = only(story.says(token("sixteen bytes !!")));
    story.ack(&create);
    let full = only(story.says(token("and a few more")));
    assert_eq!(full.status, Status::Continued);
    let next = only(story.ack(&full));
    assert_eq!((next.kind, next.head.segment), (OpKind::Create, 1));
    story.reject(&next, Class::Operation, 40013);
    assert!(
        story.after(Duration::from_secs(60)).is_empty(),
        "as long as it goes on nothing is said of what is finished"
    );
    let last = only(story.says(END));
    assert_eq!((said(&last), last.head.segment), (LAST_WORD, 0));
    story.ack(&last);
    let [.., operation, response] = &story.reports[..] else { panic!("{:?}", story.reports) };
    assert_eq!((&operation["segment"], &operation["serial"]), (&0.into(), &"00000001".into()));
    assert_eq!((&response["outcome"], &response["reason"]), (&"failed".into(), &"refused-40013".into()));
}

#[test]
fn what_is_left_over_is_not_read_any_more() {
    let mut story = short();
    let mut sent = story.says(token("sixteen bytes !!"));
    sent = story.ack(&only(sent));
    assert!(sent.is_empty());
    let full = only(story.says(token("and a few more")));
    let next = only(story.ack(&full));
    story.ack(&next);
    let mut sent = story.says(EventKind::End { final_text: Some("short".into()) });
    sent.extend(story.after(Duration::from_secs(1)));
    let first = only(sent);
    assert_eq!((first.kind, first.head.segment, &*first.data), (OpKind::Update, 0, "short"));
    let surplus = only(story.ack(&first));
    assert_eq!((surplus.head.segment, surplus.status), (1, Status::Superseded));
    let mut sent = story.reject(&surplus, Class::Operation, 40013);
    sent.extend(story.after(Duration::from_secs(1)));
    let last = only(sent);
    assert_eq!((last.keeps_text, last.head.segment, last.status), (true, 1, Status::Superseded));
}

#[test]
fn text_that_moved_on_ends_in_its_last_message() {
    let mut story = short();
    let create = only(story.says(token("sixteen bytes !!")));
    story.ack(&create);
    let full = only(story.says(token("and a few more")));
    let next = only(story.ack(&full));
    story.ack(&next);
    let mut sent = story.says(EventKind::End { final_text: Some("another text of many bytes".into()) });
    sent.extend(story.after(Duration::from_secs(1)));
    let first = only(sent);
    assert_eq!((first.kind, first.head.segment), (OpKind::Update, 0));
    let mut sent = story.reject(&first, Class::Operation, 40013);
    sent.extend(story.after(Duration::from_secs(1)));
    let last = only(sent);
    assert_eq!((last.keeps_text, last.head.segment, last.status), (true, 1, Status::Failed));
}
