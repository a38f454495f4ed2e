//! `tokenrelay check`: a line for each thing; for what is wrong, what to change.

use serde_json::Value;

use super::program::{Ended, Setup};
use super::{NOWHERE, ably};
use crate::world::World;

const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

impl Ended {
    fn findings(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a finding")).collect()
    }

    /// One thing is wrong, and it is said what, and what to do about it.
    pub(super) fn fails(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let failed: Vec<&str> = self.out.lines().filter(|line| line.starts_with("FAIL")).collect();
        let [failed] = failed[..] else { panic!("not one failure: {self:?}") };
        for words in says {
            assert!(failed.contains(words), "nothing of {words:?}: {failed}");
        }
        assert!(self.err.is_empty(), "{self:?}");
        self.keeps_secrets();
    }
}

/// Topics of which nothing can be said.
pub(super) async fn world() -> World {
    let world = World::new(2, 2, 1).await;
    world.alter(&world.settings.dead_letters_topic, "max.message.bytes", "1200000").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_well_each_thing_has_a_line() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let ended = setup.run("check", &["ably.check_channel=ai:check"], &["--json", "--channel", "ai:x"]).await;
    assert!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let findings = ended.findings();
    assert!(findings.iter().all(|finding| finding["ok"] == true), "{findings:?}");
    let names: Vec<&str> = findings.iter().filter_map(|finding| finding["check"].as_str()).collect();
    assert_eq!(names, ["channels", "channels", "kafka", "ably", "channel rule"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_not_on_the_list_is_named() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let ended = setup.run("check", &[], &["--channel", "ai:x", "--channel", "chat:y"]).await;
    ended.fails(CONFIGURATION, &["channel chat:y", "ably.channels.allow", "add a glob", "ai:*"]);
    let ended = setup.run("check", &["input.channel=tokens:{key}"], &[]).await;
    ended.fails(CONFIGURATION, &["input.channel", "tokens:{key}", "ably.channels.allow", "add a glob"]);
    let ended = setup.run("check", &["ably.channels.allow="], &[]).await;
    ended.fails(CONFIGURATION, &["ably.channels.allow is empty", "list the channels"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_the_rule_is_named() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let ended = setup.run("check", &["ably.check_channel=fixed:check"], &[]).await;
    let rule = "turn on the rule \"message annotations, updates, deletes and appends\"";
    ended.fails(CONFIGURATION, &["channel fixed:check", "93002", rule]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ably_that_cannot_be_reached_is_named() {
    let world = world().await;
    let setup = Setup::new(&world.settings, NOWHERE);
    setup.run("check", &[], &[]).await.fails(UNAVAILABLE, &["127.0.0.1:1", "refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_would_not_fit_are_foretold() {
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let letters = &world.settings.dead_letters_topic;
    world.alter(letters, "max.message.bytes", "100000").await;
    let says = [letters, "kafka.dead_letters_topic", "max.message.bytes"];
    setup.run("check", &[], &[]).await.fails(CONFIGURATION, &says);
}
