//! Publishes to many channels, which go in one request.

use super::*;
use crate::engine::{Piece, Publish, PublishName};

/// Tokens for one channel each.
fn publishes(channels: &[&str]) -> Vec<Operation> {
    let publish = |(seq, channel): (u32, &&str)| {
        let tokens = Publish {
            name: PublishName::Token,
            id: format!("id-{seq}").into(),
            epoch: 1,
            seq: 0,
            pieces: vec![Piece { bytes: 4, tokens: 1 }],
            round: None,
            segment: None,
            sum: None,
        };
        let operation = fixtures::operation(0, seq, OpKind::Publish, channel);
        Operation { serial: None, publish: Some(Box::new(tokens)), ..operation }
    };
    (0..).zip(channels).map(publish).collect()
}

impl Stage {
    /// What becomes of as many operations, in their order.
    async fn outcomes(&mut self, count: usize) -> Vec<Outcome> {
        let mut answers = Vec::new();
        while answers.len() < count {
            match self.event().await {
                Event::Answers(more) => answers.extend(more),
                other => panic!("{other:?}"),
            }
        }
        answers.sort_by_key(|answer| answer.op.seq);
        answers.into_iter().map(|answer| answer.outcome).collect()
    }
}

#[tokio::test]
async fn each_channel_of_a_batch_has_its_own_outcome() {
    let mut stage = Stage::up(|_| {}).await;
    stage.pool.send(0, &mut publishes(&["ai:\"a\"", "ai:b", "ai:c"]));
    let batch = stage.next_request().await;
    assert_eq!((&batch.method, &*batch.path), (&Method::POST, "/messages"));
    let channels: Vec<_> = batch.body.as_array().expect("parts").iter().map(|part| &part["channels"]).collect();
    assert_eq!(channels, ["ai:\"a\"", "ai:b", "ai:c"]);
    assert_eq!(batch.body[1]["messages"][0]["id"], "id-1:0");
    assert_eq!(batch.body[1]["messages"][0]["data"], "text");
    let taken = |serial: &str| json!({"successCount": 1, "failureCount": 0, "results": [{"channel": "x", "messageId": "m", "serials": [serial]}]});
    let error = json!({"code": 40_160, "statusCode": 401, "message": "not there"});
    let refused = json!({"successCount": 0, "failureCount": 1, "results": [{"channel": "x", "error": error}]});
    batch.reply(201, &[], json!([taken("S@1"), refused, taken("S@3")]));
    let outcomes = stage.outcomes(3).await;
    assert_eq!(outcomes[0], Outcome::Acked { serial: Some("S@1".into()) });
    assert!(matches!(&outcomes[1], Outcome::Rejected(Rejection { code: 40_160, class: Class::Channel, .. })));
    assert_eq!(outcomes[2], Outcome::Acked { serial: Some("S@3".into()) });
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_is_sent_one_by_one() {
    let mut stage = Stage::up(|_| {}).await;
    stage.pool.send(0, &mut publishes(&["ai:a", "ai:b"]));
    stage.next_request().await.refuse(40_009, 400);
    for _ in 0..2 {
        let request = stage.next_request().await;
        match &*request.path {
            "/channels/ai%3Aa/messages" => request.refuse(40_009, 400),
            "/channels/ai%3Ab/messages" => request.reply(201, &[], json!({"serials": ["S@2"]})),
            other => panic!("{other}"),
        }
    }
    let outcomes = stage.outcomes(2).await;
    assert!(matches!(&outcomes[0], Outcome::Rejected(Rejection { code: 40_009, class: Class::Operation, .. })));
    assert_eq!(outcomes[1], Outcome::Acked { serial: Some("S@2".into()) });
}

#[tokio::test]
async fn a_batch_without_an_answer_or_with_one_that_lacks_a_part_is_unknown() {
    let mut stage = Stage::up(|_| {}).await;
    for answer in [None, Some(json!([{"results": [{"serials": ["S@1"]}]}])), Some(json!({}))] {
        stage.pool.send(0, &mut publishes(&["ai:a", "ai:b"]));
        let batch = stage.next_request().await;
        match answer {
            None => drop(batch),
            Some(body) => batch.reply(201, &[], body),
        }
        assert_eq!(stage.outcomes(2).await, [const { Outcome::Unknown(Doubt::NoAnswer) }; 2]);
        // What says nothing three times in a row is left alone.
        stage.send(operation(9, OpKind::Append));
        stage.next_request().await.reply(201, &[], json!({"versionSerial": "V@1"}));
        assert!(matches!(stage.outcome().await, Outcome::Acked { .. }));
    }
}

#[tokio::test]
async fn no_batch_holds_more_than_one_may() {
    let mut stage = Stage::up(|_| {}).await;
    let channels: Vec<String> = (0..101).map(|number| format!("ai:{number}")).collect();
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    stage.pool.send(0, &mut publishes(&channels));
    let mut paths = Vec::new();
    for _ in 0..2 {
        let request = stage.next_request().await;
        paths.push((request.path.clone(), request.body.as_array().map_or(0, Vec::len)));
        request.refuse(50_003, 503);
    }
    paths.sort();
    assert_eq!(paths, [("/channels/ai%3A100/messages".to_owned(), 1), ("/messages".to_owned(), 100)]);
    assert_eq!(stage.outcomes(101).await.len(), 101);
}
