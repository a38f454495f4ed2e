//! Real values and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::engine::EventKind;

const TEXT: Include = Include { text: true, reasoning: false, tool: false, refusal: false };

fn decoder() -> Decoder {
    Decoder { format: None, include: TEXT, template: None, topic: "tokens".into() }
}

fn decode<'a>(value: &'a [u8], key: &'a str) -> Result<Vec<Event<'a>>, Error> {
    let mut events = Vec::new();
    decoder().decode(&Raw { key: Some(key.as_bytes()), value: Some(value), header: |_: &str| None }, &mut events)?;
    Ok(events)
}

fn in_short(events: &[Event<'_>]) -> Vec<(u32, String)> {
    let short = |kind: &EventKind<'_>| match kind {
        EventKind::Start => "start".to_owned(),
        EventKind::Token(text) => format!("token {text}"),
        EventKind::End { final_text: None } => "end".to_owned(),
        EventKind::End { final_text: Some(text) } => format!("end {text}"),
        EventKind::Cancel => "cancel".to_owned(),
        EventKind::Error => "error".to_owned(),
    };
    events.iter().map(|event| (event.part, short(&event.kind))).collect()
}

#[test]
fn our_own_format() {
    let events =
        decode(br#" {"type":"token","text":" a\n","seq":3,"part":1,"channel":"c","metadata":{"x":[1]}} "#, "r");
    let events = events.expect("decodes");
    assert_eq!(in_short(&events), [(1, "token  a\n".to_owned())]);
    assert_eq!((&*events[0].response_id, events[0].seq, events[0].begins), ("r", Some(3), Some(false)));
    assert_eq!(events[0].channel.as_deref(), Some("c"));

    for (value, expected) in [
        (r#"{"type":"start"}"#, "start"),
        (r#"{"type":"end"}"#, "end"),
        (r#"{"type":"end","finalText":"all"}"#, "end all"),
        (r#"{"type":"cancel","reason":"user"}"#, "cancel"),
        (r#"{"type":"error","reason":"oom"}"#, "error"),
        (r#"{"event":"delta","delta":"x"}"#, "token x"),
        (r#"{"event":"done","responseId":null}"#, "end"),
    ] {
        assert_eq!(in_short(&decode(value.as_bytes(), "r").expect(value)), [(0, expected.to_owned())]);
    }
}

#[test]
fn one_look_finds_what_two_looks_find() {
    for value in [
        r#"{"type":"token","text":"a"}"#,
        r#"{"type":"token","text":"a","choices":null}"#,
        r#"{"type":"token","text":"a","choices":[{"index":2,"delta":{"content":"b"}}]}"#,
        r#"{"choices":[{"index":2,"delta":{"content":"b"}}],"type":"token","text":"a"}"#,
        r#"{"id":"x","type":"token","text":"a"}"#,
        r#"{"object":"chat.completion.chunk","choices":[{"index":0,"text":"b"}]}"#,
        r#"{"type":"token","text":7}"#,
        r#"{"type":"tokens","text":"a"}"#,
        r#"{"type":"token"}"#,
        r#"{"type":"token","text":"a""#,
        r#"{"type":"token","text":"a"} x"#,
        r#"{"type":"end","event":"end"}"#,
        r#"{"text":"a"}"#,
        r#"["start"]"#,
        "{}",
    ] {
        let mut two = Vec::new();
        let decoded = sniff(value.as_bytes()).ok_or(Error::Unrecognised);
        let decoded = decoded.and_then(|format| decoder().decode_as(format, value.as_bytes(), "r", &mut two));
        assert_eq!(decode(value.as_bytes(), "r"), decoded.map(|()| two), "{value}");
    }
}

#[test]
fn what_needs_no_copy_is_borrowed() {
    let events = decode("{\"type\":\"token\",\"text\":\"w\u{f6}rld\"}".as_bytes(), "r").expect("decodes");
    assert!(matches!(&events[0].kind, EventKind::Token(Cow::Borrowed("w\u{f6}rld"))));
}

#[test]
fn a_vllm_stream_with_two_choices_reasoning_usage_and_done() {
    let stream = [
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"{"id":"chatcmpl-1","choices":[{"index":1,"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"reasoning":"hmm"}},{"index":1,"delta":{"reasoning_content":"hmm"}}]}"#,
        r#"{"id":"chatcmpl-1","choices":[{"index":1,"delta":{"content":"b"},"logprobs":null}]}"#,
        r#"data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
        r#"{"id":"chatcmpl-1","choices":[{"index":1,"delta":{},"finish_reason":"length"}]}"#,
        r#"{"id":"chatcmpl-1","choices":[],"usage":{"total_tokens":4}}"#,
        "[DONE]",
        "data: [DONE]\n\n",
        "\"[DONE]\"",
    ];
    let mut all = Vec::new();
    for value in stream {
        all.extend(in_short(&decode(value.as_bytes(), "r").expect(value)));
    }
    let expected = [(0, "start"), (1, "start"), (1, "token b"), (0, "token a"), (0, "end"), (1, "end")];
    assert_eq!(all, expected.map(|(part, short)| (part, short.to_owned())));
}

#[test]
fn what_is_included_becomes_a_token() {
    let value = br#"{"choices":[{"delta":{"role":"assistant","reasoning":"r","content":"c","refusal":"n",
        "tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]}}]}"#;
    let all = Include { text: true, reasoning: true, tool: true, refusal: true };
    let mut events = Vec::new();
    let raw = Raw { key: Some(b"r".as_slice()), value: Some(value.as_slice()), header: |_: &str| None };
    Decoder { include: all, ..decoder() }.decode(&raw, &mut events).expect("decodes");
    let short: Vec<_> = in_short(&events).into_iter().map(|(_, short)| short).collect();
    assert_eq!(short, ["start", "token r", "token c", "token n", "token {}"]);
}

#[test]
fn a_chat_stream_without_its_first_chunk_has_no_beginning() {
    let events = decode(br#"{"id":"x","choices":[{"index":0,"delta":{"content":"b"}}]}"#, "").expect("decodes");
    assert_eq!((&*events[0].response_id, events[0].begins), ("x", Some(false)));
    let legacy = decode(br#"{"id":"x","object":"text_completion","choices":[{"text":"b"}]}"#, "").expect("decodes");
    assert_eq!(legacy[0].begins, Some(true));
}

#[test]
fn a_header_names_the_format_and_the_channel() {
    let header = |name: &str| match name {
        CHANNEL_HEADER => Some(b"named".as_slice()),
        FORMAT_HEADER => Some(b"tokenrelay".as_slice()),
        _ => None,
    };
    let mut events = Vec::new();
    let value = br#"{"type":"token","text":"x","channel":"field"}"#.as_slice();
    decoder().decode(&Raw { key: None, value: Some(value), header }, &mut events).expect("decodes");
    assert_eq!(events[0].channel.as_deref(), Some("named"));

    let unknown = |name: &str| (name == FORMAT_HEADER).then_some(b"x".as_slice());
    let refused = decoder().decode(&Raw { key: None, value: Some(value), header: unknown }, &mut events);
    assert_eq!(refused, Err(Error::Format));
}

#[test]
fn a_template_that_needs_headers_is_filled_in_here() {
    let template = Some(Template::parse("{header.tenant}:{key}").expect("a template"));
    let header = |name: &str| (name == "tenant").then_some(b"acme".as_slice());
    let mut events = Vec::new();
    let raw = Raw { key: Some(b"k".as_slice()), value: Some(br#"{"type":"start"}"#.as_slice()), header };
    Decoder { template, ..decoder() }.decode(&raw, &mut events).expect("decodes");
    assert_eq!(events[0].channel.as_deref(), Some("acme:k"));
}

#[test]
fn what_is_no_event_is_refused_by_what_is_wrong_and_not_quoted() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for value in [
        b"\xff\xfe".as_slice(),
        b"",
        b"not json secret",
        b"{}",
        b"[]",
        b"7",
        br#"{"type":"token"}"#,
        br#"{"type":"token","text":7}"#,
        br#"{"type":"secret"}"#,
        br#"{"type":"token","text":"secret","part":-1}"#,
        br#"{"choices":{"secret":1}}"#,
        br#"{"choices":[{"delta":{"content":["secret"]}}]}"#,
        br#"{"type":"token","text":"secr"#,
        deep.as_bytes(),
    ] {
        let error = decode(value, "r").expect_err("it is refused").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    let null = Raw { key: None, value: None, header: |_: &str| None };
    assert_eq!(decoder().decode(&null, &mut Vec::new()), Err(Error::Null));
    let key = Raw { key: Some(b"\xff".as_slice()), ..null };
    assert_eq!(decoder().decode(&key, &mut Vec::new()), Err(Error::Key));
}

#[test]
fn a_huge_text_is_a_text() {
    let text = "x".repeat(10 << 20);
    let value = format!(r#"{{"type":"token","text":"{text}"}}"#);
    assert_eq!(in_short(&decode(value.as_bytes(), "r").expect("decodes")), [(0, format!("token {text}"))]);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(value in prop::collection::vec(any::<u8>(), 0..200), key in ".{0,20}") {
        let _either = decode(&value, &key);
    }

    #[test]
    fn any_text_comes_through(text in any::<String>(), key in "[^\u{0}]{1,20}") {
        let own = serde_json::json!({"type": "token", "text": text}).to_string();
        prop_assert_eq!(in_short(&decode(own.as_bytes(), &key).expect("decodes")), [(0, format!("token {text}"))]);
        let chunk = serde_json::json!({"choices": [{"delta": {"content": text}}]}).to_string();
        let events = decode(chunk.as_bytes(), &key).expect("decodes");
        prop_assert_eq!(events.len(), usize::from(!text.is_empty()));
    }
}
