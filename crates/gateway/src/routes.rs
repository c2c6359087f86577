//! Which request goes where.

mod rewrite;
mod route;
mod table;

pub use route::{Client, Route, Upstream};

pub(crate) use rewrite::Rewrite;
pub(crate) use route::{NewPath, Place};
pub(crate) use table::{Allowed, Lookup, Methods, Rejected, Table};
