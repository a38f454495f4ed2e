//! The text of a response: all of it, or only what came after the part that was dropped from memory.
//!
//! Length and hash always speak of the whole. The dropped part can be read from the topic again.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};

/// Letters of which two make a flag.
const FLAG_LETTERS: RangeInclusive<char> = '\u{1f1e6}'..='\u{1f1ff}';

/// The text of a response so far.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// Bytes that were dropped from memory.
    dropped: usize,
    /// They end in the middle of a flag.
    ends_in_flag: bool,
    /// What came after them.
    tail: String,
    /// None when the dropped part was never ours to read.
    hash: Option<Sha256>,
}

impl Text {
    pub(super) fn new() -> Self {
        Self { dropped: 0, ends_in_flag: false, tail: String::new(), hash: Some(Sha256::new()) }
    }

    /// A text of which only about the length is known.
    pub(super) fn unknown(bytes: usize) -> Self {
        Self { dropped: bytes.max(1), ends_in_flag: false, tail: String::new(), hash: None }
    }

    /// Adds a token.
    pub(super) fn push(&mut self, token: &str) {
        let missing = (self.tail.len() + token.len()).saturating_sub(self.tail.capacity());
        if missing > 0 {
            // A quarter more instead of twice as much: a hundred thousand texts just past a doubling would waste half.
            self.tail.reserve_exact(missing.max(self.tail.len() / 4).max(64));
        }
        self.tail.push_str(token);
        if let Some(hash) = &mut self.hash {
            hash.update(token.as_bytes());
        }
    }

    /// Puts another text in the place of this one.
    pub(super) fn replace(&mut self, text: &str) {
        *self = Self::new();
        self.push(text);
    }

    /// Whether this is the whole text's length and hash.
    pub(super) fn equals(&self, other: &str) -> bool {
        let hash = self.hash.clone().map(Sha256::finalize);
        self.len() == other.len() && hash == Some(Sha256::digest(other.as_bytes()))
    }

    /// Bytes of the whole text.
    pub(super) fn len(&self) -> usize {
        self.dropped + self.tail.len()
    }

    /// Bytes that are in memory.
    pub(super) fn in_memory(&self) -> usize {
        self.tail.len()
    }

    /// Bytes that are not.
    pub(super) fn dropped(&self) -> usize {
        self.dropped
    }

    /// The text from byte `from` of the whole on. What was dropped cannot be asked for.
    pub(super) fn from(&self, from: usize) -> &str {
        assert!(from >= self.dropped, "byte {from} was dropped from memory");
        &self.tail[from - self.dropped..]
    }

    /// The text between two bytes of the whole. What was dropped cannot be asked for.
    pub(super) fn slice(&self, from: usize, to: usize) -> &str {
        &self.from(from)[..to - from]
    }

    /// The greatest position that is not greater than `at`, not dropped, and not within a code point.
    pub(super) fn floor(&self, at: usize) -> usize {
        self.dropped + self.tail.floor_char_boundary(at.saturating_sub(self.dropped))
    }

    /// The smallest position that is not less than `at` and not within a code point, or the end.
    pub(super) fn ceil(&self, at: usize) -> usize {
        self.dropped + self.tail.ceil_char_boundary(at.saturating_sub(self.dropped).min(self.tail.len()))
    }

    /// Whether byte `at` of the whole is in the middle of a flag: two letters of flags make one, counted from the first of a row,
    /// which stands no earlier than `from`. What was dropped cannot be asked for.
    pub(super) fn is_in_flag(&self, from: usize, at: usize) -> bool {
        let before = &self.tail[..at - self.dropped];
        let is_of_row = |(index, letter): &(usize, char)| FLAG_LETTERS.contains(letter) && self.dropped + index >= from;
        let letters = before.char_indices().rev().take_while(is_of_row).count();
        let all = letters * FLAG_LETTERS.start().len_utf8() == before.len();
        let began_earlier = all && from < self.dropped && self.ends_in_flag;
        (letters + usize::from(began_earlier)) % 2 == 1
    }

    /// Whether only about its length is known.
    pub(super) const fn is_unknown(&self) -> bool {
        self.hash.is_none()
    }

    /// Drops from memory what comes before byte `at` of the whole.
    pub(super) fn drop_before(&mut self, at: usize) {
        let Some(surplus) = at.min(self.len()).checked_sub(self.dropped).filter(|surplus| *surplus > 0) else { return };
        // A message begins there.
        self.ends_in_flag = false;
        self.tail = self.tail[surplus..].to_owned();
        self.dropped += surplus;
    }

    /// Drops everything from memory.
    pub(super) fn drop_from_memory(&mut self) {
        self.ends_in_flag = self.is_in_flag(0, self.len());
        self.dropped += self.tail.len();
        self.tail = String::new();
    }

    /// Puts the dropped part back, or says that it is not that.
    pub(super) fn restore(&mut self, dropped: &str) -> bool {
        if self.hash.is_some() && dropped.len() != self.dropped {
            return false;
        }
        let mut whole = String::with_capacity(dropped.len() + self.tail.len());
        whole.push_str(dropped);
        whole.push_str(&self.tail);
        let hash = Sha256::new_with_prefix(&whole);
        if self.hash.as_ref().is_some_and(|known| known.clone().finalize() != hash.clone().finalize()) {
            return false;
        }
        self.hash = Some(hash);
        self.tail = whole;
        (self.dropped, self.ends_in_flag) = (0, false);
        true
    }

    /// SHA-256 of the whole text, in hexadecimal; empty if the text was never read.
    pub(super) fn sha256(&self) -> String {
        let Some(hash) = self.hash.clone() else { return String::new() };
        let digest = hash.finalize();
        digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_hash_outlive_the_text() {
        let mut text = Text::new();
        text.push("one ");
        text.push("tw\u{f6} ");
        let whole = text.clone();
        text.drop_from_memory();
        assert_eq!((text.len(), text.in_memory()), (whole.len(), 0));
        assert_eq!(text.sha256(), whole.sha256());

        text.push("three");
        assert_eq!(text.from(9), "three");
        assert!(!text.restore("one two "), "another text of about that length");
        assert!(!text.restore("one twa  "), "another text of just that length");
        assert!(text.restore("one tw\u{f6} "));
        assert_eq!(text.from(0), "one tw\u{f6} three");
        assert!(text.equals("one tw\u{f6} three"));
        assert!(!text.equals("one tw\u{f6} threE"));
    }

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(Text::new().sha256(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
