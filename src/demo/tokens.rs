//! Cuts a text into tokens as a model's tokeniser does: sub-words with the space in front, runs of spaces, single
//! newlines, now and then a long piece, and characters of several code points cut in the middle.
//!
//! Never inside a code point: model servers hold bytes back until they are valid UTF-8.

use fastrand::Rng;

/// The pieces, whose concatenation is `text`.
pub(super) fn split<'a>(text: &'a str, rng: &mut Rng) -> Vec<&'a str> {
    let mut pieces = Vec::with_capacity(text.len() / 4 + 1);
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(piece_len(rest, rng));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Length in bytes of the next piece: at least one code point, always on a boundary.
fn piece_len(rest: &str, rng: &mut Rng) -> usize {
    if rng.u8(..60) == 0 {
        return chars_len(rest, rng.usize(20..90)); // speculative decoding hands over several tokens at once
    }
    let mut chars = rest.chars();
    match chars.next() {
        Some('\n' | '\r') => 1,
        Some(' ') => match chars.next() {
            Some(' ') => rest.len() - rest.trim_start_matches(' ').len(),
            Some(next) if next.is_alphanumeric() && rng.u8(..12) != 0 => 1 + word_len(&rest[1..], rng),
            _ => 1,
        },
        Some(first) if first.is_alphanumeric() => word_len(rest, rng),
        _ => chars_len(rest, rng.usize(1..=2)),
    }
}

/// Part of a word: most of a Latin one, one or two characters of a script without spaces.
fn word_len(rest: &str, rng: &mut Rng) -> usize {
    let most = match rest.chars().next() {
        Some(first) if first.is_ascii() => rng.usize(2..=9),
        Some(first) if first < '\u{0900}' => rng.usize(1..=5),
        _ => rng.usize(1..=3),
    };
    let word: usize = rest.chars().take(most).take_while(|char| char.is_alphanumeric()).map(char::len_utf8).sum();
    word.max(chars_len(rest, 1))
}

fn chars_len(text: &str, count: usize) -> usize {
    text.chars().take(count).map(char::len_utf8).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::text;

    #[test]
    fn pieces_make_the_text_and_cut_graphemes() {
        let mut cut_inside_grapheme = false;
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let answer = text::answer(&mut rng);
            let pieces = split(&answer.text, &mut rng);
            assert_eq!(pieces.concat(), answer.text, "seed {seed}");
            assert!(pieces.iter().all(|piece| !piece.is_empty()), "seed {seed}");
            cut_inside_grapheme |= pieces.iter().any(|piece| piece.starts_with('\u{200d}'));
        }
        assert!(cut_inside_grapheme, "no piece begins with a joiner");
    }
}
