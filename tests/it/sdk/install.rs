//! The official clients, each in a throw-away folder, and programs that use them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

/// An installation may wait for a slow network.
const PATIENCE: Duration = Duration::from_secs(600);

/// A folder for a client, beside the other things that are built.
async fn folder(name: &str, install: impl AsyncFnOnce(&Path)) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let folder = target.join("clients").join(name);
    let done = folder.join(".installed");
    if !done.exists() {
        let _none = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        install(&folder).await;
        std::fs::write(&done, "").expect("a mark");
    }
    folder
}

async fn npm(folder: &Path, packages: &[&str]) {
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(folder).args(packages);
    run(npm, PATIENCE).await;
}

pub(crate) async fn ably_js() -> &'static Path {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let install = async |folder: &Path| npm(folder, &["ably@2.28.0"]).await;
    FOLDER.get_or_init(async || folder("ably-js-2.28.0", install).await).await
}

/// What a front end is made of: Ably's client, React, a document without a browser, the TypeScript compiler; and what knows
/// whether JSON is as a schema says.
pub(crate) async fn front_end() -> &'static Path {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let react = ["react@19.3.1", "react-dom@19.3.1", "@types/react@19", "happy-dom@21.0.4"];
    let others = ["ably@2.28.0", "typescript@7.0.2", "ajv@8.17.1"];
    let install = async |folder: &Path| npm(folder, &[&others[..], &react[..]].concat()).await;
    FOLDER.get_or_init(async || folder("front-end-2", install).await).await
}

/// Compiled as strictly as anybody's project may compile it.
const TSCONFIG: &str = r#"{
    "compilerOptions": {
        "target": "es2022", "module": "nodenext", "strict": true, "noUncheckedIndexedAccess": true,
        "noUnusedLocals": true, "noImplicitReturns": true, "skipLibCheck": true, "outDir": "out", "types": []
    },
    "files": ["reader.ts", "ably.ts", "react.ts"]
}"#;

/// The reader for front ends, as the compiler makes it.
pub(crate) async fn compiled_reader() -> &'static Path {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let compile = async || {
        let folder = front_end().await;
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/reader");
        for name in ["reader.ts", "ably.ts", "react.ts"] {
            std::fs::copy(ours.join(name), folder.join(name)).expect("copied");
        }
        std::fs::write(folder.join("tsconfig.json"), TSCONFIG).expect("written");
        std::fs::create_dir_all(folder.join("out")).expect("a folder");
        std::fs::write(folder.join("package.json"), r#"{"type": "module"}"#).expect("written");
        let mut compiler = Command::new("node");
        compiler.current_dir(folder).arg("node_modules/typescript/bin/tsc");
        run(compiler, PATIENCE).await;
        folder.join("out")
    };
    FOLDER.get_or_init(compile).await
}

pub(crate) async fn ably_python() -> &'static Path {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let install = async |folder: &Path| {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(folder);
        run(venv, PATIENCE).await;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "ably==3.1.4"]);
        run(pip, PATIENCE).await;
    };
    FOLDER.get_or_init(async || folder("ably-python-3.1.4", install).await).await
}

/// Ends with what the command says; panics with it when the command fails.
pub(crate) async fn run(mut command: Command, within: Duration) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(within, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} hangs")).expect("it can be run: use tests/run");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}
