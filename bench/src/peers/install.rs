//! Installs the peers in a folder, by the ordinary clients of their registries, at fixed versions.
//!
//! They are compared with and never shipped. What is there already, at these versions, is used as it is,
//! without the network. A peer that cannot be installed is not measured, and the report says why.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::error::{Error, Result};

/// A peer's program, or why there is none.
pub type Installed = std::result::Result<Program, String>;

/// How a peer's driver is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub file: PathBuf,
    /// What comes before the driver's own argument.
    pub script: Option<PathBuf>,
}

/// What is installed together.
#[derive(Clone, Debug)]
pub struct Peers {
    /// graphile-worker.
    pub graphile: Installed,
    /// pg-boss.
    pub pgboss: Installed,
    /// pgqueuer.
    pub pgqueuer: Installed,
    /// awa.
    pub awa: Installed,
}

/// The versions that are compared with.
pub const GRAPHILE: &str = "0.18.0";
/// As above.
pub const PGBOSS: &str = "12.38.0";
/// As above.
pub const PGQUEUER: &str = "1.6.0";
/// As above.
pub const AWA: &str = "0.6.9";
/// What the two of npm run on, whatever Node.js the system has: they ask for 22 at least.
const NODE: &str = "22.23.3";
const ASYNCPG: &str = "0.32.0";
const UVLOOP: &str = "0.23.0";

const PATIENCE: Duration = Duration::from_secs(300);
const QUICK_PATIENCE: Duration = Duration::from_secs(120);
/// It brings a few hundred crates.
const BUILD_PATIENCE: Duration = Duration::from_secs(3_600);

/// Brings all of them; in a quick run nothing that has to be built.
///
/// # Errors
/// When the folder cannot be written.
pub async fn all(folder: &Path, quick: bool) -> Result<Peers> {
    let patience = if quick { QUICK_PATIENCE } else { PATIENCE };
    let folder = std::path::absolute(folder).map_err(Error::io("find", folder))?;
    let (npm_folder, pip_folder) = (folder.join("npm"), folder.join("pip"));
    let (node, python) = tokio::join!(npm(&npm_folder, patience), pip(&pip_folder, patience));
    let awa = cargo(&folder.join("awa"), quick).await?;
    let (node, pgqueuer) = (node?, python?);
    let of = |script: &str| {
        let script = folder.join("npm").join(script);
        node.clone().map(|file| Program {
            file,
            script: Some(script),
        })
    };
    Ok(Peers {
        graphile: of("graphile.mjs"),
        pgboss: of("pgboss.mjs"),
        pgqueuer,
        awa,
    })
}

/// Gives the Node.js beside the packages.
async fn npm(folder: &Path, patience: Duration) -> Result<std::result::Result<PathBuf, String>> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => return Ok(Err(format!("there is no Node.js for {other} on npm"))),
    };
    let node = format!("node-linux-{arch}");
    let mut dependencies = json!({"graphile-worker": GRAPHILE, "pg-boss": PGBOSS});
    dependencies[&node] = NODE.into();
    let wanted = json!({"private": true, "type": "module", "dependencies": dependencies});
    write(folder, "common.mjs", include_str!("../../peers/common.mjs"))?;
    write(
        folder,
        "graphile.mjs",
        include_str!("../../peers/graphile.mjs"),
    )?;
    write(folder, "pgboss.mjs", include_str!("../../peers/pgboss.mjs"))?;
    let mut install = Command::new("npm");
    install.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
    install.arg("--loglevel=error");
    let steps = [install];
    let done = once(folder, "package.json", &wanted.to_string(), steps, patience).await?;
    Ok(done.map(|()| folder.join("node_modules").join(node).join("bin/node")))
}

