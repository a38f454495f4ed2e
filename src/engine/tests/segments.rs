//! Texts that are longer than a message.

use super::*;

/// What a frame takes besides text: 1,024 bytes, the response's id and the create's.
const OVERHEAD: usize = 1_024 + "r".len() + "test.tokens.3.0.0.0".len();

/// Sixteen bytes fit into a message, of which the last four may be held back.
fn short() -> Story {
    Story::with(settings(), Limits { message_bytes_max: OVERHEAD + 16, ..LIMITS })
}

fn shows(operation: &Operation) -> (OpKind, u32, &str, Status) {
    (operation.kind, operation.head.segment, &operation.data, operation.status)
}

/// A response whose first message is full, and the create of its second.
fn continued() -> (Story, Operation) {
    let mut story = short();
    let create = only(story.says(token("one two ")));
    assert_eq!(shows(&create), (OpKind::Create, 0, "one two ", Status::Streaming));
    story.ack(&create);
    let append = only(story.says(token("three fo")));
    assert_eq!(shows(&append), (OpKind::Append, 0, "thre", Status::Streaming), "the rest may belong to the next one");
    story.ack(&append);
    let full = only(story.says(token("ur")));
    assert_eq!(shows(&full), (OpKind::Append, 0, "e fo", Status::Continued));
    let next = only(story.ack(&full));
    assert_eq!(shows(&next), (OpKind::Create, 1, "ur", Status::Streaming));
    (story, next)
}

#[test]
fn a_text_goes_on_in_a_message_that_names_the_one_before() {
    let (mut story, next) = continued();
    assert_eq!(&*next.head.create_id, "test.tokens.3.0.0.1");
    assert_eq!((next.head.prev.as_deref(), next.segments), (Some("00000001"), None));
    story.ack(&next);
    let last = only(story.says(END));
    assert_eq!((shows(&last), last.segments), ((OpKind::Append, 1, "", Status::Complete), Some(2)));
    assert!(story.ack(&last).is_empty());
    let report = story.reports.last().expect("it is over");
    assert_eq!(
        (&report["outcome"], &report["segments"], &report["bytes"]),
        (&"delivered".into(), &2.into(), &18.into())
    );
    assert_eq!(report["serial"], "00000001", "where the text begins");
}

#[test]
fn what_was_held_back_is_sent_at_the_end() {
    let mut story = short();
    let create = only(story.says(token("fifteen bytes !")));
    assert_eq!(shows(&create), (OpKind::Create, 0, "fifteen byte", Status::Streaming));
    story.ack(&create);
    let last = only(story.says(END));
    assert_eq!(shows(&last), (OpKind::Append, 0, "s !", Status::Complete));
}

#[test]
fn the_next_message_waits_until_this_one_is_right() {
    let mut story = short();
    let create = only(story.says(token("one two ")));
    story.ack(&create);
    let full = only(story.says(token("three four five")));
    assert_eq!(full.status, Status::Continued);
    assert!(story.reject(&full, Class::RateLimited, 42911).is_empty());
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!(shows(&update), (OpKind::Update, 0, "one two three fo", Status::Continued));
    assert_eq!(shows(&only(story.ack(&update))), (OpKind::Create, 1, "ur five", Status::Streaming));
}

#[test]
fn another_text_is_gone_through_from_the_first_message_on_and_what_is_left_over_is_emptied() {
    let (mut story, next) = continued();
    story.ack(&next);
    assert!(story.says(EventKind::End { final_text: Some("another".into()) }).is_empty());
    let first = only(story.after(Duration::from_secs(1)));
    assert_eq!(shows(&first), (OpKind::Update, 0, "another", Status::Complete));
    let surplus = only(story.ack(&first));
    assert_eq!(shows(&surplus), (OpKind::Update, 1, "", Status::Superseded));
    story.ack(&surplus);
    let report = story.reports.last().expect("it is over");
    assert_eq!((&report["outcome"], &report["segments"]), (&"reconciled".into(), &1.into()));
}

