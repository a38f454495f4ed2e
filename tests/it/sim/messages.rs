//! Messages on channels: what creates, appends and updates make of them, taken or refused.

use super::{Server, Verdict};
use crate::engine::{Latest, OpKind, Serial, Status};
use crate::sim::fault::Fault;
use crate::sim::frames::Frame;
use crate::sim::scene::{Due, SECOND, Scene, note};

/// How long the server recognises the id of a create.
const IDEMPOTENCY: u64 = 120 * SECOND;

/// For how long a message may be read as it was before.
pub(in crate::sim) const STALE: u64 = 2 * SECOND;

/// A message on a channel.
#[derive(Debug)]
pub(in crate::sim) struct Message {
    pub(in crate::sim) response_id: Box<str>,
    pub(in crate::sim) create_id: Box<str>,
    pub(in crate::sim) segment: u32,
    pub(in crate::sim) supersedes: Option<Serial>,
    pub(in crate::sim) serial: Serial,
    /// What readers see.
    pub(in crate::sim) text: String,
    pub(in crate::sim) status: Status,
    pub(in crate::sim) gone: bool,
    pub(super) made: u64,
    /// What the next append adds to; not always what readers see.
    base: String,
    /// Texts of rejected appends that will appear, and whether they stay.
    ghosts: Vec<(String, bool)>,
    version: u64,
    /// What it was before its latest version.
    before: Option<(u64, String, Status)>,
    /// When its latest version was made.
    changed: u64,
    /// Since when somebody else has changed it, and whether it was deleted then.
    pub(in crate::sim) others: Option<(u64, bool)>,
    /// The newest version that the client has been told of.
    pub(super) told: u64,
    rolling: Vec<Rolling>,
}

/// Appends of one connection to one message that wait to be published together.
#[derive(Debug)]
struct Rolling {
    connection: usize,
    published: u64,
    due: Option<u64>,
    text: String,
    status: Status,
    frames: Vec<usize>,
}

impl Message {
    /// The serial of its latest version.
    pub(in crate::sim) fn latest(&self) -> Serial {
        serial(self.version)
    }

    /// Bytes of its text, with what waits to be published.
    fn bytes(&self) -> usize {
        self.base.len() + self.rolling.iter().map(|rolling| rolling.text.len()).sum::<usize>()
    }

    /// What a read of it gives.
    pub(super) fn read(&self, scene: &mut Scene) -> Latest {
        let stale = scene.now < self.changed + STALE && scene.strikes(Fault::StaleRead);
        let now = || (self.version, self.text.clone(), self.status);
        let (version, text, status) = self.before.clone().filter(|_| stale).unwrap_or_else(now);
        let status = status.as_str().to_owned();
        // What somebody else has done stays among the versions, whatever comes after.
        match self.others.filter(|(since, _)| !stale || scene.now >= since + STALE) {
            Some((_, true)) => Latest::Deleted,
            others => Latest::Message { version: Some(serial(version)), text, status, ours: others.is_none() },
        }
    }
}

impl Server {
    pub(super) fn apply(&mut self, scene: &mut Scene, c: usize, frame: &Frame) -> Verdict {
        let verdict = self.apply_ours(scene, c, frame);
        if frame.kind != OpKind::Publish && !matches!(verdict, Verdict::Nack(_)) {
            self.meddle(scene, frame);
        }
        verdict
    }

    /// Somebody else changes a message that we have just changed.
    fn meddle(&mut self, scene: &mut Scene, frame: &Frame) {
        let by_serial = frame.serial.as_ref().and_then(|serial| self.by_serial.get(serial));
        let Some(m) = by_serial.or_else(|| self.by_create.get(&frame.create_id)).copied() else { return };
        let deletes = scene.strikes(Fault::Deleted);
        if !deletes && !scene.strikes(Fault::Edited) {
            return;
        }
        note!(scene, "server: somebody else {} message {m}", if deletes { "deletes" } else { "edits" });
        self.clock += 1;
        let message = &mut self.messages[m];
        message.before = Some((message.version, message.text.clone(), message.status));
        (message.changed, message.version) = (scene.now, self.clock);
        let (since, deleted) = message.others.unwrap_or((scene.now, false));
        message.others = Some((since, deleted || deletes));
        if !deletes {
            message.text = "not ours".to_owned();
            message.base.clone_from(&message.text);
            message.ghosts.clear();
        }
    }

