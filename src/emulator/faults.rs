//! Faults: how the emulator fails, as a list (`reject=0.2,drop=0.01`), in a scenario, or over HTTP while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::auth::Grant;
use super::errors::{Failure, failure};
use super::message::Manner;

/// How the emulator fails. Shares are between 0 and 1, times are milliseconds; everything is off by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Faults {
    /// Share of operations that are refused.
    pub reject: f64,
    /// With this code instead of 50003.
    pub reject_code: Option<u32>,
    /// Only these operations: `create`, `append`, `update`. Empty for all.
    pub reject_ops: Vec<String>,
    /// Share of refused appends whose text appears in the next append all the same, those that were too large included.
    pub reject_fold: f64,
    /// That text appears in every later append, not only in the next.
    pub fold_again: bool,
    /// Share of refused operations that are applied all the same.
    pub reject_applied: f64,
    /// What comes to a message so soon after one that was refused is refused, too; 0 for only those that chance picks.
    pub reject_run: u64,
    /// Operations on these namespaces are refused with that code.
    pub reject_namespaces: BTreeMap<String, u32>,
    /// Whoever is refused so is told of the channel, too, by an ERROR.
    pub channel_errors: bool,
    /// Share of operations at which the server says that their channel is detached.
    pub detach: f64,
    /// No channel has the rule for updates and appends: creates get no serial, all else 93002.
    pub immutable: bool,
    /// Messages that are older can no longer be changed; 0 for never.
    pub gone_after: u64,
    /// They are gone with this code instead of 40400, in either case with status 404.
    pub gone_code: Option<u32>,

    /// Share of operations that are applied, and then the connection drops before the answer.
    pub lose_ack: f64,
    /// Share of operations that are applied and never answered, while others are.
    pub skip_ack: f64,
    /// Only these operations lose their answers or their connection. Empty for all.
    pub lose_ops: Vec<String>,
    /// How long answers wait.
    pub delay: u64,
    /// Acknowledgements are held and given together, so often; refusals do not wait. 0 for at once.
    pub merge_acks: u64,
    /// Share of answers that are put oddly, as `odd` says.
    pub odd_answers: f64,
    /// How odd answers are put.
    pub odd: Odd,
    /// Share of operations at which the connection drops, before or after they are applied by turns.
    pub drop: f64,
    /// How connections drop: by turns when not said.
    pub drop_as: Option<DropAs>,
    /// All connections drop so, once, when this is switched on.
    pub hang_up: Option<DropAs>,
    /// Operations that a drop cut off are applied so much later; 0 for never.
    pub late_apply: u64,
    /// What becomes of frames that come again after a resume.
    pub resent: Resent,
    /// Share of resumes that are refused.
    pub refuse_resume: f64,
    /// With this code instead of 80018.
    pub resume_code: Option<u32>,
    /// No new connections, and no requests.
    pub refuse_connections: bool,
    /// No new connections; requests are served.
    pub refuse_websockets: bool,
    /// Connections are refused with this code instead of 80003.
    pub refuse_code: Option<u32>,
    /// Connections stay, but nothing is read or said; new ones wait.
    pub silent: bool,
    /// Share of requests that fail with 503, before or after they are applied by turns.
    pub fail_requests: f64,
    /// Tokens are good for no longer than this; 0 for as long as they say.
    pub token_life: u64,
    /// New tokens on a connection that is up are refused with this code.
    pub refuse_tokens: Option<u32>,
    /// Keys of these names are revoked: whoever shows one, or a token of one, is refused with 40131, and is hung up on.
    pub revoked_keys: Vec<String>,
    /// Whoever does not name this among its agents is refused with 40168; empty for nobody.
    pub require_agent: String,

    /// Operations a second on one connection, counted after rollup; 0 for no limit.
    pub rate_limit: u32,
    /// The rate that connections are told, if it is not the one that they must keep to; else 0.
    pub told_rate: u32,
    /// Operations a second on one channel, counted after rollup; 0 for no limit.
    pub channel_rate_limit: u32,
    /// Rates count operations as they come, not after rollup.
    pub count_frames: bool,
    /// Rates count each message of an array, not the array as one.
    pub count_each: bool,
    /// Bytes a second on one channel; an update counts whole. 0 for no limit.
    pub channel_bytes_limit: u32,
    /// Operations a second of the account; 0 for no limit.
    pub account_rate_limit: u32,
    /// Operations a second on one connection, counted as they come, that end it with 42921; 0 for no limit.
    pub fatal_rate_limit: u32,
    /// With this code instead of 42921.
    pub fatal_code: Option<u32>,
    /// How a connection ends for its rate.
    pub fatal_as: FatalAs,
    /// Channels that one connection may publish to; 0 for no limit.
    pub channels_per_connection: usize,
    /// The largest message, as connections are told; 0 for what the emulator was started with.
    pub message_size: usize,
    /// The largest message that is taken, if it is not the one that connections are told; else 0.
    pub enforced_size: usize,
    /// What sizes are counted in.
    pub size_in: SizeIn,

    /// Appends that wait to be rolled up are answered without a serial.
    pub null_serials: bool,
    /// Each of them is answered with a serial of its own, of which only the last is there in the end.
    pub own_serials: bool,
    /// Appends that come as requests are rolled up, too, in a window of this length; 0 for none.
    pub rest_rollup: u64,
    /// Appends that wait come after an update that comes meanwhile: it does not supersede them.
    pub update_overtakes: bool,
    /// Share of creates that are answered without a serial.
    pub null_creates: f64,
    /// Share of updates that are answered without a serial.
    pub null_updates: f64,
    /// Share of updates that get a serial below the message's latest.
    pub stale_updates: f64,
    /// What a create is answered whose id is known.
    pub known_creates: Known,
    /// Extras that an operation leaves out are cleared, not kept.
    pub clear_omitted: bool,
    /// Pieces say only what their operation has said, not what the message has besides.
    pub bare_pieces: bool,
    /// Appends without text are refused.
    pub refuse_empty: bool,
    /// Share of changes after which somebody else writes another text over the message: with 0.02 after every fiftieth.
    pub foreign_updates: f64,
    /// Share of changes after which somebody else deletes the message, likewise.
    pub foreign_deletes: f64,
    /// What becomes of an append to a message that was deleted.
    pub deleted: Deleted,
    /// So long after a change, reading gives what was there before it.
    pub read_lag: u64,
    /// So long after it was made, a message is not in history.
    pub history_lag: u64,
    /// Share of readings that fail.
    pub fail_reads: f64,
    /// With this code instead of 50003.
    pub fail_reads_code: Option<u32>,
    /// Histories up to the point where their reader attached are refused with 40024.
    pub refuse_until_attach: bool,
    /// Share of pieces in the place of which subscribers get the whole message.
    pub whole_pieces: f64,
    /// Share of deliveries that subscribers miss; they are told so, with 80020.
    pub lose_deliveries: f64,
    /// Share of deliveries that come once more, after the next one.
    pub repeat_deliveries: f64,
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

