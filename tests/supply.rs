//! What the program is made of: licences, sources, duplicates, locked builds, no unsafe code of ours, and
//! the bill of materials. `deny.toml` has the rules: `scripts/supply` holds them by cargo-deny in every run of
//! `make test`, and these tests with cargo alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What cargo says of every package that this platform needs. It fails if Cargo.lock is stale.
fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let rustc = Command::new("rustc").arg("-vV").output().expect("rustc");
        let said = String::from_utf8(rustc.stdout).expect("text");
        let host = said
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .expect("a host");
        let ran = Command::new(env!("CARGO"))
            .args(["metadata", "--locked", "--format-version", "1"])
            .args(["--filter-platform", host])
            .current_dir(root())
            .output()
            .expect("cargo");
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        serde_json::from_slice(&ran.stdout).expect("JSON")
    })
}

fn packages() -> Vec<(String, &'static Value)> {
    let packages = metadata()["packages"].as_array().expect("packages");
    let named = |package: &'static Value| {
        let text = |field: &str| package[field].as_str().expect("text").to_owned();
        (format!("{}@{}", text("name"), text("version")), package)
    };
    packages.iter().map(named).collect()
}

/// The texts of a list in `deny.toml`.
fn listed(section: &str, key: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let (_, rest) = text.split_once(&format!("\n[{section}]\n")).expect(section);
    let rest = rest.split("\n[").next().unwrap_or_default();
    let (_, rest) = rest.split_once(&format!("\n{key} = [")).expect(key);
    let (list, _) = rest.split_once("\n]").expect("its end");
    let texts: Vec<String> = list
        .lines()
        .map(|line| {
            line.trim()
                .trim_end_matches(',')
                .trim_matches('"')
                .to_owned()
        })
        .filter(|line| !line.is_empty())
        .collect();
    assert!(texts.len() > 2, "{section}.{key}: {texts:?}");
    texts
}

/// Whether an SPDX expression can be met with licences from a list.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spelled = expression.replace(" / ", "/").replace('/', " OR ");
    let spelled = spelled.replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spelled.split_whitespace().collect();
    let mut at = 0;
    let met = either(&tokens, &mut at, allowed);
    assert_eq!(at, tokens.len(), "{expression} was not understood");
    met
}

fn either(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = both(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(tokens, at, allowed);
    }
    met
}

fn both(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, allowed);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    if tokens.get(*at) == Some(&"(") {
        *at += 1;
        let met = either(tokens, at, allowed);
        assert_eq!(tokens.get(*at), Some(&")"));
        *at += 1;
        return met;
    }
    let mut licence = tokens[*at].to_owned();
    *at += 1;
    if tokens.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", tokens[*at + 1]);
        *at += 2;
    }
    allowed.contains(&licence)
}

