//! What is on a channel, over REST: where a message is looked for whose create was never answered, and where texts are read
//! back.
//!
//! What is read back says whose it is. A version is a relay's if its metadata carries `instance` and `epoch`, as every
//! operation of a relay's does that changes a message; which instance, and which epoch, does not matter: partitions move
//! between processes that need not know of each other, and epochs begin anew when an operator has reset offsets and results.
//! Earlier relays wrote a `phase` alone: that counts, too, so that an upgrade gives up on nothing. The first version is
//! the create's, which carries no metadata. Every other version is somebody else's. So is every deletion, for no relay deletes.
//!
//! An append of ours can come after somebody's edit and make the latest version; Ably keeps the edit among the versions, and
//! there it is found.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, LINK};
use reqwest::{Client, Method, Response};
use tokio::time::{Instant, sleep_until};

use super::auth::Auth;
use super::endpoint::Hosts;
use super::fault::{Error, Fate};
use super::http;
use super::pool::Settings;
use super::wire::{self, Data, Encoding, Message, MessageVersion};
use crate::engine::{Class, Found, Latest, LookUp, Rejection};

/// Messages on a page.
const PAGE: usize = 100;
/// Pages that are looked at for a message before we say that we cannot tell: more than a channel takes in an hour and a half.
/// That many others can have been made since on a channel that many share; one that is there must not be made again.
const PAGES_MAX: usize = 3_000;
/// Pages of a message's versions.
const VERSION_PAGES_MAX: usize = 10;
/// A message is looked for from so long before on: when its event was written is for the producer's clock to say, and when
/// it was made, for Ably's.
const CLOCKS_DIFFER_MS: u64 = 300_000;

/// Hosts that are asked besides the first [Ably: `httpMaxRetryCount`].
const FALLBACKS_MAX: u32 = 3;

/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// What is read over REST. Its copies know of each other when somebody has asked to be left alone.
#[derive(Debug, Clone)]
pub struct History {
    client: Client,
    settings: Arc<Settings>,
    quiet_until: Arc<Mutex<Option<Instant>>>,
}

impl History {
    /// With these credentials, at these hosts.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Ok(Self { client: http::client()?, settings: Arc::new(settings), quiet_until: Arc::default() })
    }

    /// Looks for a message among those that were created since.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub async fn look_up(&self, look_up: &LookUp) -> Result<Found, Error> {
        let channel = &look_up.head.channel;
        let start = look_up.since.millis().saturating_sub(CLOCKS_DIFFER_MS);
        let mut path = format!("messages?direction=forwards&limit={PAGE}&start={start}");
        for _ in 0..PAGES_MAX {
            let page = match self.get(channel, &path).await? {
                Answer::Body { body, next } => (body, next),
                Answer::Refusal(rejection) => match rejection.class {
                    Class::Channel => return Ok(Found::Refused(rejection)),
                    _ => return Err(refused(rejection)),
                },
            };
            let messages: Vec<Message<'_>> = Encoding::Json.decode(&page.0)?;
            if let Some(found) = messages.iter().find_map(|message| is_it(message, look_up)) {
                return Ok(found);
            }
            match page.1 {
                Some(next) => path = next,
                None => return Ok(Found::Nothing),
            }
        }
        tracing::warn!(%channel, messages = PAGE * PAGES_MAX, "too many messages were made since to find one of ours");
        Ok(Found::Unreadable)
    }

    /// Reads a message as it is by now. One that is not there is not there yet: reads are eventually consistent.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read_back(&self, channel: &str, serial: &str) -> Result<Latest, Error> {
        let path = format!("messages/{}", utf8_percent_encode(serial, NON_ALPHANUMERIC));
        let body = match self.get(channel, &path).await? {
            Answer::Body { body, .. } => body,
            Answer::Refusal(rejection) => match rejection.class {
                Class::Channel | Class::Account => return Ok(Latest::Refused(rejection)),
                Class::MessageGone => return Ok(Latest::Unreadable),
                _ => return Err(refused(rejection)),
            },
        };
        let latest = latest(&Encoding::Json.decode(&body)?, serial);
        if !matches!(latest, Latest::Message { ours: true, .. }) {
            return Ok(latest);
        }
        // The latest version is ours; without the others that is all that is known.
        let others = self.in_versions(channel, serial, &path).await;
        Ok(others
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "the versions of a message cannot be read");
                None
            })
            .unwrap_or(latest))
    }

    /// The first version of a message that is not ours, if there is one.
    async fn in_versions(&self, channel: &str, serial: &str, message: &str) -> Result<Option<Latest>, Error> {
        let mut path = format!("{message}/versions?limit={PAGE}");
        for _ in 0..VERSION_PAGES_MAX {
            let (body, next) = match self.get(channel, &path).await? {
                Answer::Body { body, next } => (body, next),
                Answer::Refusal(rejection) => return Err(refused(rejection)),
            };
            let versions: Vec<Message<'_>> = Encoding::Json.decode(&body)?;
            let mut all = versions.iter().map(|version| latest(version, serial));
            if let Some(other) = all.find(|version| !matches!(version, Latest::Message { ours: true, .. })) {
                return Ok(Some(other));
            }
            match next {
                Some(next) => path = format!("{message}/{next}"),
                None => break,
            }
        }
        Ok(None)
    }

    /// Reads a resource of a channel; with newer credentials when those that we have are too old, with those that were taken
    /// last when what is in their file by now is not. Not before it may be asked again.
    async fn get(&self, channel: &str, path: &str) -> Result<Answer, Error> {
        let hosts = Hosts::of(&self.settings.endpoint);
        let path = format!("channels/{}/{path}", utf8_percent_encode(channel, NON_ALPHANUMERIC));
        let quiet_until = *self.quiet_until();
        if let Some(until) = quiet_until {
            sleep_until(until).await;
        }
        let mut auth = self.settings.auth.clone();
        auth.refresh().await?;
        let mut answer = self.get_as(&hosts, &auth, &path).await?;
        let mut renewed = Ok(());
        if let Answer::Refusal(rejection) = &answer
            && Fate::of(rejection.code, rejection.status_code) == Fate::Renew
        {
            renewed = auth.renew().await;
            if renewed.is_ok() {
                answer = self.get_as(&hosts, &auth, &path).await?;
            }
        }
        let former = auth.taken_last();
        match answer {
            Answer::Refusal(Rejection { class: Class::Account | Class::Token, .. }) if !auth.is_same_as(&former) => {
                self.get_as(&hosts, &former, &path).await
            }
            answer => renewed.map(|()| answer),
        }
    }

    /// Asks one host after the other until one can say.
    async fn get_as(&self, hosts: &Hosts, auth: &Auth, path: &str) -> Result<Answer, Error> {
        let (mut answer, mut wait) = self.get_at(hosts.choose(0, 0), auth, path).await;
        for turn in 1..=hosts.fallbacks().min(FALLBACKS_MAX) {
            match &answer {
                Ok(Answer::Refusal(rejection)) if rejection.status_code >= 500 => {}
                Ok(_) => break,
                Err(_) => {}
            }
            (answer, wait) = self.get_at(hosts.choose(turn, 0), auth, path).await;
        }
        if let Some(wait) = wait {
            *self.quiet_until() = Some(Instant::now() + wait.min(http::ASKED_WAIT_MAX));
        }
        answer
    }

    /// What a host says, and how long it asks to be left alone.
    async fn get_at(&self, host: &str, auth: &Auth, path: &str) -> (Result<Answer, Error>, Option<Duration>) {
        let unreachable = |reason| Error::Unreachable { host: host.to_owned(), port: self.settings.port, reason };
        let lost = |error: reqwest::Error| (Err(unreachable(error.without_url().to_string())), None);
        let request = http::request(&self.client, &self.settings, auth, Method::GET, host, path)
            .timeout(ANSWER_WITHIN)
            .header(ACCEPT, http::media_type(Encoding::Json));
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return lost(error),
        };
        let next = next_page(&response);
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return lost(error),
        };
        if status.is_success() {
            return (Ok(Answer::Body { body, next }), None);
        }
        let refusal = http::refusal(status.as_u16(), &headers, &body).map(Answer::Refusal);
        let not_ably = || unreachable(format!("somebody else answers for it, with status {status}"));
        (refusal.ok_or_else(not_ably), http::retry_after(&headers))
    }

    fn quiet_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a message says of itself.
