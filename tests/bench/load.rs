//! Topics and tokens.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::sink::now_us;

const PARTITIONS: i32 = 2;
const PATIENCE: Duration = Duration::from_secs(30);

/// A Kafka with the topics of one run. They go with it: a run writes half a gigabyte, and the Kafka may not be ours alone.
pub(crate) struct Load {
    client: ClientConfig,
    prefix: String,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Load {
    /// Makes the topics.
    pub(crate) fn new(bootstrap: &str, prefix: &str) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", bootstrap).set("enable.metrics.push", "false");
        let names = names(prefix);
        let topics = names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)));
        let topics: Vec<NewTopic<'_>> = topics.collect();
        let made = wait_for(admin(&client).create_topics(&topics, &AdminOptions::new()));
        made.expect("topics").into_iter().for_each(|topic| drop(topic.expect("a topic")));
        // Sent at once; what comes while a request is out goes with the next, so that the broker is not flooded with them.
        let mut producer = client.clone();
        producer.set("linger.ms", "0").set("max.in.flight", "1").set("queue.buffering.max.messages", "1000000");
        let producer = producer.create();
        Self { client, prefix: prefix.to_owned(), producer: producer.expect("a producer") }
    }

    fn send(&self, partition: i32, key: &str, value: &str) {
        let topic = format!("{}.tokens", self.prefix);
        let mut record = BaseRecord::to(&topic).partition(partition).key(key).payload(value);
        while let Err((_, refused)) = self.producer.send(record) {
            record = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// `responses` responses of `tokens` tokens of text `text`, `abreast` of them at a time. With ends, or left open; as fast
    /// as it goes, or at most `rate` tokens a second.
    pub(crate) fn fill(&self, responses: u32, tokens: u32, abreast: u32, text: &str, ends: bool, rate: Option<u32>) {
        let value = serde_json::json!({"type": "token", "text": text}).to_string();
        let (started, mut sent) = (Instant::now(), 0);
        for first in (0..responses).step_by(abreast as usize) {
            let group = first..(first + abreast).min(responses);
            for _ in 0..tokens {
                for response in group.clone() {
                    self.send((response % 2).cast_signed(), &id(response), &value);
                    sent += 1;
                    if let Some(rate) = rate.filter(|_| sent % 64 == 0) {
                        let due = started + Duration::from_secs(1) * sent / rate;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                }
            }
            if ends {
                group.for_each(|response| self.send((response % 2).cast_signed(), &id(response), r#"{"type":"end"}"#));
            }
        }
        self.producer.flush(PATIENCE).expect("flushed");
    }

    /// Tokens that say when they were produced, `rate` a second, `abreast` responses of 100 tokens at a time, the first of
    /// them number `first`.
    pub(crate) fn pace(&self, first: u32, rate: u32, abreast: u32, duration: Duration) {
        let started = Instant::now();
        let total = duration.as_secs() as u32 * rate;
        for sent in 0..total {
            let due = started + Duration::from_secs(1) * sent / rate;
            let wait = due.saturating_duration_since(Instant::now());
            if wait > Duration::from_micros(60) {
                std::thread::sleep(wait);
            }
            let (round, turn) = (sent / abreast, sent % abreast);
            let response = first + round / 100 * abreast + turn;
            let id = id(response);
            let partition = (response % 2).cast_signed();
            self.send(partition, &id, &format!(r#"{{"type":"token","text":"{:016x} "}}"#, now_us()));
            if round % 100 == 99 {
                self.send(partition, &id, r#"{"type":"end"}"#);
            }
        }
        self.producer.flush(PATIENCE).expect("flushed");
    }

    /// How many records the group has not committed yet.
    pub(crate) fn lag(&self, watcher: &BaseConsumer) -> i64 {
        let topic = format!("{}.tokens", self.prefix);
        let mut asked = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            asked.add_partition(&topic, partition);
        }
        let committed = watcher.committed_offsets(asked, PATIENCE).expect("offsets");
        let behind = committed.elements().into_iter().map(|element| {
            let (_, end) = watcher.fetch_watermarks(&topic, element.partition(), PATIENCE).expect("watermarks");
            match element.offset() {
                Offset::Offset(offset) => end - offset,
                _ => end,
            }
        });
        behind.sum()
    }

    /// How long it takes to read all tokens and all results, and nothing else.
    pub(crate) fn read_all(&self) -> Duration {
        let started = Instant::now();
        let reader = self.watcher();
        let (mut all, mut left) = (TopicPartitionList::new(), 0);
        for name in &names(&self.prefix)[..2] {
            for partition in 0..PARTITIONS {
                let (_, end) = reader.fetch_watermarks(name, partition, PATIENCE).expect("watermarks");
                all.add_partition_offset(name, partition, Offset::Beginning).expect("an offset");
                left += usize::from(end > 0);
            }
        }
        reader.assign(&all).expect("assigned");
        // The marks of transactions are not seen, so it is the end of each partition that is waited for.
        while left > 0 {
            left -= usize::from(matches!(reader.poll(PATIENCE), Some(Err(KafkaError::PartitionEOF(_)))));
        }
        started.elapsed()
    }

    /// How long a transaction with one record takes, in the mean.
    pub(crate) fn bare_commit(&self) -> Duration {
        const TIMES: u32 = 100;
        let mut client = self.client.clone();
        let producer: BaseProducer = client.set("transactional.id", &self.prefix).create().expect("a producer");
        producer.init_transactions(PATIENCE).expect("transactions");
        let topic = &names(&self.prefix)[1];
        let started = Instant::now();
        for _ in 0..TIMES {
            producer.begin_transaction().expect("begun");
            producer.send(BaseRecord::to(topic).partition(0).key("key").payload("value")).expect("sent");
            producer.commit_transaction(PATIENCE).expect("committed");
        }
        started.elapsed() / TIMES
    }

    /// Who asks for the group's offsets without being a member.
    pub(crate) fn watcher(&self) -> BaseConsumer {
        let mut client = self.client.clone();
        client.set("group.id", &self.prefix).set("enable.partition.eof", "true").create().expect("a consumer")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let names = names(&self.prefix);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // What is left is seen on the disk; the numbers are none the worse for it.
        let _ = wait_for(admin(&self.client).delete_topics(&names, &AdminOptions::new()));
    }
}

fn names(prefix: &str) -> [String; 3] {
    ["tokens", "results", "dead-letters"].map(|name| format!("{prefix}.{name}"))
}

fn admin(client: &ClientConfig) -> AdminClient<DefaultClientContext> {
    client.create().expect("an admin client")
}

fn wait_for<T>(answer: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(answer)
}

fn id(response: u32) -> String {
    format!("chatcmpl-{response:012}")
}
