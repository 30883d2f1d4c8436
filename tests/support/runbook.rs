//! The pages in `docs/`: what they tell an operator to type is typed.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// The address that the pages name.
const ADDRESS: &str = "http://127.0.0.1:8080";

/// A curl that says why it failed, and fails when it was answered with a problem.
const CURL: &str = "curl() { command curl -sS --fail-with-body --max-time 60 \"$@\"; echo; }\n";

/// Runs every `sh` block of a page, in order and in one shell, against the server at `url`; gives
/// what was printed. Panics at the first command that fails, with all that was printed until then.
pub async fn run(page: &str, url: &str) -> String {
    run_with(page, url, &[]).await
}

/// As [`run`], with variables in the environment.
pub async fn run_with(page: &str, url: &str, variables: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("docs/{page}: {e}"));
    let blocks = blocks(&text);
    assert!(!blocks.is_empty(), "docs/{page} has no `sh` block");
    let script = format!(
        "set -eu\n{CURL}set -x\n{}",
        blocks.join("\n").replace(ADDRESS, url)
    );
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &script])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("a shell");
    let (said, log) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "docs/{page}\n{log}\n{said}");
    said
}

/// The text between "```sh" and "```".
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match &mut open {
            None if line == "```sh" => open = Some(String::new()),
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
            None => {}
        }
    }
    assert!(open.is_none(), "a block that does not end");
    blocks
}
