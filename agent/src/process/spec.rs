//! What a session of a process pool is to run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lessor_client::agent_loop::Stop;
use lessor_protocol::{Endpoint, Session};
use serde::Deserialize;

/// `spec` of a session: `{"command": ["sleep", "600"]}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables of its environment, on top of a few of the agent's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where it starts: the session's own folder if left out, and what relative paths begin at.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Where users reach it.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
}

/// What a session gets of the agent's environment. Not all of it: the agent's token is in there.
const PASSED_ON: &[&str] = &[
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR",
];

impl ProcessSpec {
    /// Reads a session's spec.
    ///
    /// # Errors
    /// `bad_spec`, which no other attempt would mend.
    pub fn of(session: &Session) -> Result<Self, Stop> {
        Self::read(session.spec.get())
    }

    fn read(text: &str) -> Result<Self, Stop> {
        let bad = |message: String| Stop::for_good("bad_spec", message);
        let spec: Self =
            serde_json::from_str(text).map_err(|error| bad(format!("spec: {error}")))?;
        if spec.command.first().is_none_or(String::is_empty) {
            return Err(bad("spec: `command` must name a program".into()));
        }
        let text = spec
            .command
            .iter()
            .chain(spec.env.keys())
            .chain(spec.env.values());
        if text.into_iter().any(|text| text.contains('\0')) {
            return Err(bad("spec: `command` and `env` cannot hold NUL".into()));
        }
        if let Some(name) = spec
            .env
            .keys()
            .find(|name| name.is_empty() || name.contains('='))
        {
            return Err(bad(format!(
                "spec: `{name}` cannot be the name of a variable"
            )));
        }
        Ok(spec)
    }

    /// The whole environment of the session's command.
    #[must_use]
    pub fn environment(&self, session: &Session) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> = PASSED_ON
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        env.extend(self.env.clone());
        env.insert("LESSOR_SESSION_ID".into(), session.id.to_string());
        env.insert("LESSOR_ATTEMPT".into(), session.attempt.to_string());
        env
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    #[test]
    fn fuzz_specs() {
        let example = br#"{"command":["sleep","600"],"env":{"A":"b"},"cwd":"x","endpoint":{"protocol":"vnc","port":5900}}"#;
        lessor_fuzz::run(
            &[example, br#"{"command":["true"]}"#],
            &["=", "command"],
            |input| {
                let Ok(text) = std::str::from_utf8(input) else {
                    return;
                };
                if let Ok(spec) = ProcessSpec::read(text) {
                    let word = |text: &String| !text.contains('\0');
                    assert!(spec.command.iter().all(word) && !spec.command[0].is_empty());
                    assert!(
                        spec.env
                            .keys()
                            .all(|name| !name.is_empty() && !name.contains('='))
                    );
                    assert!(
                        spec.env
                            .iter()
                            .all(|(name, value)| word(name) && word(value))
                    );
                }
            },
        );
    }
}
