//! Namespaces: whether messages on their channels can be changed once they are made.
//!
//! The rule for updates and appends is the namespace's, and nobody says in advance whether it is on: a change that is taken
//! shows it, or one that is refused. As long as it is not known, one response at a time begins its message and changes it;
//! where it is off, a change is tried now and then on a message that is there already. So messages that are left behind
//! unfinished are no more than such trials.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{ChannelKey, Flow, PROBE_EVERY, Refuses};
use crate::engine::time::Time;

/// Namespaces without a channel of which something is remembered, at most. One that was forgotten is found out again.
const RESTING_MAX: usize = 1_000;

/// Names a namespace while any channel of it is known, and a little longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) struct NamespaceKey(u32);

/// What a channel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Takes {
    /// Messages, and changes of them.
    Changes,
    /// Messages that are not changed any more, as far as is known.
    Whole(Trial),
}

/// What may be tried on a channel that takes no changes, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Trial {
    /// Nothing now.
    Nothing,
    /// To change a message that is there.
    Change,
    /// That, or to make one that is to be changed.
    Create,
}

/// A trial that somebody is about to make. It is theirs until it leaves, more is learnt, or it has taken so long that the next
/// one was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Claim(u64);

/// Those who waste least when they are forgotten come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Unknown,
    On,
    Off,
}

/// What is known of a namespace.
#[derive(Debug, Clone, Copy)]
struct Known {
    rule: Rule,
    /// When that was learnt.
    since: Time,
    /// A message that is there may be tried at that time.
    change_from: Time,
    /// One that is to be tried may be made at that time, which is no earlier.
    begin_from: Time,
    claim: Option<Claim>,
}

#[derive(Debug)]
struct Namespace {
    name: Arc<str>,
    channels: u32,
    known: Known,
    /// Our credentials may do nothing on its channels, or not change messages.
    refuses: Option<Refuses>,
}

/// All that is known of namespaces.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    all: Vec<Namespace>,
    free: Vec<NamespaceKey>,
    by_name: HashMap<Arc<str>, NamespaceKey, RandomState>,
    /// Those that have no channel.
    resting: BTreeSet<(Rule, Time, NamespaceKey)>,
    /// How often something else was found out than was known.
    news: u64,
    claims: u64,
}

impl Known {
    const fn new(rule: Rule, since: Time, try_from: Time) -> Self {
        Self { rule, since, change_from: try_from, begin_from: try_from, claim: None }
    }

    fn takes(&self, now: Time) -> Takes {
        match self.rule {
            Rule::On => Takes::Changes,
            Rule::Unknown | Rule::Off if now < self.change_from => Takes::Whole(Trial::Nothing),
            Rule::Unknown if now >= self.begin_from => Takes::Whole(Trial::Create),
            Rule::Unknown | Rule::Off => Takes::Whole(Trial::Change),
        }
    }

    /// What whoever has claimed the present trial may try, at any time.
    const fn claimed(&self) -> Takes {
        match self.rule {
            Rule::On => Takes::Changes,
            Rule::Unknown => Takes::Whole(Trial::Create),
            Rule::Off => Takes::Whole(Trial::Change),
        }
    }
}

impl Namespaces {
    /// The namespace of a channel that comes.
    pub(super) fn enter(&mut self, now: Time, channel: &str) -> NamespaceKey {
        let name = namespace_of(channel).unwrap_or_default();
        let key = match self.by_name.get(name) {
            Some(key) => *key,
            None => self.add(now, name.into()),
        };
        let Namespace { channels, known, .. } = &mut self.all[key.0 as usize];
        if *channels == 0 {
            self.resting.remove(&(known.rule, known.since, key));
        }
        *channels += 1;
        key
    }