#[test]
fn a_server_that_takes_less_than_it_said_is_given_less() {
    let mut story = short();
    let create = only(story.says(token("one two three four")));
    assert_eq!(shows(&create), (OpKind::Create, 0, "one two three fo", Status::Continued));
    assert!(story.reject(&create, Class::Operation, 40009).is_empty());
    let less = only(story.after(Duration::from_secs(1)));
    assert_eq!(
        (shows(&less), &less.head.create_id),
        ((OpKind::Create, 0, "one two thre", Status::Continued), &create.head.create_id)
    );
    assert_eq!(shows(&only(story.ack(&less))), (OpKind::Create, 1, "e four", Status::Streaming));
}

#[test]
fn a_new_owner_goes_on_in_the_message_where_the_former_one_was() {
    let (mut story, next) = continued();
    story.ack(&next);
    let reports = std::mem::take(&mut story.reports);
    assert_eq!(reports[3]["cut"], serde_json::json!({"from": 16, "limit": 16}));
    story.reports = reports;
    story.inherit(3, true, &[]);
    for text in ["one two ", "three fo", "ur"] {
        assert!(story.says(token(text)).is_empty(), "it is on the channel");
    }
    assert!(story.says(token(" five")).is_empty());
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!(shows(&update), (OpKind::Update, 1, "ur five", Status::Streaming));
    assert_eq!(update.head.prev.as_deref(), Some("00000001"));
}

#[test]
fn a_message_that_waits_to_be_made_anew_is_not_taken_for_one_that_is_there() {
    let (mut story, next) = continued();
    story.ack(&next);
    let append = only(story.says(token(" five")));
    story.shared.flow.down(0);
    assert!(story.reject(&append, Class::MessageGone, 40400).is_empty(), "it is made anew as soon as it can be");
    assert!(story.says(EventKind::End { final_text: Some("one two three four and".into()) }).is_empty());
    story.shared.flow.up(0, "c0".into(), Pipelining::On, OVERHEAD + 16, None);
    let first = only(story.after(Duration::from_secs(1)));
    assert_eq!(shows(&first), (OpKind::Update, 0, "one two three fo", Status::Continued));
    let anew = only(story.ack(&first));
    assert_eq!(shows(&anew), (OpKind::Create, 1, "ur and", Status::Complete));
    assert_eq!(&*anew.head.create_id, "test.tokens.3.0.0.1~1");
    assert!(anew.head.supersedes.is_some() && story.look_ups.is_empty());
    story.ack(&anew);
    assert_eq!(story.reports.last().expect("it is over")["outcome"], "reconciled");
}

#[test]
fn what_an_owner_before_may_have_made_is_doubted_by_the_one_after_the_next_too() {
    let (mut story, next) = continued();
    assert_eq!((shows(&next).1, story.offset), (1, 3), "its outcome dies with its owner");
    story.inherit(3, false, &[]);
    for text in ["one two ", "three fo", "ur"] {
        story.says(token(text));
    }
    let full = only(story.after(Duration::from_secs(1)));
    assert_eq!(shows(&full), (OpKind::Update, 0, "one two three fo", Status::Continued));
    story.apply(Input::Drain);
    assert!(story.ack(&full).is_empty());
    assert!(!story.engine.is_clear(), "no result speaks of the second message, which may be there");
    story.inherit(3, false, &[]);
    for text in ["one two ", "three fo", "ur"] {
        story.says(token(text));
    }
    let full = only(story.after(Duration::from_secs(1)));
    let again = only(story.says(END).into_iter().chain(story.ack(&full)).collect());
    assert_eq!(shows(&again), (OpKind::Create, 1, "ur", Status::Complete));
    story.ack(&again);
    let whole = only(story.after(Duration::from_secs(1)));
    assert_eq!(shows(&whole), (OpKind::Update, 1, "ur", Status::Complete), "it may show what the first create said");
}
