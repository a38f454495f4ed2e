//! Decisions that are made of bytes: the same bytes, the same play. Where they end, every decision is the first.

use tokenrelay::engine::{Piece, Status};

/// Every status that a message can have.
pub(crate) const STATUSES: [Status; 8] = [
    Status::Streaming,
    Status::Complete,
    Status::Cancelled,
    Status::Error,
    Status::Abandoned,
    Status::Failed,
    Status::Continued,
    Status::Superseded,
];

/// A text in pieces of so many characters, with so many tokens each; the last piece has what is left.
pub(crate) fn cut(text: &str, shares: &[(usize, u64)]) -> Vec<Piece> {
    let mut rest = text;
    let last = shares.len().saturating_sub(1);
    let piece = |(index, &(characters, tokens)): (usize, &(usize, u64))| {
        let end = rest.char_indices().nth(characters).filter(|_| index < last).map_or(rest.len(), |(at, _)| at);
        rest = &rest[end..];
        Piece { bytes: end, tokens }
    };
    shares.iter().enumerate().map(piece).collect()
}

/// Bytes that decide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feed<'a>(&'a [u8]);

impl<'a> Feed<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number below `bound`, of as few bytes as that takes.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let most = bound.saturating_sub(1);
        let bytes = if most == 0 { 0 } else { (most.ilog2() / 8 + 1) as usize };
        let number = self.take(bytes).iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        number % bound.max(1)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// One of them.
    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// At most 255 bytes.
    pub(crate) fn some(&mut self) -> &'a [u8] {
        let bytes = self.below(256) as usize;
        self.take(bytes)
    }

    /// A short text; what is no UTF-8 is replaced.
    pub(crate) fn text(&mut self) -> String {
        String::from_utf8_lossy(self.some()).into_owned()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
