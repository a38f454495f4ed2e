//! What a client's frames ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::ws;
use futures_util::SinkExt;
use tokio::time::Instant;

use super::answers::Timing;
use super::{End, Token, Transport, apply_later, flush_later, written};
use crate::ably::wire::{ProtocolMessage, action};
use crate::emulator::clock::now_ms;
use crate::emulator::codec::{encode, received};
use crate::emulator::errors::{Failure, failure};
use crate::emulator::faults::{DropAs, FatalAs};
use crate::emulator::limits::FRAME_BYTES;
use crate::emulator::state::{Attach, Publish};

impl Transport {
    pub(super) async fn frame(&mut self, frame: ws::Message) -> Option<End> {
        let bytes = match &frame {
            ws::Message::Text(text) => text.as_bytes(),
            ws::Message::Binary(bytes) => bytes.as_ref(),
            ws::Message::Ping(_) | ws::Message::Pong(_) => return None,
            ws::Message::Close(_) => return Some(End::Dropped),
        };
        if bytes.len() > FRAME_BYTES {
            return self.fail(failure(40009, 413, "Frame too large")).await;
        }
        let message: ProtocolMessage<'_> = match self.encoding.decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.fail(failure(40000, 400, format!("Malformed frame: {error}"))).await,
        };
        match message.action {
            action::HEARTBEAT => {
                let id = message.id.clone();
                self.feed(&ProtocolMessage { action: action::HEARTBEAT, id, ..ProtocolMessage::default() }).await
            }
            action::MESSAGE => self.publish(message).await,
            action::ATTACH => self.attach(&message).await,
            action::DETACH => {
                let channel = message.channel.unwrap_or_default();
                self.shared.state().detach(self.who.connection, &channel);
                let channel = Some(channel);
                self.feed(&ProtocolMessage { action: action::DETACHED, channel, ..ProtocolMessage::default() }).await
            }
            action::AUTH => self.authorise(&message).await,
            action::CLOSE => {
                self.shared.state().said_goodbye();
                let closed = ProtocolMessage { action: action::CLOSED, ..ProtocolMessage::default() };
                let _gone = self.send(encode(self.encoding, &closed)).await;
                let _gone = self.sink.close().await;
                Some(End::Goodbye)
            }
            action::DISCONNECT => Some(End::Dropped),
            _ => {
                self.refuse_unknown(&message);
                None
            }
        }
    }

    async fn publish(&mut self, frame: ProtocolMessage<'_>) -> Option<End> {
        let Some(msg_serial) = frame.msg_serial else {
            return self.fail(failure(40000, 400, "MESSAGE without msgSerial")).await;
        };
        let forced =
            frame.params.as_ref().is_some_and(|params| params.get("_forceNack").is_some_and(|yes| yes == "true"));
        let messages = frame.messages.unwrap_or_default().into_iter();
        let publish = Publish {
            by: self.who.clone(),
            channel: frame.channel.unwrap_or_default().into_owned(),
            messages: messages.map(|message| received(message, self.encoding)).collect(),
            id: format!("{}:{msg_serial}", self.who.connection_id),
            now_ms: now_ms(),
        };
        let (handled, timing) = {
            let mut state = self.shared.state();
            let handled = match forced {
                true => state.refuse(self.who.connection, msg_serial, failure(40099, 400, "Forced, as was asked")),
                false => state.frame(msg_serial, publish),
            };
            let merge = state.faults().merge_acks;
            if merge > 0 && handled.answer.is_some() {
                state.struck("merge-acks");
            }
            let [delay, merge] = [state.delay(), merge].map(Duration::from_millis);
            (handled, Timing { delay, merge })
        };
        if let Some(flush) = handled.flush {
            flush_later(self.shared.clone(), flush);
        }
        if let Some((after, publish)) = handled.late {
            apply_later(self.shared.clone(), after, publish);
        }
        for said in handled.said {
            if let Some(end) = self.feed(&said).await {
                return Some(end);
            }
        }
        if let Some(answer) = handled.answer {
            self.answers.push(msg_serial, answer, handled.odd, timing, Instant::now());
        }
        if let Some(error) = handled.fatal {
            return self.end_fatally(error).await;
        }
        match handled.drop {
            Some(way) => self.hang_up(way).await,
            None => None,
        }
    }

    /// A breach of a limit that costs the connection. It is not known which frame says so.
    async fn end_fatally(&mut self, error: Failure) -> Option<End> {
        let way = self.shared.state().faults().fatal_as;
        match way {
            FatalAs::Disconnected => {}
            FatalAs::Error => return self.fail(error).await,
            FatalAs::Socket => return Some(End::Dropped),
        }
        let frame = ProtocolMessage { action: action::DISCONNECTED, error: Some(error), ..ProtocolMessage::default() };
        let _gone = self.send(encode(self.encoding, &frame)).await;
        let _gone = self.sink.close().await;
        Some(End::Dropped)
    }

    /// Presence, annotations and objects are refused; what needs no answer is ignored.
    fn refuse_unknown(&mut self, frame: &ProtocolMessage<'_>) {
        let Some(msg_serial) = frame.msg_serial else { return };
        let refusal = failure(40000, 400, "The emulator knows messages only");
        let handled = self.shared.state().refuse(self.who.connection, msg_serial, refusal);
        if let Some(answer) = handled.answer {
            self.answers.push(msg_serial, answer, None, Timing::default(), Instant::now());
        }
    }

    async fn attach(&mut self, frame: &ProtocolMessage<'_>) -> Option<End> {
        let channel = frame.channel.as_deref().unwrap_or_default();
        let params = frame.params.iter().flatten().map(|(name, value)| (name.to_string(), value.to_string()));
        let attach = Attach {
            channel,
            params: params.collect::<BTreeMap<_, _>>(),
            flags: frame.flags.unwrap_or(0),
            position: frame.channel_serial.as_deref(),
        };
        // Frames of the channel go through the outbox, which is read after this: ATTACHED comes first.
        let attached = self.shared.state().attach(self.who.connection, &attach, now_ms());
        match attached {
            Ok((answer, frames)) => {
                let end = self.feed(&answer).await;
                for frame in frames {
                    if let Some(end) = written(self.sink.feed(frame)).await {
                        return Some(end);
                    }
                }
                end
            }
            Err(error) => {
                let channel = Some(channel.into());
                self.feed(&ProtocolMessage {
                    action: action::ERROR,
                    channel,
                    error: Some(error),
                    ..ProtocolMessage::default()
                })
                .await
            }
        }
    }

    async fn authorise(&mut self, frame: &ProtocolMessage<'_>) -> Option<End> {
        let token = frame.auth.as_ref().and_then(|auth| auth.access_token.as_deref()).unwrap_or_default();
        let authorised = self.shared.state().authorise(self.who.connection, token, now_ms());
        match authorised {
            Ok(connected) => {
                let life = self.shared.state().faults().token_life;
                self.token = Token::of(&connected.who, life, now_ms());
                self.who = connected.who;
                self.feed(&connected.frame).await
            }
            Err(error) => self.fail(error).await,
        }
    }

    /// All connections are to drop, or those whose key is revoked.
    pub(super) async fn hang_up_with_all(&mut self) -> Option<End> {
        let faults = self.shared.state().faults().clone();
        match (faults.check_key(&self.who.grant), faults.hang_up) {
            (Err(error), _) => {
                self.shared.state().struck("revoked-keys");
                self.fail(error).await
            }
            (Ok(()), Some(way)) => {
                self.shared.state().struck("hang-up");
                self.hang_up(way).await
            }
            (Ok(()), None) if faults.revoked_keys.is_empty() => self.hang_up(DropAs::Socket).await,
            (Ok(()), None) => None,
        }
    }

    /// Drops the connection as a fault wants it.
    async fn hang_up(&mut self, way: DropAs) -> Option<End> {
        match way {
            DropAs::Socket => {}
            DropAs::Close => {
                let _gone = self.sink.close().await;
            }
            DropAs::Disconnected | DropAs::Expired => {
                let error = Some(match way {
                    DropAs::Expired => failure(40142, 401, "Token expired"),
                    _ => failure(80003, 503, "Disconnected by the emulator's faults"),
                });
                let frame = ProtocolMessage { action: action::DISCONNECTED, error, ..ProtocolMessage::default() };
                let _gone = self.send(encode(self.encoding, &frame)).await;
            }
        }
        Some(End::Dropped)
    }
}
