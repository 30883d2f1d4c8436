//! How the protocol's own types are kept in columns.

use std::io::Write;
use std::str::FromStr;

use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{Json, Jsonb, Text};
use lessor_protocol as protocol;
use lessor_protocol::{Labels, RawJson};

/// A word of a closed set, kept as text.
#[derive(Debug, diesel::deserialize::FromSqlRow)]
pub struct Word<T>(pub T);

impl<T: FromStr<Err = protocol::UnknownWord>> FromSql<Text, Pg> for Word<T> {
    fn from_sql(bytes: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(std::str::from_utf8(bytes.as_bytes())?.parse()?))
    }
}

macro_rules! words_in_columns {
    ($($word:ty),+ $(,)?) => { $(impl From<Word<$word>> for $word { fn from(column: Word<$word>) -> Self { column.0 } })+ };
}
words_in_columns!(
    protocol::SessionState,
    protocol::DesiredState,
    protocol::Placement,
    protocol::OnLost,
    protocol::RestartPolicy,
    protocol::IdleAction,
    protocol::ActorType,
    protocol::Action,
    protocol::Scheduling,
    protocol::DrainStatus,
    protocol::RebalanceStatus,
    protocol::MoveState,
    protocol::CommandStatus,
    protocol::Role,
    protocol::Approval,
);

/// As [`Word`], for a column that may be null.
#[derive(Debug, diesel::deserialize::FromSqlRow)]
pub struct MaybeWord<T>(pub Option<T>);

impl<T: FromStr<Err = protocol::UnknownWord>> FromSql<diesel::sql_types::Nullable<Text>, Pg>
    for MaybeWord<T>
{
    fn from_sql(bytes: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(Some(std::str::from_utf8(bytes.as_bytes())?.parse()?)))
    }
    fn from_nullable_sql(bytes: Option<PgValue<'_>>) -> deserialize::Result<Self> {
        bytes.map_or(Ok(Self(None)), Self::from_sql)
    }
}

impl From<MaybeWord<protocol::Action>> for Option<protocol::Action> {
    fn from(column: MaybeWord<protocol::Action>) -> Self {
        column.0
    }
}

impl From<MaybeWord<protocol::Scheduling>> for Option<protocol::Scheduling> {
    fn from(column: MaybeWord<protocol::Scheduling>) -> Self {
        column.0
    }
}

impl From<MaybeWord<protocol::EndReason>> for Option<protocol::EndReason> {
    fn from(column: MaybeWord<protocol::EndReason>) -> Self {
        column.0
    }
}

/// JSON as text in a `json` column: nothing is parsed, so whatever JSON can say survives.
#[derive(Debug, diesel::deserialize::FromSqlRow, diesel::expression::AsExpression)]
#[diesel(sql_type = Json)]
pub struct JsonText(pub RawJson);

impl FromSql<Json, Pg> for JsonText {
    fn from_sql(bytes: PgValue<'_>) -> deserialize::Result<Self> {
        let text = std::str::from_utf8(bytes.as_bytes())?.to_owned();
        Ok(Self(serde_json::value::RawValue::from_string(text)?))
    }
}

impl ToSql<Json, Pg> for JsonText {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(self.0.get().as_bytes())?;
        Ok(IsNull::No)
    }
}

impl From<JsonText> for RawJson {
    fn from(column: JsonText) -> Self {
        column.0
    }
}

/// What is serialized into JSON: a parameter of a statement, or a column of a row that is one.
#[derive(Debug)]
pub struct AsJson<T>(pub T);

impl<T: serde::Serialize + std::fmt::Debug> ToSql<Json, Pg> for AsJson<T> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        serde_json::to_writer(out, &self.0)?;
        Ok(IsNull::No)
    }
}

impl<T: serde::Serialize + std::fmt::Debug> ToSql<Jsonb, Pg> for AsJson<T> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        jsonb(&self.0, out)
    }
}

fn jsonb(value: &impl serde::Serialize, out: &mut Output<'_, '_, Pg>) -> serialize::Result {
    // The first byte is the version of jsonb's binary form.
    out.write_all(&[1])?;
    serde_json::to_writer(out, value)?;
    Ok(IsNull::No)
}

/// Labels in a `jsonb` column.
#[derive(Debug, diesel::deserialize::FromSqlRow, diesel::expression::AsExpression)]
#[diesel(sql_type = Jsonb)]
pub struct LabelsColumn(pub Labels);

impl FromSql<Jsonb, Pg> for LabelsColumn {
    fn from_sql(bytes: PgValue<'_>) -> deserialize::Result<Self> {
        let value = <serde_json::Value as FromSql<Jsonb, Pg>>::from_sql(bytes)?;
        Ok(Self(serde_json::from_value(value)?))
    }
}

impl ToSql<Jsonb, Pg> for LabelsColumn {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        jsonb(&self.0, out)
    }
}

impl From<LabelsColumn> for Labels {
    fn from(column: LabelsColumn) -> Self {
        column.0
    }
}

/// A typed value in a nullable `json` column.
#[derive(Debug, diesel::deserialize::FromSqlRow)]
pub struct MaybeJson<T>(pub Option<T>);

impl<T: serde::de::DeserializeOwned> FromSql<diesel::sql_types::Nullable<Json>, Pg>
    for MaybeJson<T>
{
    fn from_sql(bytes: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(Some(serde_json::from_slice(bytes.as_bytes())?)))
    }
    fn from_nullable_sql(bytes: Option<PgValue<'_>>) -> deserialize::Result<Self> {
        bytes.map_or(Ok(Self(None)), Self::from_sql)
    }
}

impl From<MaybeJson<protocol::Endpoint>> for Option<protocol::Endpoint> {
    fn from(column: MaybeJson<protocol::Endpoint>) -> Self {
        column.0
    }
}

impl From<MaybeJson<protocol::Failure>> for Option<protocol::Failure> {
    fn from(column: MaybeJson<protocol::Failure>) -> Self {
        column.0
    }
}

/// JSON as text in a nullable `json` column.
#[derive(Debug, diesel::deserialize::FromSqlRow)]
pub struct MaybeJsonText(pub Option<RawJson>);

impl FromSql<diesel::sql_types::Nullable<Json>, Pg> for MaybeJsonText {
    fn from_sql(bytes: PgValue<'_>) -> deserialize::Result<Self> {
        JsonText::from_sql(bytes).map(|JsonText(json)| Self(Some(json)))
    }
    fn from_nullable_sql(bytes: Option<PgValue<'_>>) -> deserialize::Result<Self> {
        bytes.map_or(Ok(Self(None)), Self::from_sql)
    }
}

impl From<MaybeJsonText> for Option<RawJson> {
    fn from(column: MaybeJsonText) -> Self {
        column.0
    }
}
