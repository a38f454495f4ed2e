//! Who a client is and what it may do: API keys, tokens that the emulator gave, and JWTs signed with a key.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use super::errors::{Failure, failure, forbidden};
use super::limits::TOKENS;

/// What a client showed.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    /// A whole API key.
    Key(String),
    /// A token or JWT.
    Token(String),
}

/// What a client may do.
#[derive(Debug, Clone, Default)]
pub(super) struct Grant {
    /// Its identity, if it has one.
    pub(super) client_id: Option<String>,
    /// Operations by resource; none means everything.
    capability: Option<HashMap<String, Vec<String>>>,
    /// When it ends, in milliseconds.
    pub(super) expires: Option<u64>,
}

/// Keys and tokens.
#[derive(Debug)]
pub(super) struct Auth {
    /// Secrets by key name.
    keys: HashMap<String, String>,
    tokens: HashMap<String, Grant>,
}

impl Auth {
    /// Knows these keys; none if one is malformed.
    pub(super) fn new(keys: &[String]) -> Option<Self> {
        let split = |key: &String| key.split_once(':').map(|(name, secret)| (name.to_owned(), secret.to_owned()));
        Some(Self { keys: keys.iter().map(split).collect::<Option<_>>()?, tokens: HashMap::new() })
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
            Some(_) => Ok(Grant::default()),
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
        let capability = match &claims.capability {
            None => None,
            Some(text) => Some(serde_json::from_str(text).map_err(|_| bad())?),
        };
        Ok(Grant { client_id: claims.client_id, capability, expires: Some(claims.exp.saturating_mul(1_000)) })
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
        let secret = self.keys.get(name).ok_or_else(|| failure(40101, 401, "No key with this name"))?;
        match (&request.mac, shown) {
            (Some(given), _) => {
                let text = request.signed_text(name);
                let given = STANDARD.decode(given).unwrap_or_default();
                let valid = mac(secret, text.as_bytes()).verify_slice(&given).is_ok();
                valid.then_some(()).ok_or_else(|| failure(40101, 401, "The mac does not fit the request"))?;
                if request.timestamp.is_some_and(|at| at.abs_diff(now_ms) > 120_000) {
                    return Err(failure(40104, 401, "Timestamp not current"));
                }
            }
            (None, Some(credentials)) => self.check(credentials, now_ms).map(drop)?,
            (None, None) => return Err(failure(40101, 401, "The request is not signed")),
        }
        let capability = match request.capability.as_deref() {
            None | Some("") => None,
            Some(text) => Some(serde_json::from_str(text).map_err(|_| failure(40003, 400, "Invalid capability"))?),
        };
        if self.tokens.len() >= TOKENS {
            self.tokens.retain(|_, grant| grant.expires.is_some_and(|expires| expires > now_ms));
        }
        let token: String = std::iter::repeat_with(|| random.alphanumeric()).take(32).collect();
        let expires = now_ms + request.ttl.unwrap_or(3_600_000).min(86_400_000);
        let grant = Grant { client_id: request.client_id.clone(), capability, expires: Some(expires) };
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
}

impl Grant {
    /// Whether it allows an operation on a channel.
    pub(super) fn allows(&self, operation: &str, channel: &str) -> Result<(), Failure> {
        let Some(capability) = &self.capability else { return Ok(()) };
        let allowed = capability.iter().any(|(resource, operations)| {
            let operation_fits =
                operations.iter().any(|op| op == "*" || op == operation || op.starts_with(&format!("{operation}-")));
            operation_fits && resource_fits(resource, channel)
        });
        if allowed { Ok(()) } else { Err(forbidden(operation, channel)) }
    }
}

/// Segments are separated by `:`; `*` stands for one, and at the end for the rest.
fn resource_fits(resource: &str, channel: &str) -> bool {
    let (mut pattern, mut name) = (resource.split(':').peekable(), channel.split(':'));
    loop {
        match (pattern.next(), name.next()) {
            (Some("*"), Some(_)) if pattern.peek().is_none() => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(segment)) if wanted == segment => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// A request for a token.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenRequest {
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
        assert!(grant.allows("publish", "ai:x").is_ok());
        assert!(grant.allows("history", "ai:x").is_err());
        assert_eq!(code(auth().check(&token, 100_000)), 40142);
        let forged = Credentials::Token(format!("{signed}.{}", URL_SAFE_NO_PAD.encode("forged")));
        assert_eq!(code(auth().check(&forged, 0)), 40144);
    }

    #[test]
    fn resources_fit_by_segment() {
        for (resource, channel, fits) in [
            ("*", "a:b", true),
            ("ai:*", "ai:x:y", true),
            ("ai:*", "ai", false),
            ("*:b", "a:b", true),
            ("*:b", "a:c", false),
            ("ai:x", "ai:x", true),
        ] {
            assert_eq!(resource_fits(resource, channel), fits, "{resource} {channel}");
        }
    }
}
