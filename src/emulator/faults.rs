//! Faults: how the emulator fails, as a list (`reject=0.2,drop=0.01`), a file, or over HTTP while it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How the emulator fails. Shares are between 0 and 1; everything is off by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Faults {
    /// Share of operations that are refused.
    pub reject: f64,
    /// With this code instead of 50003.
    pub reject_code: Option<u32>,
    /// Only these operations: `create`, `append`, `update`. Empty for all.
    pub reject_ops: Vec<String>,
    /// Share of refused appends whose text appears in the next append all the same.
    pub reject_fold: f64,
    /// Share of refused operations that are applied all the same.
    pub reject_applied: f64,
    /// Share of operations that are applied, and then the connection drops before the answer.
    pub lose_ack: f64,
    /// Share of operations that are applied and never answered, while others are.
    pub skip_ack: f64,
    /// How long answers wait, in milliseconds.
    pub delay: u64,
    /// Acknowledgements are held and given together, every so many milliseconds; refusals do not wait. 0 for at once.
    pub merge_acks: u64,
    /// Share of operations at which the connection drops, before or after they are applied by turns.
    pub drop: f64,
    /// How connections drop: by turns when not said.
    pub drop_as: Option<DropAs>,
    /// Operations that a drop cut off are applied so much later, in milliseconds; 0 for never.
    pub late_apply: u64,
    /// What becomes of frames that come again after a resume.
    pub resent: Resent,
    /// Share of resumes that are refused.
    pub refuse_resume: f64,
    /// No new connections, and no requests.
    pub refuse_connections: bool,
    /// Connections stay, but nothing is read or said; new ones wait.
    pub silent: bool,
    /// Share of requests that fail with 503, before or after they are applied by turns.
    pub fail_requests: f64,
    /// Operations a second on one connection, counted after rollup; 0 for no limit.
    pub rate_limit: u32,
    /// Operations a second on one channel, counted after rollup; 0 for no limit.
    pub channel_rate_limit: u32,
    /// Bytes a second on one channel; an update counts whole. 0 for no limit.
    pub channel_bytes_limit: u32,
    /// Operations a second on one connection, counted as they come, that end it with 42921; 0 for no limit.
    pub fatal_rate_limit: u32,
    /// Appends that were rolled up are answered without a serial, but for the last.
    pub null_serials: bool,
    /// Share of creates that are answered without a serial.
    pub null_creates: f64,
    /// Share of updates that are answered without a serial.
    pub null_updates: f64,
    /// Share of updates that get a serial below the message's latest.
    pub stale_updates: f64,
    /// Operations on these namespaces are refused with that code.
    pub reject_namespaces: BTreeMap<String, u32>,
    /// Makes chance repeatable.
    pub seed: u64,
}

/// What becomes of frames that were there already and come again after a resume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resent {
    /// They are answered as the first time, and not applied.
    #[default]
    Known,
    /// They are applied again.
    Again,
    /// They are not answered.
    Silent,
    /// They are refused.
    Refused,
}

/// How a connection drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropAs {
    /// The socket ends without a word.
    Socket,
    /// The WebSocket is closed in order.
    Close,
    /// A DISCONNECTED frame comes first.
    Disconnected,
}

/// Why faults are none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is neither TOML nor JSON of our shape.
    #[error("faults: {0}")]
    Shape(String),
    /// A share that is none.
    #[error("faults: {name} is a share of operations: it must lie between 0 and 1")]
    Share {
        /// The fault.
        name: &'static str,
    },
    /// An element of a list that is no `name=value`.
    #[error("faults: {0:?} is not name=value")]
    Pair(String),
}

impl Faults {
    /// Reads a list such as `reject=0.2,lose-ack=0.05,rate-limit=100`.
    ///
    /// # Errors
    /// When a name is unknown or a value has a wrong type.
    pub fn parse_list(list: &str) -> Result<Self, Error> {
        let mut fields = serde_json::Map::new();
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| Error::Pair(pair.to_owned()))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            fields.insert(name.trim().to_owned(), value);
        }
        let faults = serde_json::from_value(fields.into()).map_err(|error| Error::Shape(error.to_string()))?;
        Self::checked(faults)
    }

    /// Reads a file: JSON if its name ends so, else TOML.
    ///
    /// # Errors
    /// When it cannot be read, a name is unknown or a value has a wrong type.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let faults = match path.extension().is_some_and(|extension| extension == "json") {
            true => serde_json::from_str(&text).map_err(|error| error.to_string()),
            false => toml::from_str(&text).map_err(|error| error.to_string()),
        };
        Self::checked(faults.map_err(|problem| Error::Shape(format!("{}: {problem}", path.display())))?)
    }

    /// Refuses shares that are none.
    ///
    /// # Errors
    /// When one lies outside 0 and 1.
    pub fn checked(self) -> Result<Self, Error> {
        let shares = [
            ("reject", self.reject),
            ("reject-fold", self.reject_fold),
            ("reject-applied", self.reject_applied),
            ("lose-ack", self.lose_ack),
            ("skip-ack", self.skip_ack),
            ("drop", self.drop),
            ("refuse-resume", self.refuse_resume),
            ("fail-requests", self.fail_requests),
            ("null-creates", self.null_creates),
            ("null-updates", self.null_updates),
            ("stale-updates", self.stale_updates),
        ];
        match shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, _)) => Err(Error::Share { name }),
            None => Ok(self),
        }
    }

    /// Whether operations of that name are among those to refuse.
    pub(super) fn rejects(&self, operation: &str) -> bool {
        self.reject_ops.is_empty() || self.reject_ops.iter().any(|name| name == operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let faults =
            Faults::parse_list("reject=0.2, lose-ack=0.05,rate-limit=100,refuse-connections=true,drop-as=close");
        let expected = Faults {
            reject: 0.2,
            lose_ack: 0.05,
            rate_limit: 100,
            refuse_connections: true,
            drop_as: Some(DropAs::Close),
            ..Faults::default()
        };
        assert_eq!(faults.expect("it is a list"), expected);
        assert_eq!(Faults::parse_list("").expect("it is a list"), Faults::default());
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused() {
        let unknown = Faults::parse_list("explode=1").expect_err("no such fault").to_string();
        assert!(unknown.contains("explode") && unknown.contains("lose-ack"), "{unknown}");
        assert!(matches!(Faults::parse_list("reject=2"), Err(Error::Share { name: "reject" })));
        assert!(matches!(Faults::parse_list("reject"), Err(Error::Pair(_))));
        assert!(matches!(Faults::parse_list("reject=often"), Err(Error::Shape(_))));
    }
}
