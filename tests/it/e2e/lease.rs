//! The group falls silent: before anybody else may have the partitions, nothing is sent any more. When it speaks again,
//! everything goes on.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use tokenrelay::config::Kafka;
use tokenrelay::emulator::{self, Emulator};

use super::KEY;
use super::relay::{self, Relay};
use super::story::Story;
use crate::world::PATIENCE;

const LOOK: Duration = Duration::from_millis(50);

/// So slowly that there is something to send all the time.
const FLAGS: [&str; 3] = ["kafka.session_timeout=2s", "ably.account.rate=10", "results.delivery=at-least-once"];

type Mock = MockCluster<'static, DefaultProducerContext>;

fn kafka(mock: &Mock) -> Kafka {
    let mut kafka = Kafka { bootstrap_servers: mock.bootstrap_servers(), ..Kafka::default() };
    // The older kind of group takes the mock longer to begin than our session lasts.
    kafka.librdkafka.insert("group.protocol".to_owned(), "consumer".to_owned());
    for topic in [&kafka.tokens_topic, &kafka.results_topic, &kafka.dead_letters_topic] {
        mock.create_topic(topic, 1, 1).expect("created");
    }
    kafka
}

fn produce(kafka: &Kafka, story: &Story) {
    let servers = &kafka.bootstrap_servers;
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).create().expect("a producer");
    for response in story.responses() {
        for event in response.events() {
            producer.send(BaseRecord::to(&kafka.tokens_topic).key(&response.id).payload(&event)).expect("queued");
        }
    }
    producer.flush(PATIENCE).expect("the broker has it");
}

fn operations(ably: &Emulator) -> u64 {
    let stats = ably.stats();
    stats.creates + stats.appends + stats.updates
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_group_is_silent_nothing_is_sent() {
    let mock = Mock::new(1).expect("a mock cluster");
    let kafka = kafka(&mock);
    let story = Story::sized(5, 60, 10, 8);
    produce(&kafka, &story);
    let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
    let ably = emulator::start(config).await.expect("an emulator");
    let mut relay = Relay::set(&kafka, ably.local_addr(), &FLAGS);
    until("the first operations", || {
        relay.check_alive();
        operations(&ably) > 5
    })
    .await;

    mock.broker_down(1).expect("down");
    until("it is said", || relay.reasons().contains("group")).await;
    let sent = operations(&ably);
    // That nothing happens cannot be awaited. Ten operations would be sent in this time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(operations(&ably), sent);
    assert!(sent < story.responses().len() as u64, "there is still something to send");

    mock.broker_up(1).expect("up");
    until("every message is there", || ably.stats().creates >= story.responses().len() as u64).await;
    for response in story.responses() {
        let text = response.text();
        let complete = async {
            loop {
                let message = relay::message(ably.local_addr(), &response.channel()).await;
                if message.text == text && message.status == response.status() {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, complete).await.expect("the text is right in time");
    }
    relay.check_alive();
    relay.stop().await;
}
