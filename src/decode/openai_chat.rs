//! Chat-completion chunks, as OpenAI, vLLM and SGLang stream them.
//!
//! A choice is a part of the response. Usage chunks and the stream's `[DONE]` come after the end and say nothing: they are
//! absorbed. A choice begins with a `role`; one that does not has lost its beginning.

use std::borrow::Cow;

use serde::Deserialize;

use super::{Error, Include, malformed};
use crate::engine::{Event, EventKind};

const FORMAT: &str = "chat-completion chunk";

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// Of the older text completions.
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    role: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
}

/// Text that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whether a value is the end of an event stream and nothing else.
pub(super) fn is_end_of_stream(value: &[u8]) -> bool {
    let value = value.strip_prefix(b"data:").unwrap_or(value).trim_ascii();
    matches!(value, b"[DONE]" | b"\"[DONE]\"")
}

/// Adds the events of a value: of each choice its text, then its end.
pub(super) fn decode<'a>(
    value: &'a [u8],
    key: &'a str,
    include: Include,
    events: &mut Vec<Event<'a>>,
) -> Result<(), Error> {
    if is_end_of_stream(value) {
        return Ok(());
    }
    let json = value.strip_prefix(b"data:").unwrap_or(value).trim_ascii();
    let chunk: Chunk<'a> = serde_json::from_slice(json).map_err(malformed(FORMAT))?;
    let id = match key {
        "" => chunk.id.map_or(Cow::Borrowed(""), |id| id.0),
        key => Cow::Borrowed(key),
    };
    for choice in chunk.choices {
        let event = |kind, begins| Event {
            response_id: id.clone(),
            part: choice.index,
            kind,
            seq: None,
            begins: Some(begins),
            channel: None,
            pattern: None,
        };
        let chat = choice.delta.is_some();
        let role = choice.delta.as_ref().is_some_and(|delta| delta.role.is_some());
        let begins = role || !chat;
        if role {
            events.push(event(EventKind::Start, true));
        }
        let from_delta = choice.delta.into_iter().flat_map(|delta| delta.tokens(include));
        let from_text = choice.text.filter(|_| include.text).map(|text| text.0);
        let tokens = from_delta.chain(from_text).filter(|token| !token.is_empty());
        events.extend(tokens.map(|token| event(EventKind::Token(token), begins)));
        if choice.finish_reason.is_some() {
            events.push(event(EventKind::End { final_text: None }, begins));
        }
    }
    Ok(())
}

impl<'a> Delta<'a> {
    fn tokens(self, include: Include) -> impl Iterator<Item = Cow<'a, str>> {
        let reasoning = self.reasoning.or(self.reasoning_content).filter(|_| include.reasoning);
        let content = self.content.filter(|_| include.text);
        let refusal = self.refusal.filter(|_| include.refusal);
        let tools = self.tool_calls.filter(|_| include.tool).unwrap_or_default();
        let arguments = tools.into_iter().filter_map(|call| call.function?.arguments);
        [reasoning, content, refusal].into_iter().flatten().chain(arguments).map(|text| text.0)
    }
}
