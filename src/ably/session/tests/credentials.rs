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
