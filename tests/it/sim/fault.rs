//! What can go wrong, by name: the alphabet of schedules. A failing schedule is made smaller by taking letters away.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A burst of rate rejections on a connection.
    Rate,
    /// An operation is refused with a passing error, applied or not.
    Transient,
    /// Every update is refused, applied or not by turns.
    UpdatesRefused,
    /// A create or update is refused for good.
    Permanent,
    /// A channel takes no mutations for a while.
    ChannelRefuses,
    /// A message is gone.
    Gone,
    /// The server takes less in one message than it says.
    TooLarge,
    /// The text of a rejected append appears in the next one, and only there.
    FoldNext,
    /// The text of a rejected append appears in all later ones.
    FoldLater,
    /// A rejection hits all appends that were rolled up.
    NackGroup,
    /// A connection drops, any time.
    Drop,
    /// A connection drops after a frame was taken and before it is answered.
    LoseAck,
    /// A connection is not resumed.
    RefuseResume,
    /// A frame resent after a resume is acknowledged but not applied.
    ResentNotApplied,
    /// A frame resent after a resume is applied again.
    ResentTwice,
    /// A frame resent after a resume is never answered.
    ResentSilent,
    /// A frame resent after a resume is refused.
    ResentRefused,
    /// A frame is never answered.
    Skip,
    /// Answers name less than they should, or more.
    Garbled,
    /// The engines and the connections hear late of each other.
    Lag,
    /// Acknowledgements of appends that were rolled up have no serial.
    NullSerials,
    /// Appends are acknowledged when they come, not when they are flushed.
    AckEarly,
    /// Frames of a connection that is gone are applied late.
    Late,
    /// The acknowledgement of a create names no message.
    CreateNull,
    /// The id of a create is not recognised: it makes a second message.
    Twice,
    /// A create that is known by its id is answered with a serial that no message has.
    Phantom,
    /// An update is acknowledged with a version that is older than the newest: it lost.
    UpdateLost,
    /// An update is acknowledged without a version: somebody else's append superseded it.
    UpdateSuperseded,
    /// Somebody else writes another text over a message.
    Edited,
    /// Somebody else deletes a message.
    Deleted,
    /// No connection can be made for a long time.
    Outage,
    /// Answers take seconds.
    SlowAnswers,
    /// Results become durable late.
    SlowResults,
    /// Records are read late.
    SlowIntake,
    /// The history of a channel cannot be read.
    Unreadable,
    /// A message is read as it was before.
    StaleRead,
    /// Records that were read before are gone from the topic.
    InputLost,
    /// Records that cannot be decoded, or that name a channel that is not allowed.
    Hostile,
    /// A publish that comes again is not recognised by its id.
    IdsForgotten,
}

impl Fault {
    /// Every kind.
    pub(super) const ALL: [Self; 39] = [
        Self::Rate,
        Self::Transient,
        Self::UpdatesRefused,
        Self::Permanent,
        Self::ChannelRefuses,
        Self::Gone,
        Self::TooLarge,
        Self::FoldNext,
        Self::FoldLater,
        Self::NackGroup,
        Self::Drop,
        Self::LoseAck,
        Self::RefuseResume,
        Self::ResentNotApplied,
        Self::ResentTwice,
        Self::ResentSilent,
        Self::ResentRefused,
        Self::Skip,
        Self::Garbled,
        Self::Lag,
        Self::NullSerials,
        Self::AckEarly,
        Self::Late,
        Self::CreateNull,
        Self::Twice,
        Self::Phantom,
        Self::UpdateLost,
        Self::UpdateSuperseded,
        Self::Edited,
        Self::Deleted,
        Self::Outage,
        Self::SlowAnswers,
        Self::SlowResults,
        Self::SlowIntake,
        Self::Unreadable,
        Self::StaleRead,
        Self::InputLost,
        Self::Hostile,
        Self::IdsForgotten,
    ];
}

/// How likely each kind of fault is where it could strike, in percent.
#[derive(Clone, Copy)]
pub(super) struct Odds([u8; Fault::ALL.len()]);

impl Odds {
    /// Nothing goes wrong.
    pub(super) const NONE: Self = Self([0; Fault::ALL.len()]);

    /// With one kind of fault at these odds.
    pub(super) const fn with(mut self, fault: Fault, percent: u8) -> Self {
        self.0[fault as usize] = percent;
        self
    }

    /// The odds of a kind.
    pub(super) const fn of(&self, fault: Fault) -> u8 {
        self.0[fault as usize]
    }

    /// Some kinds, some often.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let share = [0, 1, 3, 3, 6, 10][rng.usize(..6)];
        let mut odds = Self::NONE;
        for fault in Fault::ALL {
            if rng.u8(..10) < share {
                odds.0[fault as usize] = [2, 5, 10, 20, 40, 80][rng.usize(..6)];
            }
        }
        odds
    }
}

impl std::fmt::Debug for Odds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(Fault::ALL.iter().map(|fault| (fault, self.of(*fault))).filter(|(_, odds)| *odds > 0))
            .finish()
    }
}
