//! Offsets that somebody has moved, results that are not there any more, metadata that nobody understands: for each there is a
//! rule, a line in the log, and nothing on a channel that is wrong. The audit judges.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenrelay::audit::{self, Bound, Kind, Report, Request};
use tokenrelay::emulator::{self, Emulator, Faults};
use tokenrelay::pipeline;

use super::audit::config_of;
use super::member::Member;
use super::story::Story;
use super::{KEY, relay};
use crate::world::{PATIENCE, World};

/// Topics of one partition, and channels.
struct Scene {
    world: World,
    ably: Emulator,
}

impl Scene {
    async fn new() -> Self {
        // The audit's client insists on a provider for TLS, though none is used here.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
        Self { world: World::new(1, 1, 1).await, ably: emulator::start(config).await.expect("an emulator") }
    }

    /// A process that relays, once it has its partition.
    async fn member(&self) -> Member {
        let mut member = Member::start(&self.world.settings, self.ably.local_addr(), &[]);
        member.joins().await;
        member
    }

    /// Produces an event.
    fn say(&self, id: &str, event: &Value) {
        self.world.produce_raw(Some(id.as_bytes()), Some(event.to_string().as_bytes()), &[]);
    }

    fn says(&self, id: &str, text: &str) {
        self.say(id, &json!({"type": "token", "text": text}));
    }

    fn ends(&self, id: &str) {
        self.say(id, &json!({"type": "end"}));
    }

