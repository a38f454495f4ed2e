//! What is read back before a response settles.

use super::*;

const LATE: Duration = Duration::from_secs(10);

fn verifying(verify: Verify) -> Story {
    let reconcile = ReconcileSettings { verify, ..settings().reconcile };
    Story::with(Settings { reconcile, ..settings() }, LIMITS)
}

fn latest(version: u64, text: &str, status: Status) -> Latest {
    let version = Some(format!("{version:08}").into());
    Latest::Message { version, text: text.to_owned(), status: status.as_str().to_owned(), ours: true }
}

impl Story {
    fn reads(&mut self, latest: Latest) -> Vec<Operation> {
        let [read_back] = <[_; 1]>::try_from(std::mem::take(&mut self.read_backs)).expect("one message is read back");
        assert_eq!(&*read_back.serial, "00000001");
        self.apply(Input::ReadBack { id: read_back.id, latest })
    }

    fn settled(&self) -> Option<&serde_json::Value> {
        self.reports.last().filter(|report| report["kind"] == "response")
    }
}

/// Two tokens and the end; what became of the second is unknown, and the full text (version 3) is taken.
fn mended(verify: Verify) -> Story {
    mended_after(verify, Doubt::ConnectionLost)
}

fn mended_after(verify: Verify, doubt: Doubt) -> Story {
    let mut story = verifying(verify);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.says(END).iter().for_each(|last| {
        story.answer(last, Outcome::Unknown(doubt));
    });
    story.answer(&append, Outcome::Unknown(doubt));
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "ab", Status::Complete));
    story.answered = 2;
    story.ack(&update);
    story
}

#[test]
fn after_a_connection_was_lost_the_text_is_read_back_soon_and_when_nothing_can_land_any_more() {
    read_back_twice(Doubt::ConnectionLost);
}

#[test]
fn one_that_was_ending_is_no_better_than_one_that_was_lost() {
    read_back_twice(Doubt::Stopped);
}

fn read_back_twice(doubt: Doubt) {
    let mut story = mended_after(Verify::AfterUnknown, doubt);
    assert!(!story.engine.is_clear(), "something may be under way: the next owner is to know");
    assert!(story.reads(latest(3, "ab", Status::Complete)).is_empty());
    assert!(story.settled().is_none() && story.read_backs.is_empty());
    story.after(LATE - Duration::from_secs(2));
    assert!(story.read_backs.is_empty());
    story.after(Duration::from_secs(2));
    story.reads(latest(3, "ab", Status::Complete));
    let report = story.settled().expect("it is over");
    assert_eq!((&report["outcome"], &report["verified"]), (&"reconciled".into(), &true.into()));
}

#[test]
fn what_landed_late_is_mended_and_read_again() {
    let mut story = mended(Verify::AfterUnknown);
    story.reads(latest(3, "ab", Status::Complete));
    story.after(LATE);
    assert!(story.reads(latest(4, "abb", Status::Streaming)).is_empty(), "more of it may come");
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "ab", Status::Complete));
    story.answered = 4;
    story.ack(&update);
    story.reads(latest(5, "ab", Status::Complete));
    assert_eq!(story.settled().expect("it is over")["repairs"], 2);
}

#[test]
fn a_mended_text_must_have_won_over_what_landed_late() {
    let mut story = mended(Verify::AfterUnknown);
    story.after(LATE);
    story.reads(latest(7, "abb", Status::Complete));
    let update = only(story.after(Duration::from_secs(1)));
    story.answered = 4;
    story.ack(&update);
    assert!(story.read_backs.is_empty() && story.settled().is_none(), "version 5 lost against 7");
    assert_eq!(only(story.after(Duration::from_secs(1))).kind, OpKind::Update);
}

#[test]
fn a_read_that_is_out_of_date_says_nothing() {
    let mut story = mended(Verify::AfterUnknown);
    story.after(LATE);
    assert!(story.reads(latest(1, "a", Status::Streaming)).is_empty());
    assert!(story.read_backs.is_empty(), "not at once");
    story.after(Duration::from_secs(1));
    story.reads(Latest::Unreadable);
    story.after(Duration::from_secs(1));
    story.reads(latest(3, "ab", Status::Complete));
    assert_eq!(story.settled().expect("it is over")["verified"], true);
}

