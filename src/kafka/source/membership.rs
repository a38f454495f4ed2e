//! Since when, at the least, the group has counted us as a member: the proof by which the right to send is renewed.
//!
//! A group's coordinator gives a member's partitions to others when no heartbeat of it has come for a session. So what counts
//! is when it last took a heartbeat, and nothing else: it takes commits in a transaction from a member whose heartbeats have
//! failed to reach it for almost a session, and expels that member a moment later.
//!
//! librdkafka does not say when a heartbeat was taken, but its statistics count those that were sent, and tell whether an
//! answer is waited for. One that was sent after a sample, and answered before a later one, was taken after the first: from
//! there on the session runs. Whether the answer was a refusal shows in the sample after that, because a member that is
//! refused leaves the steady state.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

/// What we read of librdkafka's statistics.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Statistics<'a> {
    /// When they were taken: microseconds of the monotonic clock.
    ts: u64,
    #[serde(borrow)]
    brokers: HashMap<Cow<'a, str>, Broker<'a>>,
    #[serde(borrow)]
    cgrp: Option<Cgrp<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Broker<'a> {
    #[serde(borrow)]
    source: Cow<'a, str>,
    outbuf_cnt: i64,
    waitresp_cnt: i64,
    /// Requests sent.
    tx: u64,
    txerrs: u64,
    req_timeouts: u64,
    disconnects: u64,
    /// Of those, by kind.
    #[serde(borrow)]
    req: HashMap<Cow<'a, str>, u64>,
}

#[derive(Debug, Default, Deserialize)]
struct Cgrp<'a> {
    #[serde(borrow)]
    join_state: Cow<'a, str>,
    rebalance_cnt: u64,
}

/// The connection to the group's coordinator, as librdkafka calls it.
const COORDINATOR: &str = "GroupCoordinator";

impl Broker<'_> {
    /// How many heartbeats were sent. Those of Kafka 4's own group protocol have no line of their own: they are what no other
    /// kind has counted.
    fn heartbeats(&self) -> u64 {
        let classic = self.req.get("Heartbeat").copied().filter(|sent| *sent > 0);
        classic.unwrap_or_else(|| self.tx.saturating_sub(self.req.values().sum()))
    }
}

impl Statistics<'_> {
    /// Where the brokers are known from.
    pub(super) fn sources(&self) -> impl Iterator<Item = &str> {
        self.brokers.values().map(|broker| &*broker.source)
    }

    fn sample(&self) -> Option<Sample> {
        let (broker, cgrp) = (self.brokers.get(COORDINATOR)?, self.cgrp.as_ref()?);
        Some(Sample {
            heartbeats: broker.heartbeats(),
            waiting: broker.outbuf_cnt > 0 || broker.waitresp_cnt > 0,
            breaks: (broker.txerrs, broker.req_timeouts, broker.disconnects),
            rebalances: cgrp.rebalance_cnt,
            state: match &*cgrp.join_state {
                "steady" => State::Steady,
                "init" | "wait-join" | "wait-metadata" => State::Joining,
                _ => State::Between,
            },
        })
    }
}

/// What the statistics say of our membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// How many were sent.
    heartbeats: u64,
    /// Something was sent that has no answer.
    waiting: bool,
    /// How often something may have stayed without an answer for good.
    breaks: (u64, u64, u64),
    rebalances: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A member's, of which nothing is asked.
    Steady,
    /// The coordinator has not been asked for our partitions yet.
    Joining,
    /// Any other.
    Between,
}

/// A moment by the statistics' clock, and by how much the one that counts time during which the machine was suspended was
/// ahead of it then. That grows whenever it is suspended and never falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    monotonic: Duration,
    ahead: Duration,
}

/// How far apart the moments are between which statistics are placed. Far enough: from when they are taken until they are
/// given out, a busy process asks a hundred times.
const APART: Duration = Duration::from_secs(1);

impl Moment {
    fn now() -> Self {
        let read = |clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
        };
        // In this order: should we be frozen in between, the other clock counts as less ahead than it was.
        let since_boot = read(ClockId::Boottime);
        let monotonic = read(ClockId::Monotonic);
        Self { monotonic, ahead: since_boot.saturating_sub(monotonic) }
    }

    fn since_boot(self) -> Duration {
        self.monotonic + self.ahead
    }
}

