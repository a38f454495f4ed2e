//! A channel's messages as an application finds them that comes late: history over REST, page by page.

use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, HeaderName, LINK};
use reqwest::{Client, StatusCode};

use super::Error;
use super::tokens::Numbers;
use crate::ably::auth::Auth;
use crate::ably::endpoint::Hosts;
use crate::ably::wire::{Data, Encoding, ErrorInfo, Message, VERSION, message_action};
use crate::config;

const PAGE: usize = 1_000;
/// Messages that were made earlier than this before the first that is wanted are not looked at.
const MARGIN_MS: i64 = 5 * 60_000;
/// How often a request that fails is made.
const TRIES: u32 = 8;
/// How long between two tries, at first; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ably's REST interface.
pub(super) struct History {
    client: Client,
    auth: Auth,
    hosts: Hosts,
    scheme: &'static str,
    port: u16,
    agent: String,
}

/// A message in its latest version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) serial: String,
    pub(super) response_id: String,
    pub(super) part: u32,
    pub(super) segment: u32,
    pub(super) create_id: String,
    pub(super) status: String,
    pub(super) text: String,
    pub(super) version: String,
    pub(super) deleted: bool,
    pub(super) name: String,
    /// What it says if it is a token, or frames tokens.
    pub(super) numbers: Option<Numbers>,
}

#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Failure<'a> {
    error: ErrorInfo<'a>,
}

/// Why a page was not read.
enum Trouble {
    /// It may work the next time.
    Passing(String),
    /// It will not.
    Lasting(Error),
}

impl History {
    /// By the settings of the relay: its credentials need the capability `history`.
    pub(super) fn new(config: &config::Ably) -> Result<Self, Error> {
        let agent = if config.agent.is_empty() { AGENT } else { &config.agent };
        Ok(Self {
            client: Client::builder().timeout(PATIENCE).build().map_err(|error| Error::Client(error.to_string()))?,
            auth: Auth::from_config(config).map_err(|error| Error::Credentials(error.to_string()))?,
            hosts: Hosts::of(&config.endpoint),
            scheme: if config.tls { "https" } else { "http" },
            port: config.port,
            agent: agent.to_owned(),
        })
    }

    /// The messages of a channel that were created at `since` (milliseconds since the Unix epoch) or later, in order;
    /// deleted ones left out.
    pub(super) async fn read(&self, channel: &str, since: Option<i64>) -> Result<Vec<Found>, Error> {
        let name = utf8_percent_encode(channel, NON_ALPHANUMERIC);
        let start = since.map_or(0, |since| (since - MARGIN_MS).max(0));
        let mut messages = BTreeMap::new();
        let mut next = Some(format!("messages?direction=forwards&limit={PAGE}&start={start}"));
        while let Some(path) = next {
            next = self.page(channel, &format!("channels/{name}/{path}"), &mut messages).await?;
        }
        Ok(messages.into_values().filter(|found| !found.deleted).collect())
    }

