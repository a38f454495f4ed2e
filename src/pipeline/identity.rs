//! Who we are for Ably, beside who made the messages that we take over: with `message-update-own` alone nobody else may change
//! them.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What a credential says that leaves it to the client who it is.
const ANYBODY: &str = "*";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// As the last connection has said; nothing before the first.
    ours: Option<Option<Arc<str>>>,
    /// Who made what we took over, as long as nobody has been told.
    makers: BTreeSet<String>,
}

impl Identity {
    /// A connection is up and says who we are. Who that is, if anybody in particular.
    pub(super) fn is(&mut self, client_id: Option<Arc<str>>) -> Option<Arc<str>> {
        let client_id = client_id.filter(|id| **id != *ANYBODY);
        self.ours = Some(client_id.clone());
        self.compare();
        client_id
    }

    /// Messages are ours now that these have made.
    pub(super) fn inherit(&mut self, makers: BTreeSet<&str>) {
        self.makers.extend(makers.into_iter().map(str::to_owned));
        self.compare();
    }

    /// Warns of a change, once.
    fn compare(&mut self) {
        for was in self.others() {
            let is = self.ours.iter().flatten().next().map_or("nobody", |id| id);
            tracing::warn!(
                was,
                is,
                "our client id is another one than that of messages we take over: with message-update-own alone Ably refuses to \
                 change them (40160); keep the former ably.client_id until they are over, or give message-update-any"
            );
        }
    }

    /// Makers that we are not, once we know who we are.
    fn others(&mut self) -> Vec<String> {
        let Some(ours) = &self.ours else { return Vec::new() };
        let makers = std::mem::take(&mut self.makers).into_iter();
        makers.filter(|maker| ours.as_deref() != Some(maker)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_over_what_others_have_made_is_warned_once() {
        let mut identity = Identity { makers: BTreeSet::from(["a".to_owned(), "b".to_owned()]), ours: None };
        assert!(identity.others().is_empty(), "nobody knows yet who we are");
        identity.ours = Some(Some("b".into()));
        assert_eq!(identity.others(), ["a"]);
        assert!(identity.others().is_empty());
        identity.inherit(BTreeSet::from(["b"]));
        assert!(identity.makers.is_empty());
    }

    #[test]
    fn who_may_be_anybody_is_nobody_in_particular() {
        let mut identity = Identity::default();
        assert_eq!(identity.is(Some("*".into())), None);
        assert_eq!(identity.is(Some("us".into())).as_deref(), Some("us"));
        assert_eq!(identity.is(None), None);
        identity.makers.insert("us".to_owned());
        assert_eq!(identity.others(), ["us"]);
    }
}