/// What a create is answered whose id is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// The serial of the message that was made the first time.
    #[default]
    Serial,
    /// No serial.
    Nothing,
    /// A serial that no message has.
    Phantom,
    /// It makes another message.
    Again,
}

/// How an answer is put that is not put well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Odd {
    /// It does not say which frame it is for.
    #[default]
    NoSerial,
    /// It does not say how many frames it is for.
    NoCount,
    /// It says nothing of serials.
    NoResult,
    /// It is for the frame before, too, which has had its answer.
    Overlap,
}

/// How a connection ends for its rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FatalAs {
    /// With a DISCONNECTED frame: it may be resumed.
    #[default]
    Disconnected,
    /// With an ERROR frame: it is gone.
    Error,
    /// Without a word.
    Socket,
}

/// What becomes of an append to a message that was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deleted {
    /// It is there again, for those who read it and for those who are given the whole.
    #[default]
    ComesBack,
    /// It has more text and is deleted still.
    Stays,
    /// The append is refused.
    Refuses,
}

/// What sizes are counted in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SizeIn {
    /// Bytes of UTF-8.
    #[default]
    Bytes,
    /// Units of UTF-16.
    Utf16,
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
    /// A DISCONNECTED frame comes first and says that the token has expired.
    Expired,
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
    /// The file is wrong.
    #[error("{path}: {error}")]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// A later step is wrong.
    #[error("step {number} of then: {error}")]
    Step {
        /// Which, from 1 on.
        number: usize,
        /// What is wrong with it.
        error: Box<Error>,
    },
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
            ("detach", self.detach),
            ("odd-answers", self.odd_answers),
            ("foreign-updates", self.foreign_updates),
            ("foreign-deletes", self.foreign_deletes),
            ("fail-reads", self.fail_reads),
            ("null-creates", self.null_creates),
            ("null-updates", self.null_updates),
            ("stale-updates", self.stale_updates),
            ("whole-pieces", self.whole_pieces),
            ("lose-deliveries", self.lose_deliveries),
            ("repeat-deliveries", self.repeat_deliveries),
        ];
        match shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, _)) => Err(Error::Share { name }),
            None => Ok(self),
        }
    }

    /// Refuses what a revoked key has given.
    pub(super) fn check_key(&self, grant: &Grant) -> Result<(), Failure> {
        match self.revoked_keys.contains(&grant.key_name) {
            true => Err(failure(40131, 401, "Key revoked")),
            false => Ok(()),
        }
    }

    /// Whether operations of that name are among those to refuse.
    pub(super) fn rejects(&self, operation: &str) -> bool {
        among(&self.reject_ops, operation)
    }

    /// What mutations make of messages.
    pub(super) fn manner(&self) -> Manner {
        Manner {
            watched: false,
            clears: self.clear_omitted,
            bare: self.bare_pieces,
            folds_again: self.fold_again,
            stays_deleted: self.deleted != Deleted::ComesBack,
            lag_ms: self.read_lag,
        }
    }

    /// Whether operations of that name are among those to lose.
    pub(super) fn loses(&self, operation: &str) -> bool {
        among(&self.lose_ops, operation)
    }
}

/// Whether it is among those named; no names are all of them.
fn among(names: &[String], operation: &str) -> bool {
    names.is_empty() || names.iter().any(|name| name == operation)
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
