//! Query parameters: `?state=running&label=a:b&label=c:d` into a struct.
//!
//! A parameter may be repeated where its field is a list; every value is parsed by the type of its
//! field. A deserialiser of our own, since the usual one knows no lists and does not say which
//! parameter was wrong.
//!
//! Invariants: what `T` does not know is refused (if it denies unknown fields, as it should); NUL
//! never passes, since PostgreSQL cannot store or compare it.
//!
//! What it does not do: nested structs, and `#[serde(flatten)]`, which hides the fields' types.

use std::fmt;

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};

use crate::problem::Problem;

/// The query parameters. Refused with `validation_failed` (422), pointer: the parameter's name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(&parts.uri).map(Self)
    }
}

fn parse<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| Problem::invalid("", error.body_text()))?
        .0;
    let mut parameters: Vec<Parameter> = Vec::new();
    for (name, value) in pairs {
        if name.contains('\0') || value.contains('\0') {
            return Err(Problem::invalid(
                name.replace('\0', "\u{fffd}"),
                "must not contain NUL",
            ));
        }
        match parameters.iter_mut().find(|known| known.name == name) {
            Some(known) => known.values.push(value),
            None => parameters.push(Parameter {
                name,
                values: vec![value],
            }),
        }
    }
    let pairs = parameters
        .into_iter()
        .map(|parameter| (parameter.name.clone(), parameter));
    T::deserialize(MapDeserializer::new(pairs))
        .map_err(|refused| Problem::invalid(refused.name, refused.message))
}

/// A parameter that was refused. Its name is filled in by the innermost place that knows it.
#[derive(Debug)]
struct Refused {
    name: String,
    message: String,
}

impl Refused {
    fn named(mut self, name: &str) -> Self {
        if self.name.is_empty() {
            name.clone_into(&mut self.name);
        }
        self
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            name: String::new(),
            message: message.to_string(),
        }
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let message = match known {
            [] => "is not known here".to_owned(),
            _ => format!("is not known here; known are {}", known.join(", ")),
        };
        Self {
            name: field.to_owned(),
            message,
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            name: field.to_owned(),
            message: "is missing".to_owned(),
        }
    }
}

/// One parameter with every value that was given for it, in order.
struct Parameter {
    name: String,
    values: Vec<String>,
}

