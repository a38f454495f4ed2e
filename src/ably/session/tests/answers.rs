//! What an answer settles, and what it does not.

use super::*;

#[test]
fn answers_are_matched_by_number() {
    let mut case = Case::up(settings());
    case.send(OpKind::Create);
    case.send(OpKind::Append);
    case.send(OpKind::Append);
    assert_eq!(written(&case.take()).iter().map(serial_of).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    let res = json!([{"serials": ["M"]}, {"serials": ["V1"]}, {"serials": [null]}]);
    case.receive(&json!({"action": 1, "msgSerial": 0, "count": 3, "res": res}));
    let expected = [(0, acked("M"), false), (1, acked("V1"), false), (2, Outcome::Acked { serial: None }, false)];
    assert_eq!(case.answers(), expected);
    assert_eq!(case.session.in_flight(), (0, 0));
}

#[test]
fn what_is_settled_is_settled() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.send(OpKind::Append);
    case.receive(&json!({"action": 1, "msgSerial": 0, "count": 1, "res": [{"serials": ["V0"]}]}));
    case.receive(&json!({"action": 1, "msgSerial": 0, "count": 1, "res": [{"serials": ["V0"]}]}));
    case.receive(&json!({"action": 2, "msgSerial": 0, "count": 1, "error": {"code": 42911, "statusCode": 429}}));
    // An overlap: its second serial is that of the second frame.
    let res = json!([{"serials": ["V0"]}, {"serials": ["V1"]}]);
    case.receive(&json!({"action": 1, "msgSerial": 0, "count": 2, "res": res}));
    assert_eq!(case.answers(), [(0, acked("V0"), false), (1, acked("V1"), false)]);
}

#[test]
fn a_skipped_frame_is_unknown_and_never_acknowledged() {
    for (action, code) in [(1, 0), (2, 42911)] {
        let mut case = Case::up(settings());
        case.send(OpKind::Append);
        case.send(OpKind::Append);
        case.receive(&json!({"action": action, "msgSerial": 1, "count": 1, "res": [{"serials": ["V1"]}],
            "error": {"code": code, "statusCode": 429}}));
        let answers = case.answers();
        assert_eq!(answers[0], (0, unknown(Doubt::Skipped), false));
        assert_eq!(answers.len(), 2);
        // Too late.
        case.receive(&json!({"action": 1, "msgSerial": 0, "count": 1, "res": [{"serials": ["V0"]}]}));
        assert_eq!(case.answers(), []);
    }
}

#[test]
fn a_create_without_a_serial_is_unknown() {
    for res in
        [json!(null), json!([]), json!([null]), json!([{}]), json!([{"serials": [null]}]), json!([{"serials": []}])]
    {
        let mut case = Case::up(settings());
        case.send(OpKind::Create);
        case.receive(&json!({"action": 1, "msgSerial": 0, "count": 1, "res": res}));
        assert_eq!(case.answers(), [(0, unknown(Doubt::NoSerial), false)], "{res}");
        case.send(OpKind::Update);
        case.receive(&json!({"action": 1, "msgSerial": 1, "count": 1, "res": res}));
        assert_eq!(case.answers(), [(1, Outcome::Acked { serial: None }, false)], "{res}");
    }
}

#[test]
fn an_answer_that_names_no_frame_settles_nothing() {
    let mut case = Case::up(settings());
    case.send(OpKind::Append);
    case.send(OpKind::Append);
    case.take();
    for frame in [
        json!({"action": 1, "count": 2, "res": [{"serials": ["V"]}, {"serials": ["V"]}]}),
        json!({"action": 2, "count": 2, "error": {"code": 40000, "statusCode": 400}}),
        json!({"action": 1, "msgSerial": 2, "count": 1, "res": [{"serials": ["V"]}]}),
        json!({"action": 1, "msgSerial": u64::MAX, "count": u32::MAX}),
        json!({"action": 1, "msgSerial": -1, "count": 1}),
        json!({"action": 1, "msgSerial": 0, "count": 1, "res": "V"}),
        json!("nonsense"),
    ] {
        case.receive(&frame);
        assert!(matches!(case.take()[..], [Action::Notice(_)]), "{frame}");
    }
    assert_eq!(case.session.in_flight().0, 2);
    // Without a count it speaks of one frame.
    case.receive(&json!({"action": 2, "msgSerial": 0, "error": {"code": 40000, "statusCode": 400}}));
    case.receive(&json!({"action": 1, "msgSerial": 1, "res": [{"serials": ["V"]}]}));
    let answers = case.answers();
    assert!(is_rejected(&answers[0].1, 40000, Class::Operation));
    assert_eq!(answers[1], (1, acked("V"), false));
}

#[test]
fn a_refusal_has_its_class() {
    let mut case = Case::up(settings());
    for _ in 0..4 {
        case.send(OpKind::Append);
    }
    let error = json!({"code": 42911, "statusCode": 429, "message": "slow"});
    case.receive(&json!({"action": 2, "msgSerial": 0, "count": 2, "error": error}));
    case.receive(&json!({"action": 2, "msgSerial": 2, "count": 1, "error": {"code": 40142, "statusCode": 404}}));
    case.receive(&json!({"action": 2, "msgSerial": 3, "count": 1}));
    let answers = case.answers();
    assert!(
        is_rejected(&answers[0].1, 42911, Class::RateLimited) && is_rejected(&answers[1].1, 42911, Class::RateLimited)
    );
    assert!(is_rejected(&answers[2].1, 40142, Class::MessageGone));
    assert!(is_rejected(&answers[3].1, 50001, Class::Transient));
}
