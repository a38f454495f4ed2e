//! Responses whose tokens are messages.

use super::*;

fn story() -> Story {
    Story::with(Settings { pattern: Pattern::MessagePerToken, ..settings() }, LIMITS)
}

/// What an operation publishes: name, first token, the tokens of each message, text.
fn said(operation: &Operation) -> (&'static str, u64, Vec<u64>, &str) {
    let publish = operation.publish.as_deref().expect("a publish");
    let tokens = publish.pieces.iter().map(|piece| piece.tokens).collect();
    (publish.name.as_str(), publish.seq, tokens, &operation.data)
}

fn id(operation: &Operation) -> &str {
    operation.publish.as_ref().map(|publish| &*publish.id).expect("a publish")
}

fn repairs(stop: &Operation) -> Option<bool> {
    stop.publish.as_ref()?.sum.as_ref().map(|sum| sum.repair)
}

#[test]
fn tokens_are_messages_between_a_start_and_a_stop() {
    let mut story = story();
    let sent = story.events(&[event(token("one")), event(token(" two"))]);
    assert_eq!(
        sent.iter().map(said).collect::<Vec<_>>(),
        [("start", 0, vec![0], ""), ("token", 0, vec![1, 1], "one two")]
    );
    let third = only(story.says(token(" three")));
    assert_eq!(said(&third), ("token", 2, vec![1], " three"));
    assert!(story.says(END).is_empty(), "the stop waits for all answers");
    assert!(story.ack(&sent[0]).is_empty() && story.ack(&sent[1]).is_empty());
    let stop = only(story.ack(&third));
    assert_eq!((said(&stop), stop.status), (("stop", 3, vec![0], ""), Status::Complete));
    let sum = stop.publish.as_ref().and_then(|publish| publish.sum.clone()).expect("a sum");
    assert_eq!((sum.tokens, sum.length, sum.repair), (3, 13, false));
    story.ack(&stop);
    let last = story.reports.last().expect("a result");
    assert_eq!((&last["outcome"], &last["pattern"]), (&"delivered".into(), &"message-per-token".into()));
    assert_eq!(last["operations"], 4);
    let covered: Vec<_> =
        story.reports.iter().map(|r| (r["covered"]["first"].as_i64(), r["covered"]["last"].as_i64())).collect();
    assert_eq!(covered, [(0, -1), (0, 0), (1, 1), (2, 2), (0, 2)].map(|(first, last)| (Some(first), Some(last))));
}

#[test]
fn a_refused_piece_is_mended_by_the_full_text_before_the_stop() {
    let mut story = story();
    let sent = story.says(token("one"));
    let other = only(story.says(token(" two")));
    story.says(END);
    story.ack(&sent[0]);
    story.reject(&sent[1], Class::Transient, 50_003);
    assert!(story.ack(&other).is_empty(), "it waits for more failures first");
    let full = only(story.after(Duration::from_millis(250)));
    assert_eq!(said(&full), ("response-complete", 0, vec![2], "one two"));
    assert!(story.answer(&full, Outcome::Unknown(Doubt::ConnectionLost)).is_empty());
    let again = only(story.after(Duration::from_secs(1)));
    assert_eq!((id(&again), said(&again)), (id(&full), said(&full)), "byte by byte the same");
    let stop = only(story.ack(&again));
    assert_eq!((said(&stop).0, repairs(&stop)), ("stop", Some(true)));
    assert!(story.reject(&stop, Class::RateLimited, 42_911).is_empty());
    let stop_again = only(story.after(Duration::from_secs(1)));
    assert_eq!(id(&stop_again), id(&stop), "only the stop comes again");
    story.ack(&stop_again);
    let last = story.reports.last().expect("a result");
    assert_eq!((&last["outcome"], &last["repairs"]), (&"reconciled".into(), &2.into()));
}

#[test]
fn after_the_window_of_its_id_a_full_text_gets_another() {
    let mut story = story();
    let sent = story.says(token("one"));
    story.says(END);
    story.ack(&sent[0]);
    story.answer(&sent[1], Outcome::Unknown(Doubt::Skipped));
    let full = only(story.after(Duration::from_secs(1)));
    assert!(story.answer(&full, Outcome::Unknown(Doubt::Skipped)).is_empty());
    let again = only(story.after(Duration::from_secs(100)));
    assert_ne!(id(&again), id(&full));
    assert_eq!(said(&again), said(&full));
}

#[test]
fn what_is_too_long_for_one_message_comes_in_parts_of_the_full_text() {
    let limits = Limits { message_bytes_max: 1_024 + "r".len() + "test.tokens.3.0.0.0".len() + 8, ..LIMITS };
    let mut story = Story::with(Settings { pattern: Pattern::MessagePerToken, ..settings() }, limits);
    let sent = story.says(token("0123456789"));
    assert_eq!(said(&only(sent.clone())).0, "start");
    let short = only(story.says(token("ab")));
    assert_eq!(said(&short), ("token", 1, vec![1], "ab"));
    story.says(END);
    story.ack(&sent[0]);
    let first = only(story.ack(&short));
    assert_eq!((&*first.data, first.publish.as_ref().and_then(|publish| publish.segment)), ("01234567", Some((0, 2))));
    let second = only(story.ack(&first));
    assert_eq!((&*second.data, second.publish.as_ref().and_then(|publish| publish.segment)), ("89ab", Some((1, 2))));
    let stop = only(story.ack(&second));
    assert_eq!(repairs(&stop), Some(true));
}

