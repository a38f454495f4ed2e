//! What may be done on which channels: a JSON object of resources and operations.

use std::collections::HashMap;

use crate::emulator::errors::{Failure, failure, forbidden};

/// Operations by resource; none at all means everything.
#[derive(Debug, Clone)]
pub(in crate::emulator) struct Capability(Option<HashMap<String, Vec<String>>>);

impl Capability {
    /// That of a key.
    pub(in crate::emulator) const fn everything() -> Self {
        Self(None)
    }

    /// As a token request or a JWT says it; without it, everything.
    pub(super) fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("") => Some(Self::everything()),
            Some(text) => serde_json::from_str(text).ok().map(|operations| Self(Some(operations))),
        }
    }

    /// Whether it allows an operation on a channel.
    pub(in crate::emulator) fn allows(&self, operation: &str, channel: &str) -> Result<(), Failure> {
        if self.has(operation, channel) { Ok(()) } else { Err(forbidden(operation, channel)) }
    }

    /// Whether it allows `message-update` or `message-delete` of some messages at all: of any, or of one's own.
    pub(in crate::emulator) fn allows_some(
        &self,
        operation: &str,
        channel: &str,
        caller: Option<&str>,
    ) -> Result<(), Failure> {
        self.allows_on(operation, channel, caller, caller)
    }

    /// Whether it allows `message-update` or `message-delete` of a message: any, or one's own.
    pub(in crate::emulator) fn allows_on(
        &self,
        operation: &str,
        channel: &str,
        publisher: Option<&str>,
        caller: Option<&str>,
    ) -> Result<(), Failure> {
        if self.0.is_none() || self.has(&format!("{operation}-any"), channel) {
            return Ok(());
        }
        let own = format!("{operation}-own");
        match caller {
            _ if !self.has(&own, channel) => Err(forbidden(operation, channel)),
            None => Err(failure(40166, 401, format!("{own} needs an identified client"))),
            Some(caller) if publisher == Some(caller) => Ok(()),
            Some(_) => Err(forbidden(&format!("{operation}-any"), channel)),
        }
    }

    fn has(&self, operation: &str, channel: &str) -> bool {
        self.0.as_ref().is_none_or(|resources| {
            resources.iter().any(|(resource, operations)| {
                operations.iter().any(|allowed| allowed == "*" || allowed == operation) && fits(resource, channel)
            })
        })
    }
}

/// Segments are separated by `:`; `*` stands for one, and at the end for the rest. `[*]*` is every channel of any kind.
fn fits(resource: &str, channel: &str) -> bool {
    let resource = resource.strip_prefix("[*]").unwrap_or(resource);
    let (mut pattern, mut name) = (resource.split(':').peekable(), channel.split(':'));
    loop {
        match (pattern.next(), name.next()) {
            (Some("*"), Some(_)) if pattern.peek().is_none() => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(segment)) if wanted == segment => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_fit_by_segment() {
        for (resource, channel, expected) in [
            ("*", "a:b", true),
            ("[*]*", "a:b", true),
            ("ai:*", "ai:x:y", true),
            ("ai:*", "ai", false),
            ("*:b", "a:b", true),
            ("*:b", "a:c", false),
            ("ai:x", "ai:x", true),
        ] {
            assert_eq!(fits(resource, channel), expected, "{resource} {channel}");
        }
    }

    #[test]
    fn what_is_not_named_is_not_allowed() {
        let capability = Capability::parse(Some(r#"{"ai:*":["publish","history"]}"#)).expect("it is one");
        assert!(capability.allows("publish", "ai:x").is_ok());
        assert_eq!(capability.allows("subscribe", "ai:x").expect_err("not named").code, 40160);
        assert_eq!(capability.allows("publish", "chat:x").expect_err("another channel").code, 40160);
        assert!(Capability::parse(Some("nonsense")).is_none());
    }

    #[test]
    fn a_message_is_changed_by_its_publisher_or_by_whom_may_change_any() {
        let may = |operations: &str, publisher, caller| {
            let capability = Capability::parse(Some(&format!(r#"{{"*":[{operations}]}}"#))).expect("it is one");
            capability.allows_on("message-update", "x", publisher, caller).map_err(|failure| failure.code)
        };
        let own = r#""message-update-own""#;
        assert_eq!(may(own, Some("me"), Some("me")), Ok(()));
        assert_eq!(may(own, Some("you"), Some("me")), Err(40160));
        assert_eq!(may(own, None, None), Err(40166));
        assert_eq!(may(r#""message-update-any""#, None, None), Ok(()));
        assert_eq!(may(r#""message-delete-any""#, Some("me"), Some("me")), Err(40160));
    }
}
