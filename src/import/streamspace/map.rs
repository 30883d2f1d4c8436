//! A session of the old design as one of ours; pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lessor_protocol::{DesiredState, Endpoint, Labels, SessionState};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::course::{Commands, Course, course};
use super::place::{OldAgent, Place, metadata, place};
use super::row::Row;
use super::{duration, labels, names};
use crate::import::report::Finding;
use crate::sessions::MAX_LIMIT_SECONDS;

const MAX_SPEC_BYTES: usize = 64 * 1024;

/// What is taken where the old database says nothing.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The platform.
    pub platform: String,
    /// The resource domain, if one was given.
    pub domain: Option<String>,
}

/// A session as it is to be here, without what depends on the time of the import. Its digest says
/// whether the old row has changed.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "they are columns of `sessions`")]
pub struct Mapped {
    pub old_id: String,
    pub name: Option<String>,
    pub pool: String,
    pub owner: Option<String>,
    pub labels: Labels,
    pub spec: String,
    pub state: SessionState,
    pub desired_state: DesiredState,
    pub resource_domain: Option<String>,
    pub platform_resource_id: Option<String>,
    pub platform_metadata: String,
    pub endpoint: Option<Endpoint>,
    pub idle_timeout_seconds: Option<f64>,
    pub max_duration_seconds: Option<f64>,
    pub delete_data: bool,
    pub termination_reason: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Not in the digest: that it was used is no change.
    #[serde(skip)]
    pub last_activity_at: Option<DateTime<Utc>>,
    /// The word there.
    #[serde(skip)]
    pub old_state: String,
}

