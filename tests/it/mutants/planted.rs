//! The planted bugs: one line each, every one a mistake that somebody could make.

/// A planted bug: in `file`, `right` becomes `wrong`.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    pub(super) right: &'static str,
    pub(super) wrong: &'static str,
    /// Much like others, or found only after a while: planted in the long form alone.
    pub(super) long: bool,
}

const fn mutant(name: &'static str, file: &'static str, right: &'static str, wrong: &'static str) -> Mutant {
    Mutant { name, file, right, wrong, long: false }
}

const fn rarer(name: &'static str, file: &'static str, right: &'static str, wrong: &'static str) -> Mutant {
    Mutant { long: true, ..mutant(name, file, right, wrong) }
}

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "appends go on while tainted",
        "engine/next.rs",
        "if self.repair.needs_full_text() {",
        "if self.repair.needs_full_text() && self.end.is_some() {",
    ),
    mutant(
        "nobody looks whether a create in doubt made two messages",
        "engine/segment.rs",
        "others.twins = true;",
        "others.twins = false;",
    ),
    mutant(
        "a repair does not wait for what is in flight",
        "engine/next.rs",
        "return if quiet { self.next_update(now, policy) } else { Next::Nothing };",
        "return self.next_update(now, policy);",
    ),
    mutant(
        "the last word does not wait for what is on its way",
        "engine/give_up.rs",
        "true if now < self.repair.quiet_from() =>",
        "true if false =>",
    ),
    mutant(
        "nobody looks again when nothing can land any more",
        "engine/verify.rs",
        "if asked >= check.late_until {",
        "if true {",
    ),
    mutant(
        "a serial that is not there is taken for a message that is gone",
        "engine/response.rs",
        "self.create.search = self.is_misled();",
        "self.create.search = false;",
    ),
    mutant(
        "what differs is believed to be right",
        "engine/verify.rs",
        "let same = is_text &&",
        "let same = (is_text || true) &&",
    ),
    mutant(
        "the terminal marker is omitted",
        "engine/next.rs",
        "let status = closing.unwrap_or(Status::Streaming);",
        "let status = Status::Streaming;",
    ),
    mutant(
        "an update that was taken without a version cleans",
        "engine/response.rs",
        "let newest = self.raise_version(serial);",
        "let newest = self.raise_version(serial) || serial.is_none();",
    ),
    rarer(
        "an update that was taken with an older version cleans",
        "engine/response.rs",
        "let newest = self.raise_version(serial);",
        "let newest = self.raise_version(serial) || serial.is_some();",
    ),
    mutant("an append that was written twice does not taint", "engine/response.rs", "if resent {", "if false {"),
    rarer(
        "an acknowledged append cleans",
        "engine/response.rs",
        "if resent {",
        "self.repair.cleaned(now);\nif resent {",
    ),
    rarer(
        "a refusal counts as an acknowledgement",
        "engine/response.rs",
        "Outcome::Rejected(rejection) => self.rejected(now, operation, rejection, settings),",
        "Outcome::Rejected(_) => self.acked(now, operation, None, false, settings),",
    ),
    rarer(
        "a create in doubt is repeated with another id",
        "engine/response.rs",
        "        self.counts.unknown += 1;\n",
        "        self.counts.unknown += 1;\nif operation.kind == OpKind::Create { self.remake(); }\n",
    ),
    mutant("the final text is ignored", "engine/response.rs", "self.text.replace(text);", ""),
    rarer(
        "a final text is taken for sent with the full text in flight",
        "engine/response.rs",
        "            self.outdated = true;\n            self.repair.taint(now, settings.reconcile.debounce);\n        }\n    }\n\n    fn count",
        "            self.repair.taint(now, settings.reconcile.debounce);\n        }\n    }\n\n    fn count",
    ),
    rarer(
        "a message whose connection changed is appended to",
        "engine/response.rs",
        "        if self.serial.is_some() || self.head.segment > 0 {\n            self.repair.moved(",
        "        if false {\n            self.repair.moved(",
    ),
    mutant(
        "nobody waits for what a lost connection left behind",
        "engine/reconcile.rs",
        "debounce.max(append_rollup + ROLLUP_MARGIN)",
        "debounce.min(append_rollup)",
    ),
    rarer(
        "an outage counts as a failure",
        "engine/reconcile.rs",
        "Class::Operation | Class::MessageGone => {",
        "Class::Operation | Class::MessageGone | Class::Transient => {",
    ),
    rarer(
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
    rarer(
        "a dead letter does not hold the watermark",
        "engine/ledger.rs",
        "self.dead_letters.push_back((offset, hold));",
        "self.holds.remove(&hold);",
    ),
    mutant(
        "requests of one response do not wait for each other",
        "engine/drive.rs",
        "if alone && !response.in_flight.is_empty() {",
        "if alone && response.in_flight.len() > 1 {",
    ),
    rarer(
        "a request without an answer leaves nothing behind that could land late",
        "engine/response.rs",
        "matches!(doubt, Doubt::ConnectionLost | Doubt::NoAnswer);",
        "matches!(doubt, Doubt::ConnectionLost);",
    ),
    rarer(
        "idle time passes while nothing is read",
        "engine/intake.rs",
        "self.caught_up_since = caught_up.then(|| self.caught_up_since.unwrap_or(now));",
        "self.caught_up_since = Some(self.caught_up_since.unwrap_or(now)).filter(|_| caught_up || true);",
    ),
    rarer(
        "one operation more than the limit is in flight",
        "engine/flow/permit.rs",
        "connection.operations < self.limits.in_flight_operations",
        "connection.operations <= self.limits.in_flight_operations",
    ),
    mutant(
        "what a channel takes is not asked",
        "engine/flow/permit.rs",
        "match channel.rate.wait(now, 1.0, ahead).max(bandwidth) {",
        "match bandwidth {",
    ),
    rarer(
        "what is published at the end of a window is free",
        "engine/next.rs",
        "self.published_at.is_none_or(|published| now >= published)",
        "self.published_at.is_none_or(|published| now.since(published) >= Duration::from_millis(40))",
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
    mutant(
        "an offset is committed past an open response",
        "pipeline/stay.rs",
        "true => (engine.watermark_once_durable(), engine.letters().to_vec()),",
        "true => (engine.next_offset(), engine.letters().to_vec()),",
    ),
    mutant(
        "an owner that is not done says that it left in order",
        "pipeline/stay.rs",
        "true if engine.is_clear() && (with_all || engine.is_durable()) => Ending::Clean,",
        "true => Ending::Clean,",
    ),
    mutant(
        "an owner that goes on is taken for one that has read no more",
        "kafka/handover.rs",
        "if self.ending == Ending::None { end } else { self.read.min(end) }",
        "self.read.min(end)",
    ),
    mutant(
        "the epoch is not raised",
        "kafka/predecessor.rs",
        "Inheritance { epoch: epoch + 1, begun_below",
        "Inheritance { epoch, begun_below",
    ),
    mutant(
        "results are written outside the transaction",
        "fleet/broker.rs",
        "entries.push(Entry { state: State::Open, value });",
        "entries.push(Entry { state: State::Committed, value });",
    ),
    mutant(
        "a takeover reads what is not committed",
        "fleet/broker.rs",
        "entries.iter().filter(|entry| entry.state == State::Committed)",
        "entries.iter().filter(|entry| entry.state != State::Marker)",
    ),
    mutant(
        "a takeover reads to the last stable offset of the moment",
        "fleet/intake.rs",
        "Taking::History(assigned, stretch) if self.broker.stable(partition) < stretch.end => {",
        "Taking::History(assigned, stretch) if false => {",
    ),
    mutant(
        "a takeover does not wait for the transaction that is to change the offset",
        "fleet/broker.rs",
        "(!is_unstable).then(|| self.offsets[partition].clone())",
        "Some(self.offsets[partition].clone())",
    ),
    mutant(
        "a process goes on after its lease",
        "fleet/world.rs",
        "is_some_and(|since| since + self.plan.session <= self.scene.now)",
        "is_some_and(|_| false)",
    ),
    mutant(
        "what a takeover finds is appended to",
        "engine/inherit.rs",
        "        self.repair.moved(now, wait);\n        if past.ever_tainted {",
        "        return;\n        if past.ever_tainted {",
    ),
    mutant(
        "what is settled is not passed over",
        "engine/inherit.rs",
        "self.remembered.insert(key, through, revival, next);",
        "",
    ),
    rarer(
        "a new owner counts operations anew",
        "engine/inherit.rs",
        "self.counts.operations = past.operations;",
        "self.counts.operations = 0;",
    ),
    rarer(
        "a new owner repeats a create with another id",
        "engine/inherit.rs",
        "Some(create) => create.id.clone(),",
        "Some(create) => format!(\"{}~9\", create.id).into(),",
    ),
    mutant(
        "an owner begins before those after it can know",
        "engine/drive.rs",
        "if self.draining || self.unannounced || response.blocked {",
        "if self.draining || response.blocked {",
    ),
    rarer(
        "dead letters of owners before are not told on",
        "engine/ledger.rs",
        "self.letters = letters;",
        "drop(letters);",
    ),
    rarer(
        "the id of a create counts from its last use",
        "engine/next.rs",
        "self.create.sent_at.get_or_insert(now);\n            self.outdated = false;",
        "self.create.sent_at = Some(now);\n            self.outdated = false;",
    ),
    rarer(
        "nobody thinks of a create that died untold",
        "engine/search.rs",
        "map_or(self.started_at, |sent_at| sent_at.min(self.started_at))",
        "unwrap_or(self.started_at)",
    ),
    mutant(
        "text that may have to be cut is not held back",
        "engine/segment.rs",
        "_ => self.text.floor(sure),",
        "all => all,",
    ),
    mutant(
        "a new owner cuts a text that is cut already by its own limit",
        "engine/segment.rs",
        "(self.from, self.limit, self.moved) = (place.from, place.limit, place.superseded);",
        "(self.from, self.limit, self.moved) = (place.from, None, place.superseded);",
    ),
    mutant(
        "messages that nobody knows are not looked for",
        "engine/segment.rs",
        "true => Next::LookBehind,",
        "true => Next::Settle,",
    ),
    rarer(
        "a text that is another one in the end is not gone through from its first message on",
        "engine/segment.rs",
        "self.segments.moved |= has_others;",
        "",
    ),
    rarer(
        "messages that are left over are not emptied",
        "engine/segment.rs",
        "if self.is_full() || is_left_over {",
        "if self.is_full() {",
    ),
    rarer(
        "the next message is made before the one before is finished",
        "engine/next.rs",
        "false if quiet && self.terminal_sent => self.next_check(now, policy),",
        "false if self.terminal_sent => self.next_check(now, policy),",
    ),
    rarer(
        "a connection that carries what left with its partition is resumed",
        "engine.rs",
        "if !response.in_flight.is_empty() && !carrying.contains(&connection) {",
        "if false {",
    ),
    mutant("a takeover writes without looking", "engine/inherit.rs", "self.look_first(now, policy);", ""),
    mutant(
        "what is seen to be somebody else's is written all the same",
        "engine/verify.rs",
        "if latest.is_others() {",
        "if false {",
    ),
    rarer(
        "what is found to be somebody else's is searched for again",
        "engine/search.rs",
        "if found == Found::Others {",
        "if false {",
    ),
    mutant(
        "a stop does not wait for the answers to tokens",
        "engine/per_token.rs",
        "PublishName::ResponseComplete | PublishName::Stop if !quiet => return Next::Nothing,",
        "PublishName::ResponseComplete if !quiet => return Next::Nothing,",
    ),
    mutant(
        "no full text follows a token that may be lost",
        "engine/per_token/answers.rs",
        "                tokens.failed(now, wait);\n                self.repair.taint(now, wait);",
        "",
    ),
    mutant(
        "a takeover publishes tokens that may be there",
        "engine/response.rs",
        "let in_doubt = self.takeover.is_some_and(|takeover| offset < takeover.before && self.per_token.is_some());",
        "let in_doubt = false;",
    ),
    mutant(
        "no full text follows tokens that an owner before may have published",
        "engine/inherit.rs",
        "tokens.doubt();",
        "",
    ),
    rarer(
        "a full text that was written again is believed to be there",
        "engine/per_token/answers.rs",
        "PublishName::ResponseComplete | PublishName::Stop if resent => {",
        "PublishName::ResponseComplete | PublishName::Stop if false => {",
    ),
];
