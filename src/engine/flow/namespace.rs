//! Namespaces: whether messages on their channels can be changed once they are made.
//!
//! The rule for updates and appends is the namespace's, and nobody says in advance whether it is on: a change that is taken
//! shows it, or one that is refused. As long as it is not known, one response at a time begins its message and changes it;
//! where it is off, a change is tried now and then on a message that is there already. So messages that are left behind
//! unfinished are no more than such trials.

use super::{ChannelKey, Flow, PROBE_EVERY};
use crate::engine::time::Time;

/// Namespaces of which something is remembered at most. One that was forgotten is found out again.
const NAMESPACES_MAX: usize = 1_000;

/// What a channel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Takes {
    /// Messages, and changes of them.
    Changes,
    /// Messages that are not changed any more, as far as is known.
    Whole(Trial),
}

/// What may be tried on a channel that takes no changes, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Trial {
    /// Nothing now.
    Nothing,
    /// To change a message that is there.
    Change,
    /// That, or to make one that is to be changed.
    Create,
}

/// What is known of a namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Namespace {
    rule: Rule,
    /// When that was learnt.
    since: Time,
    /// A message that is there may be tried at that time.
    change_from: Time,
    /// One that is to be tried may be made at that time, which is no earlier.
    begin_from: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Unknown,
    On,
    Off,
}

impl Namespace {
    const fn new(rule: Rule, since: Time, try_from: Time) -> Self {
        Self { rule, since, change_from: try_from, begin_from: try_from }
    }
}

impl Takes {
    /// Whether messages are to be made whole.
    pub(in crate::engine) const fn is_whole(self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// Whether a message that is there may be changed, if only to see whether it can be.
    pub(in crate::engine) const fn may_change(self) -> bool {
        matches!(self, Self::Changes | Self::Whole(Trial::Change | Trial::Create))
    }

    /// Whether a message may be made that is to be changed.
    pub(in crate::engine) const fn may_begin(self) -> bool {
        matches!(self, Self::Changes | Self::Whole(Trial::Create))
    }

    /// The same without a trial.
    pub(in crate::engine) const fn untried(self) -> Self {
        match self {
            Self::Changes => Self::Changes,
            Self::Whole(_) => Self::Whole(Trial::Nothing),
        }
    }
}

impl Flow {
    /// What a channel takes.
    pub(in crate::engine) fn takes(&self, now: Time, key: ChannelKey) -> Takes {
        match self.namespaces.get(namespace_of(&self.channels[key.0 as usize].name)) {
            None => Takes::Whole(Trial::Create),
            Some(Namespace { rule: Rule::On, .. }) => Takes::Changes,
            Some(Namespace { change_from, .. }) if now < *change_from => Takes::Whole(Trial::Nothing),
            Some(Namespace { rule: Rule::Unknown, begin_from, .. }) if now >= *begin_from => {
                Takes::Whole(Trial::Create)
            }
            Some(_) => Takes::Whole(Trial::Change),
        }
    }

    /// A trial leaves: the next one waits.
    pub(in crate::engine) fn tries(&mut self, now: Time, key: ChannelKey) {
        let namespace = self.namespace(now, key);
        (namespace.change_from, namespace.begin_from) = (now + PROBE_EVERY, now + PROBE_EVERY);
    }

    /// A message was made, and has a serial: if nothing is known of changes, one may be tried at once.
    pub(in crate::engine) fn named(&mut self, now: Time, key: ChannelKey) {
        let namespace = self.namespace(now, key);
        if namespace.rule == Rule::Unknown {
            namespace.change_from = now;
        }
    }

    /// A message was made, and nobody said as which: where the rule is not known to be on, it is off. Whether that is news.
    pub(in crate::engine) fn unnamed(&mut self, now: Time, key: ChannelKey) -> bool {
        self.namespace(now, key).rule == Rule::Unknown && self.takes_no_changes(now, key)
    }

    /// A change that was sent at `sent_at` was taken. If that was before changes were refused, it says nothing of now.
    pub(in crate::engine) fn takes_changes(&mut self, now: Time, key: ChannelKey, sent_at: Time) {
        let namespace = self.namespace(now, key);
        if namespace.rule != Rule::Off || sent_at >= namespace.since {
            *namespace = Namespace::new(Rule::On, now, now);
        }
    }

    /// A change was refused because of the rule. Whether that is news.
    pub(in crate::engine) fn takes_no_changes(&mut self, now: Time, key: ChannelKey) -> bool {
        let namespace = self.namespace(now, key);
        let is_news = namespace.rule != Rule::Off;
        let since = if is_news { now } else { namespace.since };
        *namespace = Namespace::new(Rule::Off, since, now + PROBE_EVERY);
        is_news
    }

    fn namespace(&mut self, now: Time, key: ChannelKey) -> &mut Namespace {
        let name = namespace_of(&self.channels[key.0 as usize].name);
        if self.namespaces.len() >= NAMESPACES_MAX && !self.namespaces.contains_key(name) {
            let oldest = self.namespaces.iter().min_by_key(|(_, known)| known.since).map(|(oldest, _)| oldest.clone());
            oldest.map(|oldest| self.namespaces.remove(&oldest));
        }
        self.namespaces.entry(name.into()).or_insert(Namespace::new(Rule::Unknown, now, now))
    }
}

/// A channel's namespace: its name up to the first colon, without what stands before it in brackets.
fn namespace_of(channel: &str) -> &str {
    let name = channel.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(channel, |(_, name)| name);
    name.split_once(':').map_or(name, |(namespace, _)| namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_ends_at_the_first_colon() {
        for (channel, namespace) in [("ai:a:b", "ai"), ("ai", "ai"), ("[?rewind=1]ai:x", "ai"), ("[meta]x", "x")] {
            assert_eq!(namespace_of(channel), namespace, "{channel}");
        }
    }
}