    fn apply_ours(&mut self, scene: &mut Scene, c: usize, frame: &Frame) -> Verdict {
        let known = frame.serial.as_ref().and_then(|serial| self.by_serial.get(serial).copied());
        let before = known.filter(|_| frame.kind == OpKind::Append).map_or(0, |m| self.messages[m].bytes());
        if before + frame.text.len() > self.text_max {
            return Verdict::Nack(40_009);
        }
        if frame.kind == OpKind::Create {
            return self.create(scene, frame);
        }
        if frame.kind == OpKind::Publish {
            return self.publish_tokens(scene, frame);
        }
        let Some(m) = known.filter(|m| !self.messages[*m].gone) else { return Verdict::Nack(40_400) };
        // Not when a late append finds that its message has ended: nobody would come to know.
        let is_late = frame.kind == OpKind::Append && self.messages[m].status.is_terminal();
        if !is_late && scene.strikes(Fault::Gone) {
            let message = &mut self.messages[m];
            message.gone = true;
            for rolling in std::mem::take(&mut message.rolling) {
                self.say(&rolling, |_| Verdict::Nack(40_400));
            }
            return Verdict::Nack(40_400);
        }
        match frame.kind {
            OpKind::Append => self.append(scene, c, m, frame),
            OpKind::Update | OpKind::Create | OpKind::Publish => self.update(scene, c, m, frame),
        }
    }

    fn publish_tokens(&mut self, scene: &mut Scene, frame: &Frame) -> Verdict {
        let known = self.published_at.get(&frame.create_id);
        if known.is_none_or(|at| scene.now >= at + IDEMPOTENCY) || scene.strikes(Fault::IdsForgotten) {
            self.published_at.insert(frame.create_id.clone(), scene.now);
            self.published.extend(frame.tokens.iter().cloned());
        }
        self.clock += 1;
        Verdict::Ack(Some(serial(self.clock)))
    }

    fn create(&mut self, scene: &mut Scene, frame: &Frame) -> Verdict {
        let known = self.by_create.get(&frame.create_id).copied();
        let known = known.filter(|m| scene.now < self.messages[*m].made + IDEMPOTENCY);
        if let Some(m) = known.filter(|_| !scene.strikes(Fault::Twice)) {
            if scene.strikes(Fault::Phantom) {
                self.clock += 1;
                return Verdict::Ack(Some(serial(self.clock)));
            }
            let unnamed = self.names_nothing(scene) || scene.strikes(Fault::CreateNull);
            return Verdict::Ack((!unnamed).then(|| self.messages[m].serial.clone()));
        }
        self.clock += 1;
        let m = self.messages.len();
        let serial = serial(self.clock);
        self.messages.push(Message {
            response_id: frame.response_id.clone(),
            create_id: frame.create_id.clone(),
            segment: frame.segment,
            supersedes: frame.supersedes.clone(),
            serial: serial.clone(),
            text: frame.text.to_string(),
            status: frame.status,
            gone: false,
            made: scene.now,
            base: frame.text.to_string(),
            ghosts: Vec::new(),
            version: self.clock,
            before: None,
            changed: scene.now,
            others: None,
            told: 0,
            rolling: Vec::new(),
        });
        self.by_create.insert(frame.create_id.clone(), m);
        self.by_serial.insert(serial.clone(), m);
        let unnamed = self.names_nothing(scene) || scene.strikes(Fault::CreateNull);
        Verdict::Ack((!unnamed).then_some(serial))
    }

    fn append(&mut self, scene: &mut Scene, c: usize, m: usize, frame: &Frame) -> Verdict {
        let rollup = self.rollup;
        let message = &mut self.messages[m];
        let at = message.rolling.iter().position(|rolling| rolling.connection == c);
        let at = at.filter(|at| {
            let rolling = &message.rolling[*at];
            rolling.due.is_some() || scene.now < rolling.published + rollup
        });
        let Some(at) = at else {
            message.rolling.retain(|rolling| rolling.connection != c);
            let rolling = Rolling {
                connection: c,
                published: scene.now,
                due: None,
                text: String::new(),
                status: frame.status,
                frames: Vec::new(),
            };
            message.rolling.push(rolling);
            return Verdict::Ack(Some(self.publish(scene.now, m, &frame.text, frame.status)));
        };
        let rolling = &mut message.rolling[at];
        rolling.text.push_str(&frame.text);
        rolling.status = frame.status;
        if rolling.due.is_none() {
            rolling.due = Some(rolling.published + rollup);
            scene.at(rolling.published + rollup, Due::Flush(m));
        }
        if scene.strikes(Fault::AckEarly) {
            self.clock += 1;
            return Verdict::Ack((!scene.strikes(Fault::NullSerials)).then(|| serial(self.clock)));
        }
        rolling.frames.push(frame.number);
        Verdict::Pending
    }

