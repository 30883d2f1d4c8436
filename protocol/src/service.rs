//! The service itself.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Which versions answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Versions {
    /// The service's.
    #[cfg_attr(feature = "openapi", schema(example = "0.1.0"))]
    pub service: String,
    /// The agents' protocol's, oldest first.
    pub protocols: Vec<i32>,
    /// The server's clock; leases go by the database's.
    pub server_time: DateTime<Utc>,
}
