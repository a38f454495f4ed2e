//! Connections: as many as the open channels need, opened no faster than allowed, closed when idle.

use super::*;

/// Two streams fill one.
const TEN: Limits = Limits { connections_max: 10, connection_rate: 50, ..LIMITS };

fn world(limits: Limits) -> World {
    World::new(limits, Duration::from_millis(40), 1, Scope::Connection, f64::INFINITY)
}

#[test]
fn more_load_opens_more_connections_and_less_closes_them() {
    let mut world = world(TEN);
    assert_eq!(world.shared.flow.connections_wanted(), 1);
    for n in 0..12 {
        world.stream(&n.to_string(), 0, Duration::from_millis(20));
    }
    world.pass(SECOND);
    assert_eq!(world.shared.flow.connections_wanted(), 6);
    assert!(world.frames.values().all(|frames| *frames > 50), "all are used: {:?}", world.frames);
    assert!(world.shared.flow.close_idle(world.now).is_empty());

    (0..10).for_each(|n| world.end_one(n));
    world.pass(SECOND * 10);
    assert!(world.shared.flow.close_idle(world.now).is_empty(), "they have not been idle for long");
    for n in 12..14 {
        world.stream(&n.to_string(), 0, Duration::from_millis(20));
    }
    world.pass(SECOND * 61);
    let closed = world.shared.flow.close_idle(world.now);
    assert!((2..=4).contains(&closed.len()), "{closed:?}");
    assert!(closed.iter().all(|number| !world.shared.flow.is_wanted(*number)));
    let wanted = world.shared.flow.connections_wanted();
    assert_eq!(wanted as usize, 6 - closed.len());
    world.pass(SECOND);

    // One that is not closed yet is not used.
    world.shared.flow.closed(closed[0]);
    let before = world.shared.flow.connections();
    for n in 14..24 {
        world.stream(&n.to_string(), 0, Duration::from_millis(20));
    }
    world.pass(SECOND);
    assert!(world.shared.flow.is_wanted(closed[0]), "its number is used again");
    assert!(!world.shared.flow.is_wanted(closed[1]));
    assert!(world.shared.flow.connections() > before);
    world.end();
}

#[test]
fn connections_are_opened_no_faster_than_the_account_allows() {
    let mut world = world(Limits { connections_max: 100, openings: 5, ..TEN });
    for n in 0..100 {
        world.stream(&n.to_string(), 0, SECOND);
    }
    world.pass(SECOND);
    let first = world.shared.flow.connections_wanted();
    assert!((6..=11).contains(&first), "{first} in the first second");
    world.end();
}

#[test]
fn a_connection_has_two_hundred_channels_at_most_while_another_may_be_opened() {
    let mut world = world(Limits { connections_max: 3, open_max: 1_000, ..LIMITS });
    world.server.channels_max = 200;
    for n in 0..600 {
        world.stream(&n.to_string(), 0, SECOND * 20);
    }
    world.pass(SECOND * 30);
    assert_eq!(world.shared.flow.connections_wanted(), 3);
    assert!(world.server.channels.values().all(|channels| channels.len() == 200));
    world.end();
}

#[test]
fn a_channel_that_its_connection_refuses_goes_to_another() {
    let mut world = world(Limits { connections_max: 3, ..LIMITS });
    world.server.channels_max = 20;
    for n in 0..50 {
        world.stream(&n.to_string(), 0, SECOND);
    }
    world.pass(SECOND * 60);
    let channels: Vec<usize> = world.server.channels.values().map(Vec::len).collect();
    assert!(channels.iter().sum::<usize>() >= 50, "{channels:?}");
    assert!(world.streams.iter().all(|stream| !world.server.text(stream.id).is_empty()), "each has found its place");
    world.end();
}