impl Mapped {
    /// All that a digest is made of.
    pub fn digested(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What can be said of a session before anything is known of the others.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Its id there.
    pub old_id: String,
    /// What it is and is to be.
    pub course: Course,
    /// Where.
    pub place: Place,
    /// The pod or container that its row names.
    pub resource: Option<String>,
}

impl Outline {
    /// The resource that it takes for itself; none for what has ended or never began.
    pub fn claims_resource(&self) -> Option<String> {
        let domain = self
            .place
            .domain
            .as_ref()
            .filter(|_| self.course.is_somewhere)?;
        let id = self
            .resource
            .clone()
            .unwrap_or_else(|| container(&self.old_id));
        Some(format!("{domain}\0{id}"))
    }
}

/// As StreamSpace's Docker agent names containers.
fn container(old_id: &str) -> String {
    format!("streamspace-{old_id}")
}

/// What can be said of a session at once.
///
/// # Errors
/// Why it cannot be brought in.
pub fn outline(
    row: &Row,
    agents: &BTreeMap<String, OldAgent>,
    commands: &Commands,
    defaults: &Defaults,
) -> Result<Outline, Finding> {
    let Some(old_id) = row.text("id") else {
        return Err(Finding::unmapped(
            "sessions",
            "?",
            "no_id",
            "the session has no id",
        ));
    };
    let in_metadata = |key: &str| match row.value("platform_metadata").get(key) {
        Some(Value::String(text)) if !text.trim().is_empty() => {
            Some(text.trim().replace('\0', "\u{fffd}"))
        }
        _ => None,
    };
    let resource = row.text("pod_name").or_else(|| in_metadata("containerId"));
    let word = row.text("state").unwrap_or_default();
    let Some(mut course) = course(&word, resource.is_some(), commands) else {
        let detail = format!("its state `{word}` is not known");
        return Err(Finding::unmapped(
            "sessions",
            &old_id,
            "unknown_state",
            detail,
        ));
    };
    let place = place(row, agents, &defaults.platform, defaults.domain.as_deref());
    if course.state == SessionState::Starting && place.domain.is_none() {
        // Nobody knows where something of it might be; what is not to run either is over.
        course.is_somewhere = false;
        course.state = match course.desired {
            DesiredState::Terminated => SessionState::Terminated,
            DesiredState::Running | DesiredState::Hibernated => SessionState::Pending,
        };
    }
    if course.is_somewhere && place.domain.is_none() {
        let detail = format!(
            "it is `{word}`, but neither it nor an agent says where; --default-domain brings such sessions in"
        );
        return Err(Finding::unmapped("sessions", &old_id, "no_domain", detail));
    }
    Ok(Outline {
        old_id,
        course,
        place,
        resource,
    })
}

/// The session as it is to be here, and what of it was left out or changed.
///
/// # Errors
/// Why it cannot be brought in.
pub fn map(
    row: &Row,
    outline: &Outline,
    pool: &str,
    commands: &Commands,
) -> Result<(Mapped, Vec<Finding>), Finding> {
    let id = outline.old_id.as_str();
    let mut notes = Vec::new();
    let mut note = |code, detail: String| notes.push(Finding::note("sessions", id, code, detail));
    let Course { state, desired, .. } = outline.course;
    let name = match id {
        _ if uuid::Uuid::try_parse(id).is_ok() => {
            note(
                "name_is_uuid",
                "a name may not have the form of a UUID; the id is in the label `session_id`"
                    .to_owned(),
            );
            None
        }
        _ if names::is_name(id) && !crate::sessions::is_path(id) => Some(id.to_owned()),
        _ => {
            note(
                "name",
                "the id cannot be a name here; it is in the label `session_id`".to_owned(),
            );
            None
        }
    };
    let (labels, refused) = labels::labels(id, row);
    for why in refused {
        note("label", why);
    }
    let owner = row.text("user_id").filter(|owner| owner.len() <= 256);
    if owner.is_none() {
        note(
            "no_owner",
            "it has no user, or one with more than 256 bytes".to_owned(),
        );
    }
    let mut seconds = |column: &str| {
        let text = row.text(column)?;
        let (problem, value) = match duration::parse(&text) {
            Ok(0.0) => return None,
            Ok(value) if (1.0..=MAX_LIMIT_SECONDS).contains(&value) => return Some(value),
            Ok(value) => (format!("{value} s is not from 1 s to a year"), None),
            Err(why) => (why.to_string(), None),
        };
        note(
            "duration",
            format!("{column} `{text}` was left out: {problem}"),
        );
        value
    };
    let idle_timeout_seconds = seconds("idle_timeout");
    let max_duration_seconds = seconds("max_session_duration");
    let (mut metadata, odd) = metadata(row, id, &outline.place.key.0);
    if let Some(odd) = odd {
        note("platform_metadata", odd.to_owned());
    }
    let is_here = state != SessionState::Pending && outline.place.domain.is_some();
    if !is_here {
        // What may be left of an attempt is looked for by name.
        metadata.remove("pod");
    }
    let endpoint = match endpoint(row, state) {
        Ok(endpoint) => endpoint,
        Err(why) => {
            note("endpoint", why);
            None
        }
    };
    let created_at = row.time("created_at");
    if created_at.is_none() {
        note(
            "created_at",
            "it does not say when it was made; now is taken".to_owned(),
        );
    }
    let (spec, shortened) = spec(row, id);
    if shortened {
        note(
            "spec",
            "its template or tags do not fit into 64 KiB and were left out".to_owned(),
        );
    }
    if spec.len() > MAX_SPEC_BYTES {
        return Err(Finding::unmapped(
            "sessions",
            id,
            "too_long",
            "what is to run does not fit into 64 KiB",
        ));
    }
    let old_state = row.text("state").unwrap_or_default();
    // What ends with the import, for a stop that was asked for, ends now.
    let there = course(&old_state, outline.resource.is_some(), &Commands::default());
    let ended = there.is_some_and(|there| {
        matches!(there.state, SessionState::Terminated | SessionState::Failed)
    });
    let mapped = Mapped {
        old_id: id.to_owned(),
        name,
        pool: pool.to_owned(),
        owner,
        labels,
        spec,
        state,
        desired_state: desired,
        resource_domain: outline.place.domain.clone().filter(|_| is_here),
        platform_resource_id: is_here
            .then(|| outline.resource.clone().unwrap_or_else(|| container(id))),
        platform_metadata: Value::Object(metadata).to_string(),
        endpoint,
        idle_timeout_seconds,
        max_duration_seconds,
        delete_data: commands.delete_data,
        termination_reason: row
            .text("termination_reason")
            .map(|text| text.chars().take(1_000).collect()),
        created_at,
        ended_at: ["terminated_at", "updated_at", "last_activity", "created_at"]
            .iter()
            .find_map(|column| row.time(column))
            .filter(|_| ended),
        last_activity_at: row.time("last_activity"),
        old_state,
    };
    Ok((mapped, notes))
}

fn endpoint(row: &Row, state: SessionState) -> Result<Option<Endpoint>, String> {
    let up = matches!(
        state,
        SessionState::Running
            | SessionState::Hibernated
            | SessionState::Hibernating
            | SessionState::Waking
    );
    let Some(port) = row.text("streaming_port").filter(|_| up) else {
        return Ok(None);
    };
    let number = port.parse::<u16>().ok().filter(|port| *port > 0);
    let number = number.ok_or_else(|| format!("streaming_port {port} is no port; the session has no endpoint until an agent reports one"))?;
    let host = match row.value("platform_metadata").get("podIP") {
        Some(Value::String(host)) if !host.is_empty() && host.len() <= 256 => {
            Some(host.replace('\0', "\u{fffd}"))
        }
        _ => None,
    };
    let short = |column: &str| row.text(column).filter(|text| text.len() <= 256);
    Ok(Some(Endpoint {
        protocol: short("streaming_protocol").unwrap_or_else(|| "vnc".to_owned()),
        host,
        port: number,
        path: short("streaming_path"),
    }))
}

/// What an agent needs to run it again, and whether something had to be left out.
fn spec(row: &Row, id: &str) -> (String, bool) {
    let text = |column: &str| row.text(column).map_or(Value::Null, Value::String);
    let mut spec = Map::new();
    spec.insert("streamspace".to_owned(), json!(1));
    spec.insert("session_id".to_owned(), json!(id));
    for column in [
        "template_name",
        "app_type",
        "memory",
        "cpu",
        "namespace",
        "user_id",
        "team_id",
        "org_id",
    ] {
        spec.insert(column.to_owned(), text(column));
    }
    spec.insert(
        "persistent_home".to_owned(),
        json!(row.is_set("persistent_home")),
    );
    let streaming = json!({"protocol": text("streaming_protocol"), "port": row.value("streaming_port"),
        "path": text("streaming_path")});
    spec.insert("streaming".to_owned(), streaming);
    spec.insert("tags".to_owned(), row.value("tags").clone());
    spec.insert(
        "template_manifest".to_owned(),
        row.value("template_manifest").clone(),
    );
    let mut text = serde_json::to_string(&spec).unwrap_or_default();
    let mut shortened = false;
    for column in ["template_manifest", "tags"] {
        if text.len() > MAX_SPEC_BYTES {
            spec.insert(column.to_owned(), Value::Null);
            text = serde_json::to_string(&spec).unwrap_or_default();
            shortened = true;
        }
    }
    (text, shortened)
}
