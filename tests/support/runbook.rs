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
    let blocks = blocks(&text(page));
    assert!(!blocks.is_empty(), "docs/{page} has no `sh` block");
    let lines = blocks.join("\n").replace(ADDRESS, url);
    type_in(page, &lines, Path::new("."), variables).await
}

/// As [`run`], the blocks of a page that have a word in them, in a folder and with these variables.
pub async fn run_those_with(
    page: &str,
    word: &str,
    url: &str,
    folder: &Path,
    variables: &[(&str, &str)],
) -> String {
    let blocks: Vec<String> = blocks(&text(page))
        .into_iter()
        .filter(|block| block.contains(word))
        .collect();
    assert!(!blocks.is_empty(), "docs/{page} has no block with {word}");
    type_in(
        page,
        &blocks.join("\n").replace(ADDRESS, url),
        folder,
        variables,
    )
    .await
}

fn text(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(page);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("docs/{page}: {e}"))
}

async fn type_in(page: &str, lines: &str, folder: &Path, variables: &[(&str, &str)]) -> String {
    let script = format!("set -eu\n{CURL}set -x\n{lines}");
    let own = Path::new(env!("CARGO_BIN_EXE_lessor"));
    let path = std::env::var("PATH").expect("a PATH");
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &script])
        .env(
            "PATH",
            format!("{}:{path}", own.parent().expect("a folder").display()),
        )
        .envs(variables.iter().copied())
        .current_dir(folder)
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
