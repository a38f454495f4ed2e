//! Configuration of any text: it is loaded or refused, and either way nobody is shown a secret of it. What was loaded and is
//! printed loads again as the same.

use std::collections::BTreeSet;
use std::io::Write;

use tokenrelay::config::{Config, Error, Source, load};

/// Keys whose values are secrets.
const SECRETS: [&str; 4] = ["key", "token", "password", "auth_url"];
/// What is shorter is found anywhere.
const SECRET_MIN: usize = 8;

/// A file; behind the first null, flags between further ones.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Files are not ours to read.
    if text.contains("_file") || text.contains('\\') {
        return;
    }
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let flags: Vec<String> = parts.map(str::to_owned).collect();
    let shown = match from(file, &flags) {
        Ok(config) => {
            loads_again(&config);
            format!("{config:?} {}", toml::to_string(&config).expect("it is printed"))
        }
        Err(error) => format!("{error} {error:?}"),
    };
    for secret in secrets(file, &flags) {
        assert!(!shown.contains(&secret), "{secret:?} is shown: {shown}");
    }
}

fn from(file: &str, flags: &[String]) -> Result<Config, Error> {
    let mut place = tempfile::NamedTempFile::new().expect("a file");
    place.write_all(file.as_bytes()).expect("written");
    load(&Source { file: Some(place.path().to_owned()), environment: Vec::new(), flags: flags.to_vec() })
}

fn loads_again(config: &Config) {
    let ably = &config.ably;
    // Secrets are not printed, so they do not come back.
    if ably.key.is_some() || ably.token.is_some() || config.kafka.security.password.is_some() {
        return;
    }
    if ably.auth_url.expose().is_empty() && config.kafka.librdkafka.is_empty() {
        let printed = toml::to_string(config).expect("it is printed");
        let again = from(&printed, &[]).unwrap_or_else(|error| panic!("{error}: {printed}"));
        assert_eq!(&again, config, "{printed}");
    }
}

/// Values that are secrets by their keys, and that nothing else in the file is called.
fn secrets(file: &str, flags: &[String]) -> BTreeSet<String> {
    let mut found = Found::default();
    if let Ok(table) = toml::from_str::<toml::Table>(file) {
        found.look(&table);
    }
    for flag in flags {
        let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
        let is_secret = key.trim().rsplit('.').next().is_some_and(|last| SECRETS.contains(&last));
        if is_secret { &mut found.secret } else { &mut found.open }.insert(value.to_owned());
        found.open.insert(key.to_owned());
    }
    let Found { secret, open } = found;
    let mut secret = secret;
    secret.retain(|secret| secret.len() >= SECRET_MIN && !open.iter().any(|open| open.contains(secret)));
    // Words that the program uses itself.
    let own = format!("{:?} {}", Config::default(), include_str!("../../../deploy/config.toml"));
    secret.retain(|secret| !own.contains(secret));
    secret
}

#[derive(Default)]
struct Found {
    secret: BTreeSet<String>,
    open: BTreeSet<String>,
}

impl Found {
    fn look(&mut self, table: &toml::Table) {
        for (key, value) in table {
            self.open.insert(key.clone());
            match value {
                toml::Value::Table(table) => self.look(table),
                toml::Value::String(text) if SECRETS.contains(&&**key) => drop(self.secret.insert(text.clone())),
                other => drop(self.open.insert(other.to_string())),
            }
        }
    }
}
