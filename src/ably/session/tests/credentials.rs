//! Credentials that are renewed.

use super::*;

/// The token has expired on a connection that was up; the next attempt is to show a newer one.
fn expired() -> Case {
    let mut case = Case::up(settings());
    case.receive(&json!({"action": 6, "error": {"code": 40142, "statusCode": 401, "message": "expired"}}));
    case.pass(Duration::from_secs(1));
    assert!(renews(&mut case));
    case
}

/// Whether the attempt that was asked for last is to be made with newer credentials.
fn renews(case: &mut Case) -> bool {
    match case.take().last() {
        Some(Action::Connect { renew, resume: Some(_), .. }) => *renew,
        other => panic!("{other:?}"),
    }
}

#[test]
fn as_long_as_no_token_is_given_out_it_is_asked_for_again() {
    let mut case = expired();
    for _ in 0..3 {
        case.session.disconnected(case.now, Error::NoToken("503".into()), &mut case.actions);
        case.now = case.session.next_deadline().expect("tries again");
        case.tick();
        assert!(renews(&mut case));
    }
}

#[test]
fn a_newer_token_that_could_not_be_shown_is_not_asked_for_again() {
    let mut case = expired();
    case.drop_transport();
    case.now = case.session.next_deadline().expect("tries again");
    case.tick();
    assert!(!renews(&mut case));
}

/// Refuses the next frame; how often a newer token is asked for.
fn refused(case: &mut Case, serial: u64, code: u32) -> usize {
    case.send(OpKind::Append);
    let error = json!({"code": code, "statusCode": 401, "message": "no"});
    case.receive(&json!({"action": 2, "msgSerial": serial, "count": 1, "error": error}));
    case.take().iter().filter(|action| **action == Action::Renew).count()
}

#[test]
fn a_token_that_an_operation_is_refused_for_is_renewed_once_and_not_for_each_refusal() {
    for code in [40142, 40160] {
        let mut case = Case::up(settings());
        let asked: usize = (0..10).map(|serial| refused(&mut case, serial, code)).sum();
        assert_eq!(asked, 1, "{code}");
        case.session.authorise("newer", &mut case.actions);
        assert_eq!(refused(&mut case, 10, code), 0, "{code}: the newer one is no better");
        // As often as a channel that refuses is tried: whoever gives out tokens may know more by then.
        case.now = case.now + Duration::from_secs(30);
        assert_eq!(refused(&mut case, 11, code), 1, "{code}");
    }
    let mut case = Case::up(settings());
    assert_eq!(refused(&mut case, 0, 93002), 0, "a token has nothing to do with it");
}
