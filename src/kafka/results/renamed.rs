//! While the group knows us under another name than the one that we gave, or not at all: it rebalances, or has given us up.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// How long the group may need to say who we are in it: while it rebalances, nobody's offsets are taken.
const REBALANCE_MAX: Duration = Duration::from_secs(30);
/// And how long before the process gives itself up, because its member will not come back: longer than any rebalance, which
/// is max.poll.interval.ms at the most, by default 300 s. (librdkafka 2.12 was once seen not to join again after its broker
/// had been away.)
const EXPELLED_MAX: Duration = Duration::from_secs(360);

/// For how long the group has not known us under our name, by the pauses between its own answers: while a broker is away,
/// however long that is, nobody says so.
#[derive(Debug, Default)]
pub(super) struct Renamed(Duration);

/// What to do while that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    Quiet,
    Trouble,
    Over,
}

impl Renamed {
    /// It has answered so once more, and is asked again after that pause.
    pub(super) fn again(&mut self, pause: Duration) -> Patience {
        self.0 += pause;
        match self.0 {
            waited if waited >= EXPELLED_MAX => Patience::Over,
            waited if waited >= REBALANCE_MAX => Patience::Trouble,
            _ => Patience::Quiet,
        }
    }
}

/// What it means when the group knows us under another name than the one that we gave, or not at all: it rebalances.
pub(super) fn renaming(error: &KafkaError) -> Option<String> {
    use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, StaleMemberEpoch, UnknownMemberId};
    let code = error.rdkafka_error_code()?;
    let is_renaming = matches!(code, IllegalGeneration | RebalanceInProgress | StaleMemberEpoch | UnknownMemberId);
    is_renaming
        .then(|| format!("the consumer group does not take our offsets until this member has joined it again: {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_does_not_come_back_is_trouble_and_then_the_end() {
        let (mut renamed, pause) = (Renamed::default(), Duration::from_millis(100));
        let said: Vec<Patience> = (0..4_000).map(|_| renamed.again(pause)).collect();
        let first = |patience| said.iter().position(|said| *said == patience).map(|times| pause * (times as u32 + 1));
        assert_eq!(first(Patience::Trouble), Some(REBALANCE_MAX));
        assert_eq!(first(Patience::Over), Some(EXPELLED_MAX));
    }
}