    /// A channel of it is forgotten. Without one nothing is learnt of it any more.
    pub(super) fn leave(&mut self, key: NamespaceKey) {
        let Namespace { channels, known, .. } = &mut self.all[key.0 as usize];
        *channels -= 1;
        if *channels == 0 {
            self.resting.insert((known.rule, known.since, key));
        }
        if self.resting.len() > RESTING_MAX
            && let Some((.., forgotten)) = self.resting.pop_first()
        {
            self.by_name.remove(&self.all[forgotten.0 as usize].name);
            self.free.push(forgotten);
        }
    }

    /// What it refuses to us, whatever the channel.
    pub(super) fn refuses(&mut self, key: NamespaceKey) -> &mut Option<Refuses> {
        &mut self.all[key.0 as usize].refuses
    }

    fn add(&mut self, now: Time, name: Arc<str>) -> NamespaceKey {
        let next = || NamespaceKey(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        let key = self.free.pop().unwrap_or_else(next);
        let known = Known::new(Rule::Unknown, now, now);
        let namespace = Namespace { name: name.clone(), channels: 0, known, refuses: None };
        match self.all.get_mut(key.0 as usize) {
            Some(slot) => *slot = namespace,
            None => self.all.push(namespace),
        }
        self.by_name.insert(name, key);
        key
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
    /// What a channel takes, for all that is known.
    pub(in crate::engine) fn takes(&self, now: Time, key: ChannelKey, claim: Option<Claim>) -> Takes {
        let known = self.known(key);
        if claim.is_some() && claim == known.claim { known.claimed() } else { known.takes(now) }
    }

    /// Whether a change on a channel is a trial: nobody knows that changes are taken.
    pub(in crate::engine) fn tries_changes(&self, key: ChannelKey) -> bool {
        self.known(key).rule != Rule::On
    }

    /// The namespace of a channel.
    pub(in crate::engine) fn namespace(&self, key: ChannelKey) -> NamespaceKey {
        self.channels[key.0 as usize].namespace
    }

    /// Whether that may be tried now in a namespace, or need not be.
    pub(in crate::engine) fn lets_try(&self, now: Time, key: NamespaceKey, trial: Trial) -> bool {
        let takes = self.namespaces.all[key.0 as usize].known.takes(now);
        if trial == Trial::Create { takes.may_begin() } else { takes.may_change() }
    }

    /// When that may be tried in a namespace, if nothing more is learnt of it.
    pub(in crate::engine) fn tried_from(&self, key: NamespaceKey, trial: Trial) -> Option<Time> {
        let known = &self.namespaces.all[key.0 as usize].known;
        match (trial, known.rule) {
            (Trial::Create, Rule::Unknown) => Some(known.begin_from),
            (Trial::Create, Rule::Off) => None,
            _ => Some(known.change_from),
        }
    }

    /// How often something else was found out of a namespace than was known.
    pub(in crate::engine) const fn news(&self) -> u64 {
        self.namespaces.news
    }

    /// Somebody is about to try something, and may need a while for that: nobody else does meanwhile.
    pub(in crate::engine) fn claim(&mut self, now: Time, key: ChannelKey, claim: &mut Option<Claim>) {
        if claim.is_some() && *claim == self.known(key).claim {
            return;
        }
        self.tries(now, key);
        self.namespaces.claims += 1;
        *claim = Some(Claim(self.namespaces.claims));
        self.known_mut(key).claim = *claim;
    }

    /// Whoever had claimed a trial does not try: if it is theirs still, anybody may.
    pub(in crate::engine) fn unclaim(&mut self, key: ChannelKey, claim: Option<Claim>) {
        let known = self.known_mut(key);
        if claim.is_none() || claim != known.claim {
            return;
        }
        (known.change_from, known.begin_from, known.claim) = (known.since, known.since, None);
        // Those who wait have been told when the next trial would be.
        self.namespaces.news += 1;
    }

    /// A trial leaves: the next one waits.
    pub(in crate::engine) fn tries(&mut self, now: Time, key: ChannelKey) {
        let known = self.known_mut(key);
        (known.change_from, known.begin_from) = (now + PROBE_EVERY, now + PROBE_EVERY);
        known.claim = None;
    }

    /// A message was made, and has a serial: if nothing is known of changes, one may be tried at once.
    pub(in crate::engine) fn named(&mut self, now: Time, key: ChannelKey) {
        let known = self.known_mut(key);
        if known.rule == Rule::Unknown {
            known.change_from = now;
        }
    }

    /// A message was made, and nobody said as which: where the rule is not known to be on, it is off. Whether that is news.
    pub(in crate::engine) fn unnamed(&mut self, now: Time, key: ChannelKey, sent_at: Time) -> bool {
        self.known(key).rule == Rule::Unknown && self.takes_no_changes(now, key, sent_at)
    }

    /// A change that was sent at `sent_at` was taken. If that was before changes were refused, it says nothing of now.
    pub(in crate::engine) fn takes_changes(&mut self, now: Time, key: ChannelKey, sent_at: Time) {
        let known = self.known_mut(key);
        if known.rule == Rule::Off && sent_at < known.since {
            return;
        }
        let is_news = known.rule != Rule::On;
        *known = Known::new(Rule::On, now, now);
        self.namespaces.news += u64::from(is_news);
    }

    /// A change that was sent at `sent_at` was refused because of the rule. If that was before others were taken, it says
    /// nothing of now. Whether that is news.
    pub(in crate::engine) fn takes_no_changes(&mut self, now: Time, key: ChannelKey, sent_at: Time) -> bool {
        let known = self.known_mut(key);
        if known.rule == Rule::On && sent_at < known.since {
            return false;
        }
        let is_news = known.rule != Rule::Off;
        let since = if is_news { now } else { known.since };
        *known = Known::new(Rule::Off, since, now + PROBE_EVERY);
        // It was for the rule and not for our credentials.
        *self.namespaces.refuses(self.namespace(key)) = None;
        self.namespaces.news += u64::from(is_news);
        is_news
    }

    fn known(&self, key: ChannelKey) -> &Known {
        &self.namespaces.all[self.namespace(key).0 as usize].known
    }

    fn known_mut(&mut self, key: ChannelKey) -> &mut Known {
        let key = self.namespace(key);
        &mut self.namespaces.all[key.0 as usize].known
    }
}

/// A channel's namespace: its name up to the first colon, without what stands before it in brackets. A name without a colon is
/// a namespace of its own for Ably, but there are as many of those as channels, and few rules: they go as one, without a name.
#[must_use]
pub fn namespace_of(channel: &str) -> Option<&str> {
    let name = channel.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(channel, |(_, name)| name);
    name.split_once(':').map(|(namespace, _)| namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_ends_at_the_first_colon() {
        for (channel, namespace) in [
            ("ai:a:b", Some("ai")),
            ("[?rewind=1]ai:x", Some("ai")),
            ("ai", None),
            ("[meta]x", None),
            ("[filter=a:b]x", None),
        ] {
            assert_eq!(namespace_of(channel), namespace, "{channel}");
        }
    }

    #[test]
    fn of_namespaces_that_rest_those_are_forgotten_first_of_which_nothing_is_known() {
        let mut namespaces = Namespaces::default();
        let enter = |namespaces: &mut Namespaces, number: usize| {
            namespaces.enter(Time::from_millis(number as u64), &format!("n{number}:x"))
        };
        let off = enter(&mut namespaces, 0);
        namespaces.all[off.0 as usize].known.rule = Rule::Off;
        namespaces.leave(off);
        for number in 1..=RESTING_MAX + 1 {
            let key = enter(&mut namespaces, number);
            namespaces.leave(key);
        }
        assert_eq!(namespaces.resting.len(), RESTING_MAX);
        assert_eq!(namespaces.all.len(), RESTING_MAX + 1, "places are used again");
        assert_eq!(enter(&mut namespaces, 0), off);
        assert_eq!(namespaces.all[off.0 as usize].known.rule, Rule::Off);
        assert!(!namespaces.by_name.contains_key("n1"));
    }
}
