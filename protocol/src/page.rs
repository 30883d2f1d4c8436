//! Pages of lists.

use serde::{Deserialize, Serialize};

/// A page of a list, newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// What to pass as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}
