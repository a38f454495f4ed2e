//! What pages are told: which responses there are, what happened to them, and the counters. A page that comes late is told
//! first what it needs to catch up.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::generator::Script;
use super::results::{Mark, Marked};

/// Responses that a page is told of when it comes late: as many as it shows.
const RECENT: usize = 24;
/// Events that a slow page may lag behind before it misses some.
const BACKLOG: usize = 2_048;

/// Something to tell, and the name of the event.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// The event's name.
    pub(super) event: &'static str,
    /// Its content.
    pub(super) data: Value,
}

/// A response that a late page must know of, and what it has missed of it.
#[derive(Debug)]
struct Recent {
    id: String,
    begin: Value,
    marks: Vec<Value>,
}

#[derive(Debug, Default)]
struct Known {
    recent: VecDeque<Recent>,
    faults: String,
}

/// The meeting point of those who tell and those who listen.
#[derive(Debug)]
pub(super) struct Hub {
    known: Mutex<Known>,
    told: broadcast::Sender<Told>,
}

impl Hub {
    /// A hub that knows which faults are on.
    pub(super) fn new(faults: &str) -> Self {
        let known = Known { recent: VecDeque::new(), faults: faults.to_owned() };
        Self { known: Mutex::new(known), told: broadcast::Sender::new(BACKLOG) }
    }

    /// A response begins.
    pub(super) fn begin(&self, script: &Script) {
        let begin = json!({
            "id": script.id, "channel": script.channel, "parts": script.expected.len(), "format": script.format,
            "question": script.answer.question, "language": script.answer.language, "code": script.answer.code,
            "direction": script.answer.direction, "tokensPerSecond": script.tokens_per_second,
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.recent.push_back(Recent { id: script.id.clone(), begin: begin.clone(), marks: Vec::new() });
        while known.recent.len() > RECENT {
            known.recent.pop_front();
        }
        self.tell("begin", begin);
    }

    /// Something happened to a response. `sha256` is that of what was produced.
    pub(super) fn mark(&self, marked: &Marked, sha256: Option<&str>) {
        let (name, outcome) = match &marked.mark {
            Mark::Broken => ("broken", None),
            Mark::Healed => ("healed", None),
            Mark::Settled { outcome } => ("settled", Some(outcome)),
        };
        let mark = json!({
            "id": marked.response_id, "part": marked.part, "mark": name, "outcome": outcome, "sha256": sha256,
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recent) = known.recent.iter_mut().find(|recent| recent.id == marked.response_id) {
            recent.marks.push(mark.clone());
        }
        self.tell("mark", mark);
    }

    /// The faults were switched.
    pub(super) fn faults(&self, list: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        list.clone_into(&mut known.faults);
        self.tell("faults", json!({ "list": list }));
    }

    /// Tells everybody who listens; nobody has to.
    pub(super) fn tell(&self, event: &'static str, data: Value) {
        let _ = self.told.send(Told { event, data });
    }

    /// What a new page has missed, and everything from now on.
    pub(super) fn listen(&self) -> (Vec<Told>, broadcast::Receiver<Told>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missed = vec![Told { event: "faults", data: json!({ "list": known.faults }) }];
        for recent in &known.recent {
            missed.push(Told { event: "begin", data: recent.begin.clone() });
            missed.extend(recent.marks.iter().map(|mark| Told { event: "mark", data: mark.clone() }));
        }
        (missed, self.told.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::super::generator;
    use super::*;

    #[test]
    fn a_late_page_catches_up() {
        let hub = Hub::new("reject=0.2");
        let script = generator::script(1, 0);
        hub.begin(&script);
        hub.mark(&Marked { response_id: script.id.clone(), part: 0, mark: Mark::Broken }, None);
        let (missed, mut live) = hub.listen();
        assert_eq!(missed.iter().map(|told| told.event).collect::<Vec<_>>(), ["faults", "begin", "mark"]);
        hub.mark(&Marked { response_id: script.id.clone(), part: 0, mark: Mark::Healed }, None);
        assert_eq!(live.try_recv().expect("is told").data["mark"], "healed");
    }

    #[test]
    fn only_the_recent_are_remembered() {
        let hub = Hub::new("");
        (0..100).for_each(|index| hub.begin(&generator::script(1, index)));
        assert_eq!(hub.listen().0.len(), 1 + RECENT);
    }
}
