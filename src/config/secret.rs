//! Secrets: values that are used and never shown.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// What is shown in place of a secret.
const REDACTED: &str = "[redacted]";

/// A value that is never printed: not by `Debug`, not by serialising it. An empty one is none, and printed so. Its memory is
/// wiped when it is dropped.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself, for whoever has to send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { REDACTED })
    }
}

/// Properties of a library, by name. Passwords among them are never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// Each with what may be shown of it.
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        // `sasl.oauthbearer.config` holds whatever its mechanism needs.
        let words = ["password", "secret", "key", "token", "sasl.oauthbearer.config"];
        self.0.iter().map(move |(name, value)| match words.iter().any(|word| name.contains(word)) {
            true => (name.as_str(), REDACTED),
            false => (name.as_str(), value.as_str()),
        })
    }
}

impl Deref for Properties {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Properties {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl std::fmt::Debug for Properties {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(serde_json::to_string(&secret).expect("serialises"), "\"[redacted]\"");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(serde_json::to_string(&Secret::default()).expect("serialises"), "\"\"");
    }

    #[test]
    fn passwords_among_properties_are_not_shown() {
        for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            let mut properties = Properties::default();
            properties.insert(name.to_owned(), "hunter2".to_owned());
            properties.insert("fetch.min.bytes".to_owned(), "17".to_owned());
            for shown in [format!("{properties:?}"), serde_json::to_string(&properties).expect("serialises")] {
                assert!(!shown.contains("hunter") && shown.contains(name) && shown.contains("17"), "{shown}");
            }
        }
    }
}
