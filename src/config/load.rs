//! Loading: puts the layers together, reads the secrets that stand in files, and refuses what cannot work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{File, FileFormat, builder::DefaultState};

use super::{Config, Format, Secret};

/// The environment variables that are read begin with this.
const PREFIX: &str = "TOKENRELAY__";
/// Keys that hold lists: in the environment and in flags their elements are separated by commas.
const LISTS: [&str; 2] = ["ably.channels.allow", "input.include"];
/// Bytes that a lost connection to Ably leaves behind live at most this long in our kernel: so long it tries to bring them to
/// a peer that is silent.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where settings come from besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without our prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// `key=value` from the command line.
    pub flags: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something is said that we do not understand.
    #[error("{0}")]
    Layer(String),
    /// The file is not there.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML. Its lines are not shown: they may hold secrets.
    #[error("{path}: line {line}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A flag is no `key=value`.
    #[error("--set {flag}: expected key=value, for example --set kafka.group_id=mine")]
    Flag {
        /// The flag.
        flag: String,
    },
    /// A file that a key names cannot be read.
    #[error("{key}: cannot read {path}: {source}")]
    SecretFile {
        /// The key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A value that cannot work.
    #[error("{key} = {value}: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is set to.
        value: String,
        /// What is wrong with that, and what would do.
        problem: &'static str,
    },
}

impl Error {
    /// Shows what may be the name of a key: what follows may be a secret.
    fn flag(flag: &str) -> Self {
        let is_name = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
        Self::Flag { flag: flag.chars().take_while(is_name).collect() }
    }
}

impl From<config::ConfigError> for Error {
    /// Where a whole section was expected, a text that stands there instead may be a secret; other values are shown.
    fn from(error: config::ConfigError) -> Self {
        let said = error.to_string();
        let text = said.split_once("string \"").zip(said.rsplit_once("\", expected struct "));
        Self::Layer(match text {
            Some(((before, _), (_, after))) => format!("{before}a text, expected struct {after}"),
            None => said,
        })
    }
}

/// The shortest and the longest life of a token.
const JWT_TTL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3_600));

/// Loads the configuration.
///
/// # Errors
/// When a layer cannot be read, a key is unknown, a value has a wrong type, or values cannot work together.
pub fn load(source: &Source) -> Result<Config, Error> {
    let mut builder = config::Config::builder();
    if let Some(path) = &source.file {
        builder = builder.add_source(File::from_str(&read_toml(path)?, FileFormat::Toml));
    }
    for (name, value) in &source.environment {
        if let Some(rest) = name.strip_prefix(PREFIX) {
            builder = set(builder, &rest.to_lowercase().replace("__", "."), value)?;
        }
    }
    for flag in &source.flags {
        let (key, value) = flag.split_once('=').ok_or_else(|| Error::flag(flag))?;
        builder = set(builder, key.trim(), value)?;
    }
    let mut config: Config = builder.build()?.try_deserialize()?;
    read_secrets(&mut config)?;
    check(&config)?;
    Ok(config)
}

/// The text of a file that is TOML.
fn read_toml(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    match toml::from_str::<toml::Table>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let (line, problem) = (before.matches('\n').count() + 1, error.message().to_owned());
            Err(Error::Syntax { path: path.to_owned(), line, problem })
        }
    }
}

type Builder = config::ConfigBuilder<DefaultState>;

fn set(builder: Builder, key: &str, value: &str) -> Result<Builder, Error> {
    if LISTS.contains(&key) {
        let elements: Vec<&str> = value.split(',').map(str::trim).filter(|element| !element.is_empty()).collect();
        return Ok(builder.set_override(key, elements)?);
    }
    Ok(builder.set_override(key, value)?)
}

fn read_secrets(config: &mut Config) -> Result<(), Error> {
    let ably = &mut config.ably;
    if ably.key.is_none() && !ably.key_file.as_os_str().is_empty() {
        ably.key = Some(read("ably.key_file", &ably.key_file)?);
    }
    if !ably.jwt.key_file.as_os_str().is_empty() {
        ably.jwt.key = Some(read("ably.jwt.key_file", &ably.jwt.key_file)?);
    }
    if let (None, Some(path)) = (&ably.token, &ably.token_file) {
        ably.token = Some(read("ably.token_file", path)?);
    }
    let security = &mut config.kafka.security;
    if let (None, Some(path)) = (&security.password, &security.password_file) {
        security.password = Some(read("kafka.security.password_file", path)?);
    }
    Ok(())
}

fn read(key: &'static str, path: &Path) -> Result<Secret, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::SecretFile { key, path: path.to_owned(), source })?;
    Ok(Secret::new(text.trim().to_owned()))
}

