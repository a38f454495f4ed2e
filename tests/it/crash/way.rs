//! How the relays of one schedule put responses on channels, and how they send them.

/// One of the ways there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// A message for each token, or one for each response.
    pub(super) per_token: bool,
    /// By request, or over connections.
    pub(super) rest: bool,
    /// Tokens that wait go out as one message, or as an array of them.
    pub(super) joined: bool,
}

impl Way {
    pub(super) const USUAL: Self = Self { per_token: false, rest: false, joined: false };

    /// Four seeds in a row have all patterns and transports; eight have both kinds of batches, too.
    pub(super) fn of(seed: u64) -> Self {
        let bit = |number: u32| (seed - 1) >> number & 1 == 1;
        Self { per_token: bit(0), rest: bit(1), joined: bit(2) }
    }

    /// What the relays are told.
    pub(super) fn settings(self) -> [String; 3] {
        let pattern = if self.per_token { "message-per-token" } else { "message-per-response" };
        let transport = if self.rest { "rest" } else { "realtime" };
        let batch = if self.joined { "joined" } else { "array" };
        [format!("input.pattern={pattern}"), format!("ably.transport={transport}"), format!("ably.per_token={batch}")]
    }
}
