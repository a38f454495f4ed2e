//! Messages that should not be there: made by an owner that told nobody, or twice by one create. They are looked for when the
//! text is finished, and emptied.

use std::sync::Arc;

use super::{LIMITS_DIFFER, LOOK_AGAIN, Made};
use crate::engine::backoff;
use crate::engine::effect::Found;
use crate::engine::op::Head;
use crate::engine::outcome::Serial;
use crate::engine::response::Response;
use crate::engine::time::Time;

impl Response {
    /// Whether there may be messages that should not be there.
    pub(in crate::engine) fn may_be_more(&self) -> bool {
        self.segments.others.as_ref().is_some_and(|others| others.orphans.is_some() || others.twins)
    }

    /// Whether a message that nobody knows would be found when the text is finished.
    pub(in crate::engine) fn finds_orphans(&self) -> bool {
        self.segments.others.as_ref().is_some_and(|others| others.orphans.is_some())
    }

    /// Whether an owner before us may have made messages that nobody knows: it had more text than one surely holds.
    pub(in crate::engine) fn may_have_orphans(&self) -> bool {
        let limit = self.segments.limit.unwrap_or_default();
        let orphans = self.segments.others.as_ref().and_then(|others| others.orphans.as_ref());
        orphans.is_some_and(|orphans| orphans.reach > limit / LIMITS_DIFFER)
    }

    /// The messages that it has or had, by segment and serial.
    pub(in crate::engine) fn messages(&self) -> Vec<(u32, Serial)> {
        let others = self.segments.others.as_deref();
        let former = others.into_iter().flat_map(|others| &others.former);
        let former = former.map(|made| (&made.head, made.serial.as_ref()));
        let all = former.chain([(&self.head, self.serial.as_ref())]);
        let serials = |(head, serial): (&Arc<Head>, Option<&Serial>)| {
            // One that nobody can name must not be taken for one too many.
            let is_told = serial.is_some() || (self.segments.surplus && head.segment >= self.count_segments());
            let segment = head.segment;
            let replaced = others.into_iter().flat_map(|others| &others.replaced).filter(move |_| is_told);
            let replaced = replaced.filter(move |(of, _)| *of == segment).map(|(_, serial)| serial.clone());
            serial.cloned().into_iter().chain(replaced).map(move |serial| (segment, serial))
        };
        all.flat_map(serials).collect()
    }

    /// They are being looked for.
    pub(in crate::engine) fn looks_behind(&mut self) {
        self.segments.others().looking = true;
    }

    /// Whether they were being looked for, which is over.
    pub(in crate::engine) fn looked_behind_it(&mut self) -> bool {
        self.segments.others.as_mut().is_some_and(|others| std::mem::take(&mut others.looking))
    }

    /// The history has been searched for messages that should not be there. One that was found is left over, after the
    /// present one.
    pub(in crate::engine) fn looked_behind(&mut self, now: Time, found: Found) {
        let found = match found {
            Found::Successor { serial, version, of, remade }
                if self.is_succeeded(remade, &serial, version.as_ref(), &of) =>
            {
                return;
            }
            // What it takes the place of is forgotten as it is.
            Found::Successor { serial, version, .. } => Found::Message { serial, version },
            found => found,
        };
        let head = Arc::new(self.head.of_segment(self.head.segment + 1, self.serial.clone()));
        let others = self.segments.others();
        match found {
            Found::Message { serial, version } => {
                let check = others.orphans.as_ref().and_then(|orphans| orphans.check.clone());
                let version = version.map_or_else(|| serial.to_string(), |version| version.to_string());
                others.beyond.push_back(Made { head, is_there: true, serial: Some(serial), version, remade: 0, check });
            }
            Found::Unreadable => {
                let times = others.look.1 + 1;
                others.look = (now + backoff::delay(LOOK_AGAIN, times), times);
            }
            Found::Nothing | Found::Others | Found::Successor { .. } | Found::Refused(_) => {
                (others.orphans, others.twins) = (None, false);
            }
        }
    }

    /// A message of an owner before us has taken the place of one of its own, which readers have forgotten: so it is that one's,
    /// and the texts are gone through again. Whether there was one.
    fn is_succeeded(&mut self, remade: u32, serial: &Serial, version: Option<&Serial>, of: &Serial) -> bool {
        let version = version.unwrap_or(serial).to_string();
        let former = self.segments.others.iter_mut().flat_map(|others| &mut others.former);
        let segment = if self.serial.as_ref() == Some(of) {
            self.create.remade = remade;
            self.head = Arc::new(self.head.remade(remade, Some(of.clone())));
            (self.serial, self.version) = (Some(serial.clone()), version);
            self.head.segment
        } else if let Some(made) = former.into_iter().find(|made| made.serial.as_ref() == Some(of)) {
            made.remade = remade;
            made.head = Arc::new(made.head.remade(remade, Some(of.clone())));
            (made.serial, made.version) = (Some(serial.clone()), version);
            made.head.segment
        } else {
            return false;
        };
        self.segments.replaced(segment, Some(of));
        self.segments.moved = true;
        true
    }
}