/// Takes statistics in and gives proofs out: moments after which the group has counted us as a member, as the time since the
/// machine was started.
#[derive(Debug)]
pub(super) struct Membership {
    /// When librdkafka was asked for news, of late and before that, [`APART`].
    asked: [Option<Moment>; 2],
    /// What heartbeats sent from now on are told from.
    base: Option<(Duration, Sample)>,
    /// A heartbeat that was sent after this was answered, as of the last sample.
    answered: Option<Duration>,
    /// The coordinator was not asked for our partitions before this.
    joining: Option<Duration>,
    proof: Option<Duration>,
}

impl Membership {
    /// Of a consumer that is about to join.
    pub(super) fn new() -> Self {
        let joining = Some(Moment::now().since_boot());
        Self { asked: [None; 2], base: None, answered: None, joining, proof: None }
    }

    /// librdkafka is about to be asked for news.
    pub(super) fn ask(&mut self) {
        self.ask_at(Moment::now());
    }

    fn ask_at(&mut self, now: Moment) {
        if self.asked[1].is_none_or(|last| now.monotonic >= last.monotonic + APART) {
            self.asked = [self.asked[1], Some(now)];
        }
    }

    /// We have let go of partitions, and join anew after this.
    pub(super) fn let_go(&mut self) {
        self.joining = Some(Moment::now().since_boot());
    }

    /// The coordinator has given us partitions.
    pub(super) fn assigned(&mut self) {
        self.proof = self.proof.max(self.joining.take());
    }

    /// The newest proof, once.
    pub(super) fn proof(&mut self) -> Option<Duration> {
        self.proof.take()
    }

    /// Takes statistics in.
    pub(super) fn statistics(&mut self, statistics: &Statistics<'_>) {
        let taken = Duration::from_micros(statistics.ts);
        let before = self.asked.iter().flatten().filter(|asked| asked.monotonic <= taken).max_by_key(|a| a.monotonic);
        match (before.map(|asked| taken + asked.ahead), statistics.sample()) {
            (Some(after), Some(sample)) => self.sample(after, sample),
            _ => (self.base, self.answered) = (None, None),
        }
    }

