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

fn lane(partition: i32) -> Lane {
    Lane { partition, life: 1 }
}

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
    thread.add(job(&LANES));
    (mock, thread)
}

/// A report of each lane, and an offset.
fn job(lanes: &[Lane]) -> Job {
    let mut batch = Batch::default();
    for lane in lanes {
        let at = batch.buffer().len();
        batch.buffer().extend(b"kv");
        let fact = Fact::Response { outcome: ResponseOutcome::Delivered, headless: false, gaps: 0, duplicates: 0 };
        batch.report(*lane, Report { seq: 0, key: at..at + 1, value: at + 1..at + 2, fact, traceparent: None });
    }
    let marks = lanes.iter().map(|lane| Mark { lane: *lane, offset: 1, metadata: String::new() }).collect();
    Job { batch, marks, number: 1 }
}

/// Writes what is to be written; where the results of each lane end then.
fn write(thread: &mut Thread) -> Option<(Written, HashMap<Lane, i64>)> {
    let written = thread.transaction().ok()?;
    let ends = written.lanes.iter().map(|(lane, (_, end))| (*lane, *end)).collect();
    Some((written, ends))
}

/// A commit of results of both lanes, and of offsets.
fn everything() -> Written {
    let lanes = LANES.map(|lane| (lane, (0, 1))).into();
    Written { lanes, offsets: true, ..Written::default() }
}

/// A commit that was closed in both partitions.
fn closed(written: Written) -> Unseen {
    let closed = Missing { results: HashSet::from([0, 1]), ..Missing::default() };
    Unseen { closed, ..Unseen::new(written, Instant::now()) }
}

#[test]
fn results_are_owed_where_the_group_has_offsets_and_nobody_sees_results() {
    let set = |partitions: &[i32]| partitions.iter().copied().collect::<HashSet<i32>>();
    let lanes = |partitions: &[i32]| partitions.iter().map(|n| lane(*n)).collect::<HashSet<Lane>>();
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
        let mut unseen = closed(Written { owed: lanes(before), ..everything() });
        let group = if behind.is_empty() { Group::AsCommitted } else { Group::Behind(set(behind)) };
        let lost = unseen.lost(set(hidden), group, LANES.into_iter());
        assert_eq!(lost, Missing { results: set(hidden), letters: false, offsets: !behind.is_empty() });
        assert_eq!(unseen.written.owed, lanes(owed), "{before:?} {hidden:?} {behind:?}");
    }
}

#[test]
fn nothing_is_owed_for_offsets_that_were_not_committed() {
    let mut unseen = closed(Written { offsets: false, ..everything() });
    unseen.lost(HashSet::from([0, 1]), Group::AsCommitted, LANES.into_iter());
    assert_eq!(unseen.written.owed, HashSet::new());
}

#[test]
fn results_are_lost_that_are_gone_with_their_partition_and_not_owed() {
    let written = Written { owed: HashSet::from([LANES[0]]), ..everything() };
    let both = HashSet::from([0, 1]);
    assert_eq!(written.not_ours(&both, &LANES.into()), HashSet::from([1]));
    assert_eq!(written.not_ours(&both, &HashSet::from([LANES[0]])), HashSet::new(), "it is ours to write");
    assert_eq!(written.not_ours(&HashSet::from([0]), &LANES.into()), HashSet::new(), "it is there");
}

#[test]
fn an_owner_after_us_says_other_things_of_the_offset_where_we_ended() {
    let said = |epoch, read| Handover { epoch, ..Handover::first(read) }.to_metadata(10);
    let ours = said(3, 20);
    // What was found, and whether we had committed our offset before.
    let cases = [
        (None, false),
        (Some((9, said(4, 20))), false),
        (Some((10, ours.clone())), true),
        (Some((10, said(3, 15))), false),
        (Some((10, said(2, 15))), false),
        (Some((10, said(4, 20))), true),
        // Somebody's hand.
        (Some((10, String::new())), false),
        (Some((11, String::new())), true),
    ];
    for (found, expected) in cases {
        assert_eq!(has(found.as_ref(), 10, &ours), expected, "{found:?}");
    }
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
    thread.again = Some((missing, Written { owed: HashSet::from([LANES[0]]), ..Written::default() }));
    let (written, ends) = write(&mut thread).expect("written");
    assert_eq!((ends, written.owed), (HashMap::from([(LANES[0], 1)]), HashSet::from([LANES[0]])));
    assert!(thread.marks.is_empty(), "their offsets are others' now");
    // A partition that has left without a debt.
    let (_, ends) = write(&mut thread).expect("written");
    assert_eq!(ends, HashMap::new());
}

