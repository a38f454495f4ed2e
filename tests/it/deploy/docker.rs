//! The image: what it is built from is there and is enough, and it runs as nobody in particular.

use super::{path, read, settings};

/// The words behind an instruction, wherever it stands; continued lines are joined.
fn instructions(name: &str) -> Vec<Vec<String>> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.map(|rest| rest.split_whitespace().map(str::to_owned).collect()).collect()
}

/// What the build has of the repository.
fn copied() -> Vec<String> {
    let copies = instructions("COPY").into_iter().filter(|words| !words[0].starts_with("--from"));
    copies.flat_map(|words| words[..words.len() - 1].to_vec()).collect()
}

#[test]
fn the_build_has_all_that_the_code_includes() {
    let copied = copied();
    assert!(copied.len() >= 3, "{copied:?}");
    for file in &copied {
        assert!(path(file).exists(), "Dockerfile: {file} is not there");
        let kept = read(".dockerignore").lines().any(|line| line.strip_prefix('!') == Some(file.as_str()));
        assert!(kept, ".dockerignore keeps {file} from the build");
    }
    let mut folders = vec![path("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let file = entry.expect("an entry").path();
            if file.is_dir() {
                folders.push(file);
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            for included in text.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let included = file.parent().expect("a folder").join(included).canonicalize().expect("it is there");
                let there = copied.iter().any(|copied| included.starts_with(path(copied)));
                assert!(there, "{}: {} is not in the image's build", file.display(), included.display());
            }
        }
    }
}

#[test]
fn the_build_is_that_of_the_manifest() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).expect("TOML");
    let version = manifest["package"]["rust-version"].as_str().expect("a version");
    let base = &instructions("FROM")[0][0];
    assert!(base.starts_with(&format!("rust:{version}-")), "built with {base}, the manifest says Rust {version}");
    let build = instructions("RUN").into_iter().find(|words| words.iter().any(|word| word == "cargo"));
    let build = build.expect("cargo is run");
    let behind = |flag: &str| {
        let at = build.iter().position(|word| word == flag).unwrap_or_else(|| panic!("{flag} is not there"));
        build[at + 1].clone()
    };
    assert!(build.iter().any(|word| word == "--locked"));
    assert!(manifest["profile"].get(behind("--profile")).is_some(), "there is no such profile");
    assert!(manifest["features"].get(behind("--features")).is_some(), "there is no such feature");
    assert_eq!(manifest["bin"][0]["name"].as_str(), Some(behind("--bin").as_str()));
}

#[test]
fn the_image_runs_without_rights_and_can_be_asked_how_it_is() {
    assert_eq!(instructions("USER"), [["nonroot"]]);
    let variables: Vec<String> = instructions("ENV").concat();
    let config = settings(variables.iter().map(|pair| pair.split_once('=').expect("NAME=value")));
    assert!(config.admin.listen.ip().is_unspecified(), "nobody outside the container reaches {}", config.admin.listen);
    assert_eq!(instructions("EXPOSE"), [[config.admin.listen.port().to_string()]]);
}
