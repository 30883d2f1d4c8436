//! Sessions: what users run.
//!
//! Invariants:
//! - A session's row changes only through a [`Draft`], in a transaction that has locked the row,
//!   and before it the agents whose assignment begins or ends, each in key order.
//! - `desired_state` never leaves `terminated`, `lease_epoch` and `attempt` never fall.
//! - A change and its events are one transaction.
//!
//! What this room does not do: decide who gets a session (`claims`), or end leases (`leases`).

mod args;
mod changes;
mod check;
mod create;
mod draft;
mod filter;
mod fresh;
mod gathered;
mod handover;
mod history;
pub mod http;
mod insert;
mod inventory;
mod limits;
mod list;
mod lost;
mod many;
mod migration;
mod reporting;
mod row;
mod shape;
mod show;
mod state;
mod store;
mod table;
mod transitions;
mod verbs;
mod wait;
mod wants;
mod write;

pub use args::arg_rows;
pub use changes::{Change, Ending};
pub use check::{MAX_LIMIT_SECONDS, NewOf, is_path};
pub use create::create;
pub use draft::{Assignee, Context, Draft, backoff, duration, system};
pub use filter::SessionFilter;
pub use fresh::Home;
pub use gathered::{Creating, CreatingWorker};
pub(crate) use insert::{Inserted, text_if as insert_text_if, to_insert};
pub use insert::{Those, insert, insert_texts};
pub use list::list;
pub use many::{Many, Step};
pub use migration::{Destination, Way};
pub use reporting::is_valid as report_is_valid;
pub use row::SessionRow;
pub use shape::texts as write_texts;
pub use state::{DOMAIN_WORK, Next, Reach, Situation, allowed, next};
// What other rooms lock and read inside their own transactions.
pub(crate) use store::{
    by_ids, find, load, lock, lock_assigned_free, lock_assigned_to, lock_free, now,
    now_that_all_is_locked, with_columns,
};
pub(crate) use verbs::lock_with_agent;
pub use verbs::{delete, get, patch, retry};
pub use wait::{Wanted, wait_for};
pub use write::write;
