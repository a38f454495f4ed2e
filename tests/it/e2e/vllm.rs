//! A chat completion as vLLM streams it: two choices at once, each thinking before it answers, and after their ends a chunk
//! with the usage and `[DONE]`. Nothing of that is late or undecodable, and no thought reaches a channel.

use serde_json::{Value, json};
use tokenrelay::emulator::Faults;

use super::{Stage, relay, results};
use crate::world::World;

const ID: &str = "chatcmpl-4f1c2a90d3e84b7f";
const ANSWERS: [&[&str]; 2] =
    [&["The", " answer", " is", " **42**", ".\n", "Größe: 日本", "語 👩‍👩‍👧"], &["It", " depends", ": \"why\"", "?"]];
const THOUGHT: &str = "Okay, hmm";

fn chunk(choices: Value) -> Value {
    json!({
        "id": ID, "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "Qwen/Qwen3-8B",
        "choices": choices,
    })
}

fn choice(index: usize, delta: Value, finish: Option<&str>) -> Value {
    let stop = finish.map(|_| Value::Null);
    chunk(json!([{
        "index": index, "delta": delta, "logprobs": null, "finish_reason": finish, "stop_reason": stop, "token_ids": null,
    }]))
}

/// All chunks, those of the two choices by turns; thoughts under both names that vLLM has for them.
fn stream() -> Vec<String> {
    let mut first = choice(0, json!({"role": "assistant", "content": ""}), None);
    first["prompt_token_ids"] = Value::Null;
    let mut chunks = vec![first, choice(1, json!({"role": "assistant", "content": ""}), None)];
    for piece in [THOUGHT, ", ", "so"] {
        chunks.push(choice(0, json!({"reasoning": piece, "reasoning_content": null}), None));
        chunks.push(choice(1, json!({"reasoning_content": piece}), None));
    }
    for turn in 0..ANSWERS[0].len() {
        for (index, answer) in ANSWERS.iter().enumerate() {
            if let Some(piece) = answer.get(turn) {
                chunks.push(choice(index, json!({"content": piece}), None));
            }
            if turn + 1 == answer.len() {
                chunks.push(choice(index, json!({"content": ""}), Some("stop")));
            }
        }
    }
    let mut usage = chunk(json!([]));
    usage["usage"] = json!({"prompt_tokens": 21, "completion_tokens": 17, "total_tokens": 38});
    chunks.push(usage);
    chunks.iter().map(Value::to_string).chain(["[DONE]".to_owned()]).collect()
}

/// Relays the stream with these keys, each line as `line` makes it, and looks at everything.
async fn relays(key: Option<&str>, line: impl Fn(String) -> String) {
    let stage = Stage::new(World::new(1, 1, 1).await, Faults::default()).await;
    let Stage { world, ably, mut relay } = stage;
    for value in stream() {
        world.send(0, key.map(str::as_bytes), Some(line(value).as_bytes()), &[]);
    }
    world.flush();
    let results = results::wait(&world, &mut relay, ANSWERS.len()).await;
    let channel = format!("ai:{ID}");
    let mut messages = relay::messages(ably.local_addr(), &channel).await;
    messages.sort_by_key(|message| message["extras"]["headers"]["part"].to_string());
    assert_eq!(messages.len(), ANSWERS.len(), "{messages:?}");
    for (part, (message, answer)) in messages.iter().zip(ANSWERS).enumerate() {
        assert_eq!(message["data"], answer.concat(), "{message}");
        let headers = &message["extras"]["headers"];
        assert_eq!(headers["part"].to_string().trim_matches('"'), part.to_string(), "{message}");
        assert_eq!((&headers["responseId"], &headers["status"]), (&json!(ID), &json!("complete")), "{message}");
        let serial = message["serial"].as_str().expect("a serial");
        let versions = relay::versions(ably.local_addr(), &channel, serial).await;
        assert!(versions.len() > 1 && !json!(versions).to_string().contains(THOUGHT), "{versions:?}");
    }
    for result in results.of_responses() {
        let part = usize::try_from(result["part"].as_u64().expect("a part")).expect("a small one");
        assert_eq!(
            (&result["outcome"], &result["tokens"]),
            (&json!("delivered"), &json!(ANSWERS[part].len())),
            "{result}"
        );
    }
    // A dead letter would be there by now: the offsets behind it are committed when it is durable.
    relay.stop().await;
    assert!(world.committed().iter().all(|(_, committed, end)| committed == end), "{:?}", world.committed());
    assert_eq!(world.count(&world.settings.dead_letters_topic), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_vllm_is_two_messages_and_no_dead_letter() {
    relays(Some(ID), |line| line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_that_was_copied_from_the_wire() {
    relays(Some(ID), |line| format!("data: {line}\n\n")).await;
}
