//! What a new owner does with what a former one has left.

use super::*;

impl Story {
    /// Puts a new owner in the place of the one before, at the start of the partition.
    pub(super) fn inherit(&mut self, begun_below: Offset, clean: bool, letters: &[(Offset, Offset)]) {
        let from = self.engine.watermark();
        let mut history = History::default();
        for report in &self.reports {
            history.add("tokens", report.to_string().as_bytes());
        }
        let epoch = history.epoch() + 1;
        let anew = Engine::new(self.engine.settings.clone(), 3, from);
        let former = std::mem::replace(&mut self.engine, anew);
        former.leave(&mut self.shared);
        self.offset = from;
        let left = Inheritance {
            epoch,
            begun_below,
            clean,
            letters: letters.to_vec(),
            beginnings: Beginnings::Here,
            missing_until: None,
            stale: None,
            history,
        };
        assert!(self.apply(Input::Inherited(Box::new(left))).is_empty());
        assert!(self.apply(Input::Announced).is_empty());
    }

    fn last_report(&self) -> &serde_json::Value {
        self.reports.last().expect("something was reported")
    }
}

/// A response with a create and an append that are taken, and then the process is gone.
fn begun() -> Story {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.ack(&append);
    story
}

#[test]
fn a_response_that_was_left_open_is_taken_over_with_its_full_text() {
    let mut story = begun();
    only(story.says(token("c")));
    story.inherit(3, false, &[]);
    for text in ["a", "b"] {
        assert!(story.says(token(text)).is_empty());
        assert!(story.after(Duration::from_secs(1)).is_empty(), "the text on the channel must not shrink");
    }
    let update = only(story.says(token("c")));
    assert_eq!((update.kind, &*update.data, update.id.seq), (OpKind::Update, "abc", 2));
    assert_eq!(update.serial.as_deref(), Some("00000001"));
    story.ack(&update);
    let report = story.last_report();
    assert_eq!((&report["cause"], &report["epoch"]), (&"takeover".into(), &1.into()));
    let lost = &report["supersedes"];
    assert_eq!((&lost["first"], &lost["last"]), (&2.into(), &2.into()), "the append that nobody answered");
    let end = only(story.says(END));
    story.ack(&end);
    let report = story.last_report();
    assert_eq!((&report["outcome"], &report["operations"]), (&"reconciled".into(), &4.into()));
    assert_eq!((&report["tokens"], &report["repairs"]), (&3.into(), &1.into()));
}

#[test]
fn a_last_word_is_no_full_text_for_a_new_owner() {
    let reconcile = ReconcileSettings { attempts: 1, ..settings().reconcile };
    let mut story = Story::with(Settings { reconcile, ..settings() }, LIMITS);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.reject(&append, Class::Operation, 40013);
    let update = only(story.after(Duration::from_secs(1)));
    story.reject(&update, Class::Operation, 40013);
    let last_word = only(story.after(Duration::from_secs(1)));
    assert!(last_word.keeps_text);
    story.ack(&last_word);
    story.inherit(2, true, &[]);
    for text in ["a", "b"] {
        assert!(story.says(token(text)).is_empty());
    }
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "ab", Status::Streaming));
}

#[test]
fn a_response_that_was_handed_over_in_order_is_not_mended() {
    let mut story = begun();
    story.inherit(2, true, &[]);
    story.says(token("a"));
    story.says(token("b"));
    assert!(story.after(Duration::from_secs(1)).is_empty(), "all of it is on the channel");
    let update = only(story.says(token("c")));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "abc"), "its connection has changed");
    story.ack(&update);
    let end = only(story.says(END));
    story.ack(&end);
    assert_eq!(story.last_report()["outcome"], "delivered");
}

#[test]
fn what_was_read_and_not_sent_before_a_hand_over_in_order_is_new() {
    let mut story = Story::new();
    story.apply(Input::Drain);
    assert!(story.says(token("a")).is_empty());
    assert!(story.engine.is_clear());
    story.inherit(1, true, &[]);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let end = only(story.says(END));
    assert_eq!(end.kind, OpKind::Append);
    story.ack(&end);
    assert_eq!(story.last_report()["outcome"], "delivered");
}

#[test]
fn an_owner_that_has_not_mended_everything_says_so_to_the_next() {
    let mut story = begun();
    only(story.says(token("c")));
    story.inherit(3, false, &[]);
    story.says(token("a"));
    assert_eq!((story.engine.begun_below(), story.engine.is_clear()), (3, false), "not everything is read again");
    story.says(token("b"));
    story.says(token("c"));
    let update = only(story.after(Duration::from_secs(1)));
    assert!(!story.engine.is_clear(), "nobody knows what is on the channel");
    story.ack(&update);
    assert!(story.engine.is_clear());
    story.says(token("d"));
    assert_eq!((story.engine.begun_below(), story.engine.is_clear()), (4, false), "it is not answered");
}