    /// Publishes what was rolled up for a message.
    pub(in crate::sim) fn flush(&mut self, scene: &mut Scene, m: usize) {
        for at in 0..self.messages[m].rolling.len() {
            let rolling = &mut self.messages[m].rolling[at];
            if rolling.due.is_none_or(|due| due > scene.now) {
                continue;
            }
            rolling.due = None;
            rolling.published = scene.now;
            let group = Rolling {
                text: std::mem::take(&mut rolling.text),
                frames: std::mem::take(&mut rolling.frames),
                ..*rolling
            };
            let refused = !group.frames.is_empty() && scene.strikes(Fault::NackGroup);
            note!(scene, "server: message {m} flushes {:?}{}", group.text, if refused { ", refused" } else { "" });
            if refused {
                if scene.rng.bool() {
                    self.haunt_with(scene, m, &group.text);
                }
                self.say(&group, |_| Verdict::Nack(42_913));
            } else {
                let version = self.publish(scene.now, m, &group.text, group.status);
                let nulls = scene.strikes(Fault::NullSerials);
                let last = group.frames.last().copied();
                self.say(&group, |frame| Verdict::Ack((!nulls || Some(frame) == last).then(|| version.clone())));
            }
            self.answer_later(scene, group.connection);
        }
    }

    fn publish(&mut self, now: u64, m: usize, text: &str, status: Status) -> Serial {
        self.clock += 1;
        let message = &mut self.messages[m];
        message.before = Some((message.version, message.text.clone(), message.status));
        message.changed = now;
        message.text.clone_from(&message.base);
        for (ghost, stays) in message.ghosts.drain(..) {
            message.text.push_str(&ghost);
            if stays {
                message.base.push_str(&ghost);
            }
        }
        message.text.push_str(text);
        message.base.push_str(text);
        message.status = status;
        message.version = self.clock;
        serial(self.clock)
    }

    fn update(&mut self, scene: &mut Scene, c: usize, m: usize, frame: &Frame) -> Verdict {
        let told = self.messages[m].told;
        if told > 0 && scene.strikes(Fault::UpdateLost) {
            return Verdict::Ack(Some(serial(told - scene.rng.u64(..2).min(told))));
        }
        // It supersedes what waits of its own connection.
        let message = &mut self.messages[m];
        let superseded: Vec<_> = message.rolling.extract_if(.., |rolling| rolling.connection == c).collect();
        message.ghosts.clear();
        self.clock += 1;
        message.before = Some((message.version, message.text.clone(), message.status));
        message.changed = scene.now;
        if !frame.keeps_text {
            message.text = frame.text.to_string();
        }
        message.status = frame.status;
        message.version = self.clock;
        // Its headers are replaced as a whole.
        (message.create_id, message.segment) = (frame.create_id.clone(), frame.segment);
        message.supersedes.clone_from(&frame.supersedes);
        let foreign = scene.strikes(Fault::UpdateSuperseded);
        if foreign {
            message.text.push('\u{2620}');
        }
        message.base.clone_from(&message.text);
        for rolling in superseded {
            self.say(&rolling, |_| Verdict::Ack(None));
        }
        Verdict::Ack((!foreign).then(|| serial(self.clock)))
    }

    /// What becomes of the text of a rejected append.
    pub(super) fn haunt(&mut self, scene: &mut Scene, frame: &Frame) {
        let known = frame.serial.as_ref().and_then(|serial| self.by_serial.get(serial).copied());
        if let Some(m) = known {
            self.haunt_with(scene, m, &frame.text);
        }
    }

    fn haunt_with(&mut self, scene: &mut Scene, m: usize, text: &str) {
        let next = scene.strikes(Fault::FoldNext);
        if next || scene.strikes(Fault::FoldLater) {
            self.messages[m].ghosts.push((text.to_owned(), !next));
        }
    }

    fn say(&mut self, rolling: &Rolling, verdict: impl Fn(usize) -> Verdict) {
        for frame in &rolling.frames {
            // A frame that was taken when it comes first has no entry before it is given one.
            if let Some(entry) = self.connections[rolling.connection].verdicts.get_mut(*frame) {
                *entry = verdict(*frame);
            }
        }
    }
}

pub(super) fn serial(clock: u64) -> Serial {
    format!("{clock:06}").into()
}
