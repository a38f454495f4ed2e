//! Serials: `TTTTTTTTTTTTTT-CCC@series:III`, opaque to clients but ordered as text.

use std::fmt::Write as _;

/// Gives serials that rise.
#[derive(Debug)]
pub(super) struct Serials {
    series: String,
    millis: u64,
    counter: u32,
}

impl Serials {
    pub(super) fn new(random: &mut fastrand::Rng) -> Self {
        let series = std::iter::repeat_with(|| random.alphanumeric()).take(10).collect();
        Self { series, millis: 0, counter: 0 }
    }

    /// The next position in a channel; messages of it have this and an index.
    pub(super) fn next(&mut self, now_ms: u64) -> String {
        if now_ms > self.millis {
            self.millis = now_ms;
            self.counter = 0;
        } else if self.counter == 999 {
            self.millis += 1;
            self.counter = 0;
        } else {
            self.counter += 1;
        }
        let mut serial = String::with_capacity(36);
        let _infallible = write!(serial, "{:014}-{:03}@{}", self.millis, self.counter, self.series);
        serial
    }
}

/// The serial of a message at a position.
pub(super) fn of_message(position: &str, index: usize) -> String {
    format!("{position}:{index:03}")
}

/// The serials of the messages at a position, or none for each.
pub(super) fn of_messages(position: Option<&str>, messages: usize) -> Vec<Option<String>> {
    (0..messages).map(|index| position.map(|position| of_message(position, index))).collect()
}

/// The position of a message.
pub(super) fn position(serial: &str) -> &str {
    serial.rsplit_once(':').map_or(serial, |(position, _)| position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_rise_whatever_the_clock_does() {
        let mut serials = Serials::new(&mut fastrand::Rng::with_seed(1));
        let times = (0..3_000).map(|_| 5).chain([4, 3, 6, 100, 100]);
        let given: Vec<_> = times.map(|now| serials.next(now)).collect();
        assert!(given.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(of_message("0-0@x", 7), "0-0@x:007");
        assert_eq!(position("0-0@x:007"), "0-0@x");
        assert_eq!(of_messages(Some("p"), 2), [Some("p:000".to_owned()), Some("p:001".to_owned())]);
        assert_eq!(of_messages(None, 2), [None, None]);
    }
}
