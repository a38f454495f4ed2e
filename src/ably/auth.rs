//! Who we are: a key or a token. Others (a JWT of our own making, a URL that gives tokens) find their place here.
//!
//! A secret that came from a file is read again when the server wants newer credentials, and before each attempt after one
//! that only a person could mend: so a corrected file is enough, without a restart.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fault::Error;
use crate::config::{self, Secret};

/// What a connection identifies itself with.
#[derive(Debug, Clone)]
pub struct Auth {
    kind: Kind,
    secret: Secret,
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Key,
    Token,
}

impl Auth {
    /// What the configuration gives.
    ///
    /// # Errors
    /// When it gives nothing, or something that is no key.
    pub fn from_config(config: &config::Ably) -> Result<Self, Error> {
        let key_file = Some(config.key_file.clone()).filter(|path| !path.as_os_str().is_empty());
        match (&config.key, &config.token) {
            (Some(key), _) => Self::new(Kind::Key, key.clone(), key_file),
            (None, Some(token)) => Self::new(Kind::Token, token.clone(), config.token_file.clone()),
            (None, None) => Err(Error::Credentials(
                "none given; set ably.key_file (or ably.key, ably.token, ably.token_file)".into(),
            )),
        }
    }

    /// A key, as is.
    ///
    /// # Errors
    /// When it has not the form of one.
    pub fn key(key: &str) -> Result<Self, Error> {
        Self::new(Kind::Key, Secret::new(key.to_owned()), None)
    }

    fn new(kind: Kind, secret: Secret, file: Option<PathBuf>) -> Result<Self, Error> {
        let text = secret.expose();
        let is_good = match kind {
            Kind::Key => text.split_once(':').is_some_and(|(name, secret)| name.contains('.') && !secret.is_empty()),
            Kind::Token => !text.is_empty(),
        };
        if is_good && !text.contains(char::is_whitespace) {
            return Ok(Self { kind, secret, file });
        }
        let what = if kind == Kind::Key { "a key has the form `app.id:secret`" } else { "a token is one word" };
        let place = file.map_or_else(|| "what is given".to_owned(), |path| path.display().to_string());
        Err(Error::Credentials(format!("{place} holds none: {what}")))
    }

    /// The parameter of a connection's address, and its secret value.
    pub(super) fn parameter(&self) -> (&'static str, &Secret) {
        match self.kind {
            Kind::Key => ("key", &self.secret),
            Kind::Token => ("access_token", &self.secret),
        }
    }

    /// Signs a REST request.
    pub fn sign(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let encoded = STANDARD.encode(self.secret.expose());
        let scheme = match self.kind {
            Kind::Key => "Basic",
            Kind::Token => "Bearer",
        };
        request.header(reqwest::header::AUTHORIZATION, format!("{scheme} {encoded}"))
    }

    /// Reads the secret again, if it came from a file.
    pub(super) async fn renew(&mut self) -> Result<(), Error> {
        let Some(path) = &self.file else { return Ok(()) };
        let text = tokio::fs::read_to_string(path).await;
        let text = text.map_err(|error| Error::Credentials(format!("read {}: {error}", path.display())))?;
        *self = Self::new(self.kind, Secret::new(text.trim().to_owned()), self.file.clone())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_form() {
        assert!(Auth::key("app.id:secret").is_ok());
        for bad in ["", "app.id", "appid:secret", "app.id:", "app.id:sec ret", "app.id:secret\nx"] {
            let error = Auth::key(bad).expect_err("no key").to_string();
            assert!(error.contains("`app.id:secret`") && !error.contains("sec ret"), "{error}");
        }
    }

    #[test]
    fn a_key_goes_before_a_token_and_nothing_is_an_error() {
        let mut config = config::Ably::default();
        assert!(Auth::from_config(&config).expect_err("nothing given").to_string().contains("ably.key_file"));
        config.token = Some(Secret::new("t".into()));
        assert_eq!(Auth::from_config(&config).expect("a token").parameter().0, "access_token");
        config.key = Some(Secret::new("a.b:c".into()));
        let auth = Auth::from_config(&config).expect("a key");
        assert_eq!((auth.parameter().0, auth.parameter().1.expose()), ("key", "a.b:c"));
        assert!(!format!("{auth:?}").contains("a.b:c"));
    }

    #[tokio::test]
    async fn a_corrected_file_is_enough() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let config = config::Ably {
            key: Some(Secret::new("a.b:old".into())),
            key_file: file.path().to_owned(),
            ..config::Ably::default()
        };
        let mut auth = Auth::from_config(&config).expect("a key");
        assert!(auth.renew().await.expect_err("an empty file").to_string().contains("holds none"));
        std::fs::write(file.path(), "a.b:new\n").expect("written");
        auth.renew().await.expect("renews");
        assert_eq!(auth.parameter().1.expose(), "a.b:new");
    }
}
