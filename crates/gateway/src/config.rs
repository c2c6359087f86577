//! A gateway out of a TOML file. Feature `config`.
//!
//! ```
//! use gusset_gateway::config::{Config, Resources};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # let _entered = runtime.enter();
//! let config = Config::parse(
//!     "gateway.toml",
//!     r#"
//!     [upstreams.orders]
//!     addresses = ["10.0.0.1:80"]
//!
//!     [[routes]]
//!     path = "/api/orders/{id}"
//!     to = "orders"
//!     quota = { rate = "100/m", burst = 20 }
//!     "#,
//! )?;
//! let gateway = config.build(&Resources::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! All that is wrong is told at once, each with its line, its field, and what would be right:
//!
//! ```text
//! gateway.toml:8:19: routes[0].quota.rate: "100 per minute" is no rate; write "100/s", "100/m", "100/h", or "1/10s"
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Config`], [`Resources`] | the file of a gateway, and what gateways made of it share |
//! | [`Reloading`], [`Reloaded`], [`ReloadStatus`] | a gateway that follows its file |
//! | [`ConfigErrors`], [`ConfigError`], [`Place`] | what is wrong, and where |
//! | [`Document`], [`Section`], [`Fields`], [`Setting`], [`Value`] | what reads any such file: fields are named once, for reading and for the [`Schema`] |
//! | [`Named`], [`OneOrMore`], [`Placed`], [`Rate`], [`Secret`], [`Size`], [`Span`] | what stands in it |
//!
//! Spans of time are `"250ms"`, `"10s"`, `"5m"`, `"24h"`, `"7d"`; sizes `"64KiB"`, `"2MiB"`; rates `"100/s"`, `"100/m"`, `"1/10s"`. In every text `${NAME}` and
//! `${NAME:-default}` are variables of the environment. Secrets are `{ file = "…" }` or `{ env = "…" }`, and shown nowhere. Paths are relative to the file. The fields are
//! in the schema, which `Config::schema` has, and the file `gateway.schema.json` beside this crate's README.

mod build;
mod gateway;
mod made;
mod reload;

mod document;
mod interpolate;
mod place;
mod schema;
mod secret;
mod section;
mod types;
mod units;
mod value;

mod file;

pub use document::Document;
pub use gateway::{Config, Resources};
pub use place::{ConfigError, ConfigErrors, Place};
pub use reload::{ReloadStatus, Reloaded, Reloading};
pub use schema::Schema;
pub use secret::Secret;
pub use section::{Fields, Named, Section, nearest};
pub use units::{Rate, Size, Span};
pub use value::{OneOrMore, Placed, Setting, Value};

#[cfg(test)]
mod tests;