/// Refuses what cannot work, and what this version does not do yet.
fn check(config: &Config) -> Result<(), Error> {
    let refuse = |bad: bool, key, value: &dyn std::fmt::Display, problem| {
        if bad { Err(Error::Value { key, value: value.to_string(), problem }) } else { Ok(()) }
    };
    let (ably, reconcile) = (&config.ably, &config.reconcile);
    let two = ably.jwt.key.is_some() && (ably.key.is_some() || ably.token.is_some());
    let problem = "is given beside another key or token; leave one";
    refuse(two, "ably.jwt.key_file", &ably.jwt.key_file.display(), problem)?;
    let url = ably.auth_url.expose();
    let two = !url.is_empty() && (ably.jwt.key.is_some() || ably.key.is_some() || ably.token.is_some());
    refuse(two, "ably.auth_url", &"...", "is given beside a key or a token; leave one")?;
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|host| url.starts_with(host));
    let clear = !url.is_empty() && !url.starts_with("https://") && !local;
    refuse(
        clear,
        "ably.auth_url",
        &"...",
        "begins neither with https:// nor on this machine: a token would travel in the clear",
    )?;
    let ttl = humantime_serde::re::humantime::format_duration(ably.jwt.ttl);
    let bad = ably.jwt.ttl < JWT_TTL.0 || ably.jwt.ttl > JWT_TTL.1;
    refuse(bad, "ably.jwt.ttl", &ttl, "Ably takes tokens that are good for a minute to a day")?;
    let later = !matches!(config.input.format, Format::Auto | Format::Tokenrelay | Format::OpenaiChat);
    refuse(later, "input.format", &config.input.format, "not available yet; use auto, tokenrelay or openai-chat")?;
    refuse(ably.connections.max == 0, "ably.connections.max", &0, "at least one connection is needed")?;
    refuse(ably.connections.rate == 0, "ably.connections.rate", &0, "nothing could ever be sent; Ably allows 50")?;
    refuse(ably.channels.rate == 0, "ably.channels.rate", &0, "nothing could ever be sent; Ably allows 50")?;
    refuse(ably.in_flight.operations == 0, "ably.in_flight.operations", &0, "nothing could ever be sent")?;
    refuse(config.response.open_max == 0, "response.open_max", &0, "nothing could ever be read")?;
    refuse(reconcile.attempts == 0, "reconcile.attempts", &0, "at least one attempt is needed")?;
    let late_check = humantime_serde::re::humantime::format_duration(reconcile.late_check);
    let problem = "bytes of a lost connection can live for 5s; at least twice that is needed";
    refuse(reconcile.late_check < TCP_USER_TIMEOUT * 2, "reconcile.late_check", &late_check, problem)?;
    let rollup = ably.append_rollup.as_millis();
    let known = [0, 20, 40, 100, 500].contains(&rollup);
    refuse(!known, "ably.append_rollup", &format!("{rollup}ms"), "Ably knows 0ms, 20ms, 40ms, 100ms and 500ms")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(toml: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, Error> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), toml).expect("written");
        load(&Source {
            file: Some(file.path().to_owned()),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        })
    }

    #[test]
    fn nothing_said_is_the_defaults() {
        assert_eq!(from("", &[], &[]).expect("loads"), Config::default());
    }

    #[test]
    fn later_layers_win() {
        let toml = "[kafka]\ngroup_id = 'file'\ntokens_topic = 'file'\nresults_topic = 'file'";
        let environment =
            [("TOKENRELAY__KAFKA__GROUP_ID", "env"), ("TOKENRELAY__KAFKA__TOKENS_TOPIC", "env"), ("HOME", "/")];
        let config = from(toml, &environment, &["kafka.group_id=flag"]).expect("loads");
        let kafka = config.kafka;
        assert_eq!((&*kafka.group_id, &*kafka.tokens_topic, &*kafka.results_topic), ("flag", "env", "file"));
    }

    #[test]
    fn values_have_units_and_lists_have_commas() {
        let environment = [("TOKENRELAY__ABLY__CHANNELS__ALLOW", "ai:*, chat:*"), ("TOKENRELAY__ABLY__TLS", "false")];
        let config = from("[response]\ntext_bytes_max = '1MiB'\nidle = '90s'", &environment, &["ably.port=8181"])
            .expect("loads");
        assert_eq!(config.response.text_bytes_max.as_u64(), 1 << 20);
        assert_eq!(config.response.idle, Duration::from_secs(90));
        assert_eq!(config.ably.channels.allow, ["ai:*", "chat:*"]);
        assert!(!config.ably.tls);
        assert_eq!(config.ably.port, 8181);
    }

    #[test]
    fn an_integer_is_a_size_in_bytes() {
        let config = from("[ably]\nmax_message_size = 4096", &[], &["response.text_bytes_max=1000000"]).expect("loads");
        assert_eq!(config.ably.max_message_size.as_u64(), 4_096);
        assert_eq!(config.response.text_bytes_max.as_u64(), 1_000_000);
    }

    #[test]
    fn errors_name_the_key() {
        for (toml, named) in [
            ("[kafka]\ngroup = 'x'", "group"),
            ("[kafka]\nsession_timeout = 'soon'", "session_timeout"),
            ("[results]\ndelivery = 'twice'", "delivery"),
            ("[ably]\nconnections.rate = 0", "ably.connections.rate"),
            ("[ably]\nkey_file = '/nowhere/key'", "ably.key_file"),
            ("[ably.jwt]\nkey_file = '/nowhere/key'", "ably.jwt.key_file"),
            ("[ably.jwt]\nttl = '10s'", "ably.jwt.ttl"),
            ("[reconcile]\nlate_check = '9s'", "reconcile.late_check"),
        ] {
            let error = from(toml, &[], &[]).expect_err("it is refused").to_string();
            assert!(error.contains(named), "{error:?} does not name {named}");
        }
        assert!(from("", &[], &["nonsense"]).is_err());
    }

    #[test]
    fn errors_keep_secrets() {
        for toml in [
            "ably = 'a.b:hunter2'",
            "[ably]\njwt = 'hunter2'",
            "[kafka]\nsecurity = 'hunter2 \", x'",
            "kafka = 'hunter2'",
        ] {
            let error = from(toml, &[], &[]).expect_err("it is refused");
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error}");
            assert!(error.to_string().contains("expected struct"), "{error}");
        }
        for flag in ["ably.key:a.b:hunter2", "ably.key a.b:hunter2"] {
            let error = from("", &[], &[flag]).expect_err("it is refused").to_string();
            assert!(!error.contains("hunter") && error.contains("ably.key"), "{error}");
        }
        let error = from("", &[("TOKENRELAY__ABLY", "a.b:hunter2")], &[]).expect_err("it is refused").to_string();
        assert!(!error.contains("hunter") && error.contains("ably"), "{error}");
    }
}
