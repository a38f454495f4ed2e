//! What the demo's model says: answers in many languages, with the things that break naive streaming.
//!
//! Right-to-left scripts, scripts without spaces, combining marks, emoji of several code points, code, tables and lists.
//! An answer is a pure function of the generator's state.

use std::sync::LazyLock;

use fastrand::Rng;

/// A question and what can be said about it, in one language.
struct Passage {
    code: &'static str,
    language: &'static str,
    direction: &'static str,
    question: &'static str,
    lines: Vec<&'static str>,
}

static PASSAGES: LazyLock<Vec<Passage>> = LazyLock::new(|| passages(include_str!("corpus.txt")));
static CODE: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| include_str!("code.txt").split("%%\n").map(str::trim_end).collect());

/// Each is one character to a reader and several code points to a tokeniser.
const EMOJI: &[&str] =
    &["👩‍👩‍👧‍👦", "👨🏽‍🚀", "🏳️‍🌈", "❤️‍🔥", "👩🏿‍💻", "🇯🇵", "🇧🇷", "1️⃣", "🧑‍🤝‍🧑", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🤦🏼‍♂️", "🐈‍⬛", "👁️‍🗨️", "🙏🏾", "🎉", "e\u{301}\u{323}"];

/// What was asked, and what is to be streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// BCP 47 tag of the language.
    pub(super) code: &'static str,
    /// The language's name in itself.
    pub(super) language: &'static str,
    /// `ltr` or `rtl`.
    pub(super) direction: &'static str,
    /// The question.
    pub(super) question: &'static str,
    /// The whole answer.
    pub(super) text: String,
}

/// Makes an answer up.
pub(super) fn answer(rng: &mut Rng) -> Answer {
    let passage = &PASSAGES[rng.usize(..PASSAGES.len())];
    speak(rng, passage)
}

/// Makes another answer up to the same question.
pub(super) fn alternative(rng: &mut Rng, to: &Answer) -> Answer {
    match PASSAGES.iter().find(|passage| passage.question == to.question) {
        Some(passage) => speak(rng, passage),
        None => answer(rng),
    }
}

fn speak(rng: &mut Rng, passage: &Passage) -> Answer {
    let mut text = String::new();
    if rng.u8(..10) == 0 {
        text.push_str(&format!("## {}\n\n", passage.question));
    }
    prose(rng, passage, &mut text);
    for _ in 0..[0, 0, 1, 1, 1, 2][rng.usize(..6)] {
        match rng.u8(..4) {
            0 => code(rng, &mut text),
            1 => table(rng, passage, &mut text),
            2 => list(rng, passage, &mut text),
            _ => chatter(rng, &mut text),
        }
    }
    Answer {
        code: passage.code,
        language: passage.language,
        direction: passage.direction,
        question: passage.question,
        text,
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

/// Some of the passage's lines in their order.
fn prose(rng: &mut Rng, passage: &Passage, text: &mut String) {
    let skipped = rng.usize(..passage.lines.len());
    let joint = if passage.lines.contains(&"") {
        "\n"
    } else if matches!(passage.code, "ja" | "zh" | "th") {
        ""
    } else {
        " "
    };
    let keep_all = rng.bool() || joint == "\n";
    for (index, line) in passage.lines.iter().enumerate().filter(|(index, _)| keep_all || *index != skipped) {
        if index > 0 {
            text.push_str(if index % 4 == 0 && joint != "\n" { "\n\n" } else { joint });
        }
        text.push_str(line);
        if rng.u8(..12) == 0 && !line.is_empty() {
            text.push(' ');
            text.push_str(pick(rng, EMOJI));
        }
    }
}

fn code(rng: &mut Rng, text: &mut String) {
    text.push_str("\n\n");
    text.push_str(pick(rng, &CODE));
    text.push('\n');
}

/// A table whose cells are words of the passage.
fn table(rng: &mut Rng, passage: &Passage, text: &mut String) {
    text.push_str("\n\n| # | ✓ | … |\n|--:|:-:|:---|\n");
    for row in 1..=rng.usize(2..5) {
        let line = pick(rng, &passage.lines);
        let cell: String = line.chars().take(24).collect();
        let mark = pick(rng, EMOJI);
        text.push_str(&format!("| {row} | {mark} | {} |\n", cell.trim_end().replace('|', "/")));
    }
}

fn list(rng: &mut Rng, passage: &Passage, text: &mut String) {
    text.push('\n');
    let numbered = rng.bool();
    for item in 1..=rng.usize(3..6) {
        let line = pick(rng, &passage.lines);
        let indent = if rng.u8(..4) == 0 { "    " } else { "" };
        let bullet = if numbered { format!("{item}.") } else { "-".to_owned() };
        text.push_str(&format!("\n{indent}{bullet} **{}** {line}", pick(rng, EMOJI)));
    }
}

/// Emoji without a space between them, and marks stacked on one letter.
fn chatter(rng: &mut Rng, text: &mut String) {
    text.push_str("\n\n");
    for _ in 0..rng.usize(3..12) {
        text.push_str(pick(rng, EMOJI));
    }
    text.push_str(" Z\u{351}\u{36b}a\u{343}\u{32a}l\u{30b}\u{353}go… \t«ẞtraße» \u{200f}שלום\u{200e} \r\n—");
}

fn passages(corpus: &'static str) -> Vec<Passage> {
    corpus.split("\n= ").skip(1).filter_map(passage).collect()
}

fn passage(section: &'static str) -> Option<Passage> {
    let (head, body) = section.split_once("\n? ")?;
    let (question, body) = body.split_once('\n')?;
    let (code, rest) = head.split_once(' ')?;
    let (language, direction) = rest.rsplit_once(' ')?;
    Some(Passage { code, language, direction, question, lines: body.trim_end().lines().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_read_whole() {
        assert_eq!(PASSAGES.len(), include_str!("corpus.txt").matches("\n= ").count());
        assert!(PASSAGES.iter().all(|passage| passage.lines.len() > 4), "every passage has something to say");
        let right_to_left = PASSAGES.iter().filter(|passage| passage.direction == "rtl").count();
        assert_eq!(right_to_left, 2);
        assert!(CODE.iter().all(|code| code.starts_with("```") && code.ends_with("```")));
    }
}
