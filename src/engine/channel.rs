//! Which channel a response goes to: the one that its record names, else the template's; only if it is on the allow-list.

use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::effect::Refusal;

/// Why there are no channel rules.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChannelRulesError {
    /// A placeholder that nobody fills in.
    #[error("input.channel: unknown placeholder {{{name}}}; there are {{key}}, {{topic}} and {{header.NAME}}")]
    Placeholder {
        /// What stands between the braces.
        name: String,
    },
    /// A brace without its partner.
    #[error("input.channel: a {{ is never closed")]
    Unclosed,
    /// A glob that is none.
    #[error("ably.channels.allow: {glob:?} is not a glob: {reason}")]
    Glob {
        /// The glob.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A channel name with placeholders: `{key}`, `{topic}`, `{header.NAME}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Key,
    Topic,
    Header(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When a placeholder is unknown or a brace is not closed.
    pub fn parse(template: &str) -> Result<Self, ChannelRulesError> {
        let mut pieces = Vec::new();
        let mut rest = template;
        while let Some((text, behind)) = rest.split_once('{') {
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
            let (name, behind) = behind.split_once('}').ok_or(ChannelRulesError::Unclosed)?;
            pieces.push(match (name, name.strip_prefix("header.")) {
                ("key", _) => Piece::Key,
                ("topic", _) => Piece::Topic,
                (_, Some(header)) if !header.is_empty() => Piece::Header(header.to_owned()),
                _ => return Err(ChannelRulesError::Placeholder { name: name.to_owned() }),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Whether it takes the record's headers to fill it in.
    #[must_use]
    pub fn needs_headers(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Header(_)))
    }

    /// The channel's name. A header that is missing fills in nothing.
    pub fn fill_in<'a>(&self, key: &str, topic: &str, header: impl Fn(&str) -> Option<&'a str>) -> String {
        self.0.iter().fold(String::new(), |mut name, piece| {
            name.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Key => key,
                Piece::Topic => topic,
                Piece::Header(wanted) => header(wanted).unwrap_or_default(),
            });
            name
        })
    }
}

/// Which channels there are.
#[derive(Debug, Clone)]
pub struct ChannelRules {
    template: Template,
    topic: Arc<str>,
    allow: GlobSet,
}

impl ChannelRules {
    /// Rules for the responses of a topic.
    ///
    /// # Errors
    /// When a glob is none.
    pub fn new(template: Template, topic: Arc<str>, allow: &[String]) -> Result<Self, ChannelRulesError> {
        let mut globs = GlobSetBuilder::new();
        let refuse = |glob: &str, error: &globset::Error| ChannelRulesError::Glob {
            glob: glob.to_owned(),
            reason: error.kind().to_string(),
        };
        for glob in allow {
            globs.add(Glob::new(glob).map_err(|error| refuse(glob, &error))?);
        }
        let allow = globs.build().map_err(|error| refuse("", &error))?;
        Ok(Self { template, topic, allow })
    }

    /// The channel of a response: the one that its record names, else the template's. Headers have been filled in before,
    /// where the template needs them.
    ///
    /// # Errors
    /// When Ably would not accept the name, or the allow-list does not have it.
    pub fn resolve(&self, named: Option<&str>, key: &str) -> Result<Arc<str>, Refusal> {
        let name: Arc<str> = match named {
            Some(name) => name.into(),
            None => self.template.fill_in(key, &self.topic, |_| None).into(),
        };
        if !is_valid(&name) {
            return Err(Refusal::ChannelInvalid);
        }
        if !self.allow.is_match(&*name) {
            return Err(Refusal::ChannelNotAllowed);
        }
        Ok(name)
    }
}

/// Whether Ably accepts the name of a channel: not empty, does not begin with `:` or `[`, no control characters. The bound
/// on its length is ours.
fn is_valid(name: &str) -> bool {
    const BYTES_MAX: usize = 2_048;
    !name.is_empty() && name.len() <= BYTES_MAX && !name.starts_with([':', '[']) && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(template: &str, allow: &[&str]) -> ChannelRules {
        let allow: Vec<String> = allow.iter().map(|&glob| glob.to_owned()).collect();
        ChannelRules::new(Template::parse(template).expect("a template"), "tokens".into(), &allow).expect("rules")
    }

    #[test]
    fn a_template_is_filled_in() {
        let template = Template::parse("{topic}:{key}/{header.tenant}x").expect("a template");
        assert!(template.needs_headers());
        let header = |name: &str| (name == "tenant").then_some("acme");
        assert_eq!(template.fill_in("k", "t", header), "t:k/acmex");
        assert_eq!(template.fill_in("k", "t", |_| None), "t:k/x");
    }

    #[test]
    fn a_bad_template_is_refused() {
        assert_eq!(Template::parse("a{b"), Err(ChannelRulesError::Unclosed));
        for name in ["who", "header.", ""] {
            let error = ChannelRulesError::Placeholder { name: name.to_owned() };
            assert_eq!(Template::parse(&format!("{{{name}}}")), Err(error));
        }
    }

    #[test]
    fn only_allowed_channels_are_reached() {
        let rules = rules("ai:{key}", &["ai:*", "chat:?"]);
        assert_eq!(rules.resolve(None, "r1").as_deref(), Ok("ai:r1"));
        assert_eq!(rules.resolve(Some("chat:7"), "r1").as_deref(), Ok("chat:7"));
        assert_eq!(rules.resolve(Some("chat:77"), "r1"), Err(Refusal::ChannelNotAllowed));
        assert_eq!(rules.resolve(Some(""), "r1"), Err(Refusal::ChannelInvalid));
        assert_eq!(rules.resolve(Some("[meta]ai:1"), "r1"), Err(Refusal::ChannelInvalid));
        assert_eq!(rules.resolve(Some("ai:\n"), "r1"), Err(Refusal::ChannelInvalid));
    }

    #[test]
    fn no_list_allows_nothing() {
        assert_eq!(rules("ai:{key}", &[]).resolve(None, "r1"), Err(Refusal::ChannelNotAllowed));
    }
}
