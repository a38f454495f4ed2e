//! The demo's model server: who says what, when, and in which format. Pure: a seed and a number give a script, always the
//! same one, so that a run can be repeated and what was produced need not be remembered by the topic.
//!
//! Half of the responses are in the relay's own format, half are chat-completion chunks as vLLM sends them (role, deltas,
//! reasoning now and then, two choices now and then, finish, usage, `[DONE]`). One in four shares its channel.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use super::text::{self, Answer};
use super::tokens;

/// A response from its first record to its last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// Its number within the run.
    pub(super) index: u64,
    /// Its id, and the key of its records.
    pub(super) id: String,
    /// Where it is to appear.
    pub(super) channel: String,
    /// Whether its records must name the channel because the template would not.
    pub(super) channel_named: bool,
    /// What was asked, and in which language.
    pub(super) answer: Answer,
    /// `tokenrelay` or `openai-chat`.
    pub(super) format: &'static str,
    /// How fast it comes on average.
    pub(super) tokens_per_second: u32,
    /// What goes to the topic.
    pub(super) lines: Vec<Line>,
    /// What a reader must see in the end, one for each part.
    pub(super) expected: Vec<Expected>,
}

/// One record of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// When, from the beginning of the script.
    pub(super) at: Duration,
    /// The record's value.
    pub(super) value: Vec<u8>,
}

/// What a reader must see of one part of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// Which part.
    pub(super) part: u32,
    /// The whole text.
    pub(super) text: String,
    /// The header `status`.
    pub(super) status: &'static str,
    /// How many token events it takes.
    pub(super) tokens: u64,
}

/// How a response of the relay's own format ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Complete,
    Checked,
    Cancelled,
    Failed,
}

/// Writes the script of one response.
pub(super) fn script(seed: u64, index: u64) -> Script {
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
    let answer = text::answer(&mut rng);
    let chat = rng.bool();
    let tag = rng.u32(..);
    let id = if chat { format!("chatcmpl-{index:05}{tag:08x}") } else { format!("r-{index:05}-{tag:08x}") };
    let shared = index % 4 == 3;
    let channel = if shared { format!("demo:room-{}", index / 16) } else { format!("demo:{id}") };
    let mut script = Script {
        index,
        id,
        channel,
        channel_named: shared,
        answer,
        format: if chat { "openai-chat" } else { "tokenrelay" },
        // Most are slow: the fast ones are the fewer for being over sooner, too.
        tokens_per_second: rng.u32(20..=150).min(rng.u32(20..=150)),
        lines: Vec::new(),
        expected: Vec::new(),
    };
    let mut clock = Clock { at: Duration::ZERO, per_token: Duration::from_secs(1) / script.tokens_per_second };
    if chat {
        chat_chunks(&mut script, &mut clock, &mut rng)
    } else {
        own_events(&mut script, &mut clock, &mut rng)
    }
    script
}

/// When the next token comes.
struct Clock {
    at: Duration,
    per_token: Duration,
}

impl Clock {
    /// Mostly near the average, at times a burst, at times a stall.
    fn next(&mut self, rng: &mut Rng) -> Duration {
        self.at += match rng.u8(..100) {
            0..6 => Duration::ZERO,
            6 => self.per_token * 12,
            _ => self.per_token.mul_f64(0.5 + rng.f64()),
        };
        self.at
    }
}

fn own_events(script: &mut Script, clock: &mut Clock, rng: &mut Rng) {
    let (ascii, counted, started) = (rng.u8(..4) == 0, rng.bool(), rng.u8(..4) != 0);
    let ending = match rng.u8(..20) {
        0..2 => Ending::Cancelled,
        2 => Ending::Failed,
        3..5 => Ending::Checked,
        _ => Ending::Complete,
    };
    let whole = script.answer.text.clone();
    let pieces = tokens::split(&whole, rng);
    let cut = matches!(ending, Ending::Cancelled | Ending::Failed);
    let said = if cut { &pieces[..rng.usize(1..=pieces.len())] } else { &pieces[..] };
    let text = said.concat();
    let mut events: Vec<Value> = Vec::with_capacity(said.len() + 2);
    if started {
        events.push(json!({ "type": "start", "metadata": { "model": "demo-1", "language": script.answer.code } }));
    }
    events.extend(said.iter().map(|piece| json!({ "type": "token", "text": piece })));
    events.push(match ending {
        Ending::Complete => json!({ "type": "end" }),
        Ending::Checked => json!({ "type": "end", "finalText": text }),
        Ending::Cancelled => json!({ "type": "cancel", "reason": "the user pressed stop" }),
        Ending::Failed => json!({ "type": "error", "reason": "the model server ran out of memory" }),
    });
    clock.at = Duration::from_millis(rng.u64(..150));
    for (seq, mut event) in events.into_iter().enumerate() {
        if counted {
            event["seq"] = json!(seq);
        }
        let at = clock.next(rng);
        script.lines.push(Line { at, value: encode(&event, ascii) });
    }
    let status = match ending {
        Ending::Complete | Ending::Checked => "complete",
        Ending::Cancelled => "cancelled",
        Ending::Failed => "error",
    };
    script.expected = vec![Expected { part: 0, text, status, tokens: said.len() as u64 }];
}