#[test]
fn tokens_that_wait_leave_together() {
    for (batch, pieces) in [(Batch::Array, vec![1, 1]), (Batch::Joined, vec![2])] {
        let settings = Settings { pattern: Pattern::MessagePerToken, batch, ..settings() };
        let mut story = Story::with(settings, Limits { in_flight_operations: 1, ..LIMITS });
        let start = only(story.says(token("one")));
        assert!(story.says(token(" two")).is_empty());
        let both = only(story.ack(&start));
        assert_eq!(said(&both), ("token", 0, pieces, "one two"));
    }
}

#[test]
fn a_record_says_its_pattern_and_the_first_decides() {
    let mut story = Story::new();
    let per_token = Some(Pattern::MessagePerToken);
    let start = only(story.events(&[Event { pattern: per_token, ..event(EventKind::Start) }]));
    assert_eq!(said(&start).0, "start");
    let piece = only(story.says(token("one")));
    assert_eq!(piece.kind, OpKind::Publish);
    let create = only(story.events(&[Event { response_id: "s".into(), ..event(token("x")) }]));
    assert_eq!(create.kind, OpKind::Create);
}

#[test]
fn what_was_abandoned_goes_on_with_the_next_token() {
    let mut story = story();
    let sent = story.says(token("one"));
    sent.iter().for_each(|operation| _ = story.ack(operation));
    story.apply(Input::CaughtUp(true));
    let stop = only(story.after(Duration::from_secs(600)));
    assert_eq!((said(&stop), stop.status), (("stop", 1, vec![0], ""), Status::Abandoned));
    story.ack(&stop);
    let more = only(story.says(token(" two")));
    assert_eq!(said(&more), ("token", 1, vec![1], " two"));
    story.says(END);
    let stop = only(story.ack(&more));
    assert_eq!((said(&stop), stop.status), (("stop", 2, vec![0], ""), Status::Complete));
}

#[test]
fn tokens_without_text_are_counted_once_with_what_comes_next() {
    let mut story = story();
    let sent = story.says(token("one"));
    assert!(story.says(token("")).is_empty(), "there is nothing to show");
    story.ack(&sent[0]);
    story.answer(&sent[1], Outcome::Unknown(Doubt::Skipped));
    story.apply(Input::CaughtUp(true));
    let full = only(story.after(Duration::from_secs(600)));
    assert_eq!((said(&full), full.status), (("response-complete", 0, vec![2], "one"), Status::Abandoned));
    let more = only(story.says(token(" two")));
    assert_eq!(said(&more), ("token", 2, vec![1], " two"));
    story.says(token(""));
    story.ack(&full);
    story.says(END);
    assert!(story.ack(&more).is_empty(), "it waits for more failures first");
    let whole = only(story.after(Duration::from_millis(250)));
    let stop = only(story.ack(&whole));
    assert_eq!((said(&whole), said(&stop)), (("response-complete", 0, vec![4], "one two"), ("stop", 4, vec![0], "")));
}

#[test]
fn a_server_that_takes_a_fraction_of_what_it_said_is_given_that_at_once() {
    let mut story = story();
    let sent = story.says(token("x".repeat(100).leak()));
    story.says(END);
    story.ack(&sent[0]);
    story.reject(&sent[1], Class::Operation, 40_009);
    let first = only(story.after(Duration::from_millis(250)));
    assert_eq!((said(&first).0, first.data.len()), ("response-complete", 75));
    let second = only(story.ack(&first));
    assert_eq!((said(&second).0, second.data.len()), ("response-complete", 25));
    assert_eq!(said(&only(story.ack(&second))).0, "stop");
}

#[test]
fn a_token_without_text_keeps_no_text_in_memory() {
    let settings = Settings { pattern: Pattern::MessagePerToken, ..settings() };
    let mut story = Story::with(settings, Limits { open_max: 1, ..LIMITS });
    let sent = story.says(token("one"));
    story.ack(&sent[0]);
    story.answer(&sent[1], Outcome::Unknown(Doubt::Skipped));
    assert!(story.shared.intake_open(), "its text was dropped");
    story.apply(Input::CaughtUp(true));
    assert!(story.after(Duration::from_secs(600)).is_empty());
    let Reload { id, .. } = story.reloads.pop().expect("its text is wanted for the full text");
    assert!(story.says(token("")).is_empty(), "it goes on, and there is nothing to show");
    assert!(story.apply(Input::Reloaded { id, text: Some("one") }).is_empty());
    assert!(story.shared.intake_open(), "its end stands behind the pause");
    let more = only(story.says(token(" two")));
    assert_eq!(said(&more), ("token", 1, vec![2], " two"));
    story.says(END);
    story.ack(&more);
    story.after(Duration::from_secs(1));
    let Reload { id, .. } = story.reloads.pop().expect("its text is wanted again");
    let whole = only(story.apply(Input::Reloaded { id, text: Some("one") }));
    let stop = only(story.ack(&whole));
    assert_eq!((said(&whole), said(&stop).0), (("response-complete", 0, vec![3], "one two"), "stop"));
}
