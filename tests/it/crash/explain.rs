//! How it came to that: all that was done with a response, for whoever has to find out what went wrong.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::stage::Stage;
use crate::e2e::relay;

/// Nobody reads more than that.
const RESPONSES_MAX: usize = 5;

impl Stage {
    /// What the first few of these differences are about.
    pub(super) async fn explain(&self, differences: &Value) -> String {
        let mut said = String::new();
        for difference in differences.as_array().into_iter().flatten().take(RESPONSES_MAX) {
            _ = writeln!(said, "\n{difference}");
            let (id, channel) = (&difference["responseId"], difference["channel"].as_str().unwrap_or_default());
            for result in tokio::task::block_in_place(|| self.results(id)) {
                _ = writeln!(said, "  {result}");
            }
            let messages =
                if channel.is_empty() { Vec::new() } else { relay::messages(self.ably.address, channel).await };
            for message in messages.iter().filter(|message| message["extras"]["headers"]["responseId"] == *id) {
                let serial = message["serial"].as_str().unwrap_or_default();
                for version in relay::versions(self.ably.address, channel, serial).await {
                    let bytes = version["data"].as_str().unwrap_or_default().len();
                    let (action, headers) = (&version["action"], &version["extras"]["headers"]);
                    _ = writeln!(said, "  {} {action} {bytes} bytes {headers}", version["version"]);
                }
            }
        }
        said
    }

    /// All results of a response.
    fn results(&self, id: &Value) -> Vec<Value> {
        let mut tail = self.world.tail(&self.world.settings.results_topic);
        let mut results = Vec::new();
        while let Some(seen) = tail.next(Duration::from_secs(2)) {
            if seen.key.as_deref() == id.as_str().map(str::as_bytes) {
                results.extend(serde_json::from_slice::<Value>(seen.value.as_deref().unwrap_or_default()));
            }
        }
        results
    }
}
