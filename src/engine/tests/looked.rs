//! What somebody else has made of a message is left to them: it is looked at before it is written.

use super::*;

fn story(verify: Verify) -> Story {
    let reconcile = ReconcileSettings { verify, ..settings().reconcile };
    Story::with(Settings { reconcile, ..settings() }, LIMITS)
}

fn message(version: u64, ours: bool) -> Latest {
    let version = Some(format!("{version:08}").into());
    Latest::Message { version, text: "a".to_owned(), status: "streaming".to_owned(), ours }
}

fn refused() -> Latest {
    let message = String::new();
    Latest::Refused(Rejection { code: 40160, status_code: 401, class: Class::Channel, message })
}

impl Story {
    /// The message that is to be looked at.
    fn looks_at(&mut self) -> ReadBack {
        let [read_back] = <[_; 1]>::try_from(std::mem::take(&mut self.read_backs)).expect("one message is looked at");
        read_back
    }

    fn sees(&mut self, latest: Latest) -> Vec<Operation> {
        let id = self.looks_at().id;
        self.apply(Input::ReadBack { id, latest })
    }

    fn reason(&self) -> Option<&str> {
        let report = self.reports.last().filter(|report| report["kind"] == "response")?;
        report["reason"].as_str()
    }
}

/// Two tokens that a former owner has sent, the second without an answer; they are read again.
fn taken_over(verify: Verify) -> Story {
    let mut story = story(verify);
    let create = only(story.says(token("a")));
    story.ack(&create);
    only(story.says(token("b")));
    story.inherit(2, false, &[]);
    for text in ["a", "b"] {
        assert!(story.says(token(text)).is_empty());
    }
    story
}

#[test]
fn who_takes_over_looks_before_it_writes() {
    let mut story = taken_over(Verify::AfterUnknown);
    assert_eq!(&*story.looks_at().serial, "00000001");
    let mut story = taken_over(Verify::AfterUnknown);
    assert!(story.sees(message(2, true)).is_empty(), "what the former owner left may still land");
    let update = only(story.after(Duration::from_millis(290)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "ab"));
    assert_eq!((&*update.sender.instance, update.sender.epoch), ("one", 1));
    story.ack(&update);
    assert!(story.read_backs.is_empty(), "once is enough");
}

#[test]
fn what_is_somebody_elses_is_not_written_again() {
    for latest in [message(2, false), Latest::Deleted] {
        let mut story = taken_over(Verify::AfterUnknown);
        assert!(story.sees(latest).is_empty());
        assert_eq!(story.shared.usage().text_bytes, 0, "nobody needs its text");
        assert!(story.says(token("c")).is_empty() && story.after(Duration::from_secs(60)).is_empty());
        assert!(story.says(END).is_empty());
        assert_eq!(story.reason(), Some("changed-by-other"));
        assert_eq!(story.reports.last().expect("it is over")["outcome"], "failed");
        assert!(story.read_backs.is_empty());
    }
}

#[test]
fn a_takeover_goes_on_unseen_when_nothing_can_be_seen() {
    let mut story = taken_over(Verify::Never);
    assert!(story.read_backs.is_empty());
    assert_eq!(only(story.after(Duration::from_millis(290))).kind, OpKind::Update);

    let mut story = taken_over(Verify::AfterUnknown);
    assert!(story.sees(refused()).is_empty());
    assert_eq!(only(story.after(Duration::from_millis(290))).kind, OpKind::Update);
    assert!(story.read_backs.is_empty(), "it is not asked again");
}

#[test]
fn a_look_that_says_nothing_is_repeated_but_not_for_long() {
    // What was there before the create cannot be what is there now.
    for useless in [Latest::Unreadable, message(0, true)] {
        let mut story = taken_over(Verify::AfterUnknown);
        story.after(Duration::from_millis(290));
        let mut looks = 0;
        let begun = story.now;
        let update = loop {
            if !story.read_backs.is_empty() {
                looks += 1;
                story.sees(useless.clone());
            }
            if let [update] = &story.after(Duration::from_millis(50))[..] {
                break update.clone();
            }
        };
        assert_eq!(update.kind, OpKind::Update);
        assert!(looks > 2 && story.now.since(begun) <= look::PATIENCE, "{looks} looks");
    }
    let mut story = taken_over(Verify::AfterUnknown);
    let id = story.looks_at().id;
    let update = only(story.after(look::PATIENCE));
    assert_eq!(update.kind, OpKind::Update, "an answer that does not come is not waited for");
    story.apply(Input::ReadBack { id, latest: Latest::Deleted });
    story.answered = 1;
    assert!(story.ack(&update).is_empty() && story.says(token("c")).is_empty(), "one that comes late is heeded");
    story.says(END);
    assert_eq!(story.reason(), Some("changed-by-other"));
}

