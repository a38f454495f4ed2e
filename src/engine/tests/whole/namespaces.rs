//! What is known of namespaces, and who may try what on them.

use super::*;

/// Room for many responses.
const WIDE: Limits = Limits { open_max: 10_000, stub_max: 10_000, ..LIMITS };

/// Responses are published whole where messages cannot be changed, on any channel.
fn anywhere() -> Settings {
    let template = Template::parse("{key}").expect("a template");
    let channels = ChannelRules::new(template, "tokens".into(), &["*".to_owned()]).expect("rules");
    Settings { whole: true, channels, ..settings() }
}

impl Story {
    /// An event of a response on a channel.
    fn on(&mut self, channel: &str, id: &str, kind: EventKind<'static>) -> Vec<Operation> {
        self.events(&[Event { response_id: id.into(), channel: Some(channel.into()), ..event(kind) }])
    }

    /// Responses that were begun when changes were taken, each with a change on its way.
    fn streams(&mut self, ids: &[&'static str]) -> Vec<Operation> {
        for id in ids {
            let create = only(self.of(id, token("x")));
            self.ack(&create).iter().for_each(|update| assert!(self.ack(update).is_empty()));
        }
        ids.iter().map(|id| only(self.of(id, token("y")))).collect()
    }
}

#[test]
fn channels_without_a_colon_are_one_namespace() {
    let mut story = Story::with(anywhere(), LIMITS);
    only(story.on("one", "1", token("x")));
    assert!(story.on("two", "2", token("x")).is_empty(), "one at a time tries");
    only(story.on("ai:three", "3", token("x")));
}

#[test]
fn what_is_known_of_a_namespace_in_use_is_not_forgotten() {
    let mut story = Story::with(anywhere(), WIDE);
    let create = only(story.on("off:1", "1", token("x")));
    let update = only(story.ack(&create));
    assert!(story.no_rule(&update).is_empty());
    story.now = story.now + Duration::from_millis(1);
    for number in 0..1_001 {
        let create = only(story.on(&format!("n{number}:x"), &format!("x{number}"), token("x")));
        assert!(story.ack_unnamed(&create).is_empty());
    }
    assert!(story.on("off:2", "2", token("x")).is_empty());
}

#[test]
fn who_waits_for_changes_to_be_taken_has_no_timer_and_goes_on_as_soon_as_they_are() {
    let mut story = Story::without_rule(|_| {});
    let ids: Vec<String> = (0..50).map(|number| format!("s{number}")).collect();
    for id in &ids {
        assert!(story.on("ai:x", id, token("x")).is_empty());
    }
    assert!(story.after(Duration::from_secs(60)).is_empty());
    assert!(story.engine.timers.is_empty(), "{} timers", story.engine.timers.len());
    assert_eq!(story.engine.next_deadline(), None, "time alone changes nothing");
    story.says(token("a"));
    let create = only(story.says(END));
    let update = only(story.ack(&create));
    let sent = story.ack(&update);
    assert_eq!(sent.len(), ids.len(), "all of them are begun");
    assert!(sent.iter().all(|operation| operation.kind == OpKind::Create));
}

#[test]
fn what_one_partition_has_found_out_others_hear() {
    let mut story = Story::without_rule(|_| {});
    let settings = Settings { whole: true, ..settings() };
    let mut other = Engine::new(settings.into(), 4, 0);
    std::mem::swap(&mut story.engine, &mut other);
    story.now = story.now + Duration::from_secs(60);
    assert!(story.of("s", token("x")).is_empty());
    std::mem::swap(&mut story.engine, &mut other);
    story.says(token("a"));
    let create = only(story.says(END));
    let update = only(story.ack(&create));
    assert!(story.ack(&update).is_empty());
    std::mem::swap(&mut story.engine, &mut other);
    assert_eq!(only(story.apply(Input::Tick)).kind, OpKind::Create);
}

#[test]
fn only_who_tries_reads_its_text_again() {
    let settings = Settings { whole: true, ..settings() };
    let mut story = Story::with(settings, Limits { text_bytes_max: 1, ..LIMITS });
    for append in story.streams(&["a", "b", "c", "d", "e"]) {
        assert!(story.no_rule(&append).is_empty());
    }
    assert_eq!(story.shared.usage().stubs, 5, "{:?}", story.shared.usage());
    let mut tried = Vec::new();
    for _ in 0..5 {
        let mut sent = story.after(Duration::from_secs(30));
        let mut reloads = std::mem::take(&mut story.reloads);
        assert!(reloads.len() <= 1, "{} read again", reloads.len());
        if let Some(reload) = reloads.pop() {
            sent.extend(story.apply(Input::Reloaded { id: reload.id, text: Some("xy") }));
        }
        let update = only(sent);
        assert_eq!((update.kind, &*update.data), (OpKind::Update, "xy"));
        assert!(story.no_rule(&update).is_empty());
        tried.push(update.head.response_id.clone());
    }
    tried.sort();
    tried.dedup();
    assert_eq!(tried.len(), 5, "each in its turn");
}

#[test]
fn a_change_that_was_sent_before_others_were_taken_and_is_refused_says_nothing_of_now() {
    let mut story = Story::whole(|_| {});
    let [old, new] = <[_; 2]>::try_from(story.streams(&["a", "b"])).expect("two");
    story.now = story.now + Duration::from_secs(1);
    story.ack(&new);
    story.now = story.now + Duration::from_secs(1);
    story.no_rule(&old);
    assert_eq!(only(story.of("c", token("x"))).kind, OpKind::Create, "changes are taken");
    assert!(story.notices.is_empty(), "{:?}", story.notices);
    let refused = only(story.of("b", token("z")));
    story.no_rule(&refused);
    assert!(story.of("d", token("x")).is_empty(), "they are not any more");
    assert!(matches!(story.notices[..], [Notice::Whole { .. }]));
}

/// A message that is there when nothing is known yet, and the change that it is tried with: it goes on, or was all there.
fn tries(story: &mut Story, goes_on: bool) -> Operation {
    if goes_on {
        let create = only(story.of("first", token("x")));
        return only(story.ack(&create));
    }
    story.shared.flow.down(0);
    assert!(story.of("first", token("x")).is_empty() && story.of("first", END).is_empty());
    story.shared.flow.up(0, "c1".into(), Pipelining::On, LIMITS.message_bytes_max, None);
    let create = only(story.apply(Input::Tick));
    only(story.ack(&create))
}

#[test]
fn where_we_may_not_change_messages_they_are_made_whole_and_nothing_waits() {
    for goes_on in [true, false] {
        let mut story = Story::whole(|_| {});
        let trial = tries(&mut story, goes_on);
        assert!(story.reject(&trial, Class::Channel, 40160).is_empty());
        if goes_on {
            let anew = only(story.of("first", END));
            assert_eq!((anew.kind, &*anew.data), (OpKind::Create, "x"));
            assert!(story.ack(&anew).is_empty());
        }
        assert_eq!(story.outcome("first"), Some("reconciled"));
        for id in ["a", "b", "c"] {
            assert!(story.on("ai:first", id, token("x")).is_empty(), "what is new waits for its end");
            let create = only(story.on("ai:first", id, END));
            assert_eq!((create.kind, &*create.data), (OpKind::Create, "x"));
            assert!(story.ack(&create).is_empty(), "one was tried just now");
        }
        story.now = story.now + Duration::from_secs(30);
        assert!(story.on("ai:first", "d", token("x")).is_empty());
        let create = only(story.on("ai:first", "d", END));
        let trial = only(story.ack(&create));
        assert!(story.reject(&trial, Class::Channel, 40160).is_empty());
        assert!(story.on("ai:first", "e", token("x")).is_empty());
        only(story.on("ai:first", "e", END));
        let is_refusal = |notice: &&Notice| matches!(notice, Notice::Rejected { .. });
        assert_eq!(story.notices.iter().filter(is_refusal).count(), 1, "{:?}", story.notices);
    }
}

#[test]
fn a_trial_that_its_partition_leaves_with_is_anybodys() {
    let mut story = Story::whole(|_| {});
    story.shared.flow.down(0);
    assert!(story.says(token("a")).is_empty());
    let mut other = Engine::new(Settings { whole: true, ..settings() }.into(), 4, 0);
    std::mem::swap(&mut story.engine, &mut other);
    assert!(story.of("s", token("x")).is_empty());
    story.shared.flow.up(0, "c1".into(), Pipelining::On, LIMITS.message_bytes_max, None);
    assert!(story.apply(Input::Tick).is_empty(), "one at a time tries");
    other.leave(&mut story.shared);
    assert!(story.engine.is_blocked(&story.shared), "it is told");
    assert_eq!(only(story.apply(Input::Tick)).kind, OpKind::Create);
}

#[test]
fn a_trial_that_is_given_up_is_anybodys() {
    let mut story = Story::whole(|_| {});
    story.shared.flow.down(0);
    assert!(story.says(token("a")).is_empty());
    let channel = story.shared.flow.open(story.now, &"ai:y".into());
    assert!(!story.shared.flow.takes(story.now, channel, None).may_begin(), "it is about to be tried");
    story.shared.flow.up(0, "c1".into(), Pipelining::On, 1, None);
    assert!(story.apply(Input::Tick).is_empty(), "it is too long");
    assert_eq!(story.engine.open(), 1, "it goes on");
    assert!(story.shared.flow.takes(story.now, channel, None).may_begin());
}

#[test]
fn a_trial_that_a_drain_ends_is_anybodys() {
    let mut story = Story::without_rule(|_| {});
    story.now = story.now + Duration::from_secs(30);
    story.says(token("a"));
    let create = only(story.says(END));
    story.shared.flow.down(0);
    assert!(story.ack(&create).is_empty());
    let channel = story.shared.flow.open(story.now, &"ai:y".into());
    assert!(!story.shared.flow.takes(story.now, channel, None).may_change(), "it is about to be tried");
    story.apply(Input::Drain);
    story.apply(Input::Tick);
    assert_eq!(story.outcome("r"), Some("delivered"));
    assert!(story.shared.flow.takes(story.now, channel, None).may_change());
}

#[test]
fn tokens_that_are_messages_are_no_trials_and_show_nothing() {
    let mut story = Story::whole(|_| {});
    let pattern = Some(Pattern::MessagePerToken);
    let sent = story.events(&[Event { pattern, ..event(token("a")) }]);
    for publish in sent {
        story.no_rule(&publish);
    }
    assert_eq!(only(story.of("s", token("x"))).kind, OpKind::Create, "nothing is known yet");
}
