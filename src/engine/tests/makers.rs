//! Who made a message: under `message-update-own` nobody else may change it.

use super::*;

#[test]
fn who_made_a_message_that_is_open_is_in_the_results() {
    let mut story = Story::new();
    story.shared.flow.identify(0, Some("us".into()));
    let create = only(story.says(token("a")));
    story.ack(&create);
    let append = only(story.says(token("b")));
    story.ack(&append);
    assert_eq!(story.reports[0]["clientId"], "us");
    assert_eq!(story.reports[1]["clientId"], serde_json::Value::Null, "whoever changes it is known by the connection");
    let makers = |story: &Story| {
        let mut history = History::default();
        story.reports.iter().for_each(|report| history.add("tokens", report.to_string().as_bytes()));
        history.makers().len()
    };
    assert_eq!(makers(&story), 1);
    let end = only(story.says(END));
    story.ack(&end);
    assert_eq!(makers(&story), 0, "what is over nobody changes");
}
