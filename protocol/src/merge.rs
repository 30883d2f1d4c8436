//! The difference between a field left out (unchanged) and null (cleared).

use serde::{Deserialize, Deserializer};

/// For `Option<Option<T>>` with `#[serde(default)]`: left out is `None`, null is `Some(None)`.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}
