//! History over REST, as an application reads it that was not there.

use futures_util::StreamExt;
use futures_util::stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Client;

use super::reader::{Seen, View, Wire};
use super::{AGENT, Error};

/// Requests at once.
const PARALLEL: usize = 16;
/// An injected failure may strike a read as well.
const TRIES: u32 = 20;

/// The REST interface of one server.
pub(super) struct History {
    client: Client,
    base: String,
    key_name: String,
    key_secret: String,
}

impl History {
    /// For the server at `base`, with basic authentication.
    pub(super) fn new(base: String, key: &str) -> Result<Self, Error> {
        let (key_name, key_secret) = key.split_once(':').unwrap_or((key, ""));
        Ok(Self { client: client()?, base, key_name: key_name.to_owned(), key_secret: key_secret.to_owned() })
    }

    /// What history has of each of these channels; nothing when it cannot be read.
    pub(super) async fn read(&self, channels: &[String]) -> Vec<(String, Vec<Seen>)> {
        stream::iter(channels)
            .map(|channel| async move { (channel.clone(), self.channel(channel).await) })
            .buffer_unordered(PARALLEL)
            .collect()
            .await
    }

    async fn channel(&self, channel: &str) -> Vec<Seen> {
        let name = utf8_percent_encode(channel, NON_ALPHANUMERIC);
        let base = format!("{}/channels/{name}", self.base);
        let mut url = format!("{base}/messages?limit=1000&direction=forwards");
        let (mut view, mut tries) = (View::default(), 0);
        while tries < TRIES {
            let Ok((messages, next)) = self.page(&url).await else {
                tries += 1;
                continue;
            };
            messages.iter().for_each(|message| view.apply(message));
            match next {
                Some(next) => url = format!("{base}/{next}"),
                None => return view.seen(),
            }
        }
        Vec::new()
    }

    /// A page of messages, and where the next one is.
    async fn page(&self, url: &str) -> reqwest::Result<(Vec<Wire>, Option<String>)> {
        let request = self.client.get(url).basic_auth(&self.key_name, Some(&self.key_secret));
        let request = request.header("accept", "application/json").header("ably-agent", AGENT);
        let page = request.send().await?.error_for_status()?;
        let links = page.headers().get_all("link").into_iter().filter_map(|link| link.to_str().ok());
        let next = links.flat_map(|line| line.split(',')).find(|link| link.contains("rel=\"next\""));
        let next = next.and_then(|link| Some(link.split_once("<./")?.1.split_once('>')?.0.to_owned()));
        Ok((page.json().await?, next))
    }
}

/// For plain HTTP on loopback: certificates and proxies of the machine do not matter.
pub(super) fn client() -> Result<Client, Error> {
    Ok(Client::builder().no_proxy().build()?)
}
