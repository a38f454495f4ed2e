//! Refusals that are about more than the operation: of the channel, of the credentials, of the account.

use super::*;

#[test]
fn a_channel_that_refuses_is_probed_and_not_flooded() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    assert!(story.reject(&append, Class::Channel, 93002).is_empty());
    let other = Event { response_id: "s".into(), channel: Some("ai:r".into()), ..event(token("x")) };
    assert!(story.events(&[other]).is_empty(), "no creates while the channel refuses");
    assert!(story.after(Duration::from_secs(29)).is_empty());
    let probe = story.after(Duration::from_secs(1));
    assert_eq!(probe.len(), 1, "one probe, not one per response");
}

#[test]
fn a_channel_that_takes_again_is_taken_up_and_others_never_waited() {
    for code in [93002, 40160] {
        let mut story = Story::new();
        let create = only(story.says(token("a")));
        story.ack(&create);
        let append = only(story.says(token("b")));
        assert!(story.reject(&append, Class::Channel, code).is_empty());
        let of = |response: &'static str, channel: &'static str, kind| Event {
            response_id: response.into(),
            channel: Some(channel.into()),
            ..event(kind)
        };
        assert!(story.events(&[of("s", "ai:r", token("x"))]).is_empty(), "no creates while the channel refuses");
        let elsewhere = only(story.events(&[of("t", "ai:t", token("y"))]));
        story.ack(&elsewhere);
        assert_eq!(only(story.events(&[of("t", "ai:t", token("z"))])).kind, OpKind::Append, "the others go on");

        let probe = only(story.after(Duration::from_secs(30)));
        let freed = story.ack(&probe);
        let mut sent: Vec<_> = freed.into_iter().chain(story.says(token("c"))).collect();
        // Who waited asks again when it would have been its turn to try.
        sent.extend(story.after(Duration::from_secs(30)));
        let texts: String = [&probe].into_iter().chain(&sent).map(|operation| &*operation.data).collect();
        assert!(texts.contains("ab") && texts.contains('x'), "both responses go on: {texts}");
    }
}

#[test]
fn refusals_of_the_full_text_are_final_in_the_end() {
    let mut story = Story::new();
    let create = only(story.says(token("a")));
    story.ack(&create);
    let b = only(story.says(token("b")));
    story.reject(&b, Class::Operation, 40013);
    for _ in 0..3 {
        let update = only(story.after(Duration::from_secs(30)));
        story.reject(&update, Class::Operation, 40013);
    }
    let last_word = only(story.after(Duration::from_secs(60)));
    assert_eq!((last_word.keeps_text, last_word.status), (true, Status::Failed));
    story.ack(&last_word);
    assert!(story.says(token("c")).is_empty());
    story.says(END);
    let response = story.reports.last().expect("it was reported");
    assert_eq!((&response["outcome"], &response["reason"]), (&"failed".into(), &"refused-40013".into()));
    assert_eq!(response["tokens"], 3, "what it had is still counted");
}

/// An event of a response on a channel of its own.
fn of(response: &'static str, channel: &'static str, kind: EventKind<'static>) -> Event<'static> {
    Event { response_id: response.into(), channel: Some(channel.into()), ..event(kind) }
}

/// A response whose message was made, and whose change was refused for the credentials' sake; four more have just begun.
fn refused_credentials() -> Story {
    let rules = ChannelRules::new(
        Template::parse("ai:{key}").expect("a template"),
        "tokens".into(),
        &["ai:*".to_owned(), "free:*".to_owned()],
    );
    let mut story = Story::with(Settings { channels: rules.expect("rules"), ..settings() }, LIMITS);
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    assert!(story.reject(&append, Class::Account, 40166).is_empty());
    for (response, channel) in [("s", "ai:s"), ("t", "ai:t"), ("u", "ai:u"), ("v", "ai:v")] {
        let sent = story.events(&[of(response, channel, token("x"))]);
        assert!(sent.is_empty(), "a message that nobody could finish: {sent:?}");
    }
    story
}

#[test]
fn credentials_that_lack_something_are_tried_now_and_then_and_not_by_each_response() {
    let mut story = refused_credentials();
    let elsewhere = only(story.events(&[of("w", "free:w", token("y"))]));
    story.ack(&elsewhere);
    assert_eq!(only(story.events(&[of("w", "free:w", token("z"))])).kind, OpKind::Append, "they may do there");
    let mut probes = Vec::new();
    for _ in 0..120 {
        for probe in story.after(Duration::from_secs(1)) {
            probes.push(probe.kind);
            match probe.kind {
                OpKind::Create => story.ack(&probe),
                _ => story.reject(&probe, Class::Account, 40166),
            };
        }
    }
    assert!((3..=4).contains(&probes.len()), "{probes:?} in two minutes");
    assert!(!probes.contains(&OpKind::Create), "{probes:?}: a message that nobody could finish shows nothing");
    assert!(story.reports.iter().all(|report| report["kind"] != "response"), "nothing fails of it");
}

#[test]
fn credentials_that_are_mended_serve_all_who_have_waited() {
    let mut story = refused_credentials();
    let mut texts = String::new();
    for _ in 0..120 {
        for operation in story.after(Duration::from_secs(1)) {
            texts.push_str(&operation.data);
            story.ack(&operation).iter().for_each(|operation| texts.push_str(&operation.data));
        }
    }
    assert_eq!((texts.matches('x').count(), texts.contains("ab")), (4, true), "{texts}");
}

#[test]
fn a_limit_of_the_account_is_no_rate_of_the_connection() {
    for code in [40111, 40114, 40150, 40151, 80021, 90021] {
        let mut story = Story::with(settings(), Limits { connection_rate: 50, ..LIMITS });
        let create = only(story.says(token("a")));
        assert!(story.reject(&create, Class::RateLimited, code).is_empty());
        assert_eq!(story.events(&[of("s", "ai:s", token("x"))]).len(), 1, "{code}: others go on at once");
        assert!(story.after(Duration::from_secs(29)).is_empty(), "{code}: it is tried again after a while");
        let again = only(story.after(Duration::from_secs(2)));
        story.ack(&again);
        story.says(token("b"));
        let full = only(story.after(Duration::from_secs(1)));
        assert_eq!((full.kind, &*full.data), (OpKind::Update, "ab"), "{code}: and goes on");
    }
}
