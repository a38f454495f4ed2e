//! History over REST, as an application reads it that was not there.

use futures_util::StreamExt;
use futures_util::stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Client;

use super::Error;
use super::reader::{Seen, View, Wire};

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
        let url = format!("{}/channels/{name}/messages?limit=1000&direction=forwards", self.base);
        for _ in 0..TRIES {
            if let Ok(messages) = self.page(&url).await {
                let mut view = View::default();
                messages.iter().for_each(|message| view.apply(message));
                return view.seen();
            }
        }
        Vec::new()
    }

    async fn page(&self, url: &str) -> reqwest::Result<Vec<Wire>> {
        let request = self.client.get(url).basic_auth(&self.key_name, Some(&self.key_secret));
        request.header("accept", "application/json").send().await?.error_for_status()?.json().await
    }
}

/// For plain HTTP on loopback: certificates and proxies of the machine do not matter.
pub(super) fn client() -> Result<Client, Error> {
    Ok(Client::builder().no_proxy().build()?)
}