    /// Waits until a channel has this text.
    async fn shows(&self, id: &str, text: &str) {
        let channel = format!("ai:{id}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let messages = relay::messages(self.ably.local_addr(), &channel).await;
            if messages.first().is_some_and(|message| message["data"] == text) {
                return;
            }
            assert!(Instant::now() < deadline, "{channel}: {messages:?} and not {text:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the group has committed all that there is.
    async fn all_committed(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.world.committed().iter().any(|(_, committed, end)| committed != end) {
            assert!(Instant::now() < deadline, "{:?}", self.world.committed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The results of so many responses, oldest first, once they are there.
    fn results(&self, count: usize) -> Vec<Value> {
        let mut tail = self.world.tail(&self.world.settings.results_topic);
        let mut results = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while results.len() < count {
            assert!(Instant::now() < deadline, "{} of {count}", results.len());
            let seen = tokio::task::block_in_place(|| tail.next(Duration::from_millis(100)));
            let Some(seen) = seen.filter(|seen| seen.header("kind") == Some("response")) else { continue };
            results.push(serde_json::from_slice(seen.value.as_deref().unwrap_or_default()).expect("a result"));
        }
        results
    }

    async fn audit(&self, request: Request) -> Report {
        let config = config_of(&self.world, self.ably.local_addr());
        let request = Request { ably: true, at_rest: true, kept_max: 100, ..request };
        audit::run(request, &config, pipeline::decoder(&config).expect("a decoder")).await.expect("a verdict")
    }

    /// There is nothing to say.
    async fn judge(&self) -> Report {
        let report = self.audit(Request::default()).await;
        assert_eq!(report.differences, []);
        report
    }

    fn end(&self) -> i64 {
        self.world.committed()[0].2
    }
}

/// The result of one response.
fn of<'a>(results: &'a [Value], id: &str) -> &'a Value {
    let mut of_it = results.iter().filter(|result| result["responseId"] == id);
    let result = of_it.next().unwrap_or_else(|| panic!("no result of {id}"));
    assert!(of_it.next().is_none(), "two results of {id}");
    result
}

fn outcome(result: &Value) -> (&str, &str) {
    (result["outcome"].as_str().unwrap_or_default(), result["reason"].as_str().unwrap_or_default())
}

/// After these offsets are set back no message is created again, and every text is right.
async fn set_back(to: impl Fn(i64) -> i64) {
    let scene = Scene::new().await;
    let first = scene.member().await;
    let story = Story::new(51, 60);
    story.produce(&scene.world).await;
    scene.says("open", "one ");
    scene.shows("open", "one ").await;
    scene.results(60);
    first.stop().await;
    let (creates, committed) = (scene.ably.stats().creates, scene.world.committed()[0].1);
    assert_eq!((creates, committed), (61, scene.end() - 1));

    scene.world.set_offsets([(0, to(committed))], "");
    let mut second = scene.member().await;
    second.says("offset was set by somebody else", 1).await;
    scene.says("open", "two");
    scene.ends("open");
    scene.all_committed().await;
    second.stop().await;
    assert_eq!(scene.ably.stats().creates, creates, "no message was made again");
    let report = scene.judge().await;
    assert_eq!((report.counts.settled, report.counts.failed), (61, 0));
    assert_eq!(outcome(of(&scene.results(61), "open")), ("reconciled", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_set_back_to_the_start_repeat_nothing() {
    set_back(|_| 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_set_back_by_a_while_repeat_nothing() {
    set_back(|committed| committed / 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_set_to_the_end_end_what_was_open_so_that_readers_see_it() {
    const OPEN: usize = 200;
    let scene = Scene::new().await;
    let first = scene.member().await;
    for n in 0..OPEN {
        scene.world.send(0, Some(format!("r{n}").as_bytes()), Some(br#"{"type":"token","text":"so far"}"#), &[]);
    }
    scene.world.flush();
    for n in 0..OPEN {
        scene.shows(&format!("r{n}"), "so far").await;
    }
    first.stop().await;
    scene.world.set_offsets([(0, scene.end())], "");
    let second = scene.member().await;
    let results = scene.results(OPEN);
    for n in 0..OPEN {
        assert_eq!(outcome(of(&results, &format!("r{n}"))), ("failed", "skipped"));
        let message = relay::message(scene.ably.local_addr(), &format!("ai:r{n}")).await;
        assert_eq!((&*message.text, &*message.status), ("so far", "failed"));
    }
    scene.all_committed().await;
    second.stop().await;
    let report = scene.judge().await;
    assert_eq!((report.counts.settled, report.counts.failed), (OPEN as u64, OPEN as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_on_a_channel_is_skipped_all_the_same() {
    let scene = Scene::new().await;
    scene.ably.set_faults(Faults { reject: 1.0, ..Faults::default() });
    let first = scene.member().await;
    scene.says("refused", "never seen");
    let deadline = Instant::now() + PATIENCE;
    while scene.world.count(&scene.world.settings.results_topic) == 0 {
        assert!(Instant::now() < deadline, "a result of the create");
    }
    first.stop().await;
    scene.ably.set_faults(Faults::default());
    scene.world.set_offsets([(0, scene.end())], "");
    let second = scene.member().await;
    assert_eq!(outcome(of(&scene.results(1), "refused")), ("failed", "skipped"));
    scene.all_committed().await;
    second.stop().await;
    scene.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_gone_before_they_were_settled_are_counted_and_named() {
    let scene = Scene::new().await;
    let first = scene.member().await;
    scene.says("begun", "one ");
    scene.shows("begun", "one ").await;
    first.stop().await;
    // Nobody relays while these come and the oldest of them go.
    let count = |id: &str, seq: u32| scene.say(id, &json!({"type": "token", "text": format!("{seq} "), "seq": seq}));
    (0..3).for_each(|seq| count("cut", seq));
    scene.world.forget(&scene.world.settings.tokens_topic, 0, 2).await;
    scene.ends("cut");
    // Nobody can tell whether this one has begun before.
    scene.says("unmarked", "some of it");
    scene.ends("unmarked");
    count("whole", 0);
    scene.ends("whole");

    let mut second = scene.member().await;
    second.says("records are gone from the topic", 1).await;
    let results = scene.results(4);
    assert_eq!(outcome(of(&results, "unmarked")), ("failed", "input-lost"));
    assert_eq!(outcome(of(&results, "begun")), ("failed", "input-lost"));
    assert_eq!(outcome(of(&results, "cut")), ("failed", "input-lost"));
    assert_eq!(outcome(of(&results, "whole")), ("delivered", ""));
    scene.all_committed().await;
    let metrics = second.metrics().await;
    assert!(metrics.contains("tokenrelay_intake_lost_records_total 2"), "{metrics}");
    second.stop().await;
    scene.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_results_everything_from_the_offset_on_is_taken_over() {
    let scene = Scene::new().await;
    let first = scene.member().await;
    scene.says("early", "over");
    scene.ends("early");
    scene.says("open", "one ");
    scene.says("over", "and out");
    scene.ends("over");
    scene.shows("open", "one ").await;
    scene.results(2);
    first.stop().await;
    let committed = scene.world.committed()[0].1;
    assert_eq!(committed, 2);
    scene.world.remake(&scene.world.settings.results_topic, 1).await;

    let mut second = scene.member().await;
    second.says("results that are needed are not there any more", 1).await;
    scene.says("open", "two");
    scene.ends("open");
    let results = scene.results(2);
    for id in ["open", "over"] {
        assert_eq!(outcome(of(&results, id)), ("reconciled", ""));
    }
    scene.all_committed().await;
    second.stop().await;
    let report = scene.audit(Request { from: Some(Bound::Offset(committed)), ..Request::default() }).await;
    assert_eq!(report.differences, []);
    let report = scene.audit(Request::default()).await;
    let kinds: Vec<_> = report.differences_by_kind.into_iter().collect();
    assert_eq!(kinds, [(Kind::ResponseMissing, 1)], "of what had been settled before there is no result any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_a_version_that_is_not_known_are_taken_for_none() {
    let scene = Scene::new().await;
    let first = scene.member().await;
    scene.says("open", "one ");
    scene.says("over", "and out");
    scene.ends("over");
    scene.shows("open", "one ").await;
    scene.results(1);
    first.stop().await;
    scene.world.set_offsets([(0, 0)], "v9 of=another relay");
    let mut second = scene.member().await;
    second.says("metadata of another version", 1).await;
    scene.says("open", "two");
    scene.ends("open");
    assert_eq!(outcome(of(&scene.results(2), "open")), ("reconciled", ""));
    scene.all_committed().await;
    second.stop().await;
    assert_eq!(scene.ably.stats().creates, 2);
    scene.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_when_a_group_begins_reaches_no_channel() {
    let scene = Scene::new().await;
    let (token, end) = (json!({"type": "token", "text": "old"}).to_string(), json!({"type": "end"}).to_string());
    scene.world.send_late(20, "old", &token);
    scene.world.send_late(19, "old", &end);
    scene.world.send_late(16, "slow", &token);
    scene.world.send_late(8, "young", &token);
    scene.world.send_late(7, "slow", &token);
    scene.world.send_late(1, "young", &end);
    let mut first = scene.member().await;
    first.says("responses that began earlier are skipped as too-old", 1).await;
    scene.results(2);
    first.stop().await;

    // An ordinary restart: what was too old stays so, and nothing else is.
    let second = scene.member().await;
    scene.ends("slow");
    scene.world.send_late(30, "backfilled", &token);
    scene.world.send_late(29, "backfilled", &end);
    let results = scene.results(4);
    for id in ["old", "slow"] {
        assert_eq!(outcome(of(&results, id)), ("skipped", "too-old"));
        assert!(relay::messages(scene.ably.local_addr(), &format!("ai:{id}")).await.is_empty());
    }
    for id in ["young", "backfilled"] {
        assert_eq!(outcome(of(&results, id)), ("delivered", ""));
    }
    scene.all_committed().await;
    second.stop().await;
    let report = scene.judge().await;
    assert_eq!((report.counts.settled, report.counts.failed), (4, 0));

    // Once it is set back, what was skipped stays so; to send it after all is not the relay's to decide.
    scene.world.set_offsets([(0, 0)], "");
    let third = scene.member().await;
    scene.all_committed().await;
    third.stop().await;
    assert_eq!(scene.ably.stats().creates, 2);
    scene.judge().await;
}
