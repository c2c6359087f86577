//! Which request goes where.

mod answers;
mod condition;
mod edits;
mod route;
mod senders;
mod upstream;

mod methods;
mod paths;
mod pattern;
mod rewrite;
mod table;
mod template;

pub use answers::{FixedAnswer, Redirect};
pub use condition::Condition;
pub use edits::HeaderEdits;
pub use route::{Client, Route};
pub use upstream::Upstream;

pub(crate) use answers::{Given, Moved};
pub(crate) use condition::cookies;
pub(crate) use edits::{Edits, Filled, HostAs};
pub(crate) use methods::{Allowed, Methods};
pub(crate) use pattern::{Captures, Pattern};
pub(crate) use rewrite::Rewrite;
pub(crate) use route::{Leads, NewPath};
pub(crate) use table::{Asked, Entry, Lookup, Table, is_host_pattern};
pub(crate) use template::{Template, View};
pub(crate) use upstream::Place;
