//! The planted bugs: one line each, every one a mistake that somebody could make.

/// A planted bug: in `file`, `right` becomes `wrong`.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    pub(super) right: &'static str,
    pub(super) wrong: &'static str,
}

const fn mutant(name: &'static str, file: &'static str, right: &'static str, wrong: &'static str) -> Mutant {
    Mutant { name, file, right, wrong }
}

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "appends go on while tainted",
        "engine/next.rs",
        "if self.repair.needs_full_text() {",
        "if self.repair.needs_full_text() && self.end.is_some() {",
    ),
    mutant(
        "a repair does not wait for what is in flight",
        "engine/next.rs",
        "return if quiet { self.next_update(now, when) } else { Next::Nothing };",
        "return self.next_update(now, when);",
    ),
    mutant(
        "the terminal marker is omitted",
        "engine/next.rs",
        "let status = self.end.unwrap_or(Status::Streaming);",
        "let status = Status::Streaming;",
    ),
    mutant(
        "an update that was taken without a version cleans",
        "engine/response.rs",
        "let newest = self.raise_version(serial);",
        "let newest = self.raise_version(serial) || serial.is_none();",
    ),
    mutant(
        "an update that was taken with an older version cleans",
        "engine/response.rs",
        "let newest = self.raise_version(serial);",
        "let newest = self.raise_version(serial) || serial.is_some();",
    ),
    mutant("an append that was written twice does not taint", "engine/response.rs", "if resent {", "if false {"),
    mutant(
        "an acknowledged append cleans",
        "engine/response.rs",
        "if resent {",
        "self.repair.cleaned(now);\nif resent {",
    ),
    mutant(
        "a refusal counts as an acknowledgement",
        "engine/response.rs",
        "Outcome::Rejected(rejection) => self.rejected(now, operation, rejection, settings),",
        "Outcome::Rejected(_) => self.acked(now, operation, None, false, settings),",
    ),
    mutant(
        "a create in doubt is repeated with another id",
        "engine/response.rs",
        "        self.counts.unknown += 1;\n",
        "        self.counts.unknown += 1;\nif operation.kind == OpKind::Create { self.remake(); }\n",
    ),
    mutant("the final text is ignored", "engine/response.rs", "self.text.replace(text);", ""),
    mutant(
        "a final text is taken for sent with the full text in flight",
        "engine/response.rs",
        "            self.outdated = true;\n            self.repair.taint(now, settings.reconcile.debounce);\n        }\n    }\n\n    fn count",
        "            self.repair.taint(now, settings.reconcile.debounce);\n        }\n    }\n\n    fn count",
    ),
    mutant(
        "a message whose connection changed is appended to",
        "engine/response.rs",
        "        if self.serial.is_some() {\n            self.repair.moved(",
        "        if false {\n            self.repair.moved(",
    ),
    mutant(
        "nobody waits for what a lost connection left behind",
        "engine/reconcile.rs",
        "debounce.max(append_rollup + ROLLUP_MARGIN)",
        "debounce.min(append_rollup)",
    ),
    mutant(
        "an outage counts as a failure",
        "engine/reconcile.rs",
        "Class::Operation | Class::MessageGone => {",
        "Class::Operation | Class::MessageGone | Class::Transient => {",
    ),
    mutant(
        "refused updates are repeated without a pause",
        "engine/reconcile.rs",
        "self.taint(now, backoff::delay(wait, self.failures));",
        "self.taint(now, wait);",
    ),
    mutant(
        "the watermark passes open responses",
        "engine/ledger.rs",
        "self.holds.first().map_or(self.next, |hold| hold.offset)",
        "self.next",
    ),
    mutant(
        "a response is let go before its results are durable",
        "engine/ledger.rs",
        "self.ending.push_back((self.reports_made - 1, hold));",
        "self.holds.remove(&hold);",
    ),
    mutant(
        "a dead letter does not hold the watermark",
        "engine/ledger.rs",
        "self.dead_letters.push_back((offset, hold));",
        "self.holds.remove(&hold);",
    ),
    mutant(
        "idle time passes while nothing is read",
        "engine/intake.rs",
        "self.caught_up_since = caught_up.then(|| self.caught_up_since.unwrap_or(now));",
        "self.caught_up_since = Some(self.caught_up_since.unwrap_or(now)).filter(|_| caught_up || true);",
    ),
    mutant(
        "one operation more than the limit is in flight",
        "engine/flow.rs",
        "connection.operations < self.limits.in_flight_operations",
        "connection.operations <= self.limits.in_flight_operations",
    ),
    mutant("channels need not be allowed", "engine/channel.rs", "if !self.allow.is_match(&*name) {", "if false {"),
    mutant(
        "a frame that was jumped over counts as acknowledged",
        "ably/session.rs",
        "Settled::Skipped => Outcome::Unknown(Doubt::Skipped),",
        "Settled::Skipped => Outcome::Acked { serial: None },",
    ),
    mutant(
        "nobody is told that a frame was written twice",
        "ably/session/unanswered.rs",
        "frame.resent |= index < self.written;",
        "frame.resent |= index > self.written;",
    ),
];
