//! Every code that Ably documents for whom publishes: what it means for an operation and for a connection, and whether a
//! person is told what to do.

use Class::{Account, Channel, Connection, MessageGone, Operation, RateLimited, Token, Transient};

use super::*;

/// Class, HTTP status, codes: all of Ably's catalogue that a publisher can meet. What only the SDKs say of themselves
/// (104000 to 104013) never comes from a server.
const TABLE: &[(Class, u16, &[u32])] = &[
    // The request, as it is.
    (
        Operation,
        400,
        &[40000, 40001, 40002, 40003, 40004, 40006, 40007, 40008, 40011, 40012, 40013, 40016, 40018, 40019],
    ),
    (Operation, 413, &[40009]),
    (Operation, 400, &[40009, 40020, 40024, 40030, 40031, 40032, 40033, 40034, 40099]),
    (Operation, 405, &[40500]),
    (Operation, 409, &[40900]),
    (Operation, 422, &[42200, 42210, 42211, 42212, 42213]),
    (Operation, 400, &[80004, 80009, 80010, 80020, 90002, 90006, 90008]),
    // Continuity, for subscribers.
    (Operation, 0, &[90003, 90004, 90005]),
    (MessageGone, 404, &[40400, 40142, 93002, 90001, 90003, 80003, 1]),
    (MessageGone, 0, &[40400]),
    // The channel.
    (Channel, 400, &[40010, 90001, 90009, 93001, 93002]),
    (Channel, 401, &[40160, 40165]),
    // The account, the credentials, this program.
    (Account, 400, &[40005, 40017, 40021, 40023, 40025]),
    (Account, 401, &[40100, 40101, 40102, 40103, 40106, 40110, 40112, 40113, 40120, 40121, 40130, 40131, 40132, 40133]),
    (Account, 401, &[40161, 40162, 40166, 40167, 40168, 40172]),
    (Account, 403, &[40171, 40300, 40310, 40311, 40320, 40330, 40331, 40332, 80019]),
    (Account, 400, &[80011, 80013, 80015, 80024, 80030]),
    // Credentials that have aged.
    (Token, 401, &[40104, 40105, 40140, 40141, 40142, 40143, 40144, 40145, 80019]),
    // The connection.
    (Connection, 400, &[50006, 80000, 80001, 80002, 80003, 80014, 80017]),
    (Connection, 400, &[80005, 80006, 80007, 80008, 80012, 80018, 80023]),
    (Connection, 410, &[80016, 80022]),
    // Too much.
    (RateLimited, 403, &[40111, 40114, 40115, 40150, 40151]),
    (RateLimited, 429, &[42910, 42911, 42912, 42913, 42914, 42915, 42916, 42917, 42918, 42920, 42921, 42922, 42923]),
    (RateLimited, 429, &[42924, 42925, 42926, 80021, 90010, 90021]),
    // The server, for now.
    (Transient, 500, &[50000, 50001, 50002]),
    (Transient, 503, &[50003, 50004, 50005]),
    (Transient, 502, &[50010, 50205, 50210, 50305, 50306, 50310, 50320, 50330, 50405, 50410]),
    (Transient, 408, &[90007]),
    (Transient, 400, &[40014, 40170, 90000]),
];

fn error(code: u32, status_code: u16) -> Rejection {
    rejection(Some(&ErrorInfo { code, status_code, message: "m".into(), href: None }))
}

#[test]
fn every_code_has_its_class_and_what_follows_from_it() {
    for (class, status_code, codes) in TABLE {
        for code in *codes {
            assert_eq!(error(*code, *status_code).class, *class, "{code}/{status_code}");
            // A missing message is no matter of connections.
            if *status_code == 404 {
                continue;
            }
            let fate = match class {
                Token => Fate::Renew,
                RateLimited => Fate::Slowly,
                Transient | Connection => Fate::Again,
                Operation | Channel | Account | MessageGone => Fate::Fatal,
            };
            assert_eq!(Fate::of(*code, *status_code), fate, "{code}/{status_code}");
        }
    }
}

#[test]
fn what_only_a_person_can_mend_names_the_remedy() {
    let people = TABLE.iter().filter(|(class, ..)| matches!(class, Account | Channel));
    for code in people.flat_map(|(_, _, codes)| *codes) {
        // Whether tokens are refused or cannot be had is said by whoever refuses them.
        assert!(remedy(*code).is_some() || *code == 80019, "{code}");
    }
    let refused = Error::Refused { code: 40101, status_code: 401, message: "no such key".into() };
    let expected = "ably ended the connection with 40101 (no such key): check ably.key_file: it must hold one key, \
                    `app.id:secret`, of this app";
    assert_eq!(refused.to_string(), expected);
    assert!(refused.is_fatal());
}

#[test]
fn an_unknown_code_is_judged_by_its_status() {
    let cases = [
        (RateLimited, 429),
        (Transient, 503),
        (Transient, 0),
        (Operation, 413),
        (Operation, 400),
        (Operation, 403),
        (Account, 401),
        (MessageGone, 404),
    ];
    for (class, status) in cases {
        assert_eq!(error(99_999, status).class, class, "{status}");
    }
    assert_eq!(error(40_146, 401).class, Token, "all of them are about tokens");
}

#[test]
fn a_refusal_without_an_error_is_the_servers_failure() {
    assert_eq!(rejection(None).class, Transient);
    assert_eq!(rejection(Some(&ErrorInfo::default())).class, Transient);
    assert_eq!(Fate::of(0, 0), Fate::Again);
}
