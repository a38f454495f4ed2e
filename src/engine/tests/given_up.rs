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
        (&4.into(), &2.into(), &2.into())
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
