//! What an owner of a partition leaves to the next one, in the metadata of the offset that it commits.
//!
//! Everything from the committed offset on is read again. The metadata say how far the former owner had read (what it had not
//! read it cannot have begun to send), where in the results partition the records of those responses begin, and which records
//! have their dead letters already. A broker takes 4096 bytes: dead letters that do not fit are written again.

use std::collections::VecDeque;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::engine::{Beginnings, Stale, Time};

/// The longest metadata of an offset that brokers take by default.
pub const METADATA_BYTES_MAX: usize = 4096;

/// Bytes of the list of dead letters; in Base64 it is a third longer.
const LETTERS_BYTES_MAX: usize = 2_850;
/// Places in the results partition that are kept; with more, every second is forgotten, which costs reading a little more.
const PLACES_MAX: usize = 1_024;

/// What an owner leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// Its number; each owner has a greater one than those before.
    pub epoch: u64,
    /// The first offset that neither it nor an owner before it has read.
    pub read: i64,
    /// Where in the results partition to begin to read; none if it does not know.
    pub results: Option<i64>,
    /// Where the results partition ended when it last wrote there; what ends before is not what it wrote to.
    pub until: i64,
    /// How it ended, if it did.
    pub ending: Ending,
    /// What must not be begun, because it was too old when reading began anew.
    pub stale: Option<Stale>,
    /// Where beginnings are that may be missing.
    pub beginnings: Beginnings,
    /// Until when in the partition's time they may be, if that is known.
    pub missing_until: Option<Time>,
    /// Records from the committed offset on whose dead letters are written, as ranges with both ends included.
    pub letters: Vec<(i64, i64)>,
}

/// Whether an owner was done when it committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It went on: it may have read any record that there is.
    None,
    /// It read no more, but not everything that it had sent was answered.
    Unanswered,
    /// It read no more, and all was answered that it or an owner before it had sent.
    Clean,
}

impl Handover {
    /// What is said of a partition that nobody has owned.
    #[must_use]
    pub fn first(read: i64) -> Self {
        Self {
            epoch: 0,
            read,
            results: None,
            until: 0,
            ending: Ending::Clean,
            stale: None,
            beginnings: Beginnings::Here,
            missing_until: None,
            letters: Vec::new(),
        }
    }

    /// As metadata of the committed `offset`.
    #[must_use]
    pub fn to_metadata(&self, offset: i64) -> String {
        let Self { epoch, read, results, until, ending, stale, beginnings, missing_until, letters } = self;
        let ending = match ending {
            Ending::None => "more",
            Ending::Unanswered => "last",
            Ending::Clean => "clean",
        };
        let mut metadata = format!("v1 epoch={epoch} read={read} {ending}");
        if let Some(results) = results {
            let _infallible = write!(metadata, " results={results}");
        }
        if *until > 0 {
            let _infallible = write!(metadata, " until={until}");
        }
        if let Some(Stale { below, before }) = stale {
            let _infallible = write!(metadata, " stale={below},{}", before.millis());
        }
        let missing = match beginnings {
            Beginnings::Here => None,
            Beginnings::Lost => Some("lost"),
            Beginnings::Elsewhere => Some("elsewhere"),
        };
        if let Some(missing) = missing {
            let until = missing_until.map_or(0, Time::millis);
            let _infallible = write!(metadata, " missing={missing},{until}");
        }
        let letters = pack(offset, letters);
        if !letters.is_empty() {
            metadata.push_str(" letters=");
            BASE64.encode_string(&letters, &mut metadata);
        }
        metadata
    }

    /// Reads it back. Metadata of another version, or of nobody of ours, say nothing. Words of later versions are passed
    /// over.
    #[must_use]
    pub fn parse(metadata: &str, offset: i64) -> Option<Self> {
        let mut words = metadata.strip_prefix("v1 ")?.split(' ');
        let epoch = words.next()?.strip_prefix("epoch=")?.parse().ok()?;
        let read = words.next()?.strip_prefix("read=")?.parse().ok()?;
        let mut handover = Self { epoch, ending: Ending::None, ..Self::first(read) };
        for word in words {
            match word.split_once('=') {
                None if word == "clean" => handover.ending = Ending::Clean,
                None if word == "last" => handover.ending = Ending::Unanswered,
                Some(("results", place)) => handover.results = Some(place.parse().ok()?),
                Some(("until", end)) => handover.until = end.parse().ok()?,
                Some(("stale", both)) => {
                    let (below, before) = both.split_once(',')?;
                    let before = Time::from_millis(before.parse().ok()?);
                    handover.stale = Some(Stale { below: below.parse().ok()?, before });
                }
                Some(("missing", both)) => {
                    let (beginnings, until) = both.split_once(',')?;
                    handover.beginnings = match beginnings {
                        "lost" => Beginnings::Lost,
                        _ => Beginnings::Elsewhere,
                    };
                    let until = Time::from_millis(until.parse().ok()?);
                    handover.missing_until = (until > Time::default()).then_some(until);
                }
                Some(("letters", packed)) => handover.letters = unpack(offset, &BASE64.decode(packed).ok()?),
                _ => {}
            }
        }
        Some(handover)
    }

