//! Messages whose serial an answer does not tell, or tells wrongly.

use super::*;

impl Story {
    /// Answers the one search that there is.
    fn finds(&mut self, found: Found) -> Vec<Operation> {
        let [look_up] = &std::mem::take(&mut self.look_ups)[..] else { panic!("not one search") };
        let id = look_up.id;
        self.apply(Input::LookedUp { id, found })
    }
}

fn message(serial: &str) -> Found {
    Found::Message { serial: serial.into(), version: None }
}

#[test]
fn a_message_that_was_made_without_a_serial_is_looked_for_at_once() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    assert!(story.answer(&create, Outcome::Acked { serial: None }).is_empty());
    assert!(story.after(Duration::from_secs(1)).is_empty(), "another create would be told as little");
    assert!(story.finds(message("00000001")).is_empty());
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, update.serial.as_deref()), (OpKind::Update, Some("00000001")));
    story.ack(&update);
    let end = only(story.says(END));
    story.ack(&end);
    assert_eq!(story.engine.open(), 0);
}

#[test]
fn a_message_that_history_does_not_have_yet_is_asked_for_in_turns() {
    let mut story = Story::new();
    let mut create = only(story.says(token("a")));
    for found in [Found::Nothing, Found::Unreadable, message("00000001")] {
        story.answer(&create, Outcome::Acked { serial: None });
        assert!(story.after(Duration::from_secs(10)).is_empty());
        match found {
            Found::Nothing => {
                story.finds(found);
                let again = only(story.after(Duration::from_secs(10)));
                assert_eq!((again.kind, &again.head.create_id), (OpKind::Create, &create.head.create_id));
                create = again;
            }
            Found::Unreadable => {
                story.finds(found);
                assert!(story.after(Duration::from_secs(10)).is_empty(), "it is looked for again");
            }
            found => {
                story.finds(found);
                assert_eq!(only(story.after(Duration::from_secs(10))).kind, OpKind::Update);
            }
        }
    }
}

/// A create whose first outcome is unknown, and whose second answer names a message that is not there.
fn misled() -> (Story, Operation) {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost));
    let again = only(story.after(Duration::from_secs(1)));
    story.answer(&again, Outcome::Acked { serial: Some("00000009".into()) });
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!(update.serial.as_deref(), Some("00000009"));
    let update = story.reject(&update, Class::MessageGone, 40400);
    assert!(update.is_empty() && story.after(Duration::from_secs(1)).is_empty());
    (story, again)
}

#[test]
fn a_serial_that_is_not_there_is_replaced_by_that_of_the_message_that_was_made() {
    let (mut story, _) = misled();
    story.finds(message("00000001"));
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, update.serial.as_deref()), (OpKind::Update, Some("00000001")));
    story.answer(&update, Outcome::Acked { serial: Some("00000002".into()) });
    let append = only(story.says(token("b")));
    assert_eq!(append.kind, OpKind::Append, "the version is newer than all that its message ever had");
    let mut sent = story.reject(&append, Class::MessageGone, 40400);
    sent.extend(story.after(Duration::from_secs(1)));
    let anew = only(sent);
    assert_eq!((anew.kind, anew.head.supersedes.as_deref()), (OpKind::Create, Some("00000001")), "now it is gone");
}

#[test]
fn a_message_that_may_not_be_looked_for_is_not_made_twice() {
    let (mut story, _) = misled();
    let rejection = Rejection { code: 40160, status_code: 401, class: Class::Channel, message: String::new() };
    for _ in 0..24 {
        if story.look_ups.pop().is_some() {
            let id = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
            story.apply(Input::LookedUp { id, found: Found::Refused(rejection.clone()) });
        }
        assert!(story.after(Duration::from_secs(30)).is_empty());
    }
    story.says(END);
    assert_eq!(story.reports.last().expect("it was reported")["reason"], "channel-refused-40160");
}

#[test]
fn a_message_that_is_nowhere_is_made_anew() {
    for (found, times) in [(Found::Nothing, 5), (message("00000009"), 1)] {
        let (mut story, create) = misled();
        let mut sent = Vec::new();
        for _ in 0..times {
            assert!(sent.is_empty() && story.after(Duration::from_secs(60)).is_empty());
            sent = story.finds(found.clone());
        }
        sent.extend(story.after(Duration::from_secs(60)));
        let anew = only(sent);
        assert_eq!((anew.kind, &*anew.data), (OpKind::Create, "a"));
        assert_ne!(anew.head.create_id, create.head.create_id);
    }
}

#[test]
fn that_nobody_may_look_is_no_reason_to_fail_for_a_message_that_is_made_anew() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    let anew = only(story.reject(&append, Class::MessageGone, 40400));
    story.now = story.now + Duration::from_secs(600);
    assert!(story.answer(&anew, Outcome::Unknown(Doubt::ConnectionLost)).is_empty());
    assert!(story.after(Duration::from_secs(1)).is_empty(), "the server may have forgotten its id");
    let rejection = Rejection { code: 40160, status_code: 401, class: Class::Channel, message: String::new() };
    let mut sent = story.finds(Found::Refused(rejection));
    sent.extend(story.after(Duration::from_secs(1)));
    let again = only(sent);
    assert_eq!((again.kind, &again.head), (OpKind::Create, &anew.head));
}

#[test]
fn what_was_asked_before_a_message_was_lost_says_nothing_of_it() {
    let mut settings = settings();
    (settings.reconcile.verify, settings.idle) = (Verify::AfterUnknown, Duration::from_secs(20));
    let mut story = Story::with(settings, LIMITS);
    let create = only(story.says(token("a")));
    story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost));
    let again = only(story.after(Duration::from_secs(1)));
    story.ack(&again);
    let update = only(story.after(Duration::from_secs(1)));
    story.ack(&update);
    story.apply(Input::CaughtUp(true));
    let end = only(story.after(Duration::from_secs(20)));
    assert_eq!(end.status, Status::Abandoned);
    story.ack(&end);
    let read_back = story.read_backs.pop().expect("it is in doubt");
    let (text, version) = ("a".to_owned(), Some("00000099".into()));
    let latest = Latest::Message { version, text, status: "abandoned".to_owned(), ours: true };
    assert!(story.apply(Input::ReadBack { id: read_back.id, latest }).is_empty());
    assert!(!story.look_ups[0].known.is_empty(), "whether there is another one");
    story.says(token("b"));
    let update = only(story.after(Duration::from_secs(1)));
    assert!(story.reject(&update, Class::MessageGone, 40400).is_empty());
    assert!(story.finds(message("00000077")).is_empty());
    assert!(story.after(Duration::from_secs(2)).is_empty(), "that one is left over");
    assert!(story.look_ups[0].known.is_empty(), "now its own is looked for");
}
