//! Failures that librdkafka's mock cluster plays truthfully: brokers that go away, produce requests that are refused. It
//! is also what the demo runs on, so the settings for that are tested here.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Message};
use tokenrelay::config::{self, Start};
use tokenrelay::engine::{Fact, Report, ResponseOutcome};
use tokenrelay::kafka::client::Clients;
use tokenrelay::kafka::results::{Batch, Lane, Progress, Writer};
use tokenrelay::kafka::source::{Item, Source};
use tokenrelay::kafka::topics;

use crate::world::{PATIENCE, next, start, take};

type Mock = MockCluster<'static, DefaultProducerContext>;

fn mock() -> (Mock, config::Kafka) {
    let mock = Mock::new(1).expect("a mock cluster");
    let mut settings = config::Kafka {
        bootstrap_servers: mock.bootstrap_servers(),
        start: Start::Earliest,
        ..config::Kafka::default()
    };
    for (property, value) in [("group.protocol", "consumer"), ("fetch.wait.max.ms", "10")] {
        settings.librdkafka.insert(property.to_owned(), value.to_owned());
    }
    for topic in [&settings.tokens_topic, &settings.results_topic, &settings.dead_letters_topic] {
        mock.create_topic(topic, 2, 1).expect("created");
    }
    (mock, settings)
}

fn produce(settings: &config::Kafka, from: i64, count: i64) {
    let servers = &settings.bootstrap_servers;
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).create().expect("a producer");
    for value in from..from + count {
        let value = value.to_string();
        let record = BaseRecord::to(&settings.tokens_topic).partition(0).key("id").payload(&value);
        producer.send(record).expect("queued");
    }
    producer.flush(PATIENCE).expect("the broker has it");
}

fn clients(settings: &config::Kafka) -> Clients {
    Clients::new(settings).expect("the settings are fine")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_settings_will_do() {
    let (_mock, settings) = mock();
    let checked = clients(&settings);
    let layout = tokio::task::spawn_blocking(move || topics::check(&checked)).await.expect("it returns");
    let layout = layout.expect("all is well");
    assert_eq!((layout.tokens, layout.results, layout.dead_letters), (2, 2, 2));
    produce(&settings, 0, 10);
    let source = Source::open(&clients(&settings)).expect("open");
    let mut intake = source.intake();
    assert_eq!(start(&mut intake).await, [(0, 0), (1, 0)]);
    take(&mut intake, 10).await;
    intake.mark(0, 4, "four").expect("marked");
    intake.commit_now(&[0]).await.expect("confirmed");
    drop(intake);
    source.close().await;
    let source = Source::open(&clients(&settings)).expect("open");
    assert_eq!(start(&mut source.intake()).await, [(0, 4), (1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_does_not_know_itself_yet_is_asked_again() {
    let (mock, settings) = mock();
    mock.request_errors(RDKafkaApiKey::OffsetFetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR; 6]);
    let checked = clients(&settings);
    let layout = tokio::task::spawn_blocking(move || topics::check(&checked)).await.expect("it returns");
    layout.expect("all is well in the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_and_comes_back_costs_no_record() {
    let (mock, settings) = mock();
    produce(&settings, 0, 10);
    let source = Source::open(&clients(&settings)).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    take(&mut intake, 10).await;
    mock.broker_down(1).expect("down");
    let waiting = async {
        while source.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut came = Vec::new();
    let polling = async {
        loop {
            match intake.next().await {
                Item::End(_) | Item::Lost(_) => {}
                other => came.push(format!("{other:?}")),
            }
        }
    };
    tokio::select! {
        () = waiting => {}
        () = polling => {}
        () = tokio::time::sleep(PATIENCE) => panic!("nobody noticed"),
    }
    assert_eq!(came, Vec::<String>::new());
    mock.broker_up(1).expect("up");
    produce(&settings, 10, 10);
    let mut offsets = Vec::new();
    while offsets.len() < 10 {
        match next(&mut intake).await {
            Item::Record(record) => offsets.push(record.offset()),
            Item::End(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(offsets.into_iter().eq(10..20));
}

const LANE: Lane = Lane { partition: 1, life: 0 };

/// A hundred results of one partition.
fn hundred() -> Batch {
    let mut batch = Batch::default();
    for seq in 0..100 {
        let fact = Fact::Response { outcome: ResponseOutcome::Failed, headless: false, gaps: 0, duplicates: 0 };
        batch.buffer().extend(b"kv");
        let at = batch.buffer().len();
        batch.report(LANE, Report { seq, key: at - 2..at - 1, value: at - 1..at, fact, traceparent: None });
    }
    batch
}

/// Writes them while produce requests are answered so, and gives how many were refused for good on the way.
async fn write_hundred(answers: &[RDKafkaRespErr]) -> u64 {
    let (mock, settings) = mock();
    let mut writer = Writer::start(&clients(&settings)).expect("started");
    mock.request_errors(RDKafkaApiKey::Produce, answers);
    assert!(writer.offer(&mut hundred()));
    writer.finish(PATIENCE).await.expect("durable after all");
    let mut progress = Progress::default();
    writer.take(&mut progress);
    assert_eq!(progress.durable.get(&LANE), Some(&99));
    assert_eq!(progress.counts.results, 100);
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &settings.bootstrap_servers).create().expect("a consumer");
    let (low, high) = client.fetch_watermarks(&settings.results_topic, LANE.partition, PATIENCE).expect("an answer");
    assert_eq!(high - low, 100, "they are there, each once");
    progress.counts.refused
}

#[tokio::test(flavor = "multi_thread")]
async fn results_outlast_refusals_that_pass() {
    let refused = write_hundred(&[
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
    ]);
    assert!(refused.await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_claims_to_have_results_and_not_where_is_not_believed() {
    assert!(write_hundred(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER]).await > 0);
}