#[test]
fn what_is_answered_is_told_only_once_it_is_durable() {
    let mut story = begun();
    assert!(story.engine.is_clear() && !story.engine.is_durable());
    story.settle_reports();
    assert!(story.engine.is_durable());
}

#[test]
fn what_was_doubtful_when_it_was_handed_over_is_mended() {
    let mut story = begun();
    let append = only(story.says(token("c")));
    story.reject(&append, Class::Transient, 50003);
    story.inherit(3, true, &[]);
    for text in ["a", "b", "c"] {
        story.says(token(text));
    }
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "abc"));
}

#[test]
fn what_is_over_stays_over() {
    let mut story = Story::new();
    let open = only(story.events(&[Event { response_id: "open".into(), ..event(token("x")) }]));
    story.ack(&open);
    let create = only(story.events(&[event(token("a")), event(END)]));
    story.ack(&create);
    story.says(token("late"));
    assert_eq!(story.dead_letters, [(2, Refusal::AfterEnd)]);
    story.settle_reports();
    assert_eq!(story.engine.watermark(), 0);

    story.inherit(3, false, story.engine.letters().to_vec().as_slice());
    story.events(&[Event { response_id: "open".into(), ..event(token("x")) }]);
    assert!(story.events(&[event(token("a")), event(END)]).is_empty(), "its records are passed over");
    story.says(token("late"));
    assert_eq!(story.dead_letters.len(), 1, "its dead letter is written");
    story.says(token("later"));
    assert_eq!(story.dead_letters.last(), Some(&(3, Refusal::AfterEnd)), "a new one is not");
}

#[test]
fn what_is_over_is_not_sent_again_however_much_it_is() {
    let mut story = Story::new();
    let of = |id: &str, kind| Event { response_id: id.to_owned().into(), ..event(kind) };
    let open = only(story.events(&[of("open", token("x"))]));
    story.ack(&open);
    let ids: Vec<String> = (0..3 * settings().remember).map(|number| format!("r{number}")).collect();
    for id in &ids {
        let create = only(story.events(&[of(id, token("a")), of(id, END)]));
        story.ack(&create);
    }
    story.settle_reports();
    story.inherit(story.offset, false, &[]);
    story.events(&[of("open", token("x"))]);
    for id in &ids {
        assert!(story.events(&[of(id, token("a")), of(id, END)]).iter().all(|sent| *sent.head.response_id == *"open"));
    }
}

#[test]
fn a_response_that_somebody_skipped_ends_so_that_readers_see_it() {
    let mut story = begun();
    let former = std::mem::replace(&mut story.engine, Engine::new(settings().into(), 3, 10));
    former.leave(&mut story.shared);
    story.inherit(10, false, &[]);
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    story.apply(Input::Reloaded { id: op, text: Some("ab") });
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data, update.status), (OpKind::Update, "ab", Status::Failed));
    story.ack(&update);
    let report = story.last_report();
    assert_eq!((&report["outcome"], &report["reason"]), (&"failed".into(), &"skipped".into()));
}

#[test]
fn what_was_abandoned_opens_again_under_a_new_owner() {
    let mut story = begun();
    story.apply(Input::CaughtUp(true));
    let end = only(story.after(Duration::from_secs(601)));
    story.ack(&end);
    assert_eq!(story.last_report()["outcome"], "abandoned");
    story.settle_reports();
    story.inherit(2, true, &[]);
    assert!(story.says(token("c")).is_empty());
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    story.apply(Input::Reloaded { id: op, text: Some("ab") });
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "abc"));
    assert_eq!(update.serial.as_deref(), Some("00000001"), "in the same message");
}

#[test]
fn what_was_opened_again_goes_on_though_nobody_reads_so_far_back_that_it_was_abandoned() {
    let mut story = begun();
    story.apply(Input::CaughtUp(true));
    let end = only(story.after(Duration::from_secs(601)));
    story.ack(&end);
    story.settle_reports();
    assert!(story.says(token("c")).is_empty());
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    story.apply(Input::Reloaded { id: op, text: Some("ab") });
    let update = only(story.after(Duration::from_secs(1)));
    story.ack(&update);
    let append = only(story.says(token("d")));
    story.ack(&append);
    story.settle_reports();
    let first = story.reports.iter().position(|report| report["op"] == "update").expect("it was mended");
    story.reports.drain(..first);

    story.inherit(4, false, &[]);
    story.says(token("c"));
    story.says(token("d"));
    let op = story.engine.op_id(story.engine.find("r", 0).expect("it is open"), 0);
    story.apply(Input::Reloaded { id: op, text: Some("ab") });
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "abcd"));
    assert_eq!(update.serial.as_deref(), Some("00000001"), "in the same message");
    story.ack(&update);
    let end = only(story.says(END));
    story.ack(&end);
    let report = story.last_report();
    assert_eq!((&report["outcome"], &report["tokens"]), (&"reconciled".into(), &4.into()));
    assert_eq!((&report["covered"]["first"], &report["reopened"]), (&0.into(), &1.into()));
}

