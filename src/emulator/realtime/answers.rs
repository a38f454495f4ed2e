//! Answers on their way to a client: in the order of the frames, those of successive frames together.
//!
//! Both official clients attribute answers by position, so nothing here may overtake.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::ably::wire::{ProtocolMessage, PublishResult, action};
use crate::emulator::connection::Answer;
use crate::emulator::faults::Odd;
use crate::emulator::limits::ANSWERS_WAITING;

/// Answers that wait for their time.
#[derive(Debug)]
pub(super) struct Answers {
    queue: VecDeque<Due>,
    /// Serials of all that wait.
    waiting: usize,
    /// Windows of merged acknowledgements are counted from here.
    begin: Instant,
}

/// An answer that waits for its time.
#[derive(Debug)]
struct Due {
    at: Instant,
    msg_serial: u64,
    answer: Answer,
    odd: Option<Odd>,
}

/// When answers are given.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    /// So long after the frame.
    pub(super) delay: Duration,
    /// Acknowledgements at the end of a window of this length.
    pub(super) merge: Duration,
}

impl Answers {
    pub(super) fn new(begin: Instant) -> Self {
        Self { queue: VecDeque::new(), waiting: 0, begin }
    }

    /// The next answer, to a frame.
    pub(super) fn push(&mut self, msg_serial: u64, answer: Answer, odd: Option<Odd>, timing: Timing, now: Instant) {
        let mut at = now + timing.delay;
        match &answer {
            Answer::Ack(_) if !timing.merge.is_zero() => {
                let windows = (at - self.begin).as_nanos() / timing.merge.as_nanos() + 1;
                at = self.begin + timing.merge * u32::try_from(windows).unwrap_or(u32::MAX);
            }
            Answer::Ack(_) => {}
            // A refusal does not wait for a window, and takes along what is before it.
            Answer::Nack(_) => self.queue.iter_mut().for_each(|before| before.at = at.min(before.at)),
        }
        self.waiting += weight(&answer);
        self.queue.push_back(Due { at, msg_serial, answer, odd });
        // No delay is worth all our memory.
        let (mut more, mut early) = (self.waiting.saturating_sub(ANSWERS_WAITING), self.queue.iter_mut());
        while more > 0
            && let Some(due) = early.next()
        {
            due.at = due.at.min(now);
            more = more.saturating_sub(weight(&due.answer));
        }
    }

    /// When the next one is to be given.
    pub(super) fn due(&self) -> Option<Instant> {
        self.queue.front().map(|due| due.at)
    }

    /// The next frame of answers whose time has come.
    pub(super) fn next(&mut self, now: Instant) -> Option<ProtocolMessage<'static>> {
        let Due { msg_serial: first, answer, odd, .. } = self.queue.pop_front_if(|due| due.at <= now)?;
        self.waiting -= weight(&answer);
        let mut frame = ProtocolMessage { msg_serial: Some(first), count: Some(1), ..ProtocolMessage::default() };
        match answer {
            Answer::Nack(error) => {
                frame.action = action::NACK;
                frame.error = Some(error);
            }
            Answer::Ack(serials) => {
                let mut res = vec![given(serials)];
                while odd.is_none()
                    && let Some(serials) = self.follows(first + res.len() as u64, now)
                {
                    res.push(given(serials));
                }
                frame.action = action::ACK;
                frame.count = u32::try_from(res.len()).ok();
                frame.res = Some(res);
            }
        }
        if let Some(odd) = odd {
            put_oddly(&mut frame, odd);
        }
        Some(frame)
    }

    /// Takes the acknowledgement of that frame, if it is next, its time has come, and it is put as usual.
    fn follows(&mut self, msg_serial: u64, now: Instant) -> Option<Vec<Option<String>>> {
        let follows = |due: &mut Due| {
            due.at <= now && due.msg_serial == msg_serial && due.odd.is_none() && matches!(due.answer, Answer::Ack(_))
        };
        let answer = self.queue.pop_front_if(follows)?.answer;
        self.waiting -= weight(&answer);
        match answer {
            Answer::Ack(serials) => Some(serials),
            Answer::Nack(_) => None,
        }
    }
}

/// What an answer takes: a serial for each message.
fn weight(answer: &Answer) -> usize {
    match answer {
        Answer::Ack(serials) => serials.len().max(1),
        Answer::Nack(_) => 1,
    }
}

fn put_oddly(frame: &mut ProtocolMessage<'static>, odd: Odd) {
    match odd {
        Odd::NoSerial => frame.msg_serial = None,
        Odd::NoCount => frame.count = None,
        Odd::NoResult => frame.res = None,
        Odd::Overlap => {
            let Some(before) = frame.msg_serial.and_then(|serial| serial.checked_sub(1)) else { return };
            frame.msg_serial = Some(before);
            frame.count = frame.count.map(|count| count + 1);
            if let Some(res) = &mut frame.res {
                res.insert(0, PublishResult { serials: vec![None] });
            }
        }
    }
}