    /// Below which offset a former owner may have begun to send, when the partition now ends at `end`.
    #[must_use]
    pub fn begun_below(&self, end: i64) -> i64 {
        if self.ending == Ending::None { end } else { self.read.min(end) }
    }
}

/// The gap before each range and its length, as LEB128, for as many as fit.
fn pack(offset: i64, ranges: &[(i64, i64)]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut at = offset;
    for (first, last) in ranges.iter().filter(|(_, last)| *last >= offset) {
        let first = (*first).max(offset);
        let before = packed.len();
        put(&mut packed, first.abs_diff(at));
        put(&mut packed, last.abs_diff(first));
        if packed.len() > LETTERS_BYTES_MAX {
            packed.truncate(before);
            break;
        }
        at = last + 1;
    }
    packed
}

fn unpack(offset: i64, mut packed: &[u8]) -> Vec<(i64, i64)> {
    let mut ranges = Vec::new();
    let mut at = offset;
    while let (Some(gap), Some(length)) = (take(&mut packed), take(&mut packed)) {
        let Some(first) = at.checked_add_unsigned(gap) else { break };
        let Some(last) = first.checked_add_unsigned(length).filter(|last| *last < i64::MAX) else { break };
        ranges.push((first, last));
        at = last + 1;
    }
    ranges
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Where in a results partition the records of which responses begin.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// All results of responses that begin at the first offset or later are at the second or later.
    places: VecDeque<(i64, i64)>,
    /// Where the results partition ended when that was last known.
    end: i64,
}

impl Places {
    /// Places for a partition that is read from `next` on; its results begin at `results`.
    #[must_use]
    pub fn new(next: i64, results: i64) -> Self {
        Self { places: VecDeque::from([(next, results)]), end: results }
    }

    /// Nothing from `next` on has been read, and the results partition ends at `results`.
    pub fn note(&mut self, next: i64, results: i64) {
        self.end = results;
        match self.places.back_mut() {
            Some((last, place)) if *last == next => *place = results,
            Some((_, place)) if *place == results => {}
            _ => self.places.push_back((next, results)),
        }
        if self.places.len() > PLACES_MAX {
            let mut keep = false;
            self.places.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Where the results partition ended when that was last known.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Where the results of everything from `watermark` on begin.
    pub fn results(&mut self, watermark: i64) -> Option<i64> {
        while self.places.get(1).is_some_and(|(next, _)| *next <= watermark) {
            self.places.pop_front();
        }
        self.places.front().map(|(_, place)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover(letters: Vec<(i64, i64)>) -> Handover {
        let stale = Some(Stale { below: 160, before: Time::from_millis(1_764_000_000_000) });
        Handover {
            epoch: 3,
            read: 170,
            results: Some(5_512),
            until: 5_600,
            ending: Ending::Clean,
            stale,
            letters,
            ..Handover::first(0)
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for ending in [Ending::None, Ending::Unanswered, Ending::Clean] {
            let (beginnings, missing_until) = (Beginnings::Lost, Some(Time::from_millis(1_764_000_000_000)));
            let handover = Handover { ending, beginnings, missing_until, ..handover(vec![(101, 101), (105, 300_000)]) };
            assert_eq!(Handover::parse(&handover.to_metadata(100), 100), Some(handover));
        }
        for other in ["", "v1 epoch=1", "v1 epoch=x read=1 clean", "v2 epoch=1 read=1 clean"] {
            assert_eq!(Handover::parse(other, 0), None, "{other:?}");
        }
        let later = Handover::parse(
            "v1 epoch=3 read=170 clean results=5512 more=words until=5600 stale=160,1764000000000 here",
            0,
        );
        assert_eq!(later, Some(handover(Vec::new())));
    }

    #[test]
    fn metadata_fit_whatever_there_is_to_say() {
        let many: Vec<_> = (0..100_000).map(|n| (n * 1_000, n * 1_000)).collect();
        let metadata = handover(many.clone()).to_metadata(1_000);
        assert!(metadata.len() <= METADATA_BYTES_MAX, "{}", metadata.len());
        let letters = Handover::parse(&metadata, 1_000).expect("it is ours").letters;
        assert!(letters.len() > 900, "{}", letters.len());
        assert_eq!(letters[..], many[1..=letters.len()], "from the offset on, as many as fit");
    }

    #[test]
    fn only_the_last_word_of_an_owner_bounds_what_it_began() {
        assert_eq!(Handover::first(17).begun_below(40), 17);
        assert_eq!(Handover { ending: Ending::None, ..Handover::first(17) }.begun_below(40), 40);
    }

    #[test]
    fn results_begin_where_they_were_when_the_watermark_was_read() {
        let mut places = Places::new(10, 1_000);
        places.note(20, 1_010);
        places.note(30, 1_020);
        assert_eq!(places.results(10), Some(1_000));
        assert_eq!(places.results(29), Some(1_010));
        assert_eq!(places.results(30), Some(1_020));
        for n in 0..5_000 {
            places.note(40 + n, 2_000 + n);
        }
        assert!(places.places.len() <= PLACES_MAX);
        assert_eq!(places.results(31), Some(1_020));
    }
}