#[test]
fn a_create_that_was_recorded_is_repeated_unchanged() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.says(token("b"));
    story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost));
    story.inherit(2, true, &[]);
    story.says(token("a"));
    let mut sent = story.says(token("b"));
    sent.extend(story.after(Duration::from_secs(1)));
    let again = only(sent);
    assert_eq!((again.kind, &*again.data, &again.head), (OpKind::Create, "a", &create.head));
    story.ack(&again);
    assert_eq!(only(story.after(Duration::from_secs(1))).kind, OpKind::Update);
}

#[test]
fn what_was_open_when_records_were_lost_ends_so_that_readers_see_it() {
    let mut story = begun();
    let last = only(story.apply(Input::Lost { begins: 7 }));
    assert_eq!((last.kind, &*last.data, last.status), (OpKind::Append, "", Status::Failed));
    story.ack(&last);
    let report = story.last_report();
    assert_eq!((&report["outcome"], &report["reason"]), (&"failed".into(), &"input-lost".into()));
    story.settle_reports();
    assert_eq!(story.engine.watermark(), 7);
    story.offset = 7;
    let cut = |text| Event { response_id: "cut".into(), begins: Some(false), ..event(token(text)) };
    let create = only(story.events(&[cut("its end"), Event { response_id: "cut".into(), ..event(END) }]));
    story.ack(&create);
    assert_eq!(story.last_report()["reason"], "input-lost");
}

#[test]
fn results_of_another_topic_say_nothing() {
    let story = begun();
    let mut history = History::default();
    for report in &story.reports {
        history.add("another", report.to_string().as_bytes());
    }
    assert!(history.is_empty() && history.unreadable() == 0 && history.epoch() == 0);
}

#[test]
fn what_the_topic_does_not_hold_any_more_fails() {
    let mut story = begun();
    story.inherit(2, false, &[]);
    // Another topic of that name: none of the records is in it.
    let mut sent = story.apply(Input::CaughtUp(true));
    sent.extend(story.after(Duration::from_secs(1)));
    let last_word = only(sent);
    assert_eq!((last_word.keeps_text, last_word.status), (true, Status::Failed));
    story.ack(&last_word);
    let report = story.last_report();
    assert_eq!((&report["outcome"], &report["reason"]), (&"failed".into(), &"input-lost".into()));
}

#[test]
fn what_is_too_old_is_skipped_and_what_has_begun_is_not() {
    let mut story = begun();
    let mut history = History::default();
    for report in &story.reports {
        history.add("tokens", report.to_string().as_bytes());
    }
    let former = std::mem::replace(&mut story.engine, Engine::new(settings().into(), 3, 0));
    former.leave(&mut story.shared);
    story.offset = 0;
    let stale = Stale { below: 4, before: story.now + Duration::from_secs(60) };
    let left = Inheritance {
        epoch: 2,
        begun_below: 4,
        clean: false,
        letters: Vec::new(),
        beginnings: Beginnings::Here,
        missing_until: None,
        stale: Some(stale),
        history,
    };
    story.apply(Input::Inherited(Box::new(left)));
    story.apply(Input::Announced);
    story.says(token("a"));
    story.says(token("b"));
    let of = |id: &'static str, kind| Event { response_id: id.into(), ..event(kind) };
    assert!(story.events(&[of("old", token("x"))]).is_empty());
    assert!(story.events(&[of("old", token("y")), of("other", token("z"))]).is_empty());
    assert_eq!(story.engine.stale(), Some(stale), "the next owner is to know it");
    assert_eq!(only(story.after(Duration::from_secs(1))).kind, OpKind::Update, "what is on a channel goes on");
    assert!(story.events(&[of("old", END), of("other", END)]).is_empty());
    let skipped: Vec<_> = story.reports.iter().filter(|report| report["outcome"] == "skipped").collect();
    assert_eq!(skipped.len(), 2);
    assert_eq!(
        (&skipped[0]["reason"], &skipped[0]["tokens"], &skipped[0]["bytes"]),
        (&"too-old".into(), &2.into(), &2.into())
    );
    assert_eq!(only(story.events(&[of("late", token("x"))])).kind, OpKind::Create, "it was produced since");
}

