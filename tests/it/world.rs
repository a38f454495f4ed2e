//! Topics of one test on a real Kafka, and the other end of them: a producer of tokens and a reader of results.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokenrelay::config::{self, Start};
use tokenrelay::kafka::client::Clients;
use tokenrelay::kafka::source::{Intake, Item};

/// A test that hangs is a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn servers() -> String {
    std::env::var("TOKENRELAY_TEST_KAFKA").expect("TOKENRELAY_TEST_KAFKA is not set: run the tests by tests/run")
}

fn client(servers: &str) -> ClientConfig {
    ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("linger.ms", "1")
        .set("message.max.bytes", "20000000")
        .clone()
}

/// The topics of one test.
pub(crate) struct World {
    pub(crate) settings: config::Kafka,
    admin: AdminClient<DefaultClientContext>,
    producer: BaseProducer,
}

/// A record as it is in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value.as_ref()?).ok()
    }
}

impl World {
    /// Topics with these numbers of partitions; 0 for a topic that is not there.
    pub(crate) async fn new(tokens: i32, results: i32, dead_letters: i32) -> Self {
        Self::at(servers(), tokens, results, dead_letters).await
    }

    /// The same on a Kafka of the test's own.
    pub(crate) async fn at(servers: String, tokens: i32, results: i32, dead_letters: i32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let settings = config::Kafka {
            bootstrap_servers: servers,
            group_id: format!("{name}-group"),
            tokens_topic: format!("{name}-tokens"),
            results_topic: format!("{name}-results"),
            dead_letters_topic: format!("{name}-dead-letters"),
            start: Start::Earliest,
            session_timeout: Duration::from_secs(6),
            ..config::Kafka::default()
        };
        let client = client(&settings.bootstrap_servers);
        let world = Self {
            settings,
            admin: client.create().expect("an admin client"),
            producer: client.create().expect("a producer"),
        };
        world.create(&world.settings.tokens_topic, tokens, &[]).await;
        world.create(&world.settings.results_topic, results, &[]).await;
        world.create(&world.settings.dead_letters_topic, dead_letters, &[]).await;
        world
    }

