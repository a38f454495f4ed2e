//! What is written again, and for whom. librdkafka's mock cluster takes transactions, and shows everything to everybody at once.

use std::sync::Arc;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::engine::{Fact, Report, ResponseOutcome};
use crate::kafka::results::batch::Batch;
use crate::kafka::results::{Job, Mark};

const LANES: [Lane; 2] = [Lane { partition: 0, life: 1 }, Lane { partition: 1, life: 1 }];

/// Longer than any test takes.
const LIFETIME: Duration = Duration::from_secs(60);

type Mock = MockCluster<'static, DefaultProducerContext>;

/// A thread that has one report of each lane to write, and offsets of each.
fn thread() -> (Mock, Thread) {
    let mock = MockCluster::new(1).expect("a mock cluster");
    let settings = config::Kafka { bootstrap_servers: mock.bootstrap_servers(), ..config::Kafka::default() };
    for topic in [&settings.tokens_topic, &settings.results_topic] {
        mock.create_topic(topic, 2, 1).expect("created");
    }
    let clients = Clients::new(&settings).expect("the settings are fine").in_transactions("test", LIFETIME);
    let mut thread = Thread::new(&clients, Arc::default()).expect("made");
    thread.introduce().expect("introduced");
    let mut batch = Batch::default();
    for lane in LANES {
        let at = batch.buffer().len();
        batch.buffer().extend(b"kv");
        let fact = Fact::Response { outcome: ResponseOutcome::Delivered, headless: false, gaps: 0, duplicates: 0 };
        batch.report(lane, Report { seq: 0, key: at..at + 1, value: at + 1..at + 2, fact, traceparent: None });
    }
    let marks = LANES.map(|lane| Mark { lane, offset: 1, metadata: String::new() });
    thread.add(Job { batch, marks: marks.into(), number: 1 });
    (mock, thread)
}

/// Writes what is to be written; where the results of each lane end then.
fn write(thread: &mut Thread) -> Option<(Written, HashMap<Lane, i64>)> {
    let written = thread.transaction().ok()?;
    let ends = written.lanes.iter().map(|(lane, (_, end))| (*lane, *end)).collect();
    Some((written, ends))
}

/// A commit that was closed in both partitions.
fn closed(written: Written) -> Unseen {
    let closed = Missing { results: HashSet::from([0, 1]), ..Missing::default() };
    Unseen { closed, ..Unseen::new(written, Instant::now()) }
}

#[test]
fn results_are_owed_where_the_group_has_offsets_and_nobody_sees_results() {
    let set = |partitions: &[i32]| partitions.iter().copied().collect::<HashSet<i32>>();
    // What was owed before, what is hidden, where the group is behind, what is owed then.
    let cases: [[&[i32]; 4]; 6] = [
        [&[], &[], &[], &[]],
        [&[], &[1], &[], &[1]],
        [&[], &[0, 1], &[0], &[1]],
        [&[], &[0], &[0, 1], &[]],
        // One that has left has no offsets of ours any more.
        [&[7], &[0, 7], &[0], &[7]],
        [&[7], &[0], &[0], &[]],
    ];
    for [before, hidden, behind, owed] in cases {
        let mut unseen = closed(Written { offsets: true, owed: set(before), ..Written::default() });
        let group = if behind.is_empty() { Group::AsCommitted } else { Group::Behind(set(behind)) };
        let lost = unseen.lost(set(hidden), group, [0, 1].into_iter());
        assert_eq!(lost, Missing { results: set(hidden), letters: false, offsets: !behind.is_empty() });
        assert_eq!(unseen.written.owed, set(owed), "{before:?} {hidden:?} {behind:?}");
    }
}

#[test]
fn nothing_is_owed_for_offsets_that_were_not_committed() {
    let mut unseen = closed(Written::default());
    unseen.lost(HashSet::from([0, 1]), Group::AsCommitted, [0, 1].into_iter());
    assert_eq!(unseen.written.owed, HashSet::new());
}

#[test]
fn dead_letters_that_were_closed_are_written_again() {
    let mut unseen = closed(Written::default());
    unseen.closed.letters = true;
    let lost = unseen.lost(HashSet::new(), Group::AsCommitted, [].into_iter());
    assert_eq!(lost, Missing { letters: true, ..Missing::default() });
}

#[test]
fn what_was_taken_away_is_written_again_and_nothing_else() {
    let (_mock, mut thread) = thread();
    let (mut written, ends) = write(&mut thread).expect("written");
    assert_eq!(ends, HashMap::from(LANES.map(|lane| (lane, 1))));
    // Behind what there is nobody sees anything.
    written.lanes.insert(LANES[0], (0, 2));
    assert!(matches!(thread.judge(closed(written), Group::AsCommitted), Err(Failure::AtOnce)));
    let (written, _) = write(&mut thread).expect("written");
    assert_eq!(written.lanes, HashMap::from([(LANES[0], (0, 2)), (LANES[1], (0, 1))]));
    // All of it is there now.
    assert!(matches!(thread.judge(closed(written), Group::AsCommitted), Ok(Some(_))));
}

#[test]
fn what_is_owed_is_written_though_its_partition_has_left() {
    let (_mock, mut thread) = thread();
    lock(&thread.shared.membership).gone = LANES.into();
    let missing = Missing { results: HashSet::from([0, 1]), ..Missing::default() };
    thread.again = Some((missing, Written { owed: HashSet::from([0]), ..Written::default() }));
    let (written, ends) = write(&mut thread).expect("written");
    assert_eq!((ends, written.owed), (HashMap::from([(LANES[0], 1)]), HashSet::from([0])));
    assert!(thread.marks.is_empty(), "their offsets are others' now");
    // A partition that has left without a debt.
    let (_, ends) = write(&mut thread).expect("written");
    assert_eq!(ends, HashMap::new());
}

#[test]
fn after_an_abort_nothing_is_begun_before_the_group_has_decided_over_its_offsets() {
    let (mock, mut thread) = thread();
    let member: BaseConsumer<Plain> = {
        let context = Plain { log: Log::new("results", thread.clients.stranded()) };
        BaseConsumer::from_config_and_context(&thread.clients.reader(), context).expect("a consumer")
    };
    // It does not say: a mock cannot have offsets in a transaction that is open.
    mock.request_errors(
        RDKafkaApiKey::OffsetFetch,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 5_000],
    );
    thread.aborted = Some(None);
    assert!(thread.is_clear().is_ok_and(|clear| clear), "without a name in the group there are no offsets");
    lock(&thread.shared.membership).group = member.group_metadata().map(Arc::new);
    thread.aborted = Some(None);
    assert!(thread.is_clear().is_ok_and(|clear| !clear));
    assert!(matches!(thread.aborted, Some(Some(_))), "somebody has answered");
    mock.clear_request_errors(RDKafkaApiKey::OffsetFetch);
    assert!(thread.is_clear().is_ok_and(|clear| clear));
    assert!(thread.aborted.is_none());
}