async fn pip(folder: &Path, patience: Duration) -> Result<Installed> {
    let wanted = format!("pgqueuer=={PGQUEUER}\nasyncpg=={ASYNCPG}\nuvloop=={UVLOOP}\n");
    let script = "drive_pgqueuer.py";
    write(
        folder,
        script,
        include_str!("../../peers/drive_pgqueuer.py"),
    )?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "venv"]);
    let mut install = Command::new(folder.join("venv/bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check", "-r"]);
    install.arg("requirements.txt");
    let steps = [venv, install];
    let done = once(folder, "requirements.txt", &wanted, steps, patience).await?;
    Ok(done.map(|()| Program {
        file: folder.join("venv/bin/python"),
        script: Some(folder.join(script)),
    }))
}

async fn cargo(folder: &Path, quick: bool) -> Result<Installed> {
    let wanted = include_str!("../../peers/awa.toml").replace("AWA_VERSION", AWA);
    let code = include_str!("../../peers/awa.rs");
    let program = folder.join("target/release/peer-awa");
    let built = read(&folder.join("ready")) == wanted && read(&folder.join("src/main.rs")) == code;
    if quick && !built {
        return Ok(Err("a quick run builds nothing".to_owned()));
    }
    write(&folder.join("src"), "main.rs", code)?;
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--quiet"]);
    // The bench's own build may have said otherwise.
    build.env("CARGO_TARGET_DIR", folder.join("target"));
    if !built {
        remove(&folder.join("ready"))?;
    }
    let done = once(folder, "Cargo.toml", &wanted, [build], BUILD_PATIENCE).await?;
    Ok(done.map(|()| Program {
        file: program,
        script: None,
    }))
}

/// Writes what is wanted into its file and runs the steps, unless all that was done before: then `ready`
/// holds the same text.
async fn once<const N: usize>(
    folder: &Path,
    file: &str,
    wanted: &str,
    steps: [Command; N],
    patience: Duration,
) -> Result<std::result::Result<(), String>> {
    let ready = folder.join("ready");
    if read(&ready) == wanted {
        return Ok(Ok(()));
    }
    write(folder, file, wanted)?;
    for mut step in steps {
        step.current_dir(folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let name = step.as_std().get_program().to_string_lossy().into_owned();
        eprintln!("  {name} installs a peer in {}", folder.display());
        match tokio::time::timeout(patience, step.output()).await {
            Err(_) => return Ok(Err(format!("{name} took too long"))),
            Ok(Err(error)) => return Ok(Err(format!("{name}: {error}"))),
            Ok(Ok(output)) if !output.status.success() => {
                let said = String::from_utf8_lossy(&output.stderr);
                return Ok(Err(format!("{name} failed: {}", last_line(&said))));
            }
            Ok(Ok(_)) => {}
        }
    }
    write(folder, "ready", wanted)?;
    Ok(Ok(()))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(Error::io("write", &path))
}

/// The last line that is not blank: clients say there what matters most.
fn last_line(said: &str) -> &str {
    said.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_client_is_told() {
        assert_eq!(
            last_line("npm error code E404\nnpm error gone\n\n"),
            "npm error gone"
        );
        assert_eq!(last_line(" \n"), "it did not say why");
    }

    #[tokio::test]
    async fn what_was_installed_is_not_installed_again() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("lessor-bench-once-{}", std::process::id()));
        let step = |word: &str| {
            let mut step = Command::new("sh");
            step.args(["-c", &format!("echo {word} >>ran")]);
            step
        };
        let patience = Duration::from_secs(30);
        for wanted in ["1", "1", "2"] {
            let done = once(&folder, "wanted", wanted, [step(wanted)], patience).await?;
            assert_eq!(done, Ok(()));
        }
        assert_eq!(read(&folder.join("ran")), "1\n2\n");
        let mut fails = Command::new("sh");
        fails.args(["-c", "echo no network >&2; false"]);
        let done = once(&folder, "wanted", "3", [fails], patience).await?;
        assert_eq!(done, Err("sh failed: no network".to_owned()));
        std::fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))
    }
}
