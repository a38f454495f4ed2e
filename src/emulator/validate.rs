//! What a message must be like, whoever sends it and however.

use crate::ably::wire::Message;

use super::errors::{Failure, failure};
use super::limits::ID_BYTES;

/// Fields of `extras` that mean something; `headers` is the user's, `ai` that of Ably's own streaming client.
const EXTRAS: [&str; 8] = ["headers", "ai", "push", "ref", "ephemeral", "delta", "privileged", "echo"];

/// Whether the messages of a frame have ids of their own: all of one shape, or none.
pub(super) fn ids(messages: &[Message<'_>]) -> Result<bool, Failure> {
    let ids: Vec<&str> = messages.iter().filter_map(|message| message.id.as_deref()).collect();
    let Some(first) = ids.first() else { return Ok(false) };
    if ids.iter().any(|id| id.len() > ID_BYTES) {
        return Err(failure(40031, 400, "Invalid message id: too long"));
    }
    let base = first.rsplit_once(':').map_or(*first, |(base, _)| base);
    let shaped = ids.iter().enumerate().all(|(index, id)| *id == format!("{base}:{index}"));
    if ids.len() == messages.len() && (shaped || ids.len() == 1) {
        return Ok(true);
    }
    Err(failure(40031, 400, "Invalid message id: all must be <base>:<index>"))
}

/// Refuses extras that Ably does not know.
pub(super) fn extras(message: &Message<'_>) -> Result<(), Failure> {
    let Some(extras) = &message.extras else { return Ok(()) };
    let Some(fields) = extras.as_object() else { return Err(failure(40032, 400, "extras must be an object")) };
    match fields.keys().find(|name| !EXTRAS.contains(&name.as_str())) {
        Some(_) => Err(failure(40032, 400, "extras has a field that is not known")),
        None => Ok(()),
    }
}

/// Refuses a client id that is not the publisher's. `own` is `*` for one who may assume any.
pub(super) fn client_id(message: &Message<'_>, own: Option<&str>) -> Result<(), Failure> {
    match (message.client_id.as_deref(), own) {
        (Some("*"), _) => Err(failure(40012, 400, "A message cannot have the wildcard client id")),
        (None, _) | (Some(_), Some("*")) => Ok(()),
        (Some(said), Some(own)) if said == own => Ok(()),
        _ => Err(failure(40012, 400, "The message's client id is not the publisher's")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ids(ids: &[Option<&'static str>]) -> Vec<Message<'static>> {
        ids.iter().map(|id| Message { id: id.map(Into::into), ..Message::default() }).collect()
    }

    #[test]
    fn ids_are_of_one_shape_or_none() {
        assert_eq!(ids(&with_ids(&[None, None])), Ok(false));
        assert_eq!(ids(&with_ids(&[Some("anything")])), Ok(true));
        assert_eq!(ids(&with_ids(&[Some("a:0"), Some("a:1")])), Ok(true));
        for bad in [[Some("a:0"), None], [Some("a:0"), Some("b:1")], [Some("a:1"), Some("a:0")]] {
            assert_eq!(ids(&with_ids(&bad)).map_err(|failure| failure.code), Err(40031));
        }
    }

    #[test]
    fn extras_are_known_fields() {
        let with = |value| Message { extras: Some(value), ..Message::default() };
        assert_eq!(extras(&with(serde_json::json!({"headers": {"any": 1}}))), Ok(()));
        assert_eq!(extras(&with(serde_json::json!({"other": 1}))).map_err(|failure| failure.code), Err(40032));
        assert_eq!(extras(&with(serde_json::json!([1]))).map_err(|failure| failure.code), Err(40032));
    }

    #[test]
    fn nobody_speaks_as_somebody_else() {
        let from = |id: Option<&'static str>| Message { client_id: id.map(Into::into), ..Message::default() };
        for (said, own, fine) in [
            (None, None, true),
            (Some("me"), Some("me"), true),
            (Some("me"), Some("*"), true),
            (Some("you"), Some("me"), false),
            (Some("me"), None, false),
            (Some("*"), Some("*"), false),
        ] {
            assert_eq!(client_id(&from(said), own).is_ok(), fine, "{said:?} {own:?}");
        }
    }
}
