//! What an owner of a partition leaves to the next one, in the metadata of the offset that it commits: how far it has read.
//!
//! Everything from the committed offset on is read again. What the former owner had read it may have begun to send; what it
//! had not read it cannot have. The next owner treats the two differently.

use std::fmt;

/// What an owner leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// The first offset that it has not read.
    pub read: i64,
    /// It will read no more: `read` is exact, and not merely how far it was at the last commit.
    pub last: bool,
}

impl fmt::Display for Handover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read, last } = self;
        write!(formatter, "v1 read={read} {}", if *last { "last" } else { "more" })
    }
}

impl Handover {
    /// Reads it back. Metadata of another version, or of nobody of ours, say nothing.
    #[must_use]
    pub fn parse(metadata: &str) -> Option<Self> {
        let (read, last) = metadata.strip_prefix("v1 read=")?.split_once(' ')?;
        let last = match last {
            "last" => true,
            "more" => false,
            _ => return None,
        };
        Some(Self { read: read.parse().ok()?, last })
    }

    /// Below which offset a former owner may have begun to send, when the partition now ends at `end`.
    #[must_use]
    pub fn begun_below(metadata: &str, end: i64) -> i64 {
        Self::parse(metadata).filter(|handover| handover.last).map_or(end, |handover| handover.read.min(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for handover in [Handover { read: 17, last: true }, Handover { read: 0, last: false }] {
            assert_eq!(Handover::parse(&handover.to_string()), Some(handover));
        }
        for other in ["", "v1 read=x last", "v1 read=1", "v2 read=1 last", "v1 read=1 maybe"] {
            assert_eq!(Handover::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_the_last_word_of_an_owner_bounds_what_it_began() {
        assert_eq!(Handover::begun_below("v1 read=17 last", 40), 17);
        assert_eq!(Handover::begun_below("v1 read=17 more", 40), 40);
        assert_eq!(Handover::begun_below("", 40), 40);
    }
}
