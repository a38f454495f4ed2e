//! Each budget by itself: used whole, and not passed.

use super::*;

const ONE: Limits = Limits { connections_max: 1, ..LIMITS };

/// Ten streams that want five hundred operations a second, and what they get of fifty, after a while.
fn share(mut world: World, one_channel: bool) -> f64 {
    for n in 0..10 {
        let channel = if one_channel { 0 } else { n };
        world.stream(&channel.to_string(), n % world.engines.len(), Duration::from_millis(20));
    }
    world.pass(SECOND * 5);
    world.pace();
    world.pass(SECOND * 60);
    let (published, refused, _) = world.pace();
    assert_eq!(refused, 0, "an operation was sent that the budget forbids");
    world.end();
    published as f64 / (50.0 * 60.0)
}

fn world(limits: Limits, scope: Scope) -> World {
    World::new(limits, Duration::ZERO, 2, scope, 50.0)
}

#[test]
fn a_limit_that_is_known_is_used_whole_and_never_passed() {
    let connection = world(Limits { connection_rate: 50, ..ONE }, Scope::Connection);
    let channel = world(Limits { channel_rate: 50, ..ONE }, Scope::Channel);
    let account = Limits { account_rate: 50, connections_max: 3, connection_rate: 100, ..LIMITS };
    let account = World::new(account, Duration::from_millis(20), 2, Scope::Account, 50.0);
    let mut requests = world(Limits { request_rate: 50, connection_rate: 1, ..ONE }, Scope::Account);
    requests.pipelining = Pipelining::Off;
    let mut said = world(Limits { connection_rate: 1_000, ..ONE }, Scope::Connection);
    said.rate_max = Some(50);
    let cases = [
        ("of a connection", connection, false),
        ("of a channel", channel, true),
        ("of the account", account, false),
        ("of requests", requests, false),
        ("that the server says on connecting", said, false),
    ];
    for (name, world, one_channel) in cases {
        let share = share(world, one_channel);
        assert!((0.97..=1.01).contains(&share), "the limit {name} is used by {share}");
    }
}

#[test]
fn what_went_one_way_is_no_debt_on_the_other() {
    let requests = Limits { request_rate: 50, connection_rate: 200, ..ONE };
    let frames = Limits { request_rate: 200, connection_rate: 50, frame_rate: 50, ..ONE };
    for (limits, first, then) in
        [(requests, Pipelining::On, Pipelining::Off), (frames, Pipelining::Off, Pipelining::On)]
    {
        let mut world = World::new(limits, Duration::ZERO, 2, Scope::Connection, f64::INFINITY);
        world.pipelining = first;
        for n in 0..10 {
            world.stream(&n.to_string(), n % 2, Duration::from_millis(20));
        }
        world.pass(SECOND * 60);
        let (before, ..) = world.pace();
        assert!(before > 190 * 60, "{before} operations in a minute with pipelining {first:?}");
        world.go_over_to(then);
        world.pass(SECOND * 10);
        let (after, ..) = world.pace();
        assert!((480..=520).contains(&after), "{after} operations in ten seconds with pipelining {then:?}");
        world.end();
    }
}

#[test]
fn a_limit_that_a_refusal_names_is_used_whole() {
    for scope in [Scope::Connection, Scope::Channel, Scope::Account] {
        let mut world = world(ONE, scope);
        world.server.names = true;
        let share = share(world, true);
        assert!((0.97..=1.01).contains(&share), "the limit of {scope:?} is used by {share}");
    }
}

#[test]
fn a_limit_that_nobody_names_is_found_and_not_tried_again() {
    for scope in [Scope::Connection, Scope::Channel, Scope::Account] {
        let mut world = world(Limits { connection_rate: 200, channel_rate: 200, account_rate: 200, ..ONE }, scope);
        for n in 0..10 {
            world.stream("one", n % 2, Duration::from_millis(20));
        }
        world.pass(SECOND * 60);
        world.pace();
        world.pass(SECOND * 300);
        let (published, refused, _) = world.pace();
        assert!(refused <= 1, "{refused} refusals of {scope:?} in five minutes");
        let share = published as f64 / (50.0 * 300.0);
        assert!(share > 0.75, "{share} of the limit of {scope:?}");
        world.end();
    }
}