#[test]
fn in_a_partition_that_was_added_what_does_not_show_its_beginning_is_not_called_delivered() {
    let mut story = Story::new();
    let beginnings = Beginnings::Elsewhere;
    let (letters, history) = (Vec::new(), History::default());
    let left = Inheritance {
        epoch: 1,
        begun_below: 0,
        clean: true,
        letters,
        beginnings,
        missing_until: None,
        stale: None,
        history,
    };
    story.apply(Input::Inherited(Box::new(left.clone())));
    story.apply(Input::Announced);
    let of = |id: &'static str, begins, kind| Event { response_id: id.into(), begins, ..event(kind) };
    let plays = |story: &mut Story, id, begins| {
        let create = only(story.events(&[of(id, begins, token("x")), of(id, None, END)]));
        story.ack(&create);
        (story.last_report()["outcome"].clone(), story.last_report()["headless"].clone())
    };
    assert_eq!(plays(&mut story, "split", None), ("failed".into(), true.into()));
    let (_, missing_until) = story.engine.missing();
    assert_eq!(missing_until, Some(story.now + Duration::from_secs(600)));

    // The next owner knows it, also of what has been begun.
    let create = only(story.events(&[of("open", None, token("x"))]));
    story.ack(&create);
    let mut history = History::default();
    for report in &story.reports {
        history.add("tokens", report.to_string().as_bytes());
    }
    let former = std::mem::replace(&mut story.engine, Engine::new(settings().into(), 3, story.offset - 1));
    former.leave(&mut story.shared);
    story.offset -= 1;
    story.apply(Input::Inherited(Box::new(Inheritance { missing_until, history, ..left })));
    story.apply(Input::Announced);
    story.events(&[of("open", None, token("x"))]);
    story.events(&[of("open", None, END)]);
    let update = only(story.after(Duration::from_secs(1)));
    story.ack(&update);
    assert_eq!(story.last_report()["outcome"], "failed");
    assert_eq!(plays(&mut story, "begins", Some(true)), ("delivered".into(), false.into()));
    story.after(Duration::from_secs(601));
    assert_eq!(plays(&mut story, "later", None), ("delivered".into(), false.into()));
}

#[test]
fn nothing_is_sent_before_owners_after_us_can_know_of_it() {
    let mut story = Story::new();
    let left = Inheritance {
        epoch: 1,
        begun_below: 0,
        clean: true,
        letters: Vec::new(),
        beginnings: Beginnings::Here,
        missing_until: None,
        stale: None,
        history: History::default(),
    };
    story.apply(Input::Inherited(Box::new(left)));
    assert!(story.says(token("a")).is_empty());
    assert!(story.after(Duration::from_secs(60)).is_empty());
    assert_eq!(&*only(story.apply(Input::Announced)).data, "a");
}

#[test]
fn an_id_that_an_owner_before_us_may_have_used_counts_from_then() {
    let mut story = Story::new();
    story.inherit(1, false, &[]);
    let (began, events) = (story.now, [event(token("a"))]);
    story.now = story.now + Duration::from_secs(60);
    let record = Record { offset: 0, time: began, key: "r", traceparent: None, events: &events };
    let create = only(story.apply(Input::Record(record)));
    story.now = story.now + Duration::from_secs(50);
    story.answer(&create, Outcome::Unknown(Doubt::ConnectionLost));
    assert!(
        story.after(Duration::from_secs(5)).is_empty(),
        "the server may not know the id any more: it is looked for"
    );
}

#[test]
fn a_stamp_from_the_future_does_not_keep_beginnings_missing() {
    let mut story = Story::new();
    let left = Inheritance {
        epoch: 1,
        begun_below: 0,
        clean: true,
        letters: Vec::new(),
        beginnings: Beginnings::Elsewhere,
        missing_until: None,
        stale: None,
        history: History::default(),
    };
    story.apply(Input::Inherited(Box::new(left)));
    story.apply(Input::Announced);
    let mut plays = |id: &'static str, ahead| {
        let of = |kind| Event { response_id: id.into(), ..event(kind) };
        let (time, events) = (story.now + ahead, [of(token("x")), of(END)]);
        let record = Record { offset: story.offset, time, key: "r", traceparent: None, events: &events };
        let create = only(story.apply(Input::Record(record)));
        story.ack(&create);
        story.offset += 1;
        story.after(Duration::from_secs(601));
        story.last_report()["headless"].clone()
    };
    assert_eq!(plays("stamped next year", Duration::from_secs(365 * 86_400)), true);
    assert_eq!(plays("stamped now", Duration::ZERO), false);
}

#[test]
fn what_an_owner_before_us_may_have_begun_is_mended_from_the_start() {
    let mut story = Story::new();
    story.inherit(1, false, &[]);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let update = only(story.after(Duration::from_secs(1)));
    assert_eq!((update.kind, &*update.data), (OpKind::Update, "a"), "the message may hold more than that");
    story.ack(&update);
    let other = only(story.events(&[Event { response_id: "new".into(), ..event(token("x")) }]));
    story.ack(&other);
    assert!(story.after(Duration::from_secs(1)).is_empty(), "nobody before us can have known of this one");
}
