//! Scenarios: how the emulator fails over time. A file that a person can read: what fails to begin with and, if that is not
//! all, what fails from later on. The files of `deploy/scenarios` are some.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::faults::{Error, Faults};
use super::limits::STEPS;

/// How the emulator fails, to begin with and later.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scenario {
    /// What it shows, in a line.
    pub about: String,
    /// What the demo's relay is told, as `key=value`.
    pub settings: Vec<String>,
    /// What fails to begin with.
    pub faults: Faults,
    /// What fails later.
    pub then: Vec<Step>,
}

/// A change of what fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// So long after the step before it.
    pub after: Duration,
    /// What fails from then on: what is not said is off.
    pub faults: Faults,
}

impl Scenario {
    /// Reads what somebody has given on a command line: the name of a file, or a list such as `reject=0.2,drop=0.01`.
    ///
    /// # Errors
    /// When it is neither, a name is unknown or a value has a wrong type.
    pub fn read(text: &str) -> Result<Self, Error> {
        let path = Path::new(text);
        let is_list = text.is_empty() || text.contains('=') && !path.is_file();
        let ends_as_one = path.extension().is_some_and(|end| end == "toml" || end == "json");
        if ends_as_one || !is_list { Self::load(path) } else { Ok(Faults::parse_list(text)?.into()) }
    }

    /// Reads a file: JSON if its name ends so, else TOML.
    ///
    /// # Errors
    /// When it cannot be read, a name is unknown or a value has a wrong type.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let fields = match path.extension().is_some_and(|extension| extension == "json") {
            true => serde_json::from_str(&text).map_err(|error| error.to_string()),
            false => toml::from_str(&text).map_err(|error| error.to_string()),
        };
        let read = fields.map_err(Error::Shape).and_then(Self::of);
        read.map_err(|error| Error::In { path: PathBuf::from(path), error: Box::new(error) })
    }

    /// Reads it from JSON.
    ///
    /// # Errors
    /// When a name is unknown or a value has a wrong type.
    pub fn parse_json(text: &[u8]) -> Result<Self, Error> {
        Self::of(serde_json::from_slice(text).map_err(|error| Error::Shape(error.to_string()))?)
    }

    /// Everything that is not the scenario's own is a fault.
    fn of(mut fields: Map<String, Value>) -> Result<Self, Error> {
        let about = field(&mut fields, "about")?;
        let settings = field(&mut fields, "settings")?;
        let then: Vec<Map<String, Value>> = field(&mut fields, "then")?;
        if then.len() > STEPS {
            return Err(Error::Shape(format!("then: {} steps are more than {STEPS}", then.len())));
        }
        let then = then
            .into_iter()
            .zip(1..)
            .map(|(fields, number)| Step::of(fields).map_err(|error| Error::Step { number, error: Box::new(error) }));
        Ok(Self { about, settings, then: then.collect::<Result<_, _>>()?, faults: faults(fields)? })
    }

    /// The same with a seed, wherever none is given.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        let steps = self.then.iter_mut().map(|step| &mut step.faults);
        for faults in std::iter::once(&mut self.faults).chain(steps) {
            faults.seed = if faults.seed == 0 { seed } else { faults.seed };
        }
        self
    }
}

impl From<Faults> for Scenario {
    fn from(faults: Faults) -> Self {
        Self { faults, ..Self::default() }
    }
}

impl Step {
    fn of(mut fields: Map<String, Value>) -> Result<Self, Error> {
        let after: String = field(&mut fields, "after")?;
        let after = humantime_serde::re::humantime::parse_duration(&after);
        let after = after.map_err(|_| Error::Shape("after: must say how long, like \"8s\"".to_owned()))?;
        Ok(Self { after, faults: faults(fields)? })
    }
}

/// Takes a field out; its default if it is not there.
fn field<T: serde::de::DeserializeOwned + Default>(fields: &mut Map<String, Value>, name: &str) -> Result<T, Error> {
    let Some(value) = fields.remove(name) else { return Ok(T::default()) };
    serde_json::from_value(value).map_err(|error| Error::Shape(format!("{name}: {error}")))
}

fn faults(fields: Map<String, Value>) -> Result<Faults, Error> {
    let faults: Faults = serde_json::from_value(fields.into()).map_err(|error| Error::Shape(error.to_string()))?;
    faults.checked()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> Result<Scenario, Error> {
        Scenario::of(toml::from_str(text).expect("it is TOML"))
    }

    #[test]
    fn a_scenario_is_faults_that_change() {
        let text = r#"
            about = "Refusals, then an outage, then nothing."
            settings = ["response.idle=2s"]
            reject = 0.5
            [[then]]
            after = "1s 500ms"
            refuse-connections = true
            [[then]]
            after = "4s"
        "#;
        let expected = Scenario {
            about: "Refusals, then an outage, then nothing.".to_owned(),
            settings: vec!["response.idle=2s".to_owned()],
            faults: Faults { reject: 0.5, ..Faults::default() },
            then: vec![
                Step {
                    after: Duration::from_millis(1_500),
                    faults: Faults { refuse_connections: true, ..Faults::default() },
                },
                Step { after: Duration::from_secs(4), faults: Faults::default() },
            ],
        };
        assert_eq!(toml(text).expect("it is one"), expected);
        let seeds = |scenario: Scenario| (scenario.faults.seed, scenario.then[0].faults.seed);
        assert_eq!(seeds(expected.seeded(7)), (7, 7));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let step = |fields: &str| format!("[[then]]\nafter = \"1s\"\n[[then]]\n{fields}");
        for (text, says) in [
            ("explode = 1".to_owned(), &["unknown field `explode`"][..]),
            ("reject = 7".to_owned(), &["reject", "between 0 and 1"]),
            ("about = 7".to_owned(), &["about: "]),
            (step("after = \"1s\"\nexplode = 1"), &["step 2", "unknown field `explode`"]),
            (step("after = \"1s\"\ndrop = 2"), &["step 2", "drop", "between 0 and 1"]),
            (step("after = \"soon\""), &["step 2", "after", "8s"]),
            (step(""), &["step 2", "after", "8s"]),
            ("[[then]]\nafter = \"1s\"\n".repeat(STEPS + 1), &["101 steps"]),
        ] {
            let error = toml(&text).expect_err(&text).to_string();
            assert!(says.iter().all(|words| error.contains(words)), "{text}: {error}");
        }
    }

    #[test]
    fn a_command_line_names_a_file_or_lists_faults() {
        let listed = Scenario::read("reject=0.5").expect("a list");
        assert_eq!(listed, Faults { reject: 0.5, ..Faults::default() }.into());
        assert_eq!(Scenario::read("").expect("an empty list"), Scenario::default());
        for name in ["/nowhere/at-all.toml", "/nowhere", "reject", "a=b.toml"] {
            let missing = Scenario::read(name).expect_err("no file").to_string();
            assert!(missing.contains(name) && missing.contains("No such file"), "{missing}");
        }
        let folder = std::env::temp_dir().join(format!("scenario-{}", fastrand::u64(..)));
        std::fs::create_dir(&folder).expect("a folder");
        for (name, text) in [("a.toml", "reject = 0.5"), ("b.json", r#"{"reject": 0.5}"#), ("c", "reject = 0.5")] {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            assert_eq!(Scenario::read(&path.display().to_string()).expect("a file"), listed, "{name}");
        }
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
