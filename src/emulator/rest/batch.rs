//! Batches: the same messages to many channels, each channel by itself.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Call;
use crate::ably::wire::Message;
use crate::emulator::clock::now_ms;
use crate::emulator::codec::received;
use crate::emulator::connection::Publisher;
use crate::emulator::errors::{Failure, failure};
use crate::emulator::limits::{BATCH_CHANNELS, BATCH_MESSAGES};
use crate::emulator::state::Publish;

/// Messages, and the channels that they go to.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    channels: OneOrMany<String>,
    messages: OneOrMany<Message<'a>>,
}

/// Channels, and the messages that each of them gets.
type Parts = (Vec<String>, Vec<Message<'static>>);

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::Many(all) => all,
            Self::One(one) => vec![one],
        }
    }
}

impl<'a> Call<'a> {
    pub(super) fn batch(&self) -> Result<Response, Failure> {
        let by = self.publisher()?;
        let specs = self.specs()?;
        let mut channels: Vec<&String> = specs.iter().flat_map(|(channels, _)| channels).collect();
        channels.sort_unstable();
        channels.dedup();
        if channels.len() > BATCH_CHANNELS {
            return Err(failure(90010, 400, "Too many channels in a batch"));
        }
        if specs.iter().map(|(channels, messages)| channels.len() * messages.len()).sum::<usize>() > BATCH_MESSAGES {
            return Err(failure(40034, 400, "Too many messages in a batch"));
        }
        let mut answers = Vec::with_capacity(specs.len());
        for (channels, messages) in specs {
            self.check_creates(&messages)?;
            let mut failures = 0;
            let mut results = Vec::with_capacity(channels.len());
            for channel in channels {
                results.push(match self.apply(by.clone(), &channel, messages.clone()) {
                    Ok((id, serials)) => serde_json::json!({"channel": channel, "messageId": id, "serials": serials}),
                    Err(error) => {
                        failures += 1;
                        serde_json::json!({"channel": channel, "error": error})
                    }
                });
            }
            let successes = results.len() - failures;
            answers.push(serde_json::json!({"successCount": successes, "failureCount": failures, "results": results}));
        }
        Ok(self.respond(StatusCode::CREATED, &answers))
    }

    fn apply(
        &self,
        by: Arc<Publisher>,
        channel: &str,
        messages: Vec<Message<'static>>,
    ) -> Result<(String, Vec<Option<String>>), Failure> {
        let mut state = self.shared.state();
        let id = state.request_id();
        let publish = Publish { by, channel: channel.to_owned(), messages, id: id.clone(), now_ms: now_ms() };
        let (serials, _never_waits) = state.apply(publish)?;
        Ok((id, serials))
    }

    /// One spec, or several.
    fn specs(&self) -> Result<Vec<Parts>, Failure> {
        let specs = match self.content::<Vec<Spec<'a>>>() {
            Ok(specs) => specs,
            Err(_) => vec![self.content()?],
        };
        let messages = |messages: OneOrMany<Message<'a>>| {
            messages.into_vec().into_iter().map(|message| received(message, self.sent_as())).collect()
        };
        Ok(specs.into_iter().map(|spec| (spec.channels.into_vec(), messages(spec.messages))).collect())
    }
}
