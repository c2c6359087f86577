//! Shows the parts of the family as one live page in the browser, and takes the orders of operators.
//!
//! ```
//! use gusset_breaker::{Circuit, Policy};
//! use gusset_console::Sources;
//! use gusset_ratelimit::{Quota, RateLimiter};
//! use gusset_registry::MemoryRegistry;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let bank = Circuit::new("bank", Policy::consecutive(5));
//! let sources = Sources::new()
//!     .registry(MemoryRegistry::default())
//!     .circuit("payments", &bank)
//!     .limit("api", RateLimiter::new(Quota::per_second(100)))
//!     .operator_token("31b8a1a7be1f5a6fbc0df3eb8ad5b27a");
//! let app: axum::Router = gusset_console::router(sources);
//! // axum::serve(listener, app)
//! # let _ = app;
//! # });
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`router`] | the page, its script and its style, and what they ask, for axum |
//! | [`Sources`] | what it looks at, and who may look and act |
//! | [`ReadLimit`], [`LimitReading`] | a limit that tells how it stands |
//! | [`Switches`], [`Switch`], [`Setting`] | what operators turn on and off, or up and down |
//! | [`Elsewhere`] | another process, whose figures stand beside those of this one |
//! | `OtherConsole`, `OtherGateway`, `OtherSidecar` (feature `remote`) | such processes, asked over HTTP |
//!
//! # What it answers
//!
//! | path | answer |
//! |---|---|
//! | `GET /`, `/app.js`, `/app.css` | the page; below 80 KiB together, compressed |
//! | `GET /live?page=map` | server-sent events: the JSON of the page, at once and when it has changed, once a second at most. An answer lasts half a minute; then the page asks again |
//! | `GET /api/map` and so on | the same JSON, once |
//! | `GET /api/session` | `{"operator", "can_act", "readers_need_token", "others": [name], "sources": {page: bool}}` |
//! | `GET /api/traces/all` | `{"traces": […]}`: the youngest 10,000 |
//! | `GET /api/traces/{id}` | `{"trace_id", "spans": [{"depth", "name", "failed", "span"}], "logs": […]}` |
//! | `GET /api/sagas/{id}` | `{"report", "shape", "history": […], "trace_id", "attempts": [{"step", "direction", "attempt", "failed", "error", "began_at", "duration_ms"}]}`: the last 500 records; attempts that stand among the traces with the tags `saga.id`, `saga.step` and `saga.direction` |
//! | `GET /api/letters?after=7` | `{"letters": […]}`: the next 200 |
//! | `GET /api/letters/{id}` | a line of that list with `payload` (`{"text"}` or `{"hex"}`, at most 64 KiB of it), `headers`, `published_at`, `first_failure`, `last_failure` |
//! | `POST /api/breakers` | `{"group", "name", "do"}`: `force_open`, `force_closed`, `disable`, `reset` |
//! | `POST /api/sagas` | `{"saga", "do", "note"}`: `retry`, `skip` (with `step`), `supply` (with `step`, `output`), `turn_back`, `close` |
//! | `POST /api/letters` | `{"do"}`: `redrive` (with `id`); `redrive_all` (100 a second, or `per_second`), `purge` (of all, or of a `group`) |
//! | `POST /api/switches` | `{"group", "name", "to"}`: `true`, `false`, or a number in its range |
//! | `POST /api/canary` | `{"split", "do"}`: `roll_out`, `promote` (with `variant`), `abort` |
//!
//! An order that is refused is a 409 with the reason, as problems of RFC 9457 tell it; each order is logged.
//!
//! # The pages as JSON
//!
//! Spans end in `_ms` and are in milliseconds; times are in milliseconds since 1970, but those of spans and logs in nanoseconds. What is not known is `null`. `{"absent": true}`: there is no
//! such source.
//!
//! | page | JSON |
//! |---|---|
//! | `map` | `{"window_ms", "services": [{"name", "traffic": {"calls", "errors", "rate", "p50_ms", "p99_ms"}, "active", "instances": [{"id", "address", "health", "suspect", "version", "zone", "weight", "circuit"}]}], "left_out", "edges": [{"from", "to", "calls", "errors", "rate", "p50_ms", "p99_ms", "retries": {"calls", "calls_failed", "attempts", "attempts_failed", "recovered", "over_budget"}}], "gateways": [{"name", "routes": [{"path", "host", "upstreams", "answers", "refused", "mean_ms"}]}], "error"}`; figures are of the last 10 s, or since somebody looks |
//! | `breakers` | `{"breakers": [{"group", "name", "state", "observing", "successes", "failures", "ignored", "refused", "late", "window": {"calls", "failures", "slow"}, "retry_ms", "cause"}]}` |
//! | `limits` | `{"limits": [{"name", "quota": {"tokens", "period_ms", "burst"}, "remaining", "waiting", "in_flight", "places", "allowed", "refused", "keys", "evictions", "top": [{"key", "refused"}]}]}` |
//! | `traces` | `{"newest": [TraceSummary], "stats": StoreStats, "logs": [Log]}`: the youngest 200 and 100 |
//! | `sagas` | `{"counts": [{"state", "count"}], "sagas": [{"saga", "definition", "version", "state", "records", "created_at", "changed_at", "node", "due"}]}`: 100 of each state, those that wait for somebody the oldest first and the others the newest, or `{"error"}` |
//! | `broker` | `{"unroutable", "duplicates", "discarded", "dead_letters", "dead_letter_bytes", "dead_letters_dropped", "dead_letters_refused", "groups": [{"group", "pattern", "subscriptions", "lag", "ready", "in_flight", "delayed", "in_lanes", "bytes", "oldest_ms", "waiting", "published", "delivered", "redelivered", "redriven", "acked", "dead", "dropped", "expired", "refused"}], "letters": [{"id", "message", "subject", "group", "reason", "attempts", "redrives", "died_at", "error", "bytes", "trace_id"}], "error"}`: the oldest 200 letters |
//! | `canary` | `{"splits": [{"name", "variants": [{"name", "upstream", "weight", "calls", "failures", "p95_ms"}], "rollout": {"variant", "percent", "state", "why", "calls", "failures"}}]}` |
//! | `switches` | `{"switches": [{"group", "name", "meaning", "locked"}]}` with `on`, or with `number`, `least` and `most`; `locked` says why it cannot be turned |
//!
//! # Several processes
//!
//! [`Sources::other`] shows another process beside this one: one that has a console of its own, or whatever tells what a console would ([`Elsewhere`]); `gusset console` is made of that. Services
//! and edges of one name are one, with sums and the worst latencies; so are traces of one id, whose spans are put together, and sagas of one id. Groups of circuits, of messages and of switches, limits,
//! splits and gateways have the name of their process in front (`left · payments`), dead letters behind (`7@left`). Orders go where their target is, with what [`Elsewhere::order`] shows there.
//!
//! # Who may ask
//!
//! Nobody acts without the operator's token, as `Authorization: Bearer`; no cookie is set, so no page of somebody else can act in the name of a browser. Looking is free unless
//! [`Sources::readers_need_token`]: logs and payloads tell secrets of users, so **serve it on loopback, or with that, behind TLS**. A request has to be for an address, `localhost` or a
//! [named host](Sources::host), and must not come from a page of another origin, so that no name that its owner lets point to this machine reaches it.
//!
//! What services say is shown as text, wherever it comes from. The script makes no markup of it, and the browser is told to run nothing but the script: no inline code, no `eval`, no
//! assignment of markup, no frame around the page. That holds for other processes as well: what they say is text, and of a wrong kind it is left out.
//!
//! # What is bounded
//!
//! 64 follow at once, and more are refused with 503. However many look, each page is read once a second, and a part that does not answer within 5 s is named as `error`; nothing is read while nobody looks. Lists are cut at the numbers above, the map at
//! 1,000 services and 5,000 instances, of which the rest is counted in `left_out`. Reading 10,000 traces holds a thread for some milliseconds.
//!
//! # Features
//!
//! - `remote`: other processes over HTTP: `OtherConsole`, `OtherGateway`, `OtherSidecar`. It brings hyper's client, without TLS.
//!
//! # What it does not do
//!
//! It keeps no history and raises no alarm: that is for Prometheus. Keys of limits are shown only where they are noted (`Greedy`). Of brokers it knows the topics that groups listen to, and no
//! others. Of another process it reads the first 200 dead letters.

mod console;
mod sources;

mod elsewhere;
mod merge;
#[cfg(feature = "remote")]
mod remote;

mod breakers;
mod canary;
mod limits;
mod map;
mod messages;
mod sagas;
mod switches;
mod traces;

mod live;

mod answer;

pub use console::router;
pub use elsewhere::{Elsewhere, encoded};
pub use limits::{LimitReading, ReadLimit};
#[cfg(feature = "remote")]
pub use remote::{InvalidUrl, OtherConsole, OtherGateway, OtherSidecar};
pub use sources::Sources;
pub use switches::{Setting, Switch, Switches};

pub(crate) use console::{Console, Page};

/// A span in milliseconds, to a thousandth.
fn millis(span: std::time::Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