#[test]
fn looks_wait_for_their_turn_but_not_for_long() {
    let reconcile = ReconcileSettings { verify: Verify::AfterUnknown, ..settings().reconcile };
    let mut story = Story::with(Settings { reconcile, ..settings() }, Limits { read_back_rate: 1, ..LIMITS });
    let begins = |n: usize| Event { response_id: ["r", "s", "t", "u", "v"][n].into(), ..event(token("a")) };
    let all: Vec<_> = (0..5).map(begins).collect();
    for create in story.events(&all) {
        story.ack(&create);
    }
    story.inherit(1, false, &[]);
    story.events(&all);
    let begun = story.now;
    let mut written = Vec::new();
    while story.now.since(begun) < look::PATIENCE {
        written.extend(story.after(Duration::from_millis(100)));
    }
    let looks = story.read_backs.len();
    assert!((1..4).contains(&looks), "{looks} looks in two seconds");
    assert_eq!(written.len(), 5, "nobody waits for a turn that does not come");
}

#[test]
fn who_cannot_write_yet_does_not_look_yet() {
    let mut story = story(Verify::AfterUnknown);
    let create = only(story.says(token("a")));
    story.ack(&create);
    story.shared.flow.down(0);
    story.inherit(1, false, &[]);
    assert!(story.says(token("a")).is_empty() && story.after(Duration::from_secs(60)).is_empty());
    assert!(story.read_backs.is_empty());
    story.shared.flow.up(0, "c0".into(), Pipelining::On, LIMITS.message_bytes_max, None);
    assert!(story.after(Duration::ZERO).is_empty());
    assert_eq!(only(story.sees(message(1, true))).kind, OpKind::Update);
}

#[test]
fn what_refuses_to_be_written_is_looked_at_first() {
    for class in [Class::Operation, Class::MessageGone] {
        let mut story = story(Verify::AfterUnknown);
        let create = only(story.says(token("a")));
        story.ack(&create);
        let append = only(story.says(token("b")));
        assert!(story.reject(&append, class, 40400).is_empty(), "{class:?}");
        story.after(Duration::from_secs(1));
        assert!(story.sees(Latest::Deleted).is_empty(), "{class:?}");
        story.says(END);
        assert_eq!(story.reason(), Some("changed-by-other"), "{class:?}");
    }
}

#[test]
fn a_message_that_is_gone_is_made_anew_when_nobody_else_has_changed_it() {
    let mut story = story(Verify::AfterUnknown);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    assert!(story.reject(&append, Class::MessageGone, 40400).is_empty());
    let anew = only(story.sees(message(1, true)));
    assert_eq!((anew.kind, &*anew.data), (OpKind::Create, "ab"));
}

#[test]
fn a_refusal_that_passes_is_no_reason_to_look() {
    let mut story = story(Verify::AfterUnknown);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.reject(&append, Class::RateLimited, 42911);
    assert_eq!(only(story.after(Duration::from_secs(1))).kind, OpKind::Update);
    assert!(story.read_backs.is_empty());
}

#[test]
fn what_opens_again_is_looked_at_first() {
    let mut story = story(Verify::AfterUnknown);
    let create = only(story.says(token("a")));
    story.ack(&create);
    story.apply(Input::CaughtUp(true));
    let end = only(story.after(Duration::from_secs(600)));
    story.ack(&end);
    assert_eq!(story.reports.last().expect("it is over")["outcome"], "abandoned");
    assert!(story.says(token("b")).is_empty());
    assert!(story.sees(message(3, false)).is_empty());
    story.says(END);
    assert_eq!(story.reason(), Some("changed-by-other"));
}