#[test]
fn what_was_taken_without_a_version_may_not_be_in_what_is_read() {
    let mut story = verifying(Verify::Always);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let end = only(story.says(END));
    story.answer(&end, Outcome::Acked { serial: None });
    story.reads(latest(1, "a", Status::Streaming));
    assert!(story.after(Duration::from_secs(1)).is_empty(), "it is read again first");
    story.reads(latest(1, "a", Status::Streaming));
    story.after(Duration::from_secs(30));
    story.reads(latest(1, "a", Status::Streaming));
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, update.status), (OpKind::Update, Status::Complete));
}

#[test]
fn what_cannot_be_read_settles_unverified_and_somebody_is_told() {
    let mut story = mended(Verify::AfterUnknown);
    let mut reads = 0;
    while story.settled().is_none() {
        story.reads(Latest::Unreadable);
        reads += 1;
        story.after(Duration::from_secs(8));
    }
    assert!((4..8).contains(&reads), "{reads} reads in half a minute");
    assert_eq!(story.settled().expect("it is over")["verified"], false);
    assert!(matches!(story.notices.last(), Some(Notice::Unverified { rejection: None, .. })));

    let mut story = mended(Verify::AfterUnknown);
    let refusal = Rejection { code: 40160, status_code: 401, class: Class::Channel, message: String::new() };
    story.reads(Latest::Refused(refusal.clone()));
    assert_eq!(story.settled().expect("it is over")["verified"], false);
    assert!(
        matches!(story.notices.last(), Some(Notice::Unverified { rejection: Some(given), .. }) if *given == refusal)
    );
}

#[test]
fn what_somebody_else_has_changed_is_left_alone() {
    let foreign = Latest::Message { version: Some("9".into()), text: "x".into(), status: String::new(), ours: false };
    for latest in [foreign, Latest::Deleted] {
        let mut story = mended(Verify::AfterUnknown);
        assert!(story.reads(latest).is_empty());
        let report = story.settled().expect("it is over");
        assert_eq!((&report["outcome"], &report["reason"]), (&"failed".into(), &"changed-by-other".into()));
    }
}

#[test]
fn a_text_that_never_becomes_ours_is_given_up() {
    let mut story = mended(Verify::AfterUnknown);
    story.after(LATE);
    let mut version = 4;
    while story.settled().is_none() {
        assert!(story.reads(latest(version, "x", Status::Complete)).is_empty(), "not at once");
        for update in story.after(Duration::from_secs(60)) {
            story.answered = version;
            story.ack(&update);
        }
        version += 2;
    }
    assert_eq!(story.settled().expect("it is over")["reason"], "changed-by-other");
}

#[test]
fn an_event_that_comes_while_the_text_is_read_back_goes_before() {
    let mut story = verifying(Verify::Always);
    let create = only(story.says(token("a")));
    story.ack(&create);
    story.apply(Input::CaughtUp(true));
    let end = only(story.after(Duration::from_secs(600)));
    story.ack(&end);
    assert!(story.says(token("b")).is_empty());
    assert!(story.reads(latest(2, "a", Status::Abandoned)).is_empty());
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((&*update.data, update.status), ("ab", Status::Streaming));
    assert!(story.settled().is_none());
}

#[test]
fn what_nobody_doubts_is_read_back_only_when_all_is() {
    for (verify, expected) in [(Verify::Always, 1), (Verify::AfterUnknown, 0), (Verify::Never, 0)] {
        let mut story = verifying(verify);
        let create = only(story.says(token("a")));
        story.ack(&create);
        let end = only(story.says(END));
        story.ack(&end);
        assert_eq!(story.read_backs.len(), expected, "{verify:?}");
        if expected > 0 {
            story.reads(latest(2, "a", Status::Complete));
        }
        assert_eq!(story.settled().expect("it is over")["outcome"], "delivered");
    }
    let mut story = mended(Verify::Never);
    assert!(story.read_backs.is_empty() && story.settled().is_some() && story.engine.is_clear());
    story.after(Duration::from_secs(1));
}

#[test]
fn what_was_written_again_after_a_resume_is_read_back_when_nothing_can_land_any_more() {
    let mut story = verifying(Verify::AfterUnknown);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.ack_resent(&append);
    let update = only(story.after(Duration::from_secs(1)));
    story.ack(&update);
    let end = only(story.says(END));
    story.ack(&end);
    story.reads(latest(4, "ab", Status::Complete));
    assert!(story.settled().is_none(), "the first copy of the append may be under way");
    story.after(LATE);
    story.reads(latest(4, "ab", Status::Complete));
    assert_eq!(story.settled().expect("it is over")["verified"], true);
}