fn latest(message: &Message<'_>, serial: &str) -> Latest {
    if message.action == Some(wire::message_action::DELETE) {
        return Latest::Deleted;
    }
    let version = message.version.as_ref();
    let version_serial = version.and_then(|version| version.serial.as_deref());
    let header = |name: &str| message.extras.as_ref()?.get("headers")?.get(name)?.as_str();
    let text = match &message.data {
        Some(Data::Text(text)) => text.as_ref().to_owned(),
        Some(Data::Binary(_)) | None => String::new(),
    };
    let is_first = version_serial.is_none_or(|version| version == serial);
    Latest::Message {
        version: version_serial.map(Into::into),
        text,
        status: header("status").unwrap_or_default().to_owned(),
        ours: is_first || version.is_some_and(is_relays),
    }
}

/// Whether a relay made a version that is not the first.
fn is_relays(version: &MessageVersion<'_>) -> bool {
    let word = |name: &str| version.metadata.as_ref()?.get(name).map(|word| &**word);
    match (word("instance"), word("epoch")) {
        (Some(_), Some(epoch)) => epoch.parse::<u64>().is_ok(),
        (None, None) => matches!(word("phase"), Some("streaming" | "done")),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What a request was answered with.
enum Answer {
    Body { body: Bytes, next: Option<String> },
    Refusal(Rejection),
}

fn refused(rejection: Rejection) -> Error {
    let Rejection { code, status_code, message, .. } = rejection;
    Error::Refused { code, status_code, message }
}

fn is_it(message: &Message<'_>, look_up: &LookUp) -> Option<Found> {
    let header = |name: &str| message.extras.as_ref()?.get("headers")?.get(name)?.as_str();
    // Whoever has changed it may have taken its headers away, but not its id.
    let by_id = || message.id.as_deref()?.strip_suffix(":0");
    let (serial, create_id) = (message.serial.as_deref()?, header("createId").or_else(by_id)?);
    if !look_up.seeks(serial, create_id, header("status").unwrap_or_default()) {
        return None;
    }
    if !matches!(latest(message, serial), Latest::Message { ours: true, .. }) {
        return Some(Found::Others);
    }
    let version = message.version.as_ref().and_then(|version| version.serial.as_deref()).map(Into::into);
    Some(Found::of(look_up, create_id, serial.into(), version, header("supersedes")))
}

/// The relative address of the next page, from the header `Link`.
fn next_page(response: &Response) -> Option<String> {
    let links = response.headers().get_all(LINK).into_iter().filter_map(|link| link.to_str().ok());
    let mut links = links.flat_map(|line| line.split(','));
    let next = links.find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once("<./")?;
    rest.split_once('>').map(|(path, _)| path.to_owned())
}

#[cfg(test)]
mod tests;