#[test]
fn appends_that_the_server_joins_are_free_until_it_counts_frames() {
    let limits = Limits { connection_rate: 50, frame_rate: 400, ..ONE };
    let mut world = World::new(limits, Duration::from_millis(500), 1, Scope::Frames, 50.0);
    for n in 0..10 {
        world.stream(&n.to_string(), 0, Duration::from_millis(20));
    }
    world.pass(SECOND * 30);
    world.pace();
    world.frames.clear();
    world.pass(SECOND * 60);
    let (_, refused, _) = world.pace();
    assert!(refused <= 1, "{refused} refusals in a minute, though what counts is known");
    let frames = std::mem::take(&mut world.frames)[&0];
    assert!(frames >= 50 * 58, "{frames} frames: it need not be slower than what counts");
    world.end();
}

#[test]
fn no_more_frames_leave_than_a_connection_takes() {
    let limits = Limits { connection_rate: 50, frame_rate: 400, ..ONE };
    let mut world = World::new(limits, Duration::from_millis(500), 1, Scope::Frames, 400.0);
    for n in 0..10 {
        world.stream(&n.to_string(), 0, Duration::from_millis(5));
    }
    world.pass(SECOND * 30);
    let frames = world.frames[&0];
    assert!((11_500..=12_060).contains(&frames), "{frames} frames in half a minute");
    assert_eq!(world.server.refused, 0);
    world.end();
}

#[test]
fn two_appends_in_a_window_are_published_twice_and_paid_for_twice() {
    let mut story = Story::with(settings(), Limits { connection_rate: 10, ..LIMITS });
    let create = only(story.says(token("a")));
    story.after(SECOND);
    story.ack(&create);
    only(story.says(token("b")));
    assert!(story.says(token("c")).is_empty(), "it would be a publish of its own, at the end of the window");
    only(story.after(Duration::from_millis(101)));
    story.now = story.now + Duration::from_millis(60);
    assert!(story.says(token("d")).is_empty());
}

#[test]
fn full_texts_keep_to_bytes_a_second() {
    for limits in [
        Limits { channel_bandwidth: 100_000, ..ONE },
        Limits { account_bandwidth: 100_000, connections_max: 3, ..LIMITS },
    ] {
        let mut world = World::new(limits, Duration::ZERO, 1, Scope::Connection, f64::INFINITY);
        for _ in 0..10 {
            world.stream("one", 0, Duration::from_millis(1));
        }
        world.pass(SECOND * 5);
        world.streams.iter_mut().for_each(|stream| stream.next = None);
        world.pass(SECOND);
        // Every text is 40 KB long, and in doubt.
        world.server.refuses = true;
        (0..10).for_each(|n| world.write(n));
        world.pass(Duration::from_millis(100));
        world.server.refuses = false;
        world.operations = 0;
        world.pass(SECOND * 2);
        assert!((4..=6).contains(&world.operations), "{} full texts in two seconds", world.operations);
        world.pass(SECOND * 4);
        assert_eq!(world.operations, 10);
        world.end();
    }
}

#[test]
fn an_account_is_shared_by_those_who_read_its_partitions() {
    for (owned, expected) in [(1, 25.0), (2, 50.0), (4, 100.0), (0, 25.0)] {
        let mut world = world(Limits { account_rate: 100, ..ONE }, Scope::Account);
        world.server.limit = f64::INFINITY;
        world.shared.flow.share(world.now, owned, 4);
        for n in 0..10 {
            world.stream(&n.to_string(), n % 2, Duration::from_millis(20));
        }
        world.pass(SECOND * 60);
        let rate = world.operations as f64 / 60.0;
        assert!((0.97 * expected..1.1 * expected).contains(&rate), "{rate} a second with {owned} of four partitions");
        world.end();
    }
}

#[test]
fn a_channel_that_is_opened_anew_has_no_new_budget() {
    let mut world = world(Limits { channel_rate: 50, ..ONE }, Scope::Channel);
    world.server.limit = f64::INFINITY;
    for _ in 0..400 {
        let n = world.stream("one", 0, SECOND * 1_000);
        world.streams[n].next = Some(world.now);
        world.pass(Duration::ZERO);
        world.end_one(n);
        world.pass(Duration::from_millis(25));
    }
    let rate = world.operations as f64 / 10.0;
    assert!(rate <= 51.0, "{rate} operations a second on one channel, whatever responses they are of");
    world.end();
}

#[test]
fn a_connection_that_the_server_ended_for_its_rate_goes_slower() {
    let mut world = world(Limits { connection_rate: 100, ..ONE }, Scope::Connection);
    world.server.limit = f64::INFINITY;
    for n in 0..10 {
        world.stream(&n.to_string(), 0, Duration::from_millis(20));
    }
    world.pass(SECOND * 10);
    world.shared.flow.broken_off(world.now, 0, 42_921);
    world.operations = 0;
    world.pass(SECOND * 2);
    assert!((90..150).contains(&world.operations), "{} operations in two seconds", world.operations);
    world.end();
}