#[test]
fn expressions_are_understood() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned(), "A WITH e".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("MIT AND ISC OR GPL-3.0", true),
        ("Unlicense/MIT", true),
        ("A WITH e", true),
        ("A", false),
    ] {
        assert_eq!(is_met(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn every_licence_is_one_of_the_list() {
    let allowed = listed("licenses", "allow");
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (name, package) in packages() {
        let expression = package["license"].as_str().unwrap_or("none");
        used.insert(expression.to_owned());
        if !is_met(expression, &allowed) {
            wrong.push(format!("{name}: {expression}"));
        }
    }
    assert!(used.len() > 5, "{used:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_package_is_of_the_registry_or_ours() {
    let ours = metadata()["workspace_members"].as_array().expect("members");
    for (name, package) in packages() {
        match package["source"].as_str() {
            None => assert!(ours.contains(&package["id"]), "{name} is from a folder"),
            Some(source) => assert_eq!(
                source, "registry+https://github.com/rust-lang/crates.io-index",
                "{name}"
            ),
        }
    }
}

#[test]
fn nothing_is_there_twice_or_at_all_that_should_not_be() {
    let skipped = listed("bans", "skip");
    let banned = listed("bans", "deny");
    let is_skipped = |name: &str| {
        skipped.iter().find(|skipped| {
            // A dot or nothing after what is written: `0.1` is not `0.10`.
            name.strip_prefix(skipped.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut needed = BTreeSet::new();
    for (name, package) in packages() {
        let plain = package["name"].as_str().expect("a name").to_owned();
        assert!(!banned.contains(&plain), "{name} is banned");
        match is_skipped(&name) {
            Some(skipped) => drop(needed.insert(skipped.clone())),
            None => versions.entry(plain).or_default().push(name),
        }
    }
    let twice: Vec<_> = versions.values().filter(|found| found.len() > 1).collect();
    assert!(twice.is_empty(), "more than once: {twice:?}");
    let left: Vec<_> = skipped
        .iter()
        .filter(|name| !needed.contains(*name))
        .collect();
    assert!(
        left.is_empty(),
        "deny.toml skips what is not there: {left:?}"
    );
}

#[test]
fn no_version_is_left_open() {
    let ours = metadata()["workspace_members"].as_array().expect("members");
    let mut seen = 0;
    for (name, package) in packages() {
        if !ours.contains(&package["id"]) {
            continue;
        }
        for dependency in package["dependencies"].as_array().expect("a list") {
            let is_ours = dependency["path"].is_string();
            assert!(is_ours || dependency["req"] != "*", "{name}: {dependency}");
            seen += usize::from(!is_ours);
        }
    }
    assert!(seen > 40, "only {seen} dependencies");
}

#[test]
fn no_crate_of_ours_has_unsafe_code_or_lets_it_in() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    assert!(
        workspace.contains("unsafe_code = \"forbid\""),
        "{workspace}"
    );
    let ours = metadata()["workspace_members"].as_array().expect("members");
    let mut seen = 0;
    for (name, package) in packages() {
        if !ours.contains(&package["id"]) {
            continue;
        }
        seen += 1;
        let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
        let text = fs::read_to_string(&manifest).expect("a manifest");
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{name} does not take the workspace's lints"
        );
        let folder = manifest.parent().expect("a folder");
        for source in ["src", "tests", "build.rs", "benches", "examples"] {
            rust_files(&folder.join(source), &mut |path, text| {
                let code = text
                    .lines()
                    .map(|line| line.split("//").next().unwrap_or_default());
                for line in code {
                    let lets = line.contains("allow(") && line.contains(concat!("unsafe", "_code"));
                    assert!(!lets, "{}: {line}", path.display());
                }
            });
        }
    }
    assert!(seen >= 6, "only {seen} crates");
}

fn rust_files(path: &Path, visit: &mut impl FnMut(&Path, &str)) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            rust_files(&entry.expect("an entry").path(), visit);
        }
    } else if path.is_file() && path.extension().is_some_and(|end| end == "rs") {
        visit(path, &fs::read_to_string(path).expect("text"));
    }
}

#[test]
fn every_build_is_locked() {
    for file in [
        "Makefile",
        "Dockerfile",
        ".ci/run",
        "scripts/bring",
        "scripts/supply",
        "scripts/sbom",
    ] {
        let text = fs::read_to_string(root().join(file)).expect(file);
        for line in text.lines() {
            let code = line.split('#').next().unwrap_or_default();
            let builds = [
                "cargo build",
                "cargo test",
                "cargo nextest run",
                "cargo clippy",
                "cargo run",
                "cargo install",
            ];
            if builds.iter().any(|build| code.contains(build)) {
                assert!(code.contains("--locked"), "{file}: {line}");
            }
        }
    }
}

#[test]
fn the_bill_of_materials_has_every_part_with_its_checksum() {
    let written = Command::new(root().join("scripts/sbom"))
        .output()
        .expect("it runs");
    assert!(
        written.status.success(),
        "{}",
        String::from_utf8_lossy(&written.stderr)
    );
    let again = Command::new(root().join("scripts/sbom"))
        .output()
        .expect("it runs");
    assert!(
        again.stdout == written.stdout,
        "it is another one each time"
    );
    let bom: Value = serde_json::from_slice(&written.stdout).expect("JSON");
    assert_eq!(
        (&bom["bomFormat"], &bom["specVersion"]),
        (&"CycloneDX".into(), &"1.6".into())
    );
    let components = bom["components"].as_array().expect("components");
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let mut named = BTreeSet::new();
    for component in components {
        let text = |field: &str| component[field].as_str().expect("text");
        let (name, version) = (text("name"), text("version"));
        named.insert(name);
        assert_eq!(text("purl"), format!("pkg:cargo/{name}@{version}"));
        assert!(component["licenses"][0]["expression"].is_string(), "{name}");
        if name.starts_with("lessor") {
            continue;
        }
        let sum = component["hashes"][0]["content"]
            .as_str()
            .expect("a checksum");
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        let (_, entry) = lock.split_once(&entry).expect("an entry");
        let entry = entry.split("[[package]]").next().unwrap_or_default();
        assert!(entry.contains(&format!("checksum = \"{sum}\"")), "{name}");
    }
    for part in [
        "lessor",
        "lessor-agent",
        "axum",
        "tokio",
        "diesel",
        "rustls",
        "ring",
        "h2",
    ] {
        assert!(named.contains(part), "{part} is missing");
    }
    for tool in ["insta", "proptest", "rcgen", "lessor-fuzz", "lessor-bench"] {
        assert!(!named.contains(tool), "{tool} is not shipped");
    }
    // Whatever something depends on is there.
    let refs: BTreeSet<&str> = components
        .iter()
        .filter_map(|c| c["bom-ref"].as_str())
        .collect();
    for edge in bom["dependencies"].as_array().expect("dependencies") {
        for on in edge["dependsOn"].as_array().expect("a list") {
            assert!(refs.contains(on.as_str().expect("text")), "{edge}");
        }
    }
}