fn chat_chunks(script: &mut Script, clock: &mut Clock, rng: &mut Rng) {
    let parts: u32 = if rng.u8(..8) == 0 { 2 } else { 1 };
    let texts: Vec<String> = (0..parts)
        .map(|part| match part {
            0 => script.answer.text.clone(),
            _ => text::alternative(rng, &script.answer).text,
        })
        .collect();
    let mut queues: Vec<Vec<Value>> = Vec::new();
    for (part, text) in texts.iter().enumerate() {
        let mut queue = vec![json!({ "role": "assistant", "content": "" })];
        if rng.u8(..5) == 0 {
            queue.extend(["First", ", what", " was asked", "?"].map(|piece| json!({ "reasoning_content": piece })));
        }
        let pieces = tokens::split(text, rng);
        queue.extend(pieces.iter().map(|piece| json!({ "content": piece })));
        queue.push(Value::Null);
        queue.reverse();
        queues.push(queue);
        script.expected.push(Expected {
            part: part as u32,
            text: text.clone(),
            status: "complete",
            tokens: pieces.len() as u64,
        });
    }
    clock.at = Duration::from_millis(rng.u64(..150));
    while let Some(part) = next_part(&queues, rng) {
        let Some(delta) = queues[part].pop() else { break };
        let finish =
            if !delta.is_null() { Value::Null } else { json!(if rng.u8(..6) == 0 { "length" } else { "stop" }) };
        let delta = if delta.is_null() { json!({}) } else { delta };
        let choice = json!({ "index": part, "delta": delta, "logprobs": null, "finish_reason": finish });
        let at = clock.next(rng);
        script.lines.push(Line { at, value: chunk(&script.id, json!([choice]), Value::Null) });
    }
    let spoken: u64 = script.expected.iter().map(|expected| expected.tokens).sum();
    let usage = json!({ "prompt_tokens": 17, "completion_tokens": spoken, "total_tokens": spoken + 17 });
    let value = chunk(&script.id, json!([]), usage);
    script.lines.push(Line { at: clock.at, value });
    script.lines.push(Line { at: clock.at, value: b"[DONE]".to_vec() });
}

/// One of the choices that have something left to say.
fn next_part(queues: &[Vec<Value>], rng: &mut Rng) -> Option<usize> {
    let open: Vec<usize> = (0..queues.len()).filter(|part| !queues[*part].is_empty()).collect();
    rng.choice(open)
}

fn chunk(id: &str, choices: Value, usage: Value) -> Vec<u8> {
    let mut chunk = json!({
        "id": id, "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "demo-1", "choices": choices,
    });
    if !usage.is_null() {
        chunk["usage"] = usage;
    }
    encode(&chunk, false)
}

