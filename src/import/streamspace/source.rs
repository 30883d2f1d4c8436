//! Reading the old database: one snapshot, read only, by the columns that its version has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use tokio_postgres::types::ToSql;

use super::course::Commands;
use super::row::Row;
use crate::error::{Error, Result};
use crate::import::report::Finding;
use crate::store;

/// The columns that are read where they are there.
const AGENTS: &[&str] = &[
    "agent_id",
    "platform",
    "region",
    "status",
    "capacity",
    "cluster_id",
    "cluster_name",
];
const SESSIONS: &[&str] = &[
    "id",
    "user_id",
    "team_id",
    "template_name",
    "state",
    "app_type",
    "namespace",
    "platform",
    "region",
    "pod_name",
    "memory",
    "cpu",
    "persistent_home",
    "idle_timeout",
    "max_session_duration",
    "agent_id",
    "cluster_id",
    "platform_metadata",
    "streaming_protocol",
    "streaming_port",
    "streaming_path",
    "tags",
    "org_id",
    "termination_reason",
    "terminated_at",
    "last_activity",
    "created_at",
    "updated_at",
];
/// Those of them that the survey needs.
const OUTLINE: &[&str] = &[
    "id",
    "state",
    "platform",
    "region",
    "pod_name",
    "agent_id",
    "cluster_id",
    "platform_metadata",
    "last_activity",
    "created_at",
];
const COMMANDS: &[&str] = &[
    "command_id",
    "agent_id",
    "session_id",
    "action",
    "payload",
    "status",
    "created_at",
];

/// By column: its type.
type Columns = BTreeMap<String, String>;

/// The old database in one snapshot.
pub struct Source {
    client: tokio_postgres::Client,
    zone: String,
    agents: Columns,
    sessions: Columns,
    commands: Columns,
    /// What this version lacks.
    pub missing: Vec<String>,
}

fn lost(what: &tokio_postgres::Error) -> Error {
    let text = what
        .as_db_error()
        .map_or_else(|| what.to_string(), |error| error.message().to_owned());
    Error::DatabaseUnavailable(format!("the StreamSpace database: {text}"))
}

impl Source {
    /// Opens it for reading only. `zone`: of times without a zone.
    ///
    /// # Errors
    /// When it cannot be reached or has no sessions.
    pub async fn open(url: &str, zone: &str) -> Result<Self> {
        let (client, connection) = store::client(url).await.map_err(|error| {
            Error::DatabaseUnavailable(format!(
                "the StreamSpace database, {}: {error}",
                store::describe(url)
            ))
        })?;
        tokio::spawn(connection);
        client
            .batch_execute(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL TIME ZONE 'UTC'; \
                 SET LOCAL DateStyle = 'ISO'; SET LOCAL statement_timeout = 0",
            )
            .await
            .map_err(|e| lost(&e))?;
        let known = client
            .query_opt("SELECT FROM pg_timezone_names WHERE name = $1", &[&zone])
            .await
            .map_err(|e| lost(&e))?;
        if known.is_none() {
            return Err(Error::invalid(
                "/source_time_zone",
                format!("`{zone}` is no time zone that PostgreSQL knows"),
            ));
        }
        let mut source = Self {
            agents: columns(&client, "agents").await?,
            sessions: columns(&client, "sessions").await?,
            commands: columns(&client, "agent_commands").await?,
            client,
            zone: zone.to_owned(),
            missing: Vec::new(),
        };
        if !source.sessions.contains_key("id") || !source.sessions.contains_key("state") {
            return Err(Error::DatabaseUnavailable(format!(
                "{} has no table `sessions` with the columns `id` and `state`; is it a StreamSpace database?",
                store::describe(url)
            )));
        }
        for (table, found, wanted) in [
            ("agents", &source.agents, AGENTS),
            ("sessions", &source.sessions, SESSIONS),
            ("agent_commands", &source.commands, COMMANDS),
        ] {
            if found.is_empty() {
                source.missing.push(format!("table {table}"));
                continue;
            }
            let lacks: Vec<&str> = wanted
                .iter()
                .filter(|column| **column != "region" || table != "sessions")
                .filter(|column| !found.contains_key(**column))
                .copied()
                .collect();
            if !lacks.is_empty() {
                source.missing.push(format!("{table}.{}", lacks.join(", ")));
            }
        }
        Ok(source)
    }

