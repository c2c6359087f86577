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
//! All that a [`Route`](crate::Route) can do is there under the name that it has in code:
//!
//! ```toml
//! [[routes]]
//! path = "/api/orders/{*rest}"
//! split = [{ name = "stable", to = "orders", weight = 1 }, { name = "next", to = "orders-next", weight = 0 }]
//! sticky = { cookie = "side" }
//! rollout = { variant = "next", steps = [1, 10, 50, 100], hold = "10m", errors = 0.01, slower = 1.5 }
//! mirror = { to = "orders-shadow", share = 0.1 }
//! in_flight = 500
//!
//! [[routes]]
//! path = "/api/home/{id}"
//! fan_out = { branches = [
//!     { name = "user", to = "users", path = "/users/{id}" },
//!     { name = "picks", to = "picks", path = "/picks/{id}", timeout = "300ms", optional = true },
//! ] }
//!
//! # A split that routes share by its name: its weights are those of all of them.
//! [splits.carts]
//! variants = [{ to = "carts", weight = 9 }, { to = "carts-next", weight = 1 }]
//!
//! [[routes]]
//! path = "/api/cart"
//! split = "carts"
//!
//! # Several gateways that ask the same Redis count together.
//! [redis]
//! url = { env = "REDIS_URL" }
//!
//! [[routes]]
//! path = "/api/payments"
//! to = "payments"
//! quota = { rate = "10/m", shared = true }
//! idempotency = { required = true, shared = true }
//!
//! # Each google.api.http annotation of the service is a route.
//! [[routes]]
//! grpc = { descriptors = "shop.binpb", service = "shop.v1.Orders" }
//! to = "orders-grpc"
//! ```
//!
//! | fact | test |
//! |---|---|
//! | a file that is wrong changes nothing, and all of it is told | `a_file_that_is_wrong_changes_nothing_and_is_told`, `all_errors_are_told_at_once_with_their_places` |
//! | reloads under load fail no request | `a_hundred_reloads_under_load_fail_no_request` |
//! | quotas, counters, circuits and what is in flight go on where they are described alike | `quotas_counters_and_circuits_go_on_where_they_are_the_same`, `what_is_in_flight_counts_on_over_a_reload` |
//! | weights that an operator has set, and a rollout that was ended, stay until the file says something else of the split | `weights_that_an_operator_has_set_go_on_until_the_file_says_otherwise`, `a_rollout_begins_with_its_file_and_what_became_of_it_outlives_reloads` |
//! | a mirror goes on and counts on, and copies under way are finished | `a_mirror_goes_on_and_counts_on`, `a_copy_under_way_is_finished_over_a_reload` |
//! | a changed secret is in force, and the old one worth nothing | `a_change_of_a_secret_is_seen_and_the_old_one_is_worth_nothing` |
//! | a service with annotations is as many routes with the settings of one | `a_service_with_annotations_is_as_many_routes_with_the_settings_of_one` |
//! | pick, connections, TLS, part of a service, ejection are those of the file | `tests/config/settings.rs` |
//! | several gateways have quotas and answers for `Idempotency-Key` together (`[redis]`), and routes a split (`[splits]`) | `gateways_of_one_file_have_quotas_and_answers_together_also_over_reloads`, `routes_share_a_split_by_its_name_and_operators_change_it_for_all` |
//! | services are found by `gusset registry`, Consul, or etcd | `services_are_found_in_etcd` |
//! | a disk that is stuck costs lines of the log, which are counted, and no request waits | `a_disk_that_is_stuck_costs_lines_that_are_counted_and_no_request_waits` |
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

pub use crate::stamps::{Changes, Stamps};
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
