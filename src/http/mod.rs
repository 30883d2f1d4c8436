//! The web plumbing: extractors, answers, layers. It knows the protocol's rules and no feature.
//!
//! - in: [`Json`], [`OptionalJson`], [`HashedJson`], [`Query`], [`Path`], [`Preconditions`],
//!   [`IdempotencyKey`], [`RequestId`], [`Format`]; values are judged with [`Checks`]
//! - out: [`Json`], [`Listing`], [`Item`], [`etag()`], and [`crate::problem::Problem`] for every error
//! - around: [`apply`] for all routes
//! - described: [`add_problems`] writes the problems of an operation into the OpenAPI document
//!
//! Invariant: every error that leaves the service is a problem document with the request's id,
//! whoever made it.
//!
//! What it does not do: routes, handlers, and anything with the database.

mod accept;
mod authorization;
mod body;
mod body_error;
mod client;
mod cors;
mod etag;
mod gate;
mod headers;
mod idempotency;
mod labels;
mod layers;
mod log;
mod object;
mod openapi;
mod page;
mod parse;
mod path;
mod query;
mod rate;
mod render;
mod table;
mod validate;
mod words;

pub use accept::{Format, wants_text};
pub use authorization::bearer;
pub use body::{HashedJson, Json, MAX_BODY_BYTES, OptionalJson};
pub use client::{ClientAddress, Proxies, SlowAfter, household};
pub use etag::{Preconditions, etag, not_modified};
pub use gate::{Gate, Place};
pub use headers::{OPENER_POLICY, policy_with};
pub use idempotency::IdempotencyKey;
pub use labels::label_filter;
pub use layers::{Edge, RequestId, apply};
pub(crate) use log::{REQUEST_DURATION_SECONDS, REQUESTS_TOTAL};
pub use openapi::add_problems;
pub use page::{Cursor, DEFAULT_LIMIT, MAX_LIMIT, PageQuery, Paging, decode_cursor, encode_cursor};
pub use parse::MAX_DEPTH;
pub use path::{Path, Resolved};
pub use query::Query;
pub use rate::{RateLimit, is_agents_own};
pub use table::{Item, ItemAndRows, Listing, TableRow, table};
pub use validate::{Checks, MAX_LABEL_BYTES, MAX_LABELS, MAX_NAME_BYTES, is_moment, is_tenant};
pub use words::words;
