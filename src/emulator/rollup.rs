//! Rollup: appends of one connection to one message within a window go out as one.
//!
//! The first goes out at once; what comes within the window after it is joined, the last extras and version metadata win, and
//! goes out at the window's end, whatever has become of the connection by then.

use std::time::Duration;

use super::faults::SizeIn;
use super::message::{Mutation, data_size, joined};

/// The appends of one connection to one message.
#[derive(Debug)]
pub(super) struct Rollup {
    /// When the last one went out, in milliseconds.
    published: u64,
    /// What is joined, and the version serial that it will have.
    pending: Option<(Mutation, String)>,
}

/// What becomes of an append.
#[derive(Debug)]
pub(super) enum Rolled {
    /// It goes out at once.
    Now(Box<Mutation>),
    /// It is the first to wait; to be flushed after so long.
    Waits(Duration),
    /// It has joined one that waits, under this version serial.
    Joined(String),
}

impl Rollup {
    pub(super) const fn new() -> Self {
        Self { published: 0, pending: None }
    }

    /// Whether the next append would join one that waits.
    pub(super) const fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// What waits counts so much.
    pub(super) fn size(&self, unit: SizeIn) -> usize {
        let data = self.pending.as_ref().and_then(|(mutation, _)| mutation.data.as_ref());
        data.map_or(0, |data| data_size(data, unit))
    }

    /// Takes an append in. What waits has the version serial of its first append, or that of its last if each has its `own`.
    pub(super) fn append(
        &mut self,
        mutation: Mutation,
        now_ms: u64,
        window: Duration,
        version: &str,
        own: bool,
    ) -> Rolled {
        if let Some((pending, serial)) = &mut self.pending {
            join(pending, mutation);
            if own {
                version.clone_into(serial);
            }
            return Rolled::Joined(serial.clone());
        }
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let age = now_ms.saturating_sub(self.published);
        if age >= window_ms {
            self.published = now_ms;
            return Rolled::Now(Box::new(mutation));
        }
        self.pending = Some((mutation, version.to_owned()));
        Rolled::Waits(Duration::from_millis(window_ms - age))
    }

    /// The window has ended: what was joined goes out.
    pub(super) fn flush(&mut self, now_ms: u64) -> Option<(Mutation, String)> {
        self.published = now_ms;
        self.pending.take()
    }
}

fn join(pending: &mut Mutation, next: Mutation) {
    pending.data = joined(pending.data.take(), next.data);
    pending.extras = next.extras.or(pending.extras.take());
    pending.name = next.name.or(pending.name.take());
    pending.version = next.version;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::wire::{Data, MessageVersion, message_action};

    const WINDOW: Duration = Duration::from_millis(40);

    fn append(text: &'static str, reason: Option<&'static str>) -> Mutation {
        Mutation {
            action: message_action::APPEND,
            name: None,
            data: Some(Data::Text(text.into())),
            encoding: None,
            extras: reason.map(|reason| serde_json::json!({"headers": {"reason": reason}})),
            version: MessageVersion { description: reason.map(Into::into), ..MessageVersion::default() },
        }
    }

    #[test]
    fn the_first_goes_out_and_the_others_are_joined() {
        let mut rollup = Rollup::new();
        assert!(matches!(rollup.append(append("a", None), 1_000, WINDOW, "u", false), Rolled::Now(_)));
        let waits = rollup.append(append("b", Some("x")), 1_010, WINDOW, "v", false);
        assert!(matches!(waits, Rolled::Waits(after) if after == Duration::from_millis(30)));
        let joined = rollup.append(append("c", None), 1_020, WINDOW, "w", false);
        assert!(matches!(joined, Rolled::Joined(version) if version == "v"));
        assert_eq!(rollup.size(SizeIn::Bytes), 2);
        let (joined, version) = rollup.flush(1_040).expect("two wait");
        assert_eq!((joined.data, version.as_str()), (Some(Data::Text("bc".into())), "v"));
        assert!(joined.extras.is_some(), "extras that are not said again stay");
        assert_eq!(joined.version.description, None, "the last operation is the one that is told of");
        assert!(rollup.flush(1_080).is_none());
    }

    #[test]
    fn each_append_can_have_a_version_of_its_own() {
        let mut rollup = Rollup::new();
        for (version, at) in [("u", 1_000), ("v", 1_010)] {
            rollup.append(append("a", None), at, WINDOW, version, true);
        }
        let joined = rollup.append(append("c", None), 1_020, WINDOW, "w", true);
        assert!(matches!(joined, Rolled::Joined(version) if version == "w"));
        assert_eq!(rollup.flush(1_040).expect("two wait").1, "w");
    }

    #[test]
    fn without_a_window_nothing_waits() {
        let mut rollup = Rollup::new();
        for _ in 0..3 {
            assert!(matches!(rollup.append(append("a", None), 1, Duration::ZERO, "v", false), Rolled::Now(_)));
        }
        assert!(!rollup.is_waiting());
    }
}
