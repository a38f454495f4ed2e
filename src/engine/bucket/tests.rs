//! Rates that give way and come back, alone and against a server that refuses.

use super::*;

const HOLD: Duration = Duration::from_secs(600);
const START: Time = Time::from_millis(1_000_000);

fn bucket(rate: u64) -> Bucket {
    Bucket::new(rate, 1, HOLD)
}

fn after(seconds: u64) -> Time {
    START + Duration::from_secs(seconds)
}

/// How many are taken by somebody who takes what there is.
fn taken(bucket: &mut Bucket, from: Time, seconds: u64) -> u64 {
    let (mut now, mut taken) = (from, 0);
    while now < from + Duration::from_secs(seconds) {
        match bucket.take_one(now) {
            Ok(()) => taken += 1,
            Err(next) => now = next,
        }
    }
    taken
}

/// The same against a server that takes `limit` a second, half a second's worth at once: how many it took and refused.
fn against(bucket: &mut Bucket, limit: f64, from: Time, seconds: u64, names: bool) -> (u64, u64) {
    let (mut now, mut last, mut level) = (from, from, 0.0_f64);
    let (mut taken, mut refused) = (0, 0);
    while now < from + Duration::from_secs(seconds) {
        match bucket.take_one(now) {
            Err(next) => now = next,
            Ok(()) => {
                level = (level - now.since(last).as_secs_f64() * limit).max(0.0);
                last = now;
                if level + 1.0 > (limit / 2.0).max(1.0) {
                    refused += 1;
                    let answered = now + Duration::from_millis(20);
                    bucket.refused(answered, now, names.then_some(limit));
                } else {
                    (level, taken) = (level + 1.0, taken + 1);
                }
            }
        }
    }
    (taken, refused)
}

#[test]
fn lets_its_rate_through_and_no_more() {
    let sent = taken(&mut bucket(50), START, 10);
    assert!((495..=506).contains(&sent), "{sent} in ten seconds");
}

#[test]
fn the_moment_that_it_names_is_late_enough() {
    for rate in [3, 7, 50, 333] {
        let mut bucket = bucket(rate);
        let mut now = START;
        for _ in 0..1_000 {
            if let Err(next) = bucket.take_one(now) {
                assert_eq!(bucket.take_one(next), Ok(()), "at {rate} a second");
                now = next;
            }
        }
    }
}

#[test]
fn who_is_behind_others_waits_for_their_turns_too() {
    let mut bucket = bucket(10);
    assert_eq!(bucket.take_one(START), Ok(()));
    let waits = [0, 1, 2].map(|ahead| bucket.wait(START, 1.0, ahead).expect("a wait").since(START).as_millis());
    assert_eq!(waits, [100, 200, 300]);
    assert_eq!(bucket.wait(START, 1.0, 1_000), Some(START + LOOK_AGAIN + Duration::from_micros(1)));
}

#[test]
fn what_is_larger_than_a_burst_leaves_when_the_bucket_is_full() {
    let mut bucket = Bucket::new(1_000, 1, HOLD);
    assert_eq!(bucket.wait(START, 500.0, 0), None);
    bucket.take(START, 500.0);
    assert_eq!(bucket.wait(after(0) + Duration::from_millis(499), 500.0, 0).map(|time| time > START), Some(true));
    assert_eq!(bucket.wait(START + Duration::from_millis(501), 500.0, 0), None);
}

#[test]
fn halves_on_a_refusal_and_stays_below_what_was_refused_for_a_while() {
    let mut bucket = bucket(100);
    taken(&mut bucket, START, 2);
    let now = after(2);
    for _ in 0..10 {
        bucket.refused(now, now, None);
    }
    let slow = taken(&mut bucket, now, 1);
    assert!((45..=60).contains(&slow), "{slow} in the first second");
    taken(&mut bucket, after(3), 57);
    let most = taken(&mut bucket, after(60), 500) as f64 / 500.0;
    assert!((85.0..=91.0).contains(&most), "{most} a second while the refusal is remembered");
    taken(&mut bucket, after(2 + 600), 30);
    let fast = taken(&mut bucket, after(2 + 630), 10);
    assert!((990..=1_001).contains(&fast), "{fast} after it was forgotten");
}

#[test]
fn a_refusal_of_what_was_sent_before_the_last_one_was_known_is_no_other() {
    let mut bucket = bucket(100);
    taken(&mut bucket, START, 2);
    bucket.refused(after(2), after(1), None);
    let ceiling = bucket.ceiling(after(2));
    bucket.refused(after(3), after(2), None);
    assert!(bucket.rate >= 50.0, "{} a second", bucket.rate);
    assert!((bucket.ceiling(after(3)) - ceiling).abs() < f64::EPSILON);
}

#[test]
fn under_a_tenth_it_is_soon_refused_no_more_and_uses_most_of_what_there_is() {
    let mut bucket = bucket(50);
    let (_, learning) = against(&mut bucket, 5.0, START, 10, false);
    assert!((1..=6).contains(&learning), "{learning} refusals to learn it");
    let (sent, refused) = against(&mut bucket, 5.0, after(10), 50, false);
    assert!(refused <= 2, "{refused} refusals in fifty seconds");
    assert!(sent >= 150, "{sent} of 250");
}

#[test]
fn a_rate_that_is_named_is_used_whole() {
    let mut bucket = bucket(50);
    let (_, learning) = against(&mut bucket, 5.0, START, 2, true);
    assert_eq!(learning, 1, "one refusal says it all");
    let (sent, refused) = against(&mut bucket, 5.0, after(2), 100, true);
    assert_eq!(refused, 0);
    assert!(sent >= 485, "{sent} of 500");
}

#[test]
fn a_refusal_when_little_was_sent_does_not_stop_everything() {
    let mut bucket = bucket(1_000);
    assert_eq!(bucket.take_one(after(5)), Ok(()));
    bucket.refused(after(5), after(5), None);
    let slow = taken(&mut bucket, after(5), 10);
    assert!((500..=950).contains(&slow), "{slow} in ten seconds");
}

#[test]
fn no_rate_is_no_limit_until_the_server_sets_one() {
    let mut bucket = bucket(0);
    assert!((0..10_000).all(|_| bucket.take_one(START).is_ok()));
    bucket.refused(after(1), after(1), None);
    assert!(taken(&mut bucket, after(1), 1) < 10_000, "half of what was refused");
    let mut bucket = Bucket::new(0, 1, HOLD);
    bucket.allow(10);
    let slow = taken(&mut bucket, START, 10);
    assert!((99..=102).contains(&slow), "{slow} in ten seconds");
    bucket.allow(20);
    let fast = taken(&mut bucket, after(10), 10);
    assert!((198..=203).contains(&fast), "{fast} in ten seconds");
}

#[test]
fn a_share_is_a_share() {
    let mut bucket = bucket(100);
    bucket.share(START, 0.25);
    let quarter = taken(&mut bucket, START, 10);
    assert!((248..=261).contains(&quarter), "{quarter} in ten seconds");
    bucket.share(after(10), 0.5);
    let half = taken(&mut bucket, after(10), 10);
    assert!((498..=507).contains(&half), "{half} in ten seconds");
}
