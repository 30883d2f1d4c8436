//! The parts of a filter in a body that a query writes as text: labels and states. Each is taken as
//! a query has it, too.

use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Labels, SessionState};

/// Labels that must be there: a list of `key:value`, of which the first colon divides; one such text;
/// or an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LabelFilter(pub Labels);

/// States: a list, or a text that has them separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct StateFilter(pub Vec<SessionState>);

impl LabelFilter {
    fn add<E: de::Error>(&mut self, key: String, value: String) -> Result<(), E> {
        let before = self.0.insert(key, value.clone());
        if before.is_some_and(|before| before != value) {
            return Err(E::custom("must not ask one key for two values"));
        }
        Ok(())
    }
}

/// `key:value`.
struct Pair(String, String);

impl Pair {
    fn of<E: de::Error>(text: &str) -> Result<Self, E> {
        let (key, value) = text
            .split_once(':')
            .ok_or_else(|| E::custom("must be `key:value`"))?;
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::of(&String::deserialize(from)?)
    }
}

impl<'de> Deserialize<'de> for LabelFilter {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = LabelFilter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of `key:value`, one such text, or an object of labels")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LabelFilter, E> {
                let Pair(key, value) = Pair::of(text)?;
                Ok(LabelFilter(Labels::from([(key, value)])))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LabelFilter, A::Error> {
                let mut filter = LabelFilter::default();
                while let Some(Pair(key, value)) = list.next_element()? {
                    filter.add(key, value)?;
                }
                Ok(filter)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LabelFilter, A::Error> {
                let mut filter = LabelFilter::default();
                while let Some((key, value)) = map.next_entry()? {
                    filter.add(key, value)?;
                }
                Ok(filter)
            }
        }
        from.deserialize_any(Forms)
    }
}

impl<'de> Deserialize<'de> for StateFilter {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = StateFilter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of states, or a text of them with commas")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StateFilter, E> {
                let states = text.split(',').map(|word| word.trim().parse());
                let states: Result<_, _> = states.collect();
                states.map(StateFilter).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<StateFilter, A::Error> {
                let mut states = Vec::new();
                while let Some(state) = list.next_element()? {
                    // As often as it is said, it is one.
                    if !states.contains(&state) {
                        states.push(state);
                    }
                }
                Ok(StateFilter(states))
            }
        }
        from.deserialize_any(Forms)
    }
}

#[cfg(feature = "openapi")]
mod schemas {
    use std::borrow::Cow;

    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
    use utoipa::openapi::{Ref, RefOr};

    use super::{LabelFilter, StateFilter};

    impl utoipa::PartialSchema for LabelFilter {
        fn schema() -> RefOr<Schema> {
            ArrayBuilder::new()
                .schema_type(SchemaType::from_iter([
                    Type::Array,
                    Type::String,
                    Type::Object,
                ]))
                .items(ObjectBuilder::new().schema_type(Type::String))
                .description(Some(
                    "Labels that must be there: a list of `key:value`, of which the first colon \
                     divides; one such text; or an object of keys and values.",
                ))
                .examples([serde_json::json!(["env:test"])])
                .into()
        }
    }

    impl utoipa::ToSchema for LabelFilter {
        fn name() -> Cow<'static, str> {
            "LabelFilter".into()
        }
    }

    impl utoipa::PartialSchema for StateFilter {
        fn schema() -> RefOr<Schema> {
            ArrayBuilder::new()
                .schema_type(SchemaType::from_iter([Type::Array, Type::String]))
                .items(Ref::from_schema_name("SessionState"))
                .description(Some(
                    "States: a list, or a text that has them separated by commas.",
                ))
                .examples([serde_json::json!(["failed"])])
                .into()
        }
    }

    impl utoipa::ToSchema for StateFilter {
        fn name() -> Cow<'static, str> {
            "StateFilter".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_in_every_form() {
        let of = |text: &str| serde_json::from_str::<LabelFilter>(text);
        let one = LabelFilter(Labels::from([("a".to_owned(), "b:c".to_owned())]));
        for text in [
            r#""a:b:c""#,
            r#"["a:b:c"]"#,
            r#"["a:b:c", "a:b:c"]"#,
            r#"{"a": "b:c"}"#,
        ] {
            assert_eq!(of(text).expect(text), one, "{text}");
        }
        assert_eq!(of("[]").expect("none"), LabelFilter::default());
        for text in [
            r#""a""#,
            r#"["a"]"#,
            r#"["a:b", "a:c"]"#,
            r#"{"a": 1}"#,
            "1",
            r#"{"a": "b", "a": "c"}"#,
        ] {
            assert!(of(text).is_err(), "{text}");
        }
        // What is written can be read again, whatever the key.
        let odd = LabelFilter(Labels::from([("a:b".to_owned(), String::new())]));
        let text = serde_json::to_string(&odd).expect("JSON");
        assert_eq!(of(&text).expect("read again"), odd);
    }

    #[test]
    fn states_in_every_form() {
        use SessionState::{Failed, Running};
        let of = |text: &str| serde_json::from_str::<StateFilter>(text);
        for text in [
            r#""failed,running""#,
            r#""failed, running""#,
            r#"["failed", "running", "failed"]"#,
        ] {
            assert_eq!(
                of(text).expect(text),
                StateFilter(vec![Failed, Running]),
                "{text}"
            );
        }
        for text in [r#""""#, r#""broken""#, r#"["failed", "broken"]"#, "{}", "1"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
