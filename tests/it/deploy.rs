//! What stands under `deploy/` and in the root for those who deploy: generated files are what the code generates.

use schemars::generate::SchemaSettings;
use tokenrelay::engine::ResultRecord;

/// The text of a file of the repository.
fn read(path: &str) -> String {
    let from_root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&from_root).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_schema_of_results_is_that_of_the_code() {
    const PATH: &str = "deploy/results.schema.json";
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<ResultRecord<'static>>();
    let title = "A record of tokenrelay's results topic, version 1";
    schema.insert("title".to_owned(), title.into());
    let generated = serde_json::to_string_pretty(&schema).expect("it is JSON") + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH), &generated).expect("written");
    }
    assert_eq!(read(PATH), generated, "{PATH} is out of date: UPDATE_SCHEMA=1 cargo test --test it schema");
}