impl<'de> IntoDeserializer<'de, Refused> for Parameter {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Parameter {
    fn single(mut self) -> Result<(String, String), Refused> {
        match (self.values.pop(), self.values.is_empty()) {
            (Some(value), true) => Ok((self.name, value)),
            _ => Err(Refused {
                name: self.name,
                message: "may be given only once".to_owned(),
            }),
        }
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $what:literal;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            let (name, text) = self.single()?;
            match text.parse::<$type>() {
                Ok(value) => visitor.$visit(value.into()).map_err(|error: Refused| error.named(&name)),
                Err(_) => Err(Refused { name, message: concat!("must be ", $what).to_owned() }),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Parameter {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let (name, text) = self.single()?;
        visitor
            .visit_string(text)
            .map_err(|error: Refused| error.named(&name))
    }

    parsed! {
        deserialize_bool visit_bool bool, "true or false";
        deserialize_i8 visit_i8 i8, "a whole number";
        deserialize_i16 visit_i16 i16, "a whole number";
        deserialize_i32 visit_i32 i32, "a whole number";
        deserialize_i64 visit_i64 i64, "a whole number";
        deserialize_u8 visit_u8 u8, "a whole number";
        deserialize_u16 visit_u16 u16, "a whole number";
        deserialize_u32 visit_u32 u32, "a whole number";
        deserialize_u64 visit_u64 u64, "a whole number";
        deserialize_f32 visit_f64 Finite, "a number";
        deserialize_f64 visit_f64 Finite, "a number";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Self { name, values } = self;
        let each = values.into_iter().map(|value| Self {
            name: name.clone(),
            values: vec![value],
        });
        visitor
            .visit_seq(SeqDeserializer::new(each))
            .map_err(|error: Refused| error.named(&name))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        enum_name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let (name, text) = self.single()?;
        let word: StringDeserializer<Refused> = text.into_deserializer();
        word.deserialize_enum(enum_name, variants, visitor)
            .map_err(|error| error.named(&name))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

/// A number that is one: Rust reads `inf` and `NaN` too, and rounds `1e400` up to infinity.
struct Finite(f64);

impl std::str::FromStr for Finite {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse::<f64>()
            .ok()
            .filter(|value| value.is_finite())
            .map(Self)
            .ok_or(())
    }
}

impl From<Finite> for f64 {
    fn from(finite: Finite) -> Self {
        finite.0
    }
}

#[cfg(test)]
mod tests {
    use lessor_protocol::SessionState;
    use serde::Deserialize;
    use uuid::Uuid;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Filter {
        limit: Option<i64>,
        force: bool,
        pool: Option<String>,
        id: Option<Uuid>,
        wait_seconds: Option<f64>,
        state: Vec<SessionState>,
        label: Vec<String>,
        desired: Option<SessionState>,
    }

    fn filter(query: &str) -> Result<Filter, (String, String)> {
        let uri: Uri = format!("/x?{query}").parse().expect("a URI");
        parse(&uri).map_err(|problem| {
            let error = problem.errors.first().expect("a field error");
            (error.pointer.clone(), error.message.clone())
        })
    }

    #[test]
    fn every_type_is_read() {
        assert_eq!(filter(""), Ok(Filter::default()));
        let found = filter(
            "limit=7&force=true&pool=a%20b+c&wait_seconds=1.5&desired=failed&state=running&label=k:v%3D1&state=failed&label=k2:",
        );
        let expected = Filter {
            limit: Some(7),
            force: true,
            pool: Some("a b c".into()),
            wait_seconds: Some(1.5),
            state: vec![SessionState::Running, SessionState::Failed],
            label: vec!["k:v=1".into(), "k2:".into()],
            desired: Some(SessionState::Failed),
            id: None,
        };
        assert_eq!(found, Ok(expected));
        let id = filter("id=01890a5d-ac96-774b-bcce-b302099a8057")
            .expect("an id")
            .id;
        assert_eq!(id.map(|id| id.get_version_num()), Some(7));
        assert_eq!(
            parse::<Filter>(&Uri::from_static("/x")).expect("none"),
            Filter::default()
        );
    }

    #[test]
    fn a_refusal_names_the_parameter() {
        for (query, pointer) in [
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("limit=99999999999999999999", "limit"),
            ("limit=1&limit=2", "limit"),
            ("force=yes", "force"),
            ("id=7", "id"),
            ("wait_seconds=NaN", "wait_seconds"),
            ("wait_seconds=1e400", "wait_seconds"),
            ("state=running&state=gone", "state"),
            ("desired=gone", "desired"),
            ("nonsense=1", "nonsense"),
            ("pool=a%00b", "pool"),
            ("pool", ""),
        ] {
            match filter(query) {
                Err((found, message)) => assert_eq!(found, pointer, "{query}: {message}"),
                Ok(found) => {
                    assert_eq!((pointer, found.pool.as_deref()), ("", Some("")), "{query}")
                }
            }
        }
        assert!(filter("nonsense=1").is_err_and(|(_, message)| message.contains("wait_seconds")));
    }
}

#[cfg(test)]
mod fuzz {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Parameters {
        limit: Option<i64>,
        wait_seconds: Option<f64>,
        force: Option<bool>,
        #[serde(default)]
        label: Vec<String>,
        name: Option<String>,
        availability: Option<lessor_protocol::Availability>,
    }

    #[test]
    fn fuzz_queries() {
        let examples: &[&[u8]] = &[
            b"limit=5&label=a:b&label=c:d",
            b"wait_seconds=0.5&force=true&name=x%20y",
            b"availability=live",
        ];
        let words = [
            "limit=",
            "&",
            "label=",
            "%00",
            "%f0%28",
            "+",
            "wait_seconds=inf",
            "name=",
        ];
        lessor_fuzz::run(examples, &words, |input| {
            let mut uri = b"/v1/x?".to_vec();
            uri.extend_from_slice(input);
            let Ok(uri) = Uri::try_from(uri) else { return };
            match parse::<Parameters>(&uri) {
                Ok(read) => {
                    let texts = read.label.iter().chain(&read.name);
                    assert!(texts.into_iter().all(|text| !text.contains('\0')));
                    assert!(read.wait_seconds.is_none_or(f64::is_finite));
                    let _ = (read.limit, read.force, read.availability);
                }
                Err(problem) => assert!(!problem.errors.is_empty()),
            }
        });
    }
}
