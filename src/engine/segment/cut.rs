//! Where a text is cut: between two characters, as people see them, wherever there is such a place close to the limit.
//!
//! Only the end of what fits is looked at, and the text before it may not be in memory any more. Most that people see as one
//! character is told from its own code points; but which two letters make a flag depends on how many stand before them.

use unicode_segmentation::GraphemeCursor;

use crate::engine::text::Text;

/// How far before the limit a boundary is looked for.
pub(super) const WINDOW: usize = 64;

/// Two of these make a flag.
const FLAG_LETTER: &str = "\u{1f1e6}";

/// Where a text whose present message begins at `from` is cut; none if that cannot be told yet, or if it need not be cut.
pub(in crate::engine) fn cut(text: &Text, from: usize, limit: usize) -> Option<usize> {
    let most = from + limit;
    let least = most - WINDOW.min(limit / 4);
    if text.len() <= most || text.dropped() > least {
        return None;
    }
    let (start, end) = (text.ceil(least), text.ceil(most + 1));
    // A flag that begins before the window is whole again with any letter in the place of its first.
    let first = if text.is_in_flag(from, start) { FLAG_LETTER } else { "" };
    let window = format!("{first}{}", text.slice(start, end));
    let mut cursor = GraphemeCursor::new(window.len(), window.len(), true);
    while let Ok(Some(boundary)) = cursor.prev_boundary(&window, 0) {
        let cut = (start + boundary).checked_sub(first.len()).filter(|cut| start < *cut && *cut <= most);
        if cut.is_some() {
            return cut;
        }
    }
    Some(text.floor(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: &str) -> Text {
        let mut text = Text::new();
        text.push(of);
        text
    }

    /// All pieces of a text.
    fn pieces(of: &str, limit: usize) -> Vec<String> {
        let (text, mut from, mut pieces) = (text(of), 0, Vec::new());
        while let Some(cut) = cut(&text, from, limit) {
            pieces.push(text.slice(from, cut).to_owned());
            from = cut;
        }
        pieces.push(text.from(from).to_owned());
        pieces
    }

    #[test]
    fn what_fits_is_not_cut() {
        assert_eq!(cut(&text("12345678"), 0, 8), None);
        assert_eq!(pieces("123456789", 8), ["12345678", "9"]);
    }

    #[test]
    fn cuts_fall_between_graphemes_and_else_between_code_points() {
        // e and its accent, a family, a flag: none is torn.
        assert_eq!(pieces("abcdefge\u{301}x", 8), ["abcdefg", "e\u{301}x"]);
        let family = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}";
        let long = format!("{}{family}tail", "x".repeat(90));
        assert_eq!(pieces(&long, 100), ["x".repeat(90), format!("{family}tail")]);
        // One that is longer than any window is torn, but not within a code point.
        let marks = format!("a{}", "\u{301}".repeat(40));
        assert!(pieces(&marks, 32).iter().all(|piece| piece.len() <= 32));
        assert_eq!(pieces(&marks, 32).concat(), marks);
    }

    #[test]
    fn flags_are_not_torn_however_many_stand_in_a_row() {
        let flag = |letter: char| format!("\u{1f1e6}{letter}");
        let flags: String = ('\u{1f1e6}'..='\u{1f1ff}').map(flag).collect();
        for before in ["", "x", "xy", "\u{f6}\u{1f468}"] {
            let whole = format!("{before}{flags}");
            for limit in 80..=100 {
                for piece in pieces(&whole, limit) {
                    let behind = piece.strip_prefix(before).unwrap_or(&piece);
                    assert!(piece.len() <= limit && behind.len() % 8 == 0, "limit {limit}: {piece}");
                }
            }
        }
    }

    #[test]
    fn flags_are_not_torn_where_their_row_was_dropped_from_memory() {
        let whole = "\u{1f1e6}\u{1f1e7}".repeat(20);
        for limit in 80..=100 {
            let known = cut(&text(&whole), 0, limit);
            for dropped in (4..limit - limit / 4).step_by(4) {
                let mut short = text(&whole[..dropped / 8 * 4]);
                short.drop_from_memory();
                short.push(&whole[dropped / 8 * 4..dropped]);
                short.drop_from_memory();
                short.push(&whole[dropped..]);
                assert_eq!(cut(&short, 0, limit), known, "limit {limit}, {dropped} bytes dropped");
            }
        }
    }

    #[test]
    fn a_message_may_have_begun_where_another_text_has_no_code_point() {
        assert_eq!(cut(&text("\u{6f22}\u{6f22}\u{6f22}\u{6f22}"), 1, 8), Some(9));
    }

    #[test]
    fn a_cut_does_not_depend_on_how_much_is_there() {
        let whole = "one two three \u{1f468}\u{200d}\u{1f469} four five six seven eight nine ten".repeat(3);
        for limit in [4, 9, 16, 33, 100] {
            let from = 0;
            let known = cut(&text(&whole), from, limit);
            for (end, _) in whole.char_indices().filter(|(end, _)| *end > limit) {
                assert_eq!(cut(&text(&whole[..end]), from, limit), known, "limit {limit}, {end} bytes");
            }
        }
    }
}
