//! Who a client is and what it may do: API keys, tokens that the emulator gave, and JWTs signed with a key.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use super::errors::{Failure, failure};
use super::limits::{CLOCK_SKEW, TOKENS};

pub(super) use capability::Capability;

mod capability;

/// What a client showed.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    /// A whole API key.
    Key(String),
    /// A token or JWT.
    Token(String),
}

/// What a client may do.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    /// Its identity, if it has one; `*` when it may assume any.
    pub(super) client_id: Option<String>,
    pub(super) capability: Capability,
    /// The name of the key that it is from.
    pub(super) key_name: String,
    /// When it ends, in milliseconds.
    pub(super) expires: Option<u64>,
}

impl Grant {
    /// Of somebody who may do everything.
    pub(super) fn everything(client_id: &str) -> Self {
        let (client_id, key_name) = (Some(client_id.to_owned()), String::new());
        Self { client_id, capability: Capability::everything(), key_name, expires: None }
    }

    /// Its identity, if it is somebody in particular.
    pub(super) fn identity(&self) -> Option<&str> {
        self.client_id.as_deref().filter(|id| *id != "*")
    }

    /// The same with the identity that the client wants.
    pub(super) fn named(self, wanted: Option<String>) -> Result<Self, Failure> {
        match (self.client_id.as_deref(), wanted) {
            (_, None) => Ok(self),
            (Some("*"), wanted) => Ok(Self { client_id: wanted, ..self }),
            (Some(own), Some(wanted)) if own == wanted => Ok(self),
            _ => Err(failure(40102, 401, "Incompatible credentials: another client id")),
        }
    }
}

/// Keys and tokens.
#[derive(Debug)]
pub(super) struct Auth {
    /// Secrets by key name.
    keys: HashMap<String, String>,
    tokens: HashMap<String, Grant>,
    /// Nonces of signed requests, and when each came.
    nonces: HashMap<String, u64>,
}

impl Auth {
    /// Knows these keys; none if one is malformed.
    pub(super) fn new(keys: &[String]) -> Option<Self> {
        let split = |key: &String| key.split_once(':').map(|(name, secret)| (name.to_owned(), secret.to_owned()));
        Some(Self {
            keys: keys.iter().map(split).collect::<Option<_>>()?,
            tokens: HashMap::new(),
            nonces: HashMap::new(),
        })
    }

    /// Who that is.
    pub(super) fn check(&self, credentials: &Credentials, now_ms: u64) -> Result<Grant, Failure> {
        match credentials {
            Credentials::Key(key) => self.check_key(key),
            Credentials::Token(token) => {
                let grant = match self.tokens.get(token) {
                    Some(grant) => grant.clone(),
                    None => self.check_jwt(token)?,
                };
                match grant.expires {
                    Some(expires) if expires <= now_ms => Err(failure(40142, 401, "Token expired")),
                    _ => Ok(grant),
                }
            }
        }
    }

    fn check_key(&self, key: &str) -> Result<Grant, Failure> {
        let (name, secret) = key.split_once(':').ok_or_else(|| failure(40005, 400, "Invalid key"))?;
        if !name.contains('.') {
            return Err(failure(40005, 400, "Invalid key"));
        }
        match self.keys.get(name) {
            None => Err(failure(40101, 401, "No application or key with this name")),
            Some(known) if known != secret => Err(failure(40101, 401, "Invalid credentials")),
            Some(_) => {
                let client_id = Some("*".to_owned());
                let key_name = name.to_owned();
                Ok(Grant { client_id, capability: Capability::everything(), key_name, expires: None })
            }
        }
    }