    /// The agents.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn agents(&self) -> Result<Vec<Row>> {
        if !self.agents.contains_key("agent_id") {
            return Ok(Vec::new());
        }
        let list = list(AGENTS, &self.agents, "t", &self.zone);
        let text = format!(
            "-- import::agents\nSELECT row_to_json(r)::text FROM (SELECT {list} FROM agents t ORDER BY t.agent_id) r"
        );
        let rows = self.client.query(&text, &[]).await.map_err(|e| lost(&e))?;
        Ok(rows
            .iter()
            .filter_map(|row| Row::parse(row.get(0)).ok())
            .collect())
    }

    /// What is known of the sessions' commands, and those that mean nothing here.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn commands(&self) -> Result<(HashMap<String, Commands>, Vec<Finding>)> {
        let mut of: HashMap<String, Commands> = HashMap::new();
        let mut findings = Vec::new();
        if !["session_id", "action", "status"]
            .iter()
            .all(|column| self.commands.contains_key(*column))
        {
            return Ok((of, findings));
        }
        let has = |column: &str| self.commands.contains_key(column);
        let id = if has("command_id") {
            "t.command_id::text"
        } else {
            "NULL"
        };
        let payload = if has("payload") {
            "t.payload::text"
        } else {
            "NULL"
        };
        let text = format!(
            "-- import::commands\nSELECT {id}, t.session_id::text, lower(trim(t.action::text)), \
             lower(trim(t.status::text)) IN ('pending', 'sent', 'ack', 'acknowledged'), \
             CASE WHEN lower(trim(t.action::text)) = 'stop_session' THEN {payload} END, \
             EXISTS (SELECT FROM sessions s WHERE s.id::text = t.session_id::text) \
             FROM agent_commands t WHERE lower(trim(t.action::text)) = 'stop_session' \
             OR lower(trim(t.status::text)) IN ('pending', 'sent', 'ack', 'acknowledged') ORDER BY 1"
        );
        let none: [&(dyn ToSql + Sync); 0] = [];
        let rows = self
            .client
            .query_raw(&text, none)
            .await
            .map_err(|e| lost(&e))?;
        futures_util::pin_mut!(rows);
        while let Some(row) = rows.try_next().await.map_err(|e| lost(&e))? {
            let get = |at: usize| row.get::<_, Option<String>>(at);
            let (id, session, action) = (
                get(0).unwrap_or_default(),
                get(1),
                get(2).unwrap_or_default(),
            );
            let open = row.get::<_, Option<bool>>(3).unwrap_or_default();
            let mut report = |code, detail: String| {
                findings.push(Finding::unmapped("agent_commands", &id, code, detail))
            };
            let Some(session) = session.filter(|_| row.get::<_, bool>(5)) else {
                if open {
                    report(
                        "no_session",
                        format!("`{action}` is for a session that is not there"),
                    );
                }
                continue;
            };
            match action.as_str() {
                "stop_session" => {
                    let payload = get(4)
                        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
                    let delete = payload.is_some_and(|payload| payload["deletePVC"] == true);
                    let commands = of.entry(session).or_default();
                    commands.stop |= open;
                    commands.delete_data |= delete;
                }
                // What is wanted says it already: a session that is pending is to be started.
                "start_session" => {}
                "hibernate_session" | "wake_session" => report(
                    "command",
                    format!(
                        "`{action}` of session {session} was not done; its session comes as it is"
                    ),
                ),
                other => report(
                    "unknown_action",
                    format!("`{other}` of session {session} is not known"),
                ),
            }
        }
        Ok((of, findings))
    }

    /// What the survey needs of the sessions, by id.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn outlines(
        &self,
    ) -> Result<impl Stream<Item = Result<std::result::Result<Row, Finding>>>> {
        let list = list(OUTLINE, &self.sessions, "t", &self.zone);
        self.read(format!(
            "-- import::outlines\nSELECT r.id::text, row_to_json(r)::text FROM (SELECT {list} FROM sessions t) r"
        ))
        .await
    }

    /// The sessions, by id, with the newest template that an agent was sent for each. Those that cannot
    /// be read come as findings.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sessions(
        &self,
    ) -> Result<impl Stream<Item = Result<std::result::Result<Row, Finding>>>> {
        let list = list(SESSIONS, &self.sessions, "t", &self.zone);
        let is_json = |column: &str| {
            self.commands
                .get(column)
                .is_some_and(|kind| kind.starts_with("json"))
        };
        let (template, join) = if is_json("payload")
            && ["session_id", "action"]
                .iter()
                .all(|c| self.commands.contains_key(*c))
        {
            let newest = if self.commands.contains_key("created_at") {
                ", created_at DESC NULLS LAST"
            } else {
                ""
            };
            (
                ", c.manifest AS template_manifest",
                format!(
                    "LEFT JOIN (SELECT DISTINCT ON (session_id::text) session_id::text AS of, payload->'templateManifest' \
                     AS manifest FROM agent_commands WHERE action = 'start_session' ORDER BY session_id::text{newest}) c \
                     ON c.of = t.id::text"
                ),
            )
        } else {
            ("", String::new())
        };
        let text = format!(
            "-- import::sessions\nSELECT r.id::text, row_to_json(r)::text FROM \
             (SELECT {list}{template} FROM sessions t {join} ORDER BY t.id) r"
        );
        self.read(text).await
    }

    async fn read(
        &self,
        text: String,
    ) -> Result<impl Stream<Item = Result<std::result::Result<Row, Finding>>> + use<>> {
        let none: [&(dyn ToSql + Sync); 0] = [];
        let rows = self
            .client
            .query_raw(&text, none)
            .await
            .map_err(|e| lost(&e))?;
        Ok(rows.map(|row| {
            let row = row.map_err(|e| lost(&e))?;
            let id: Option<String> = row.get(0);
            Ok(Row::parse(row.get(1)).map_err(|why| {
                Finding::unmapped("sessions", id.as_deref().unwrap_or("?"), "unreadable", why)
            }))
        }))
    }
}

async fn columns(client: &tokio_postgres::Client, table: &str) -> Result<Columns> {
    let rows = client
        .query(
            "-- import::columns\nSELECT a.attname::text, format_type(a.atttypid, NULL) FROM pg_attribute a \
             WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped",
            &[&table],
        )
        .await
        .map_err(|e| lost(&e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The columns that are there. Times without a zone are taken to be in `zone`, which PostgreSQL has
/// said it knows.
fn list(wanted: &[&str], found: &Columns, table: &str, zone: &str) -> String {
    let there: BTreeSet<_> = wanted
        .iter()
        .filter(|column| found.contains_key(**column))
        .collect();
    let columns: Vec<String> = there
        .into_iter()
        .map(|column| match found[*column].as_str() {
            "timestamp without time zone" => {
                format!(
                    "{table}.{column} AT TIME ZONE '{}' AS {column}",
                    zone.replace('\'', "''")
                )
            }
            _ => format!("{table}.{column}"),
        })
        .collect();
    columns.join(", ")
}