/// JSON, on request with everything beyond ASCII escaped, as Python's encoder does by default.
fn encode(value: &Value, ascii: bool) -> Vec<u8> {
    let text = value.to_string();
    if !ascii {
        return text.into_bytes();
    }
    let mut escaped = String::with_capacity(text.len() * 2);
    for char in text.chars() {
        if char.is_ascii() {
            escaped.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped.into_bytes()
}

/// A record and its place in time.
#[derive(Debug, Clone)]
pub(super) struct Cue {
    /// When, from the beginning of the run.
    pub(super) at: Duration,
    /// Whose.
    pub(super) script: Arc<Script>,
    /// Which of its lines.
    pub(super) line: usize,
}

/// The records of many responses in the order of time, a given number of responses open at once.
///
/// Scripts are written when their turn comes, so an endless run holds only those that are open.
pub(super) struct Schedule {
    seed: u64,
    next_index: u64,
    responses: u64,
    open: Vec<Cue>,
    starts: Vec<Duration>,
    rest_ms: Range<u64>,
    rng: Rng,
}

impl Schedule {
    /// A run of `responses` responses in `open` places, each of which rests between two of them.
    pub(super) fn new(seed: u64, responses: u64, open: usize, rest_ms: Range<u64>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let starts = (0..open).map(|_| Duration::from_millis(rng.u64(..1_500))).collect();
        Self { seed, next_index: 0, responses, open: Vec::with_capacity(open), starts, rest_ms, rng }
    }

    /// The place that is free next takes the next response.
    fn fill(&mut self) {
        while let Some(start) = self.starts.pop() {
            if self.next_index == self.responses {
                continue;
            }
            let script = Arc::new(script(self.seed, self.next_index));
            self.next_index += 1;
            self.open.push(Cue { at: start + script.lines[0].at, script, line: 0 });
        }
    }
}

impl Iterator for Schedule {
    type Item = Cue;

    fn next(&mut self) -> Option<Cue> {
        self.fill();
        let next = (0..self.open.len()).min_by_key(|&place| (self.open[place].at, self.open[place].script.index))?;
        let cue = self.open[next].clone();
        let lines = &cue.script.lines;
        match lines.get(cue.line + 1) {
            Some(line) => {
                self.open[next].line += 1;
                self.open[next].at += line.at - lines[cue.line].at;
            }
            None => {
                self.open.swap_remove(next);
                self.starts.push(cue.at + Duration::from_millis(self.rng.u64(self.rest_ms.clone())));
            }
        }
        Some(cue)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::decode::{Decoder, Include, Raw};
    use crate::engine::EventKind;

    #[test]
    fn a_seed_gives_the_same_schedule() {
        let run = |seed| -> Vec<(Duration, u64, Vec<u8>)> {
            Schedule::new(seed, 40, 8, 100..900)
                .map(|cue| (cue.at, cue.script.index, cue.script.lines[cue.line].value.clone()))
                .collect()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).is_sorted_by_key(|(at, ..)| *at), "time goes back");
    }

    #[test]
    fn every_line_comes_once_and_in_order() {
        let mut seen: Vec<usize> = vec![0; 40];
        for cue in Schedule::new(3, 40, 6, 100..900) {
            let lines = &mut seen[cue.script.index as usize];
            assert_eq!(*lines, cue.line);
            *lines += 1;
        }
        let expected: Vec<usize> = (0..40).map(|index| script(3, index).lines.len()).collect();
        assert_eq!(seen, expected);
    }

    /// What the relay's decoder makes of a script: the text, the status and the count of tokens of each part.
    fn decoded(script: &Script) -> Vec<Expected> {
        let decoder = Decoder {
            format: None,
            include: Include { text: true, ..Include::default() },
            template: None,
            topic: String::new(),
        };
        let mut parts: BTreeMap<u32, Expected> = BTreeMap::new();
        for line in &script.lines {
            let mut events = Vec::new();
            let raw = Raw { key: Some(script.id.as_bytes()), value: Some(&line.value), header: |_: &str| None };
            decoder.decode(&raw, &mut events).expect("decodes");
            for event in events {
                let part = parts.entry(event.part).or_insert(Expected {
                    part: event.part,
                    text: String::new(),
                    status: "streaming",
                    tokens: 0,
                });
                assert_eq!(part.status, "streaming", "an event after the end of {}", script.id);
                match event.kind {
                    EventKind::Start => {}
                    EventKind::Token(text) => {
                        part.text.push_str(&text);
                        part.tokens += 1;
                    }
                    EventKind::End { final_text } => {
                        assert!(final_text.is_none_or(|text| text == part.text));
                        part.status = "complete";
                    }
                    EventKind::Cancel => part.status = "cancelled",
                    EventKind::Error => part.status = "error",
                }
            }
        }
        parts.into_values().collect()
    }

    #[test]
    fn what_is_expected_is_what_is_said() {
        let scripts: Vec<Script> = (0..300).map(|index| script(11, index)).collect();
        for script in &scripts {
            assert_eq!(decoded(script), script.expected, "{}", script.id);
        }
        let statuses =
            |status| scripts.iter().flat_map(|script| &script.expected).filter(|e| e.status == status).count();
        assert!(statuses("complete") > 200 && statuses("cancelled") > 3 && statuses("error") > 1);
        assert!(scripts.iter().any(|script| script.expected.len() == 2), "no response has two parts");
        assert!(scripts.iter().any(|script| script.format == "openai-chat" && script.channel_named));
    }
}