    fn check_jwt(&self, token: &str) -> Result<Grant, Failure> {
        let bad = || failure(40144, 401, "Unexpected error decoding JWT");
        let unknown = || failure(40143, 401, "Unrecognised token");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(unknown)?;
        let (header, claims) = signed.split_once('.').ok_or_else(unknown)?;
        let header: JwtHeader = from_base64(header).ok_or_else(bad)?;
        let claims: JwtClaims = from_base64(claims).ok_or_else(bad)?;
        let secret = self.keys.get(&header.kid).filter(|_| header.alg == "HS256").ok_or_else(bad)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| bad())?;
        mac(secret, signed.as_bytes()).verify_slice(&signature).map_err(|_| bad())?;
        let capability = Capability::parse(claims.capability.as_deref()).ok_or_else(bad)?;
        let expires = Some(claims.exp.saturating_mul(1_000));
        Ok(Grant { client_id: claims.client_id, capability, key_name: header.kid, expires })
    }

    /// Gives a token for a signed request, or for an unsigned one that shows the key.
    pub(super) fn request_token(
        &mut self,
        name: &str,
        request: &TokenRequest,
        shown: Option<&Credentials>,
        now_ms: u64,
        random: &mut fastrand::Rng,
    ) -> Result<TokenDetails, Failure> {
        if request.key_name.as_deref().is_some_and(|said| said != name) {
            return Err(failure(40102, 401, "The request is for another key"));
        }
        match (&request.mac, shown) {
            (Some(given), _) => self.check_signed(name, request, given, now_ms)?,
            (None, Some(Credentials::Key(key))) if key.split_once(':').is_some_and(|(shown, _)| shown == name) => {
                self.check_key(key).map(drop)?;
            }
            (None, _) => return Err(failure(40101, 401, "The request is not signed, and shows not the key")),
        }
        let capability = Capability::parse(request.capability.as_deref())
            .ok_or_else(|| failure(40003, 400, "Invalid capability"))?;
        let ttl = request.ttl.unwrap_or(TTL_MS);
        if ttl > TTL_MAX_MS {
            return Err(failure(40003, 400, "ttl is above 24 hours"));
        }
        self.tokens.retain(|_, grant| grant.expires.is_some_and(|expires| expires > now_ms));
        if self.tokens.len() >= TOKENS {
            return Err(failure(42918, 429, "Too many tokens are valid"));
        }
        let token: String = std::iter::repeat_with(|| random.alphanumeric()).take(32).collect();
        let expires = now_ms.saturating_add(ttl);
        let (client_id, key_name) = (request.client_id.clone(), name.to_owned());
        let grant = Grant { client_id, capability, key_name, expires: Some(expires) };
        self.tokens.insert(token.clone(), grant);
        Ok(TokenDetails {
            token,
            key_name: name.to_owned(),
            issued: now_ms,
            expires,
            capability: request.capability.clone().unwrap_or_else(|| r#"{"*":["*"]}"#.to_owned()),
            client_id: request.client_id.clone(),
        })
    }

    fn check_signed(&mut self, name: &str, request: &TokenRequest, given: &str, now_ms: u64) -> Result<(), Failure> {
        let secret = self.keys.get(name).ok_or_else(|| failure(40101, 401, "No key with this name"))?;
        let given = STANDARD.decode(given).unwrap_or_default();
        mac(secret, request.signed_text(name).as_bytes())
            .verify_slice(&given)
            .map_err(|_| failure(40101, 401, "The mac does not fit the request"))?;
        let skew = u64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(u64::MAX);
        if request.timestamp.is_none_or(|at| at.abs_diff(now_ms) > skew) {
            return Err(failure(40104, 401, "Timestamp not current"));
        }
        let nonce = request.nonce.clone().filter(|nonce| nonce.len() >= NONCE_MIN);
        let nonce = nonce.ok_or_else(|| failure(40101, 401, "The nonce is too short"))?;
        // An older request would be refused for its timestamp.
        self.nonces.retain(|_, at| now_ms.saturating_sub(*at) <= 2 * skew);
        match self.nonces.insert(nonce, now_ms) {
            Some(_) => Err(failure(40105, 401, "Nonce value replayed")),
            None => Ok(()),
        }
    }
}

/// How long a token is good for when the request does not say.
const TTL_MS: u64 = 60 * 60 * 1_000;
const TTL_MAX_MS: u64 = 24 * TTL_MS;
const NONCE_MIN: usize = 16;

/// A request for a token.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenRequest {
    key_name: Option<String>,
    ttl: Option<u64>,
    capability: Option<String>,
    client_id: Option<String>,
    timestamp: Option<u64>,
    nonce: Option<String>,
    mac: Option<String>,
}

impl TokenRequest {
    fn signed_text(&self, name: &str) -> String {
        let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let fields = [
            name.to_owned(),
            number(self.ttl),
            text(&self.capability),
            text(&self.client_id),
            number(self.timestamp),
            text(&self.nonce),
        ];
        fields.iter().flat_map(|field| [field.as_str(), "\n"]).collect()
    }
}

/// A token and what it is worth.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenDetails {
    token: String,
    key_name: String,
    issued: u64,
    expires: u64,
    capability: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
}

