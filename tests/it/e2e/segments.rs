//! Texts that are longer than Ably's largest message go on in further ones.

use tokenrelay::emulator::{self, Emulator, Faults};

use super::relay::{self, Relay};
use super::story::Story;
use super::{KEY, results};
use crate::world::World;

/// What a message may have; about a kilobyte of it is for names and headers.
const MESSAGE_MAX: usize = 2_048;

async fn emulator(faults: Faults) -> Emulator {
    let keys = vec![KEY.to_owned()];
    let config = emulator::Config { keys, faults, max_message_size: MESSAGE_MAX, ..emulator::Config::default() };
    emulator::start(config).await.expect("an emulator")
}

/// Plays responses of about ten messages each, and reads them as the header contract says.
async fn play(faults: Faults) -> results::Summary {
    let world = World::new(2, 2, 1).await;
    let ably = emulator(faults).await;
    let mut relay = Relay::set(&world.settings, ably.local_addr(), &[]);
    let story = Story::sized(11, 12, 120, 64);
    story.produce(&world).await;
    let results = results::wait(&world, &mut relay, story.responses().len()).await;
    let summary = results.check(story.responses());
    for response in story.responses() {
        let mut messages = relay::messages(ably.local_addr(), &response.channel()).await;
        let header = |message: &serde_json::Value, name: &str| message["extras"]["headers"][name].clone();
        messages.sort_by_key(|message| header(message, "segment").as_str().and_then(|n| n.parse::<u32>().ok()));
        let text: String = messages.iter().map(|message| message["data"].as_str().expect("text")).collect();
        assert_eq!(text, response.text(), "the text on {}", response.channel());
        let (last, before) = messages.split_last().expect("there are some");
        assert!(before.len() >= 5, "{} messages", messages.len());
        assert!(before.iter().all(|message| header(message, "status") == "continued"));
        assert_eq!(header(last, "status"), response.status());
        assert_eq!(header(last, "segments"), messages.len().to_string());
        for pair in messages.windows(2) {
            assert_eq!(header(&pair[1], "prev"), pair[0]["serial"], "each names the one before");
        }
    }
    relay.stop().await;
    for (partition, committed, end) in world.committed() {
        assert_eq!(committed, end, "partition {partition}");
    }
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_there_as_a_whole() {
    let summary = play(Faults::default()).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_there_as_a_whole_whatever_fails() {
    let faults = Faults { reject: 0.1, reject_fold: 0.5, lose_ack: 0.02, drop: 0.01, seed: 5, ..Faults::default() };
    let summary = play(faults).await;
    assert!(summary.rejected > 0 && summary.reconciled > 0, "the faults did happen: {summary:?}");
}
