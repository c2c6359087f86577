//! The server: one state, its clock, and who waits for it to change.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, Release},
        },
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::{
    ConsulPolicy,
    active::ActiveChecks,
    attended::{Attended, TICK},
    catalog::Catalog,
    kv::{Kv, Limits},
    record::NodeDef,
    render::Frame,
    rendered::Rendered,
    silence::Rules,
    topic::Indexes,
};

/// Serves Consul's HTTP API. Clones share one state.
///
/// It is a tower service of HTTP requests: `axum::Router::new().fallback_service(server)`, or hyper by `hyper_util::service::TowerToHyperService`.
///
/// ```
/// use gusset_registry::{ConsulPolicy, ConsulServer};
/// use http_body_util::BodyExt;
/// use tower::ServiceExt;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let server = ConsulServer::new(ConsulPolicy::default());
/// let _ticker = server.spawn_ticker();
/// let put = http::Request::put("/v1/kv/flags/new-cart").body(String::from("on")).unwrap();
/// assert_eq!(server.clone().oneshot(put).await.unwrap().status(), 200);
///
/// let get = http::Request::get("/v1/kv/flags/new-cart?raw").body(String::new()).unwrap();
/// let answer = server.clone().oneshot(get).await.unwrap();
/// assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "on");
/// # });
/// ```
///
/// Who embeds it registers and follows services without HTTP: it is a [`Registry`](crate::Registry).
///
/// Beside routes of one's own, in axum; a blocked request would hold up a graceful shutdown for minutes, so it begins with [`ConsulServer::close`]:
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use gusset_registry::{ConsulPolicy, ConsulServer};
///
/// # async fn serve(listener: tokio::net::TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
/// let server = ConsulServer::new(ConsulPolicy::default());
/// let _ticker = server.spawn_ticker();
/// let app = Router::new().route("/mine", get(|| async { "mine" })).fallback_service(server.clone());
/// axum::serve(listener, app)
///     .with_graceful_shutdown(async move {
///         shutdown.await;
///         server.close();
///     })
///     .await
/// # }
/// ```
///
/// | served, under `/v1` | notes |
/// |---|---|
/// | `agent/service/register` (`replace-existing-checks`), `deregister/:id`, `maintenance/:id`; `agent/service/:id`, `agent/services` | `filter` |
/// | `agent/check/register`, `deregister/:id`, `pass`, `warn`, `fail`, `update/:id`; `agent/checks` | TTL checks; HTTP, TCP and gRPC as far as `ConsulPolicy::active_checks` allows (feature `checks`); others are refused with 400 |
/// | `health/service/:name` (`passing`, `tag`, `near`, `node-meta`, `filter`), `health/checks/:name`, `health/node/:node`, `health/state/:state` | blocking |
/// | `catalog/services`, `service/:name`, `nodes`, `node/:node` | blocking |
/// | `catalog/register`, `deregister`, `datacenters` | checks of other nodes have the state that is told |
/// | `kv/:key` (`recurse`, `raw`, `keys`, `separator`, `cas`, `flags`) | blocking; values of at most 512 KiB, keys of 512 bytes |
/// | `agent/self`, `agent/members`, `status/leader`, `status/peers` | one node, which leads |
/// | `agent/metrics?format=prometheus` | how much it holds, and instances of each of the first 1,000 services by their state; those of all others together |
/// | `prometheus` (`service`) | targets for Prometheus' `http_sd`, with the labels of its own Consul discovery |
///
/// # Blocking
///
/// `index` and `wait` (default 5 min, at most 10 min, and up to a sixteenth more at random) as in Consul. An index is never 0 and never falls. A change wakes
/// only who waits for what changed; a heartbeat that changes nothing, not even its output, wakes nobody.
///
/// # Differences from Consul
///
/// - One node. What it knows ends with the process, unless it is given a folder (`ConsulServer::spawn_saver`, feature `file`). No sessions, locks, transactions, intentions, mesh, and one token for all.
/// - A pause of the server's process is held against no TTL. When most TTL checks of a service fall silent at once, they keep their status for a
///   while; one that falls silent again and again needs several heartbeats to pass ([`ConsulPolicy::health`]). What a check says of itself is believed at once.
/// - Fields that are not known are passed over, as in Consul: a `Prot` is no `Port`. An active check is made once a second at most.
/// - An index that is higher than the server's is answered at once, not waited for.
/// - `filter` has no `matches`; of what is not in an answer it says that it equals nothing, rather than refuse it.
/// - Of what a check put out, who was blocked may get what it was up to a second ago: many who wait for one service get one answer.
/// - A check has two fields more, `LastHeardMs`: how long ago it was told of, and `Suspect`: whether its status is what was last known
///   rather than what was heard.
/// - Of a service with `gusset-incarnation` in its metadata, a registration, heartbeat, maintenance or deregistration that states a lower one, the last
///   three in a parameter of that name, is refused with 409; one with a higher one is told that there is no such service.
///
/// # Memory
///
/// The bounds of [`ConsulPolicy`]; bodies of at most 512 KiB. [`ConsulStats`] counts what was refused.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// A dropped request that was blocked gives its place back. One that writes has been done, or not at all.
#[derive(Clone)]
pub struct ConsulServer(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) policy: ConsulPolicy,
    epoch: Instant,
    state: Mutex<State>,
    rendered: Mutex<Rendered>,
    pub(super) watchers: AtomicUsize,
    pub(super) refused: AtomicU64,
    #[cfg(feature = "file")]
    pub(super) unsaved: AtomicU64,
    /// Where writes of the key-value store go if they are to be durable.
    #[cfg(feature = "file")]
    pub(super) kv_queue: std::sync::OnceLock<super::kv_writer::Queue>,
    pub(super) closing: AtomicBool,
    pub(super) closed: Arc<Notify>,
}