#[derive(Deserialize)]
struct JwtHeader {
    alg: String,
    kid: String,
}

#[derive(Deserialize)]
struct JwtClaims {
    exp: u64,
    #[serde(rename = "x-ably-capability")]
    capability: Option<String>,
    #[serde(rename = "x-ably-clientId")]
    client_id: Option<String>,
}

fn from_base64<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn mac(secret: &str, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length will do");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Auth {
        Auth::new(&["app.key:secret".to_owned()]).expect("a key")
    }

    fn code(result: Result<Grant, Failure>) -> u32 {
        result.err().map_or(0, |failure| failure.code)
    }

    #[test]
    fn keys_are_known_or_not() {
        let auth = auth();
        let check = |key: &str| code(auth.check(&Credentials::Key(key.to_owned()), 0));
        assert_eq!(check("app.key:secret"), 0);
        assert_eq!(check("app.key:other"), 40101);
        assert_eq!(check("app.other:secret"), 40101);
        assert_eq!(check("nonsense"), 40005);
    }

    #[test]
    fn a_jwt_is_worth_what_it_says_until_it_expires() {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(serde_json::json!({"alg": "HS256", "typ": "JWT", "kid": "app.key"}));
        let capability = r#"{"ai:*":["publish"]}"#;
        let claims =
            part(serde_json::json!({"iat": 1, "exp": 100, "x-ably-capability": capability, "x-ably-clientId": "me"}));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(mac("secret", signed.as_bytes()).finalize().into_bytes());
        let token = Credentials::Token(format!("{signed}.{signature}"));
        let grant = auth().check(&token, 99_000).expect("it is valid");
        assert_eq!(grant.client_id.as_deref(), Some("me"));
        assert!(grant.capability.allows("publish", "ai:x").is_ok());
        assert!(grant.capability.allows("history", "ai:x").is_err());
        assert_eq!(code(auth().check(&token, 100_000)), 40142);
        let forged = Credentials::Token(format!("{signed}.{}", URL_SAFE_NO_PAD.encode("forged")));
        assert_eq!(code(auth().check(&forged, 0)), 40144);
    }

    #[test]
    fn a_signed_request_gives_a_token_once() {
        let mut auth = auth();
        let mut random = fastrand::Rng::with_seed(1);
        let request = |timestamp: u64, nonce: &str| {
            let mut request = TokenRequest {
                timestamp: Some(timestamp),
                nonce: Some(nonce.to_owned()),
                client_id: Some("me".to_owned()),
                ..TokenRequest::default()
            };
            let signature = mac("secret", request.signed_text("app.key").as_bytes()).finalize().into_bytes();
            request.mac = Some(STANDARD.encode(signature));
            request
        };
        let mut ask = |request: &TokenRequest| auth.request_token("app.key", request, None, 1_000_000, &mut random);
        let good = request(1_000_000, "0123456789abcdef");
        let token = ask(&good).expect("a token").token;
        assert_eq!(ask(&good).expect_err("a replay").code, 40105);
        assert_eq!(ask(&request(1, "fedcba9876543210")).expect_err("it is old").code, 40104);
        let forged = TokenRequest { ttl: Some(5), ..request(1_000_000, "fedcba9876543210") };
        assert_eq!(ask(&forged).expect_err("it is forged").code, 40101);
        assert_eq!(ask(&TokenRequest::default()).expect_err("it is not signed").code, 40101);
        let grant = auth.check(&Credentials::Token(token.clone()), 1_000_001).expect("it is good");
        assert_eq!(grant.identity(), Some("me"));
        assert_eq!(code(auth.check(&Credentials::Token(token), 1_000_000 + TTL_MS)), 40142);
    }

    #[test]
    fn a_client_is_who_its_credentials_say() {
        let grant = |id: Option<&str>| Grant {
            client_id: id.map(str::to_owned),
            capability: Capability::everything(),
            key_name: String::new(),
            expires: None,
        };
        let named =
            |own, wanted: Option<&str>| grant(own).named(wanted.map(str::to_owned)).map(|grant| grant.client_id);
        assert_eq!(named(Some("*"), Some("me")), Ok(Some("me".to_owned())));
        assert_eq!(named(Some("me"), None), Ok(Some("me".to_owned())));
        assert_eq!(named(None, None), Ok(None));
        for own in [Some("you"), None] {
            assert_eq!(named(own, Some("me")).expect_err("somebody else").code, 40102);
        }
    }
}
