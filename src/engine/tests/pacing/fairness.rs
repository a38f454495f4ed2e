//! Fairness: whoever always wants more cannot starve the others, on whichever budget they wait.

use super::*;

/// One response that is never satisfied, and five that want two operations a second each. Ten a second is what there is.
fn longest_wait(limits: Limits, hot: (&str, usize), others: impl Fn(usize) -> (String, usize)) -> Duration {
    let mut world = World::new(limits, Duration::ZERO, 3, Scope::Connection, f64::INFINITY);
    world.stream(hot.0, hot.1, Duration::from_millis(1));
    for n in 0..5 {
        let (channel, partition) = others(n);
        world.stream(&channel, partition, Duration::from_millis(500));
    }
    world.pass(SECOND * 10);
    world.streams.iter_mut().for_each(|stream| (stream.longest, stream.sent) = (Duration::ZERO, 0));
    world.pass(SECOND * 60);
    let longest = world.streams[1..].iter().map(|stream| stream.longest).max().unwrap_or_default();
    let (served, hot) = (world.streams[1..].iter().map(|stream| stream.sent).min(), world.streams[0].sent);
    assert!(served >= Some(80), "one of the others was served {served:?} times in a minute");
    assert!(hot >= 60, "the hot one was served {hot} times in a minute");
    world.end();
    longest
}

/// All six wait: each gets its turn after the five others have had theirs.
const TURNS: Duration = Duration::from_millis(700);

#[test]
fn a_hot_response_does_not_starve_those_on_its_connection() {
    let limits = Limits { connections_max: 1, connection_rate: 10, ..LIMITS };
    for hot in 0..3 {
        let longest = longest_wait(limits, ("hot", hot), |n| (n.to_string(), n % 3));
        assert!(longest <= TURNS, "{longest:?}, with the hot one in partition {hot}");
    }
}

#[test]
fn a_hot_response_does_not_starve_those_on_its_channel() {
    let limits = Limits { connections_max: 1, channel_rate: 10, ..LIMITS };
    for hot in 0..3 {
        let longest = longest_wait(limits, ("one", hot), |n| ("one".to_owned(), n % 3));
        assert!(longest <= TURNS, "{longest:?}, with the hot one in partition {hot}");
    }
}

#[test]
fn a_hot_response_does_not_starve_those_of_its_account() {
    // A connection for each channel.
    let limits = Limits { connections_max: 6, connection_rate: 1_000, account_rate: 10, ..LIMITS };
    for hot in 0..3 {
        let longest = longest_wait(limits, ("hot", hot), |n| (n.to_string(), n % 3));
        assert!(longest <= TURNS, "{longest:?}, with the hot one in partition {hot}");
    }
}

#[test]
fn a_hot_channel_does_not_hold_up_others_on_its_connection() {
    let limits = Limits { connections_max: 1, connection_rate: 50, channel_rate: 5, ..LIMITS };
    let mut world = World::new(limits, Duration::ZERO, 2, Scope::Connection, f64::INFINITY);
    for n in 0..20 {
        world.stream("hot", n % 2, Duration::from_millis(10));
    }
    let other = world.stream("other", 1, Duration::from_millis(250));
    world.pass(SECOND * 60);
    let longest = world.streams[other].longest;
    assert!(longest <= Duration::from_millis(250), "{longest:?}, though its channel and its connection have room");
    world.end();
}

#[test]
fn answers_that_make_room_make_it_for_whoever_waited_longest() {
    let limits = Limits { connections_max: 1, in_flight_operations: 1, ..LIMITS };
    let mut world = World::new(limits, Duration::ZERO, 3, Scope::Connection, f64::INFINITY);
    for n in 0..6 {
        let gap = if n < 2 { Duration::from_millis(1) } else { Duration::from_millis(500) };
        world.stream(&n.to_string(), usize::from(n >= 2) + usize::from(n >= 4), gap);
    }
    world.pass(SECOND * 60);
    let longest = world.streams[2..].iter().map(|stream| stream.longest).max().unwrap_or_default();
    assert!(longest <= Duration::from_millis(160), "{longest:?}, at fifty a second");
    world.end();
}