fn given(serials: Vec<Option<String>>) -> PublishResult<'static> {
    PublishResult { serials: serials.into_iter().map(|serial| serial.map(Into::into)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::errors::no_such_message;

    const AT_ONCE: Timing = Timing { delay: Duration::ZERO, merge: Duration::ZERO };

    fn ack() -> Answer {
        Answer::Ack(vec![Some("S".to_owned())])
    }

    /// What is given by then: action, first serial, count.
    fn given(answers: &mut Answers, now: Instant) -> Vec<(u8, u64, u32)> {
        let frames = std::iter::from_fn(|| answers.next(now));
        frames.map(|frame| (frame.action, frame.msg_serial.expect("a serial"), frame.count.expect("a count"))).collect()
    }

    #[test]
    fn successive_acknowledgements_are_one_frame() {
        let now = Instant::now();
        let mut answers = Answers::new(now);
        for serial in [0, 1, 3, 4] {
            answers.push(serial, ack(), None, AT_ONCE, now);
        }
        answers.push(5, Answer::Nack(no_such_message()), None, AT_ONCE, now);
        answers.push(6, ack(), None, AT_ONCE, now);
        let expected = [(action::ACK, 0, 2), (action::ACK, 3, 2), (action::NACK, 5, 1), (action::ACK, 6, 1)];
        assert_eq!(given(&mut answers, now), expected, "2 was skipped, and is answered by nothing");
    }

    #[test]
    fn acknowledgements_wait_for_their_window_and_refusals_do_not() {
        let now = Instant::now();
        let timing = Timing { merge: Duration::from_millis(100), ..AT_ONCE };
        let mut answers = Answers::new(now);
        answers.push(0, ack(), None, timing, now + Duration::from_millis(10));
        answers.push(1, ack(), None, timing, now + Duration::from_millis(90));
        assert_eq!(given(&mut answers, now + Duration::from_millis(99)), []);
        assert_eq!(given(&mut answers, now + Duration::from_millis(100)), [(action::ACK, 0, 2)]);
        answers.push(2, ack(), None, timing, now + Duration::from_millis(110));
        answers.push(3, Answer::Nack(no_such_message()), None, timing, now + Duration::from_millis(120));
        let expected = [(action::ACK, 2, 1), (action::NACK, 3, 1)];
        assert_eq!(given(&mut answers, now + Duration::from_millis(120)), expected);
    }

    #[test]
    fn nothing_overtakes_what_is_delayed() {
        let now = Instant::now();
        let mut answers = Answers::new(now);
        answers.push(0, ack(), None, Timing { delay: Duration::from_secs(5), ..AT_ONCE }, now);
        answers.push(1, ack(), None, AT_ONCE, now);
        assert_eq!(given(&mut answers, now + Duration::from_secs(4)), []);
        assert_eq!(given(&mut answers, now + Duration::from_secs(5)), [(action::ACK, 0, 2)]);
    }

    #[test]
    fn only_so_many_wait() {
        let now = Instant::now();
        let mut answers = Answers::new(now);
        let delayed = Timing { delay: Duration::from_secs(3_600), ..AT_ONCE };
        let array = || Answer::Ack(vec![None; 1_000]);
        let frames = ANSWERS_WAITING as u64 / 1_000;
        for msg_serial in 0..frames {
            answers.push(msg_serial, array(), None, delayed, now);
        }
        assert_eq!(given(&mut answers, now), []);
        answers.push(frames, ack(), None, delayed, now);
        assert_eq!(given(&mut answers, now), [(action::ACK, 0, 1)], "the oldest goes before its time");
        answers.push(frames + 1, ack(), None, delayed, now);
        assert_eq!(given(&mut answers, now), []);
    }

    #[test]
    fn answers_can_be_put_oddly() {
        let now = Instant::now();
        let mut answers = Answers::new(now);
        for (serial, odd) in [None, Some(Odd::Overlap), Some(Odd::NoCount), Some(Odd::NoResult), Some(Odd::NoSerial)]
            .into_iter()
            .enumerate()
        {
            answers.push(serial as u64, ack(), odd, AT_ONCE, now);
        }
        let frames = std::iter::from_fn(|| answers.next(now));
        let put = frames.map(|frame| (frame.msg_serial, frame.count, frame.res.map(|res| res.len())));
        let expected = [
            (Some(0), Some(1), Some(1)),
            (Some(0), Some(2), Some(2)),
            (Some(2), None, Some(1)),
            (Some(3), Some(1), None),
            (None, Some(1), Some(1)),
        ];
        assert_eq!(put.collect::<Vec<_>>(), expected);
    }
}
