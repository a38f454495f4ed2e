//! The settings of clients, without a broker.

use super::*;

fn with(property: &str, value: &str) -> Result<Clients, Error> {
    let mut settings = config::Kafka::default();
    settings.librdkafka.insert(property.to_owned(), value.to_owned());
    Clients::new(&settings)
}

#[test]
fn properties_that_promises_rest_on_are_refused_by_name() {
    for (property, reason) in OURS {
        let error = with(property, "1").expect_err(property);
        let text = error.to_string();
        assert!(text.contains(property) && text.contains(reason), "{text}");
        assert_eq!(error.kind(), super::super::Kind::Configuration);
    }
}

#[test]
fn other_properties_pass_and_win() {
    let clients = with("linger.ms", "50").expect("allowed");
    assert_eq!(clients.producer().get("linger.ms"), Some("50"));
    assert_eq!(clients.consumer().get("linger.ms"), Some("50"), "librdkafka ignores what is not for it");
}

#[test]
fn whoever_looks_whether_something_is_there_asks_the_leader() {
    let clients = with("client.rack", "a").expect("allowed");
    assert_eq!(clients.consumer().get("client.rack"), Some("a"));
    assert_eq!(clients.reader().get("client.rack"), None);
    assert_eq!(clients.rereader().get("client.rack"), None);
}

#[test]
fn librdkafka_knows_every_property_that_we_set() {
    let clients = Clients::new(&config::Kafka::default()).expect("the defaults are fine");
    for config in [clients.consumer(), clients.reader(), clients.producer(), clients.plain()] {
        config.create_native_config().expect("every property is known");
    }
}

#[test]
fn kafka_4s_group_protocol_leaves_timeouts_to_the_broker() {
    let clients = with("group.protocol", "consumer").expect("allowed");
    for property in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
        assert_eq!(clients.consumer().get(property), None, "{property}");
    }
}

#[test]
fn a_batching_window_waits_for_bytes_or_time() {
    let settings = config::Kafka { batching_window: Duration::from_millis(2), ..config::Kafka::default() };
    let consumer = Clients::new(&settings).expect("fine").consumer();
    assert_eq!(consumer.get("fetch.wait.max.ms"), Some("2"));
    assert_eq!(consumer.get("fetch.min.bytes"), Some(WINDOW_BYTES));
    assert_eq!(Clients::new(&config::Kafka::default()).expect("fine").consumer().get("fetch.wait.max.ms"), None);
}

fn with_password_file(file: &Path) -> Result<Clients, Error> {
    let security = Security {
        protocol: SecurityProtocol::SaslSsl,
        mechanism: Some("PLAIN".into()),
        username: Some("me".into()),
        password_file: Some(file.to_owned()),
        ..Security::default()
    };
    Clients::new(&config::Kafka { security, ..config::Kafka::default() })
}

#[test]
fn a_password_file_is_read_without_its_line_end_and_never_shown() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "open sesame\n").expect("written");
    let clients = with_password_file(file.path()).expect("fine");
    assert_eq!(clients.consumer().get("sasl.password"), Some("open sesame"));
    assert_eq!(clients.consumer().get("security.protocol"), Some("sasl_ssl"));
    assert!(!format!("{clients:?}").contains("sesame"));
}

#[test]
fn a_password_file_that_is_not_there_is_named() {
    let error = with_password_file(Path::new("/nowhere/at/all")).expect_err("no file");
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}
