//! Messages that were made and whose serial is not known: an acknowledgement named none, or one that is not there.
//!
//! They are looked for in the channel's history at once. That a create was taken is known, so its message is there or will be;
//! another create would at best be told as little again.

use super::effect::Found;
use super::next::Next;
use super::outcome::Serial;
use super::response::Response;
use super::settings::Settings;
use super::time::Time;

/// How often a message is looked for whose serial is not there, before it is believed to be nowhere: history may lag.
pub(super) const SEARCHES: u8 = 5;

impl Response {
    /// Takes in what the channel's history says of a create that was long in doubt.
    pub(super) fn looked_up(&mut self, now: Time, found: Found, settings: &Settings) {
        self.looking_up = false;
        if found == Found::Others {
            return self.leave_to_others();
        }
        let behind = self.looked_behind_it();
        if self.create.search {
            // What was asked before it was lost says nothing of it.
            if !behind {
                self.searched(now, found, settings);
            }
            return;
        }
        if behind {
            return self.looked_behind(now, found);
        }
        if self.create.unnamed {
            return self.named(now, &found);
        }
        match found {
            Found::Message { serial, version } => self.adopt(now, serial, version.as_ref(), settings),
            Found::Nothing | Found::Others | Found::Successor { .. } => self.create.sent_at = None,
            Found::Unreadable | Found::Refused(_) if self.cut_off.is_some() => self.create.sent_at = None,
            // That one was made anew by somebody before us is unlikely, and no reason to fail.
            Found::Refused(_) if self.create.remade > 0 => self.create.sent_at = None,
            Found::Unreadable => self.repair.failed(now, settings.reconcile.debounce),
            Found::Refused(rejection) => self.refused(now, &rejection, settings),
        }
    }

    /// That is its message.
    pub(super) fn adopt(&mut self, now: Time, serial: Serial, version: Option<&Serial>, settings: &Settings) {
        self.raise_version(Some(&serial));
        self.raise_version(version);
        self.serial = Some(serial);
        self.create.found = true;
        self.repair.taint(now, self.quiet_time(settings));
        self.segments.doubt_twins(now, &settings.reconcile);
    }

    /// An owner before us may have created its message, and appended to it.
    pub(super) fn doubt_create(&mut self) {
        self.create.doubtful = true;
        // The first use of its id may have died with an owner that told nobody.
        let first = self.create.sent_at.map_or(self.started_at, |sent_at| sent_at.min(self.started_at));
        self.create.sent_at = Some(first);
    }

    /// Its message is not where an answer has said that it is. True if another one may be it: nobody knows what a create made
    /// that was sent more than once.
    pub(super) fn is_misled(&self) -> bool {
        self.serial.is_some() && self.create.doubtful && !self.create.found
    }

    /// What it wants while its message is to be looked for.
    pub(super) fn next_search(&self, now: Time) -> Next {
        let not_before = self.repair.not_before();
        match () {
            () if !self.in_flight.is_empty() || self.looking_up => Next::Nothing,
            () if now < not_before => Next::At(not_before),
            () => Next::LookUp,
        }
    }

    /// Takes in what the search has found.
    pub(super) fn searched(&mut self, now: Time, found: Found, settings: &Settings) {
        let debounce = settings.reconcile.debounce;
        self.create.search = false;
        match found {
            Found::Message { serial, .. } if self.serial.as_ref() == Some(&serial) => self.gone = true,
            Found::Message { serial, version } => {
                // A serial that is not there says nothing of versions either.
                self.version.clear();
                self.adopt(now, serial, version.as_ref(), settings);
            }
            Found::Unreadable => {
                self.create.search = true;
                self.repair.failed(now, debounce);
            }
            Found::Refused(rejection) if self.serial.is_some() => {
                self.create.search = true;
                self.refused(now, &rejection, settings);
            }
            Found::Nothing if self.serial.is_some() => {
                self.create.searched += 1;
                self.create.search = self.create.searched < SEARCHES;
                self.gone = !self.create.search;
                self.repair.failed(now, debounce);
            }
            // It may be in history later: the same create is sent again, and may be told more.
            Found::Nothing | Found::Others | Found::Successor { .. } | Found::Refused(_) => {
                self.repair.failed(now, debounce);
            }
        }
    }
}
