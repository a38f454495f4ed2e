//! Which host is asked, how long it is left alone, and whose word an answer is.

use super::*;
use crate::ably::endpoint::Hosts;

/// Two hosts, on one port of two addresses of this machine, and a lane between them that is told nothing but this.
struct Two {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    primary: mpsc::Receiver<Seen>,
    fallback: mpsc::Receiver<Seen>,
}

const PRIMARY: &str = "127.0.0.1";
const FALLBACK: &str = "127.0.0.2";

impl Two {
    async fn open() -> Self {
        let (first, second) = loop {
            let first = TcpListener::bind((PRIMARY, 0)).await.expect("binds");
            let port = first.local_addr().expect("an address").port();
            // It may be taken there.
            if let Ok(second) = TcpListener::bind((FALLBACK, port)).await {
                break (first, second);
            }
        };
        let settings = fixtures::settings(Transport::Rest, first.local_addr().expect("an address").port());
        let (commands, receiver) = mpsc::channel(16);
        let (sender, events) = mpsc::channel(16);
        let mut lane = Rest::new(0, &settings, receiver, sender);
        lane.hosts = Hosts::with(PRIMARY, &[FALLBACK]);
        tokio::spawn(lane.run());
        Self { commands, events, primary: serves(first), fallback: serves(second) }
    }

    async fn event(&mut self) -> Event {
        next(&mut self.events).await
    }

    /// Sends an append, which goes to the fallback or to the primary, and is taken.
    async fn goes_to(&mut self, is_fallback: bool, seq: u32) {
        self.commands.send(Command::Send(vec![operation(seq, OpKind::Append)])).await.expect("a lane");
        let requests = if is_fallback { &mut self.fallback } else { &mut self.primary };
        let append = next(requests).await;
        assert_eq!(append.method, Method::PATCH);
        append.reply(200, &[], json!({"versionSerial": "S@2"}));
        assert!(matches!(self.event().await, Event::Answers(_)));
    }
}

/// Lets as much time pass as another host is kept for. Nothing else waits meanwhile.
async fn kept_long_enough() {
    tokio::time::pause();
    tokio::time::advance(FALLBACK_KEPT).await;
    tokio::time::resume();
}

#[tokio::test]
async fn after_a_while_the_first_host_is_asked_again_and_used_when_it_answers() {
    let mut two = Two::open().await;
    next(&mut two.primary).await.refuse(50003, 503);
    assert!(matches!(two.event().await, Event::Down { .. }));
    next(&mut two.fallback).await.reply(200, &[], "[]");
    assert!(matches!(two.event().await, Event::Up { .. }));
    two.goes_to(true, 0).await;
    kept_long_enough().await;
    let question = next(&mut two.primary).await;
    assert_eq!(question.path, "/stats?limit=1");
    // Meanwhile, and if it cannot say, all goes on as before.
    two.goes_to(true, 1).await;
    question.refuse(50003, 503);
    two.goes_to(true, 2).await;
    // When the lane learns of an answer is its own affair.
    let question = loop {
        kept_long_enough().await;
        if let Ok(question) = timeout(Duration::from_secs(1), two.primary.recv()).await {
            break question.expect("a server");
        }
    };
    question.reply(200, &[], "[]");
    let mut seq = 3;
    loop {
        two.commands.send(Command::Send(vec![operation(seq, OpKind::Append)])).await.expect("a lane");
        let (append, is_back) = tokio::select! {
            append = next(&mut two.primary) => (append, true),
            append = next(&mut two.fallback) => (append, false),
        };
        append.reply(200, &[], json!({"versionSerial": "S@2"}));
        assert!(matches!(two.event().await, Event::Answers(_)), "no time without a host");
        if is_back {
            break;
        }
        seq += 1;
    }
    two.goes_to(false, seq + 1).await;
}

#[tokio::test]
async fn what_is_not_ablys_word_says_nothing_of_an_operation_and_much_of_the_host() {
    let mut stage = Stage::up(|_| {}).await;
    let page = "<html>There is nothing here</html>";
    let gateways = json!({"error": {"code": 404, "message": "no such route"}}).to_string();
    for (seq, (status, body)) in [(404, page), (418, ""), (404, &gateways)].into_iter().enumerate() {
        stage.send(operation(u32::try_from(seq).expect("few"), OpKind::Update));
        stage.next_request().await.reply(status, &[], body);
        assert_eq!(stage.outcome().await, Outcome::Unknown(Doubt::NoAnswer), "{status} {body}");
    }
    assert!(matches!(stage.event().await, Event::Down { .. }), "three in a row are enough");
    // Whoever answers the question so is not Ably either.
    stage.next_request().await.reply(404, &[], page);
    assert!(matches!(stage.event().await, Event::Down { .. }));
    stage.next_request().await.refuse(40400, 404);
    assert!(matches!(stage.event().await, Event::Up { .. }));
    stage.send(operation(9, OpKind::Update));
    stage.next_request().await.refuse(40400, 404);
    let gone = stage.outcome().await;
    assert!(matches!(gone, Outcome::Rejected(Rejection { class: Class::MessageGone, .. })), "this is Ably's word");
}

#[tokio::test]
async fn where_only_the_edge_answers_the_next_host_is_asked_at_once() {
    let mut two = Two::open().await;
    next(&mut two.primary).await.reply(200, &[], "[]");
    assert!(matches!(two.event().await, Event::Up { .. }));
    two.commands.send(Command::Send(vec![operation(0, OpKind::Append)])).await.expect("a lane");
    next(&mut two.primary).await.reply(403, &[("server", "CloudFront")], "<html>Request blocked</html>");
    assert!(
        matches!(two.event().await, Event::Answers(answers) if answers[0].outcome == Outcome::Unknown(Doubt::NoAnswer))
    );
    assert!(matches!(two.event().await, Event::Down { .. }));
    next(&mut two.fallback).await.reply(200, &[], "[]");
    assert!(matches!(two.event().await, Event::Up { .. }));
    two.goes_to(true, 1).await;
}

#[tokio::test]
async fn whoever_asks_to_be_left_alone_is_not_asked_questions_either() {
    let mut stage = Stage::open(|_| {}).await;
    let started = Instant::now();
    stage.next_request().await.reply(503, &[("retry-after", "3")], "overloaded");
    assert!(matches!(stage.event().await, Event::Down { .. }));
    stage.next_request().await.reply(429, &[("retry-after", "1"), ("x-ably-errorcode", "42922")], "");
    assert!(started.elapsed() >= Duration::from_secs(3));
    assert!(matches!(stage.event().await, Event::Down { .. }));
    stage.next_request().await.reply(200, &[], "[]");
    assert!(started.elapsed() < Duration::from_secs(10), "no longer than it asks for");
    assert!(matches!(stage.event().await, Event::Up { .. }));
}

#[tokio::test]
async fn a_channel_that_is_too_busy_does_not_silence_the_others() {
    let mut stage = Stage::up(|_| {}).await;
    for (seq, code) in [(0, 42913), (2, 42914)] {
        stage.send(operation(seq, OpKind::Append));
        let error = json!({"error": {"code": code, "statusCode": 429, "message": "slow down"}});
        stage.next_request().await.reply(429, &[("retry-after", "60")], error);
        assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { class: Class::RateLimited, .. })));
        stage.send(fixtures::operation(0, seq + 1, OpKind::Append, "ai:another"));
        stage.next_request().await.reply(200, &[], json!({"versionSerial": "S@2"}));
        assert!(matches!(stage.outcome().await, Outcome::Acked { .. }), "{code}");
    }
}
