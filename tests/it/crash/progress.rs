//! Progress as the results topic shows it to whoever reads what is committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::watch;

use crate::world::World;

/// How long the reader waits for a record before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Counts results as they are committed.
pub(super) struct Progress {
    over: watch::Receiver<usize>,
    enough: Arc<AtomicBool>,
}

impl Progress {
    pub(super) fn start(world: &World) -> Self {
        let topic = &world.settings.results_topic;
        let mut list = TopicPartitionList::new();
        for partition in 0..world.partitions(topic) {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &world.settings.bootstrap_servers)
            .set("group.id", "progress")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        consumer.assign(&list).expect("assigned");
        let (count, over) = watch::channel(0);
        let enough = Arc::new(AtomicBool::new(false));
        let is_enough = Arc::clone(&enough);
        tokio::task::spawn_blocking(move || {
            while !is_enough.load(Ordering::Relaxed) {
                // An error is a broker that is away, and nothing to worry about here.
                let Some(Ok(message)) = consumer.poll(LOOK) else { continue };
                let is_response = |header: rdkafka::message::Header<'_, &[u8]>| header.value == Some(b"response");
                if message.headers().is_some_and(|headers| headers.iter().any(is_response)) {
                    count.send_modify(|count| *count += 1);
                }
            }
        });
        Self { over, enough }
    }

    /// Responses that are over.
    pub(super) fn over(&self) -> usize {
        *self.over.borrow()
    }

    /// Waits until so many responses are over. May be dropped before.
    pub(super) async fn until(&mut self, over: usize) {
        self.over.wait_for(|count| *count >= over).await.expect("it is counted");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}