    /// A sample that was taken after that moment.
    fn sample(&mut self, after: Duration, sample: Sample) {
        match sample.state {
            State::Steady => self.joining = None,
            State::Joining => self.joining = Some(after),
            State::Between => {}
        }
        let answered = self.answered.take();
        let same =
            |(_, base): &(Duration, Sample)| (base.breaks, base.rebalances) == (sample.breaks, sample.rebalances);
        if sample.state != State::Steady {
            self.base = None;
            return;
        }
        match self.base.filter(same) {
            Some((base, before)) => {
                self.proof = self.proof.max(answered);
                if sample.waiting {
                    return;
                }
                self.answered = (sample.heartbeats > before.heartbeats).then_some(base);
            }
            None if sample.waiting => {
                self.base = None;
                return;
            }
            None => {}
        }
        self.base = Some((after, sample));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Sample =
        Sample { heartbeats: 0, waiting: false, breaks: (0, 0, 0), rebalances: 1, state: State::Steady };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn heartbeats(heartbeats: u64) -> Sample {
        Sample { heartbeats, ..STEADY }
    }

    /// What is proven by samples that were taken every 100 ms from 1 s on.
    fn proofs(samples: &[Sample]) -> Vec<Option<u64>> {
        let mut membership = Membership { joining: None, ..Membership::new() };
        let proofs = samples.iter().enumerate().map(|(n, sample)| {
            membership.sample(at(1_000 + 100 * n as u64), *sample);
            membership.proof().map(|proof| u64::try_from(proof.as_millis()).expect("small"))
        });
        proofs.collect()
    }

    #[test]
    fn a_heartbeat_proves_what_was_before_it_once_its_answer_was_no_refusal() {
        assert_eq!(
            proofs(&[heartbeats(4), heartbeats(4), heartbeats(5), heartbeats(5)]),
            [None, None, None, Some(1_100)]
        );
        // One for each sample.
        assert_eq!(proofs(&[heartbeats(4), heartbeats(5), heartbeats(6)]), [None, None, Some(1_000)]);
        // A refusal ends the steady state.
        let refused = Sample { state: State::Between, ..heartbeats(5) };
        assert_eq!(proofs(&[heartbeats(4), heartbeats(5), refused, heartbeats(5)]), [None; 4]);
        let joined_again = Sample { rebalances: 2, ..heartbeats(5) };
        assert_eq!(proofs(&[heartbeats(4), heartbeats(5), joined_again, joined_again]), [None; 4]);
    }

    #[test]
    fn without_heartbeats_nothing_is_proven_whatever_else_is_taken() {
        assert_eq!(proofs(&[heartbeats(4); 100]), [None; 100]);
    }

    #[test]
    fn an_answer_is_waited_for() {
        let waiting = Sample { waiting: true, ..heartbeats(5) };
        let samples = [heartbeats(4), waiting, waiting, heartbeats(5), heartbeats(5)];
        assert_eq!(proofs(&samples), [None, None, None, None, Some(1_000)]);
        // With the connection the answer is gone, though nothing is waited for any more.
        let broken = Sample { breaks: (0, 0, 1), ..heartbeats(5) };
        assert_eq!(proofs(&[heartbeats(4), waiting, broken, broken, broken]), [None; 5]);
    }

    #[test]
    fn partitions_are_proof_of_what_was_before_they_were_asked_for() {
        let mut membership = Membership::new();
        membership.assigned();
        assert!(membership.proof().is_some(), "it has joined after it was made");
        membership.assigned();
        assert_eq!(membership.proof(), None, "one given later may have been asked for at any time");
        let joining = Sample { state: State::Joining, ..STEADY };
        membership.sample(at(2_000), joining);
        membership.sample(at(2_100), joining);
        membership.sample(at(2_200), Sample { state: State::Between, ..STEADY });
        membership.assigned();
        assert_eq!(membership.proof(), Some(at(2_100)));
        membership.let_go();
        membership.assigned();
        assert!(membership.proof() > Some(at(2_100)));
    }

    fn moment(monotonic: u64, ahead: u64) -> Moment {
        Moment { monotonic: at(monotonic), ahead: at(ahead) }
    }

    /// Of a member, taken at that time.
    fn taken_at(millis: u64, classic: u64) -> String {
        let ts = 1_000 * millis;
        format!(
            r#"{{"name":"x","ts":{ts},"brokers":{{"GroupCoordinator":{{"name":"GroupCoordinator","source":"logical",
            "outbuf_cnt":0,"waitresp_cnt":0,"tx":19,"txerrs":0,"req_timeouts":0,"disconnects":1,"rtt":{{"min":1}},
            "req":{{"Fetch":0,"Heartbeat":{classic},"OffsetFetch":12}}}}}},
            "cgrp":{{"state":"up","join_state":"steady","rebalance_cnt":1}}}}"#
        )
    }

    /// What heartbeats are told from after statistics of a member that were taken at that time.
    fn base(asked: &[Moment], taken: u64, classic: u64) -> Option<(Duration, Sample)> {
        let mut membership = Membership::new();
        asked.iter().for_each(|asked| membership.ask_at(*asked));
        membership.statistics(&serde_json::from_str(&taken_at(taken, classic)).expect("statistics"));
        membership.base
    }

    #[test]
    fn time_during_which_the_machine_was_suspended_counts() {
        let sample = Sample { breaks: (0, 0, 1), ..heartbeats(7) };
        // It was suspended for 30 s between two questions: they may have been taken before that.
        let asked = [moment(40_000, 0), moment(41_000, 30_000)];
        assert_eq!(base(&asked, 41_500, 7), Some((at(71_500), sample)));
        assert_eq!(base(&asked, 40_500, 0), Some((at(40_500), sample)), "of Kafka 4's own kind of group");
        assert_eq!(base(&asked, 39_500, 7), None, "older than that is no news");
    }

    #[test]
    fn statistics_count_however_often_it_was_asked_before_they_came() {
        let asked: Vec<Moment> = (40_000..43_000).map(|millis| moment(millis, 0)).collect();
        for taken in 42_100..42_999 {
            assert_eq!(base(&asked, taken, 7).map(|(after, _)| after), Some(at(taken)));
        }
    }
}
