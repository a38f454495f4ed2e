//! The demo through its real binary: a headless run's verdict, and its page in a real browser.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The exit code and what was printed.
async fn headless(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = demo(&[&["--headless"], arguments].concat()).output().await.expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary = serde_json::from_slice(&output.stdout);
    (output.status.code(), summary.unwrap_or_else(|error| panic!("no summary: {error}; it said: {said}")))
}

#[tokio::test]
async fn faults_leave_no_wrong_text_and_no_missing_result() {
    let faults = "reject=0.2,lose-ack=0.05,drop=0.01,refuse-resume=0.5";
    let (code, summary) = headless(&["--responses", "60", "--seed", "7", "--faults", faults]).await;
    assert_eq!(code, Some(0), "{summary:#}");
    assert_eq!((&summary["wrongTexts"], &summary["missingResults"]), (&0.into(), &0.into()), "{summary:#}");
    assert_eq!(summary["responses"], 60);
    for count in ["tokens", "operations", "rejected", "repairs"] {
        assert!(summary[count].as_u64().is_some_and(|count| count > 0), "{count}: {summary:#}");
    }
    assert!(summary["unknown"].is_u64() && summary["seconds"].is_f64(), "{summary:#}");
}

#[tokio::test]
async fn among_tokens_too_faults_leave_no_wrong_text() {
    let faults = "reject=0.2,lose-ack=0.05,drop=0.01,refuse-resume=0.5";
    let arguments = ["--responses", "30", "--seed", "3", "--pattern", "message-per-token", "--faults", faults];
    let (code, summary) = headless(&arguments).await;
    assert_eq!(code, Some(0), "{summary:#}");
    assert!(summary["repairs"].as_u64().is_some_and(|repairs| repairs > 0), "{summary:#}");
}

#[tokio::test]
async fn without_repairs_the_check_fails() {
    let never = ["--responses", "40", "--seed", "7", "--faults", "reject=0.2", "--set", "reconcile.when=never"];
    let (code, summary) = headless(&never).await;
    assert_eq!(code, Some(1), "{summary:#}");
    assert!(summary["wrongTexts"].as_u64().is_some_and(|wrong| wrong > 0), "{summary:#}");
}

#[tokio::test]
async fn a_browser_sees_texts_stream_break_and_heal() {
    let browser = browser().expect("a Chromium: install it, or name one in TOKENRELAY_TEST_BROWSER");
    let scripts = playwright().await;
    let (mut page, url) = serve().await;
    let mut command = Command::new("node");
    command.arg("page.mjs").arg(&url).arg(browser).current_dir(&scripts).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(path) = std::env::var_os("TOKENRELAY_TEST_SCREENSHOT") {
        command.arg(path);
    }
    let output = command.output().await.expect("node runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    page.kill().await.expect("it was running");
}

/// A demo with its page, and the page's address.
async fn serve() -> (Child, String) {
    let mut child = demo(&["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("starts");
    let stdout = child.stdout.take().expect("is piped");
    let mut lines = BufReader::new(stdout).lines();
    let line = lines.next_line().await.expect("is text").expect("says where it is");
    let at = line.find("http://").unwrap_or_else(|| panic!("no address in {line:?}"));
    let url = line[at..].split_whitespace().next().unwrap_or_default().to_owned();
    tokio::spawn(async move { while lines.next_line().await.is_ok_and(|line| line.is_some()) {} });
    (child, url)
}

/// The browser that the environment names, or one that the machine has.
fn browser() -> Option<PathBuf> {
    let named = std::env::var_os("TOKENRELAY_TEST_BROWSER").map(PathBuf::from);
    named
        .into_iter()
        .chain(["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from))
        .find(|path| path.exists())
}

/// A throw-away folder with the script and its one dependency.
async fn playwright() -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page");
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/page");
    std::fs::create_dir_all(&to).expect("a folder");
    for file in ["package.json", "package-lock.json", "page.mjs"] {
        std::fs::copy(from.join(file), to.join(file)).expect("copied");
    }
    if !to.join("node_modules/playwright-core").exists() {
        let npm = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&to).output().await;
        let npm = npm.expect("npm runs");
        assert!(npm.status.success(), "{}", String::from_utf8_lossy(&npm.stderr));
    }
    to
}
