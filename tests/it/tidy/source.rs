//! A source file as the tidy test sees it: just enough of Rust's syntax to tell code from comments and strings, and one
//! function from the next.

use std::fs;
use std::path::{Path, PathBuf};

/// A file.
pub(super) struct Source {
    /// From the root of the repository.
    pub(super) path: String,
    pub(super) text: String,
    /// The text with comments, strings and characters blanked out; same lines.
    code: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        Self { path, text, code }
    }

    /// The code before the tests; all of it in a file of tests.
    pub(super) fn production(&self) -> &str {
        let end = self.code.find("\n#[cfg(test)]\nmod ").filter(|_| self.path.starts_with("src/"));
        end.map_or(&self.code, |end| &self.code[..end])
    }

    pub(super) fn production_lines(&self) -> usize {
        self.production().lines().count()
    }

    /// The module's path without `crate::`; empty for lib.rs.
    pub(super) fn module(&self) -> String {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        if path == "lib" { String::new() } else { path.replace('/', "::") }
    }

    /// The paths that production code names by `crate::`, by the crate's name, or by enough `super::`.
    pub(super) fn imports(&self) -> Vec<String> {
        let mut imports = Vec::new();
        let code = self.production();
        for root in ["crate::", "tokenrelay::"] {
            for (at, _) in code.match_indices(root) {
                if !code[..at].ends_with(is_word) {
                    expand("", &code[at + root.len()..], &mut imports);
                }
            }
        }
        let module = self.module();
        let own: Vec<&str> = module.split("::").collect();
        for (at, _) in code.match_indices("super::") {
            if code[..at].ends_with("super::") || code[..at].ends_with(is_word) {
                continue;
            }
            let mut rest = &code[at..];
            let mut up = 0;
            while let Some(after) = rest.strip_prefix("super::") {
                (rest, up) = (after, up + 1);
            }
            let parent = own[..own.len().saturating_sub(up)].join("::");
            expand(&parent, rest, &mut imports);
        }
        imports
    }

    /// The lines of code with this word.
    pub(super) fn lines_with(&self, word: &str) -> Vec<usize> {
        let lines = self.code.lines().enumerate();
        lines.filter(|(_, line)| line.contains(word)).map(|(line, _)| line + 1).collect()
    }

    pub(super) fn functions(&self) -> Vec<Function> {
        let code = &self.code;
        let starts = code.match_indices("fn ").filter(|(at, _)| !code[..*at].ends_with(is_word));
        starts.filter_map(|(at, _)| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<Function> {
        let rest = &self.code[at + 3..];
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        // A function pointer has no name, a declaration has no body.
        let body = rest.find(['{', ';']).filter(|at| rest[*at..].starts_with('{') && !name.is_empty())?;
        let mut depth = 0;
        let end = rest[body..].char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0
        })?;
        let lines = rest[..=body + end.0].lines().count();
        Some(Function { name, line: self.code[..at].matches('\n').count() + 1, lines })
    }
}

/// Adds the paths of a `use` tree (or of a plain path) below `parent`, three words deep.
fn expand(parent: &str, tree: &str, paths: &mut Vec<String>) {
    let word: String = tree.chars().take_while(|c| is_word(*c)).collect();
    let rest = &tree[word.len()..];
    if let Some(group) = tree.strip_prefix('{') {
        let mut depth = 0;
        let mut from = 0;
        for (at, c) in group.char_indices() {
            if depth == 0 && (c == ',' || c == '}') {
                expand(parent, group[from..at].trim(), paths);
                from = at + 1;
            }
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth < 0 {
                return;
            }
        }
    } else if !word.is_empty() {
        let path = if parent.is_empty() { word } else { format!("{parent}::{word}") };
        match rest.strip_prefix("::") {
            Some(below) if path.matches("::").count() < 2 => {
                let before = paths.len();
                expand(&path, below, paths);
                if paths.len() == before {
                    paths.push(path);
                }
            }
            _ => paths.push(path),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Blanks out comments, strings and characters; keeps the lines.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment, string or character that begins here ends; `at` itself when none does.
fn skip(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or(' ');
    let find = |from: usize, found: &dyn Fn(usize) -> bool| (from..chars.len()).find(|at| found(*at));
    match chars[at] {
        '/' if next(1) == '/' => find(at, &|at| chars[at] == '\n').unwrap_or(chars.len()),
        '/' if next(1) == '*' => {
            find(at + 2, &|at| chars[at] == '/' && chars[at - 1] == '*').map_or(chars.len(), |end| end + 1)
        }
        '"' => find(at + 1, &|end| chars[end] == '"' && !escaped(chars, at, end)).map_or(chars.len(), |end| end + 1),
        'r' if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            if next(1 + hashes) != '"' {
                return at;
            }
            let closes = |end: usize| {
                chars[end] == '"' && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
            };
            find(at + 2 + hashes, &closes).map_or(chars.len(), |end| end + 1 + hashes)
        }
        // A character, not a lifetime.
        '\'' if next(1) == '\\' => find(at + 3, &|at| chars[at] == '\'').map_or(chars.len(), |end| end + 1),
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
}

/// Whether an odd number of backslashes stands before `end`.
fn escaped(chars: &[char], start: usize, end: usize) -> bool {
    chars[start + 1..end].iter().rev().take_while(|c| **c == '\\').count() % 2 == 1
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The Rust files below a folder.
pub(super) fn rust(folder: &str) -> Vec<Source> {
    let files = files(&root().join(folder));
    let rust = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| Source::new(relative(&path), fs::read_to_string(&path).expect("readable"))).collect()
}

/// Every text of the repository but this test's own, with its path.
pub(super) fn texts() -> Vec<(String, String)> {
    let files = files(root()).into_iter();
    files.filter_map(|path| Some((relative(&path), fs::read_to_string(&path).ok()?))).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// All files below a folder but those that are made, not written.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default();
        if name == "target" || name == ".git" || name == "node_modules" {
            continue;
        }
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn code_is_told_from_what_is_not() {
    let text = r##"a /* b "c */ 'd' "e\"f" 'g r#"h"i"# j // k
'\'' l"##;
    let words: Vec<_> = blank(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "'g", "j", "l"]);
}

#[test]
fn imports_are_expanded() {
    let text = "use crate::{a, b::{c, d::e::f}, g::*};\nfn x() { super::super::h::y() }";
    let source = Source::new("src/p/q.rs".to_owned(), text.to_owned());
    assert_eq!(source.imports(), ["a", "b::c", "b::d::e", "g", "h::y"]);
}

#[test]
fn functions_are_measured() {
    let source =
        Source::new("src/x.rs".to_owned(), "fn one() {}\n\nfn two(f: fn(u8)) {\n    if a { \"}\" }\n}\n".to_owned());
    let function = |name: &str, line, lines| Function { name: name.to_owned(), line, lines };
    assert_eq!(source.functions(), [function("one", 1, 1), function("two", 3, 3)]);
}
