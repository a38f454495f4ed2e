//! Who we are: a key, a token, tokens of our own making (JWTs signed with a key), or tokens that somebody gives out.
//!
//! A secret that came from a file is read again before whatever is opened with it, when the server wants newer credentials, and
//! every few seconds while there is nothing to be opened: so a corrected file, or a key that was rolled, is enough, without a
//! restart. All who have a secret from one file know which of its secrets was taken last: whoever is refused with what the
//! file holds by now goes on with that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use super::fault::Error;
use crate::config::{self, Secret};
use url::Tokens;

mod url;

/// How often the file of a secret is looked at while what it held is in use.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long what was found there and refused is not tried again.
pub(super) const REFUSED_KEPT: Duration = Duration::from_secs(60);

/// What a connection identifies itself with.
#[derive(Debug, Clone)]
pub struct Auth {
    kind: Kind,
    secret: Secret,
    file: Option<File>,
}

/// The file of a secret.
#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    /// What it has held that Ably took last, or what was there first.
    taken: Arc<Mutex<Secret>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Key,
    Token,
    /// The secret is a key, and what is shown are tokens that it signs.
    Jwt {
        ttl: Duration,
        client_id: String,
    },
    /// The secret is the token that was given last; empty before the first.
    Given(Tokens),
}

impl Auth {
    /// What the configuration gives.
    ///
    /// # Errors
    /// When it gives nothing, or something that is no key.
    pub fn from_config(config: &config::Ably) -> Result<Self, Error> {
        let key_file = Some(&*config.key_file);
        match (&config.jwt.key, &config.key, &config.token) {
            (Some(key), ..) => {
                let config::Jwt { ttl, client_id, key_file, .. } = &config.jwt;
                let client_id = if client_id.is_empty() { &config.client_id } else { client_id };
                let kind = Kind::Jwt { ttl: *ttl, client_id: client_id.clone() };
                Self::new(kind, key.clone(), Some(key_file))
            }
            (None, Some(key), _) => Self::new(Kind::Key, key.clone(), key_file),
            (None, None, None) if !config.auth_url.expose().is_empty() => {
                let kind = Kind::Given(Tokens::new(config.auth_url.clone()));
                Ok(Self { kind, secret: Secret::default(), file: None })
            }
            (None, None, Some(token)) => Self::new(Kind::Token, token.clone(), config.token_file.as_deref()),
            (None, None, None) => Err(Error::Credentials(
                "none given; set ably.key_file (or ably.key, ably.jwt.key_file, ably.token, ably.token_file, ably.auth_url)"
                    .into(),
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

    fn new(kind: Kind, secret: Secret, file: Option<&Path>) -> Result<Self, Error> {
        let path = file.filter(|path| !path.as_os_str().is_empty());
        kind.check(&secret, path)?;
        let file = path.map(|path| File { path: path.to_owned(), taken: Arc::new(Mutex::new(secret.clone())) });
        Ok(Self { kind, secret, file })
    }

    /// The parameter of a connection's address, and its secret value.
    pub(super) fn parameter(&self) -> (&'static str, Secret) {
        match self.token() {
            None => ("key", self.secret.clone()),
            Some(token) => ("access_token", token),
        }
    }

    /// The token to show, unless a key is shown itself. Of our own making it is a new one each time.
    pub(super) fn token(&self) -> Option<Secret> {
        match &self.kind {
            Kind::Key => None,
            Kind::Token | Kind::Given(_) => Some(self.secret.clone()),
            Kind::Jwt { ttl, client_id } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Some(jwt(self.secret.expose(), now.as_secs(), ttl.as_secs(), client_id))
            }
        }
    }

    /// Whether its token is another one than `former` has shown.
    pub(super) fn is_newer_than(&self, former: &Self) -> bool {
        matches!(self.kind, Kind::Jwt { .. }) || self.secret != former.secret
    }

    /// Signs a REST request.
    pub fn sign(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let (scheme, secret) = match self.token() {
            None => ("Basic", self.secret.clone()),
            Some(token) => ("Bearer", token),
        };
        let encoded = STANDARD.encode(secret.expose());
        request.header(reqwest::header::AUTHORIZATION, format!("{scheme} {encoded}"))
    }

    /// Whether there is anything to show.
    fn is_ready(&self) -> bool {
        !self.secret.expose().is_empty()
    }

    /// Whether what is shown is a token.
    pub(super) const fn shows_token(&self) -> bool {
        !matches!(self.kind, Kind::Key)
    }

    /// Whether the secret may change without anybody saying so.
    pub(super) const fn is_from_file(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.secret == other.secret
    }

    /// Ably has taken it.
    pub(super) fn was_taken(&self) {
        if let Some(file) = &self.file {
            *file.taken.lock().unwrap_or_else(PoisonError::into_inner) = self.secret.clone();
        }
    }

    /// Itself, with what was taken last from its file.
    pub(super) fn taken_last(&self) -> Self {
        let taken = |file: &File| file.taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { secret: self.file.as_ref().map_or_else(|| self.secret.clone(), taken), ..self.clone() }
    }

    /// What its file holds now, if that can be used and is another secret.
    pub(super) async fn changed(&self) -> Option<Self> {
        let mut newer = self.clone();
        newer.file.as_ref()?;
        newer.renew().await.ok()?;
        (!newer.is_same_as(self)).then_some(newer)
    }

    /// Another token, if there is one: a token may do what it could when it was made, and that may be more by now. A key may do
    /// at once what it is given.
    pub(super) async fn more_capable(&self) -> Option<Self> {
        let Kind::Given(tokens) = &self.kind else {
            return if self.shows_token() { self.changed().await } else { None };
        };
        tokens.again(&self.secret).await.map(|secret| Self { secret, ..self.clone() })
    }

    /// Makes ready for an attempt: the file may hold another secret by now. One that cannot be read is no reason to show
    /// nothing; whether what we have is still good is for the server to say.
    pub(super) async fn refresh(&mut self) -> Result<(), Error> {
        let renewed = match self.file.is_some() || !self.is_ready() {
            true => self.renew().await,
            false => Ok(()),
        };
        if self.is_ready() { Ok(()) } else { renewed }
    }

    /// Reads the secret again, if it came from a file; asks for another token, if somebody gives them out.
    pub(super) async fn renew(&mut self) -> Result<(), Error> {
        if let Kind::Given(tokens) = &self.kind {
            self.secret = tokens.newer(&self.secret).await?;
            return Ok(());
        }
        let Some(File { path, .. }) = &self.file else { return Ok(()) };
        let text = tokio::fs::read_to_string(path).await;
        let text = text.map_err(|error| Error::Credentials(format!("read {}: {error}", path.display())))?;
        let secret = Secret::new(text.trim().to_owned());
        self.kind.check(&secret, Some(path))?;
        self.secret = secret;
        Ok(())
    }
}

impl Kind {
    /// Whether a secret has the form of one.
    fn check(&self, secret: &Secret, file: Option<&Path>) -> Result<(), Error> {
        let text = secret.expose();
        let is_good = match self {
            Self::Key | Self::Jwt { .. } => {
                text.split_once(':').is_some_and(|(name, secret)| name.contains('.') && !secret.is_empty())
            }
            Self::Token | Self::Given(_) => !text.is_empty(),
        };
        if is_good && !text.contains(char::is_whitespace) {
            return Ok(());
        }
        let what =
            if matches!(self, Self::Token) { "a token is one word" } else { "a key has the form `app.id:secret`" };
        let place = file.map_or_else(|| "what is given".to_owned(), |path| path.display().to_string());
        Err(Error::Credentials(format!("{place} holds none: {what}")))
    }
}

/// A token that a key signs, as Ably documents it: HS256, the key's name in `kid`. What it may do is what the key may.
fn jwt(key: &str, now: u64, ttl: u64, client_id: &str) -> Secret {
    let (name, secret) = key.split_once(':').unwrap_or((key, ""));
    let mut claims = json!({ "iat": now, "exp": now + ttl, "x-ably-capability": r#"{"*":["*"]}"# });
    if !client_id.is_empty() {
        claims["x-ably-clientId"] = client_id.into();
    }
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(json!({ "typ": "JWT", "alg": "HS256", "kid": name })), part(claims));
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map(|mac| mac.chain_update(&signed));
    // HMAC takes keys of any length.
    let signature = mac.map(|mac| mac.finalize().into_bytes()).unwrap_or_default();
    Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
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

    #[test]
    fn a_key_that_signs_is_not_shown() {
        let jwt = config::Jwt {
            key: Some(Secret::new("app.key:hunter2".into())),
            ttl: Duration::from_secs(60),
            client_id: "me".to_owned(),
            ..config::Jwt::default()
        };
        let auth = Auth::from_config(&config::Ably { jwt, ..config::Ably::default() }).expect("a key");
        let (name, token) = auth.parameter();
        let parts: Vec<_> = token.expose().split('.').map(|part| URL_SAFE_NO_PAD.decode(part)).collect();
        let [Ok(header), Ok(claims), Ok(_)] = &parts[..] else { panic!("three parts") };
        let read = |part: &[u8]| serde_json::from_slice::<serde_json::Value>(part).expect("JSON");
        assert_eq!(name, "access_token");
        assert_eq!(read(header), json!({ "typ": "JWT", "alg": "HS256", "kid": "app.key" }));
        let claims = read(claims);
        assert_eq!(claims["exp"].as_u64(), claims["iat"].as_u64().map(|iat| iat + 60));
        assert_eq!(claims["x-ably-clientId"], "me");
        assert!(!token.expose().contains("hunter2"));
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

    #[tokio::test]
    async fn a_key_that_was_rolled_serves_for_the_next_attempt() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let jwt = config::Jwt { key: Some(Secret::new("a.b:old".into())), ..config::Jwt::default() };
        for (key, jwt) in [(Some(Secret::new("a.b:old".into())), config::Jwt::default()), (None, jwt)] {
            let jwt = config::Jwt { key_file: file.path().to_owned(), ..jwt };
            let config = config::Ably { key, jwt, key_file: file.path().to_owned(), ..config::Ably::default() };
            let mut auth = Auth::from_config(&config).expect("a key");
            for (holds, shows) in [("", "a.b:old"), ("a.b:new", "a.b:new"), ("half writt", "a.b:new")] {
                std::fs::write(file.path(), holds).expect("written");
                auth.refresh().await.expect("there is one");
                assert_eq!(auth.secret.expose(), shows);
            }
        }
    }
    #[tokio::test]
    async fn what_was_taken_last_is_known_to_all_who_share_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (key, key_file) = (Some(Secret::new("a.b:first".into())), file.path().to_owned());
        let first = Auth::from_config(&config::Ably { key, key_file, ..config::Ably::default() }).expect("a key");
        let mut other = first.clone();
        for (holds, is_taken, serves) in
            [("a.b:wrong", false, "a.b:first"), ("a.b:next", true, "a.b:next"), ("a.b:wrong", false, "a.b:next")]
        {
            std::fs::write(file.path(), holds).expect("written");
            other.renew().await.expect("renews");
            if is_taken {
                other.was_taken();
            }
            assert_eq!((first.secret.expose(), first.taken_last().secret.expose()), ("a.b:first", serves));
        }
    }
}