    pub(crate) async fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        if partitions == 0 {
            return;
        }
        let mut topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let made = self.admin.create_topics([&topic], &AdminOptions::new()).await.expect("asked");
        for topic in made {
            topic.expect("made");
        }
    }

    pub(crate) async fn grow(&mut self, topic: &str, partitions: usize) {
        let more = NewPartitions::new(topic, partitions);
        let done = self.admin.create_partitions([&more], &AdminOptions::new()).await.expect("asked");
        for topic in done {
            topic.expect("grown");
        }
        // Brokers hear of it a moment later, and until then refuse what is produced there.
        let deadline = Instant::now() + PATIENCE;
        while self.partitions(topic) < partitions as i32 {
            assert!(Instant::now() < deadline, "{topic} does not grow");
        }
        // The old one would take minutes to hear of it.
        self.producer = client(&self.settings.bootstrap_servers).create().expect("a producer");
    }

    /// Sets one property of a topic.
    pub(crate) async fn alter(&self, topic: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
        let done = self.admin.alter_configs([&change], &AdminOptions::new()).await.expect("asked");
        for topic in done {
            topic.expect("altered");
        }
    }

    /// Deletes what is below the offset, as retention does.
    pub(crate) async fn forget(&self, topic: &str, partition: i32, below: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(below)).expect("an offset");
        let done = self.admin.delete_records(&list, &AdminOptions::new()).await.expect("asked");
        for element in done.elements() {
            element.error().expect("deleted");
        }
    }

    pub(crate) fn clients(&self) -> Clients {
        Clients::new(&self.settings).expect("the settings are fine")
    }

    /// Produces `count` records with values `from..from + count` to a partition of the tokens topic.
    pub(crate) fn produce(&self, partition: i32, from: i64, count: i64) {
        for value in from..from + count {
            let value = value.to_string();
            let record = BaseRecord::to(&self.settings.tokens_topic).partition(partition).key("id").payload(&value);
            self.producer.send(record).expect("queued");
        }
        self.flush();
    }

    /// Produces one record, exactly so, and waits until the broker has it.
    pub(crate) fn produce_raw(&self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) {
        self.send(0, key, value, headers);
        self.flush();
    }

    /// Produces one record, exactly so.
    pub(crate) fn send(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        let owned =
            headers.iter().fold(OwnedHeaders::new(), |owned, (key, value)| owned.insert(Header { key, value: *value }));
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.settings.tokens_topic).partition(partition);
        record.key = key;
        record.payload = value;
        record.headers = (!headers.is_empty()).then_some(owned);
        self.producer.send(record).expect("queued");
    }

    /// Produces one record of so many minutes ago, and waits until the broker has it.
    pub(crate) fn send_late(&self, minutes: u64, key: &str, value: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after the epoch").as_millis() as i64;
        let record = BaseRecord::to(&self.settings.tokens_topic).partition(0).key(key).payload(value);
        self.producer.send(record.timestamp(now - minutes as i64 * 60_000)).expect("queued");
        self.flush();
    }

    /// Waits until the broker has everything.
    pub(crate) fn flush(&self) {
        self.producer.flush(PATIENCE).expect("the broker has it");
    }

    /// Waits for `count` records of a topic and takes them.
    pub(crate) fn read(&self, topic: &str, count: usize) -> Vec<Seen> {
        let mut tail = self.tail(topic);
        (0..count).map(|_| tail.next(PATIENCE).expect("enough records in time")).collect()
    }

    /// Begins a transaction of somebody else's that writes there, and leaves it open.
    pub(crate) fn leave_open(&self, topic: &str, partition: i32) -> BaseProducer {
        let producer: BaseProducer = client(&self.settings.bootstrap_servers)
            .set("transactional.id", format!("{}-killed", self.settings.group_id))
            .create()
            .expect("a producer");
        producer.init_transactions(PATIENCE).expect("introduced");
        producer.begin_transaction().expect("begun");
        let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(b"a record");
        producer.send(record).expect("queued");
        producer.flush(PATIENCE).expect("delivered");
        producer
    }

    /// Reads a topic from its beginning.
    pub(crate) fn tail(&self, topic: &str) -> Tail {
        let consumer = self.observer();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions(topic) {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("assigned");
        Tail { consumer }
    }

    /// Reads all that a topic holds, once no transaction on it is open.
    pub(crate) fn read_all(&self, topic: &str) -> Vec<Seen> {
        let deadline = Instant::now() + PATIENCE;
        let ends = |isolation: &str| -> Vec<i64> {
            let observer = self.reader(isolation);
            let end = |partition| observer.fetch_watermarks(topic, partition, PATIENCE).expect("its ends").1;
            (0..self.partitions(topic)).map(end).collect()
        };
        while ends("read_committed") != ends("read_uncommitted") {
            assert!(Instant::now() < deadline, "a transaction on {topic} stays open");
        }
        let tail = self.tail(topic);
        let mut records = Vec::new();
        let mut left = self.partitions(topic);
        while left > 0 {
            assert!(Instant::now() < deadline, "{topic} cannot be read to its end");
            match tail.consumer.poll(PATIENCE) {
                Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
                Some(message) => records.push(Seen::of(&message.expect("a record"))),
                None => {}
            }
        }
        records
    }

    pub(crate) fn partitions(&self, topic: &str) -> i32 {
        let metadata = self.observer().fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        i32::try_from(metadata.topics()[0].partitions().len()).expect("a number")
    }

    /// For each partition of the tokens topic, what the group has committed and where the partition ends.
    pub(crate) fn committed(&self) -> Vec<(i32, i64, i64)> {
        let topic = &self.settings.tokens_topic;
        let observer = self.observer();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, self.partitions(topic) - 1);
        let committed = observer.committed_offsets(list, PATIENCE).expect("offsets");
        let elements = committed.elements().into_iter().map(|element| {
            let (_, end) = observer.fetch_watermarks(topic, element.partition(), PATIENCE).expect("an end");
            (element.partition(), element.offset().to_raw().unwrap_or(-1), end)
        });
        elements.collect()
    }

    /// Sets the group's offsets, as the tool for that does while nobody is a member; with metadata, as some mirror might.
    pub(crate) fn set_offsets(&self, offsets: impl IntoIterator<Item = (i32, i64)>, metadata: &str) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let mut element = list.add_partition(&self.settings.tokens_topic, partition);
            element.set_offset(Offset::Offset(offset)).expect("an offset");
            element.set_metadata(metadata);
        }
        let observer = self.observer();
        let deadline = Instant::now() + PATIENCE;
        // A member that has just left is still known for a moment.
        while let Err(error) = observer.commit(&list, CommitMode::Sync) {
            assert!(Instant::now() < deadline, "{error}");
        }
    }

    /// Makes a topic anew, empty.
    pub(crate) async fn remake(&self, topic: &str, partitions: i32) {
        let done = self.admin.delete_topics(&[topic], &AdminOptions::new()).await.expect("asked");
        for topic in done {
            topic.expect("deleted");
        }
        let deadline = Instant::now() + PATIENCE;
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        loop {
            let made = self.admin.create_topics([&new], &AdminOptions::new()).await.expect("asked");
            match &made[..] {
                [Ok(_)] => return,
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
        }
    }

    /// How many records a topic holds, markers of transactions and what is not committed among them.
    pub(crate) fn count(&self, topic: &str) -> i64 {
        let observer = self.reader("read_uncommitted");
        let length = |partition| {
            let (begin, end) = observer.fetch_watermarks(topic, partition, PATIENCE).expect("its ends");
            end - begin
        };
        (0..self.partitions(topic)).map(length).sum()
    }

    /// Who somebody is to the group who is no member of it: as long as it has none, its offsets are taken.
    pub(crate) fn outsider(&self) -> Option<ConsumerGroupMetadata> {
        self.observer().group_metadata()
    }

    /// A member of the group that has no interest in the tokens topic.
    pub(crate) fn member(&self) -> BaseConsumer {
        let member = self.observer();
        member.subscribe(&[&self.settings.dead_letters_topic]).expect("subscribed");
        let deadline = Instant::now() + PATIENCE;
        while member.assignment().expect("an assignment").count() == 0 {
            assert!(Instant::now() < deadline, "the group does not take it");
            drop(member.poll(Duration::from_millis(10)));
        }
        member
    }

    /// A consumer that is no member of any group.
    fn observer(&self) -> BaseConsumer {
        self.reader("read_committed")
    }

    fn reader(&self, isolation: &str) -> BaseConsumer {
        client(&self.settings.bootstrap_servers)
            .set("group.id", &self.settings.group_id)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation)
            .create()
            .expect("a consumer")
    }
}

