//! Where a range of the topic begins or ends, as a person says it.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime_serde::re::humantime;
use jiff::Timestamp;

use crate::kafka;
use crate::kafka::scan::{Extent, Scanner};

/// One end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// The same offset in every partition.
    Offset(i64),
    /// An offset for each of some partitions; the others are not limited.
    Offsets(Vec<(i32, i64)>),
    /// The first record of this time or later, in milliseconds since the Unix epoch.
    Time(i64),
}

/// A text that is no bound.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no end of a range; there are offsets (1000, or 0:1000,1:2000 by partition), times (2026-01-31T08:00:00Z) and \
     how long ago (2h)"
)]
pub struct NoBound(String);

impl FromStr for Bound {
    type Err = NoBound;

    fn from_str(text: &str) -> Result<Self, NoBound> {
        if let Ok(offset) = text.parse::<u32>() {
            return Ok(Self::Offset(offset.into()));
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self::Time(time.as_millisecond()));
        }
        if let Ok(ago) = humantime::parse_duration(text) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            return Ok(Self::Time(millis(now.saturating_sub(ago))));
        }
        let of_partition = |pair: &str| {
            let (partition, offset) = pair.split_once(':')?;
            Some((partition.parse::<u16>().ok()?.into(), offset.parse::<u64>().ok()?.try_into().ok()?))
        };
        let offsets: Option<Vec<(i32, i64)>> = text.split(',').map(of_partition).collect();
        offsets.map(Self::Offsets).ok_or_else(|| NoBound(text.to_owned()))
    }
}

impl Bound {
    /// Where that is in a partition; `otherwise` where it does not say.
    pub(super) fn offset(
        &self,
        scanner: &Scanner,
        partition: i32,
        extent: Extent,
        otherwise: i64,
    ) -> Result<i64, kafka::Error> {
        let offset = match self {
            Self::Offset(offset) => *offset,
            Self::Offsets(offsets) => {
                offsets.iter().find(|(other, _)| *other == partition).map_or(otherwise, |(_, offset)| *offset)
            }
            Self::Time(time) => scanner.at(partition, *time)?.unwrap_or(extent.stable),
        };
        Ok(offset.clamp(extent.low, extent.stable.max(extent.low)))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_times_and_ages_are_told_apart() {
        assert_eq!("1000".parse(), Ok(Bound::Offset(1_000)));
        assert_eq!("0:1000,11:7".parse(), Ok(Bound::Offsets(vec![(0, 1_000), (11, 7)])));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Bound::Time(1_000)));
        let Ok(Bound::Time(ago)) = "2h".parse() else { panic!("an age") };
        let Ok(Bound::Time(now)) = "0s".parse() else { panic!("an age") };
        assert!((now - ago - 7_200_000).abs() < 60_000);
        for bad in ["", "x", "-5", "1:2:3", "1:", "1:2,", "2026-01-31"] {
            assert_eq!(bad.parse::<Bound>(), Err(NoBound(bad.to_owned())), "{bad}");
        }
    }
}
