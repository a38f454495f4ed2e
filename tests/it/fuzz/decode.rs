//! Records of any bytes: they are decoded to what they say, or refused without a word of it.
//!
//! What they say is read a second time from plain JSON. What was decoded is written in our own format and decoded again.

use serde_json::{Value, json};
use tokenrelay::decode::{CHANNEL_HEADER, Decoder, Error, FORMAT_HEADER, Format, Include, Raw};
use tokenrelay::engine::{Event, EventKind};

use super::feed::Feed;

pub(crate) fn check(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let format = feed.one_of(&[None, Some(Format::Tokenrelay), Some(Format::OpenaiChat)]);
    let named = feed.one_of(&[None, None, Some(b"tokenrelay".as_slice()), Some(b"openai-chat"), Some(b"secret")]);
    let include = Include { text: !feed.flag(), reasoning: feed.flag(), tool: feed.flag(), refusal: feed.flag() };
    let channel = feed.flag().then(|| feed.some());
    let key = feed.some();
    let value = feed.rest();
    let decoder = Decoder { format, include, template: None, topic: "tokens".to_owned() };
    let header = |name: &str| match name {
        FORMAT_HEADER => named,
        CHANNEL_HEADER => channel,
        _ => None,
    };
    let raw = Raw { key: Some(key), value: Some(value), header };
    let mut events = Vec::new();
    let decoded = decoder.decode(&raw, &mut events);
    match decoded {
        Err(error) => {
            assert!(events.is_empty(), "nothing comes of what is refused");
            refused(&error);
        }
        Ok(said) => {
            assert_eq!(said.as_bytes(), key);
            says_the_same(value, include, &events);
            if format.is_none() && named.is_none() {
                is_of_a_format(&decoder, &raw, &events);
            }
            comes_again(&decoder, said, &events);
        }
    }
}

/// What is wrong and where, and nothing of what the value says.
fn refused(error: &Error) {
    let said: String = error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect();
    let known = [
        "the key is not UTF-",
        "the header tokenrelay-format names an unknown format",
        "the value is neither a tokenrelay event nor a chat-completion chunk",
        "the value is not a valid tokenrelay event: text is missing",
    ];
    let problems = ["not JSON", "it ends too early", "a field has a wrong type"];
    let is_malformed = ["tokenrelay event", "chat-completion chunk"].iter().any(|format| {
        let all =
            problems.iter().map(|problem| format!("the value is not a valid {format}: {problem}, at line  column "));
        all.into_iter().any(|malformed| malformed == said)
    });
    assert!(is_malformed || known.contains(&&*said), "{error}");
}

/// All text of the events, by part, is the text in the value.
fn says_the_same(value: &[u8], include: Include, events: &[Event<'_>]) {
    let value = value.trim_ascii();
    let json = value.strip_prefix(b"data:").unwrap_or(value);
    let Ok(Value::Object(said)) = serde_json::from_slice(json) else { return };
    let is_chat =
        said.get("choices").is_some_and(Value::is_array) && !events.iter().any(|event| event.begins.is_none());
    let expected: Vec<(u32, String)> = match said.get("choices").and_then(Value::as_array).filter(|_| is_chat) {
        Some(choices) => choices.iter().filter_map(|choice| in_choice(choice, include)).collect(),
        None => vec![(0, ["text", "delta"].iter().filter_map(|name| said.get(*name)?.as_str()).collect())],
    };
    let tokens = events.iter().filter_map(|event| match &event.kind {
        EventKind::Token(text) => Some(&**text),
        _ => None,
    });
    let (tokens, expected): (String, String) = (tokens.collect(), expected.into_iter().map(|(_, text)| text).collect());
    let is_token = events.iter().any(|event| matches!(event.kind, EventKind::Token(_)));
    assert!(tokens == expected || (!is_token && !is_chat), "{tokens:?} of {expected:?}");
}

/// The text of a choice, read as plainly as can be. None if it stands there in another shape than an object's.
fn in_choice(choice: &Value, include: Include) -> Option<(u32, String)> {
    let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
    let delta = choice.get("delta").filter(|delta| !delta.is_null());
    let text = |of: Option<&Value>, name: &str| of?.get(name)?.as_str().map(str::to_owned);
    let mut said = String::new();
    if include.reasoning {
        said += &text(delta, "reasoning").or_else(|| text(delta, "reasoning_content")).unwrap_or_default();
    }
    if include.text {
        said += &text(delta, "content").unwrap_or_default();
    }
    if include.refusal {
        said += &text(delta, "refusal").unwrap_or_default();
    }
    let calls = delta.and_then(|delta| delta.get("tool_calls")?.as_array()).filter(|_| include.tool);
    for call in calls.into_iter().flatten() {
        said += &text(call.get("function"), "arguments").unwrap_or_default();
    }
    if include.text {
        said += &text(Some(choice), "text").unwrap_or_default();
    }
    Some((u32::try_from(index).ok()?, said))
}

/// What was recognised is the same when its format is named.
fn is_of_a_format<'a>(decoder: &Decoder, raw: &Raw<'a, impl Fn(&str) -> Option<&'a [u8]>>, events: &[Event<'a>]) {
    let is_same = [Format::Tokenrelay, Format::OpenaiChat].into_iter().any(|format| {
        let mut again = Vec::new();
        let decoder = Decoder { format: Some(format), ..decoder.clone() };
        decoder.decode(raw, &mut again).is_ok() && again == events
    });
    assert!(is_same, "{events:?} is of no format");
}

fn comes_again(decoder: &Decoder, key: &str, events: &[Event<'_>]) {
    for event in events {
        let mut value = json!({
            "responseId": event.response_id, "part": event.part, "seq": event.seq, "channel": event.channel,
        });
        let kind = match &event.kind {
            EventKind::Start => "start",
            EventKind::Token(text) => {
                value["text"] = json!(text);
                "token"
            }
            EventKind::End { final_text } => {
                value["finalText"] = json!(final_text);
                "end"
            }
            EventKind::Cancel => "cancel",
            EventKind::Error => "error",
        };
        value["type"] = kind.into();
        let value = value.to_string();
        let raw = Raw { key: Some(key.as_bytes()), value: Some(value.as_bytes()), header: |_: &str| None };
        let mut again = Vec::new();
        let decoder = Decoder { format: Some(Format::Tokenrelay), ..decoder.clone() };
        decoder.decode(&raw, &mut again).expect("it is of our own format");
        let again: Vec<Event<'_>> = again.into_iter().map(|again| Event { begins: event.begins, ..again }).collect();
        assert_eq!(again, std::slice::from_ref(event));
    }
}