    /// Reads one page; gives the next one's relative address.
    async fn page(
        &self,
        channel: &str,
        path: &str,
        messages: &mut BTreeMap<String, Found>,
    ) -> Result<Option<String>, Error> {
        let mut pause = PAUSE;
        for failures in 0.. {
            match self.request(channel, path, failures, messages).await {
                Ok(next) => return Ok(next),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing(reason)) if failures + 1 >= TRIES => {
                    return Err(Error::Unreadable { channel: channel.to_owned(), reason });
                }
                Err(Trouble::Passing(_)) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
        Ok(None)
    }

    async fn request(
        &self,
        channel: &str,
        path: &str,
        failures: u32,
        messages: &mut BTreeMap<String, Found>,
    ) -> Result<Option<String>, Trouble> {
        let passing = |error: reqwest::Error| Trouble::Passing(error.without_url().to_string());
        let host = self.hosts.choose(failures, 0);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let request = self
            .client
            .get(format!("{}://{host}:{}/{path}", self.scheme, self.port))
            .header(HeaderName::from_static("x-ably-version"), VERSION.to_string())
            .header(HeaderName::from_static("ably-agent"), &self.agent)
            .header(ACCEPT, "application/json");
        let response = self.auth.sign(request).send().await.map_err(passing)?;
        let status = response.status();
        let links = response.headers().get_all(LINK).into_iter().filter_map(|link| link.to_str().ok());
        let next = links.flat_map(|line| line.split(',')).find_map(next_page);
        let body = response.bytes().await.map_err(passing)?;
        if !status.is_success() {
            return Err(refused(channel, status, &body));
        }
        let page: Vec<Message<'_>> =
            Encoding::Json.decode(&body).map_err(|error| Trouble::Passing(error.to_string()))?;
        for message in &page {
            take(messages, message);
        }
        Ok(next)
    }
}

const AGENT: &str = concat!("tokenrelay/", env!("CARGO_PKG_VERSION"));

fn refused(channel: &str, status: StatusCode, body: &[u8]) -> Trouble {
    let error = Encoding::Json.decode::<Failure<'_>>(body).map(|failure| failure.error).unwrap_or_default();
    let reason = format!("{} ({})", error.code, error.message);
    match status.as_u16() {
        401 | 403 => Trouble::Lasting(Error::Refused { channel: channel.to_owned(), reason }),
        408 | 429 | 500.. => Trouble::Passing(reason),
        _ => Trouble::Lasting(Error::Unreadable { channel: channel.to_owned(), reason }),
    }
}

/// The relative address of the next page, if a part of the header `Link` is that.
fn next_page(link: &str) -> Option<String> {
    let (_, rest) = link.split_once("<./").filter(|_| link.contains("rel=\"next\""))?;
    rest.split_once('>').map(|(path, _)| path.to_owned())
}

/// Takes a message in as any reader does: the latest version counts, an append adds.
pub(super) fn take(messages: &mut BTreeMap<String, Found>, message: &Message<'_>) {
    let Some(serial) = message.serial.as_deref() else { return };
    let action = message.action.unwrap_or(message_action::CREATE);
    let of_texts = [message_action::CREATE, message_action::UPDATE, message_action::DELETE, message_action::APPEND];
    // What else there may be, such as sums of annotations, is no text.
    if !of_texts.contains(&action) {
        return;
    }
    let version = message.version.as_ref().and_then(|version| version.serial.as_deref()).unwrap_or(serial);
    let found = messages.entry(serial.to_owned()).or_default();
    if version <= found.version.as_str() {
        return;
    }
    version.clone_into(&mut found.version);
    serial.clone_into(&mut found.serial);
    // Bytes, or an object, are not the text of a response.
    let data = match (&message.data, &message.encoding) {
        (Some(Data::Text(text)), None) => text,
        _ => "",
    };
    match action {
        message_action::DELETE => found.deleted = true,
        message_action::APPEND => found.text.push_str(data),
        _ => data.clone_into(&mut found.text),
    }
    found.name = message.name.as_deref().unwrap_or_default().to_owned();
    let Some(headers) = message.extras.as_ref().and_then(|extras| extras.get("headers")) else { return };
    let header = |name: &str| match headers.get(name) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    found.response_id = header("responseId");
    found.part = header("part").parse().unwrap_or_default();
    found.segment = header("segment").parse().unwrap_or_default();
    found.create_id = header("createId");
    found.status = header("status");
    let number = |name: &str| header(name).parse().unwrap_or_default();
    found.numbers = headers.get("seq").map(|_| Numbers {
        seq: number("seq"),
        n: number("n"),
        round: (number("epoch"), number("round")),
        segments: number("segments"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(next_page(r#"<./messages?limit=2>; rel="next""#), Some("messages?limit=2".to_owned()));
        assert_eq!(next_page(r#"<./messages?limit=2>; rel="first""#), None);
    }

    #[test]
    fn the_latest_version_counts() {
        let mut messages = BTreeMap::new();
        let mut apply = |action: u8, version: &str, data: &str| {
            let message = serde_json::json!({
                "serial": "s", "action": action, "data": data, "version": {"serial": version},
                "extras": {"headers": {"responseId": "r", "part": 1, "status": "complete"}},
            })
            .to_string();
            take(&mut messages, &Encoding::Json.decode(message.as_bytes()).expect("a message"));
        };
        apply(message_action::CREATE, "s", "a");
        apply(message_action::APPEND, "t", "b");
        apply(message_action::APPEND, "t", "b");
        let found = messages.remove("s").expect("it is there");
        assert_eq!((&*found.text, &*found.response_id, found.part, &*found.status), ("ab", "r", 1, "complete"));
    }
}