/// Everything that a request reads or writes.
pub(super) struct State {
    pub(super) catalog: Catalog,
    pub(super) kv: Kv,
    pub(super) indexes: Indexes,
    clock: Attended,
}

/// How much a server holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsulStats {
    /// Instances registered now.
    pub instances: usize,
    /// Keys in the store now.
    pub keys: usize,
    /// Requests blocked now.
    pub watchers: usize,
    /// Requests refused since the server was made because one of its bounds was reached.
    pub refused: u64,
    /// How often what was to be kept could not be written to the disk.
    #[cfg(feature = "file")]
    pub unsaved: u64,
}

impl ConsulServer {
    /// An empty server. No task is spawned; without [`ConsulServer::spawn_ticker`] no TTL runs out.
    ///
    /// Its first index is the time in milliseconds, so that the indexes of a restarted server are higher than those of the run before it:
    /// a client that still waits with an old one is answered at once, and does not take new state for what it knows.
    #[must_use]
    pub fn new(policy: ConsulPolicy) -> Self {
        #[allow(
            clippy::disallowed_methods,
            reason = "a beginning, read once; if it jumps, clients begin anew"
        )]
        let now = SystemTime::now();
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH);
        let base = since_1970.map_or(1, |since| u64::try_from(since.as_millis()).unwrap_or(1));
        let indexes = Indexes::new(base.max(1));
        let node = NodeDef {
            name: policy.node.as_str().into(),
            id: String::new(),
            address: policy.address.clone(),
            meta: std::collections::BTreeMap::new(),
        };
        let limits = Limits { keys: policy.keys, bytes: policy.kv_bytes };
        let rules = Rules::new(&policy.health, policy.checks != ActiveChecks::Refused);
        let state = State {
            catalog: Catalog::new(node, policy.instances, rules, &indexes),
            kv: Kv::new(limits, &indexes),
            indexes,
            clock: Attended::default(),
        };
        Self(Arc::new(Shared {
            policy,
            epoch: Instant::now(),
            state: Mutex::new(state),
            rendered: Mutex::default(),
            watchers: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            #[cfg(feature = "file")]
            unsaved: AtomicU64::new(0),
            #[cfg(feature = "file")]
            kv_queue: std::sync::OnceLock::new(),
            closing: AtomicBool::new(false),
            closed: Arc::default(),
        }))
    }

    /// Spawns the task that sees TTLs run out, ten times a second, and makes the active checks that its policy allows. There should be one. Time in which it did not run, because the process
    /// was paused, is held against nobody.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping it ends the ticking"]
    pub fn spawn_ticker(&self) -> ConsulTicker {
        let server = self.clone();
        ConsulTicker(tokio::spawn(async move {
            #[cfg(feature = "checks")]
            let mut prober = super::prober::Prober::default();
            loop {
                tokio::time::sleep(TICK).await;
                server.tick().await;
                #[cfg(feature = "checks")]
                prober.begin(&server);
            }
        }))
    }

    /// Answers all blocked requests with what they would have seen at the end of their wait, and blocks no further ones.
    pub fn close(&self) {
        self.0.closing.store(true, Release);
        self.0.closed.notify_waiters();
    }

    /// How much it holds.
    #[must_use]
    pub fn stats(&self) -> ConsulStats {
        let (instances, keys) = self.read(|state, _| (state.catalog.instances(), state.kv.len()));
        ConsulStats {
            instances,
            keys,
            watchers: self.0.watchers.load(Relaxed),
            refused: self.0.refused.load(Relaxed),
            #[cfg(feature = "file")]
            unsaved: self.0.unsaved.load(Relaxed),
        }
    }

    pub(super) fn count_refused(&self) {
        self.0.refused.fetch_add(1, Relaxed);
    }

    pub(super) async fn tick(&self) {
        let elapsed = self.0.epoch.elapsed();
        let now = self.change(|state, now| {
            state.clock.tick(elapsed);
            state.catalog.review(&mut state.indexes, now);
            now
        });
        self.rendered().tick(now);
        while self.change(|state, now| state.catalog.tick(&mut state.indexes, now)) {
            // Heartbeats wait for the same lock.
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn rendered(&self) -> MutexGuard<'_, Rendered> {
        self.0.rendered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn policy(&self) -> &ConsulPolicy {
        &self.0.policy
    }

    /// Reads. What is large is rendered by the caller, after the lock.
    pub(super) fn read<T>(&self, read: impl FnOnce(&mut State, Frame) -> T) -> T {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.clock.at(self.0.epoch.elapsed());
        read(&mut state, Frame { datacenter: self.0.policy.datacenter.clone(), now })
    }

    /// Writes, and wakes those who waited for what changed, once the lock is given back.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, Duration) -> T) -> T {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.clock.at(self.0.epoch.elapsed());
        let result = change(&mut state, now);
        let wakes = state.indexes.take_wakes();
        let touched = std::mem::take(&mut state.catalog.touched);
        drop(state);
        wakes.wake();
        self.publish(touched);
        result
    }
}

impl fmt::Debug for ConsulServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulServer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Guard of the task of [`ConsulServer::spawn_ticker`]: dropping it ends the task.
#[derive(Debug)]
pub struct ConsulTicker(JoinHandle<()>);

impl Drop for ConsulTicker {
    fn drop(&mut self) {
        self.0.abort();
    }
}