/// Judges a commit with offsets, of which nobody sees what it holds of these lanes: it is said to end behind what there is.
fn hide(thread: &mut Thread, mut written: Written, lanes: &[Lane]) {
    written.offsets = true;
    written.lanes.extend(lanes.iter().map(|lane| (*lane, (0, 2))));
    assert!(matches!(thread.judge(closed(written), Group::AsCommitted), Err(Failure::AtOnce)));
}

#[test]
fn a_debt_of_one_stay_lets_out_nothing_of_an_earlier_one() {
    let (_mock, mut thread) = thread();
    lock(&thread.shared.membership).gone = HashSet::from([LANES[0]]);
    let back = Lane { life: 2, ..LANES[0] };
    thread.add(job(&[back]));
    let (written, ends) = write(&mut thread).expect("written");
    assert_eq!(ends, HashMap::from([(back, 1), (LANES[1], 1)]));
    hide(&mut thread, written, &[back]);
    let (written, _) = write(&mut thread).expect("written");
    assert_eq!(written.owed, HashSet::from([back]));
    assert!(!written.lanes.contains_key(&LANES[0]), "{written:?}");
}

#[test]
fn where_the_offset_has_not_moved_the_next_owner_repeats_what_is_gone() {
    let (_mock, mut thread) = thread();
    thread.settled = HashMap::from([(LANES[0], 1), (LANES[1], 0)]);
    let (written, _) = write(&mut thread).expect("written");
    hide(&mut thread, written, &LANES);
    let (_, written) = thread.again.as_ref().expect("it is written again");
    assert_eq!(written.owed, HashSet::from([LANES[1]]));
}

#[test]
fn what_is_seen_is_settled_while_its_partition_is_ours() {
    let (_mock, mut thread) = thread();
    let (mut written, _) = write(&mut thread).expect("written");
    written.offsets = true;
    thread.committed(Unseen::new(written, Instant::now()));
    assert_eq!(thread.settled, HashMap::from(LANES.map(|lane| (lane, 1))));
    lock(&thread.shared.membership).gone = HashSet::from([LANES[0]]);
    write(&mut thread).expect("written");
    assert_eq!(thread.settled, HashMap::from([(LANES[1], 1)]));
}

#[test]
fn what_has_left_and_was_closed_is_waited_for_only_if_it_is_owed() {
    let (_mock, mut thread) = thread();
    lock(&thread.shared.membership).gone = HashSet::from([LANES[0]]);
    let touched = |closed| thread.touched(Aborted { since: None, closed }).0;
    assert_eq!(touched(false), HashSet::from([0, 1]));
    assert_eq!(touched(true), HashSet::from([1]));
    let owed = Written { owed: HashSet::from([LANES[0]]), ..Written::default() };
    thread.again = Some((Missing::default(), owed));
    assert_eq!(thread.touched(Aborted { since: None, closed: true }).0, HashSet::from([0, 1]));
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
    thread.aborted = Some(Aborted::default());
    assert!(thread.is_clear().is_ok_and(|clear| clear), "without a name in the group there are no offsets");
    lock(&thread.shared.membership).group = member.group_metadata().map(Arc::new);
    thread.aborted = Some(Aborted::default());
    assert!(thread.is_clear().is_ok_and(|clear| !clear));
    assert!(thread.aborted.is_some_and(|aborted| aborted.since.is_some()), "somebody has answered");
    lock(&thread.shared.membership).gone = LANES.into();
    thread.aborted = Some(Aborted { closed: true, ..Aborted::default() });
    assert!(thread.is_clear().is_ok_and(|clear| clear), "they were closed, and are others' to decide over");
    lock(&thread.shared.membership).gone = HashSet::new();
    thread.aborted = Some(Aborted { closed: true, ..Aborted::default() });
    assert!(thread.is_clear().is_ok_and(|clear| !clear));
    mock.clear_request_errors(RDKafkaApiKey::OffsetFetch);
    assert!(thread.is_clear().is_ok_and(|clear| clear));
    assert!(thread.aborted.is_none());
}