/// A reader of a topic.
pub(crate) struct Tail {
    consumer: BaseConsumer,
}

impl Tail {
    /// The next record, if one comes in time.
    pub(crate) fn next(&mut self, within: Duration) -> Option<Seen> {
        let deadline = Instant::now() + within;
        loop {
            match self.consumer.poll(deadline.saturating_duration_since(Instant::now()))? {
                Err(KafkaError::PartitionEOF(_)) => {}
                message => return Some(Seen::of(&message.expect("a record"))),
            }
        }
    }
}

impl Seen {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            partition: message.partition(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
        }
    }
}

/// The next item, in time.
pub(crate) async fn next<'a>(intake: &mut Intake<'a>) -> Item<'a> {
    tokio::time::timeout(PATIENCE, intake.next()).await.expect("an item in time")
}

/// Answers the next assignment, which must be the next item but for ends of partitions; gives back where each begins.
pub(crate) async fn start(intake: &mut Intake<'_>) -> Vec<(i32, i64)> {
    loop {
        match next(intake).await {
            Item::End(_) => {}
            Item::Assigned(assigned) => {
                let mut starts: Vec<_> = assigned.iter().map(|one| (one.partition, one.start)).collect();
                intake.start(&starts).expect("started");
                starts.sort_unstable();
                return starts;
            }
            other => panic!("an assignment was expected, not {other:?}"),
        }
    }
}

/// Reads `count` records, passing over ends of partitions: partition, offset, value.
pub(crate) async fn take(intake: &mut Intake<'_>, count: usize) -> Vec<(i32, i64, i64)> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        match next(intake).await {
            Item::Record(record) => taken.push((record.partition(), record.offset(), value(&record))),
            Item::End(_) => {}
            other => panic!("a record was expected, not {other:?}"),
        }
    }
    taken
}

pub(crate) fn value(record: &impl Message) -> i64 {
    let text = record.payload_view::<str>().expect("a value").expect("text");
    text.parse().expect("a number")
}
