//! The server: one state, its clock, and who waits for it to change.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tower_service::Service;

use super::{
    ConsulPolicy,
    answer::{Answer, Failure},
    catalog::Catalog,
    kv::{Kv, Limits, Wanted},
    query::{Query, decode},
    record::NodeDef,
    render::Frame,
    rendered::Rendered,
    routes::{self, Route},
    topic::{Indexes, Topic},
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
/// | served, under `/v1` | notes |
/// |---|---|
/// | `agent/service/register` (`replace-existing-checks`), `deregister/:id`, `maintenance/:id`; `agent/service/:id`, `agent/services` | `filter` |
/// | `agent/check/register`, `deregister/:id`, `pass`, `warn`, `fail`, `update/:id`; `agent/checks` | TTL checks; others are refused with 400 |
/// | `health/service/:name` (`passing`, `tag`, `near`, `node-meta`, `filter`), `health/checks/:name`, `health/node/:node`, `health/state/:state` | blocking |
/// | `catalog/services`, `service/:name`, `nodes`, `node/:node` | blocking |
/// | `catalog/register`, `deregister`, `datacenters` | checks of other nodes have the state that is told |
/// | `kv/:key` (`recurse`, `raw`, `keys`, `separator`, `cas`, `flags`) | blocking; values of at most 512 KiB, keys of 512 bytes |
/// | `agent/self`, `agent/members`, `status/leader`, `status/peers` | one node, which leads |
/// | `prometheus` (`service`) | targets for Prometheus' `http_sd`, with the labels of its own Consul discovery |
///
/// # Blocking
///
/// `index` and `wait` (default 5 min, at most 10 min, and up to a sixteenth more at random) as in Consul. An index is never 0 and never falls. A change wakes
/// only who waits for what changed; a heartbeat that changes nothing, not even its output, wakes nobody.
///
/// # Differences from Consul
///
/// - One node, nothing stored: what it knows ends with the process. No sessions, locks, transactions, intentions, mesh, and one token for all.
/// - A pause of the server's process is held against no TTL.
/// - An index that is higher than the server's is answered at once, not waited for.
/// - `filter` has no `matches`; of what is not in an answer it says that it equals nothing, rather than refuse it.
/// - Of what a check put out, who was blocked may get what it was up to a second ago: many who wait for one service get one answer.
/// - A check has a field more, `LastHeardMs`: how long ago it was told of.
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
pub struct ConsulServer(Arc<Shared>);

struct Shared {
    policy: ConsulPolicy,
    epoch: Instant,
    state: Mutex<State>,
    rendered: Mutex<Rendered>,
    watchers: AtomicUsize,
    refused: AtomicU64,
    closing: AtomicBool,
    closed: Arc<Notify>,
}

/// Everything that a request reads or writes.
pub(super) struct State {
    pub(super) catalog: Catalog,
    pub(super) kv: Kv,
    pub(super) indexes: Indexes,
    clock: Attended,
}

/// Time in which our own process stood still is not counted: no heartbeat could arrive in it.
#[derive(Debug, Default)]
struct Attended {
    ticked: Duration,
    /// What was not counted so far.
    stood: Duration,
}

/// What a request waits for.
#[derive(Debug)]
pub(super) enum Subject {
    Services,
    Nodes,
    Checks,
    Service(Arc<str>),
    Kv(Wanted),
}

/// A request without its body's type.
pub(super) struct Call {
    pub(super) method: Method,
    /// What stands behind the route's prefix, decoded.
    pub(super) name: String,
    pub(super) query: Query,
    pub(super) body: Bytes,
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
}

const LARGEST_BODY: usize = 512 << 10;
const SLOWEST_BODY: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(100);

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
        let state = State {
            catalog: Catalog::new(node, policy.instances, &indexes),
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
            closing: AtomicBool::new(false),
            closed: Arc::default(),
        }))
    }

    /// Spawns the task that sees TTLs run out, ten times a second. Time in which it did not run, because the process
    /// was paused, is held against nobody.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping it ends the ticking"]
    pub fn spawn_ticker(&self) -> ConsulTicker {
        let server = self.clone();
        ConsulTicker(tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                server.tick().await;
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
        }
    }

    async fn tick(&self) {
        let elapsed = self.0.epoch.elapsed();
        let now = self.change(|state, now| {
            state.clock.tick(elapsed);
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
        drop(state);
        wakes.wake();
        result
    }

    /// Waits until the subject has another index than that of the query, for as long as the query wants to. An index that is
    /// higher than ours is of another run, and not waited for.
    pub(super) async fn block(&self, query: &Query, subject: &Subject) -> Result<(), Failure> {
        let (index, wait) = (query.number("index")?.unwrap_or(0), query.wait()?);
        if index == 0 {
            return Ok(());
        }
        let mut place = None;
        let wait = wait + wait.mul_f64(rand::random_range(0.0..=1.0 / 16.0));
        let changed = async {
            loop {
                let closed = self.0.closed.clone().notified_owned();
                let (now, changed) = self.read(|state, _| {
                    let topic = state.topic(subject);
                    (topic.index, topic.changed())
                });
                if now != index || self.0.closing.load(Acquire) {
                    return Ok(());
                }
                if place.is_none() {
                    place = Some(self.take_place()?);
                }
                either(changed, closed).await;
            }
        };
        timeout(wait, changed).await.unwrap_or(Ok(()))
    }

    fn take_place(&self) -> Result<Place<'_>, Failure> {
        let most = self.0.policy.watchers;
        let one_more = |held| (held < most).then_some(held + 1);
        match self.0.watchers.fetch_update(AcqRel, Relaxed, one_more) {
            Ok(_) => Ok(Place(&self.0.watchers)),
            Err(_) => {
                let what = "too many blocked requests; try again without an index, or later";
                Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, what))
            }
        }
    }

    async fn serve<B>(self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let mut pretty = false;
        match self.answer(request, &mut pretty).await {
            Ok(answer) => answer.into_response(pretty),
            Err(failure) => {
                let full = [StatusCode::INSUFFICIENT_STORAGE, StatusCode::TOO_MANY_REQUESTS];
                if full.contains(&failure.status) {
                    self.0.refused.fetch_add(1, Relaxed);
                }
                failure.into_response()
            }
        }
    }

    async fn answer<B>(&self, request: Request<B>, pretty: &mut bool) -> Result<Answer, Failure>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let (route, name) = routes::find(head.uri.path(), &head.method)?;
        let query = Query::parse(head.uri.query())?;
        let open = matches!(route, Route::Leader | Route::Peers);
        if let Some(token) = self.0.policy.token.as_ref().filter(|_| !open) {
            routes::authorize(token, &head.headers, &query)?;
        }
        let name = decode(name, false).ok_or_else(|| Failure::bad("the path is not UTF-8"))?;
        let elsewhere = query.get("dc").is_some_and(|dc| dc != self.0.policy.datacenter);
        if elsewhere {
            let what = "No path to datacenter";
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, what));
        }
        *pretty = query.has("pretty");
        let body = read_body(body).await?;
        self.dispatch(route, &Call { method: head.method, name, query, body }).await
    }
}

async fn read_body<B>(body: B) -> Result<Bytes, Failure>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let body = pin!(Limited::new(body, LARGEST_BODY));
    match timeout(SLOWEST_BODY, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let what = format!("Request body too large, max size: {LARGEST_BODY} bytes");
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, what))
        }
        Ok(Err(error)) => Err(Failure::bad(format!("the body could not be read: {error}"))),
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")),
    }
}

async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        let ready = a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready();
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// That of a blocked request.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

impl State {
    fn topic(&mut self, subject: &Subject) -> Topic {
        match subject {
            Subject::Services => self.catalog.services_topic.clone(),
            Subject::Nodes => self.catalog.nodes_topic.clone(),
            Subject::Checks => self.catalog.checks_topic.clone(),
            Subject::Service(name) => self.catalog.service_topic(name),
            Subject::Kv(wanted) => self.kv.topic(wanted),
        }
    }
}

impl Attended {
    fn at(&self, elapsed: Duration) -> Duration {
        let since = elapsed.saturating_sub(self.ticked);
        // Before the tick that tells, a long time may be a pause or not.
        (self.ticked + since.min(2 * TICK)).saturating_sub(self.stood)
    }

    fn tick(&mut self, elapsed: Duration) {
        let since = elapsed.saturating_sub(self.ticked);
        self.stood += since.saturating_sub(2 * TICK);
        self.ticked = elapsed;
    }
}

impl<B> Service<Request<B>> for ConsulServer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(server.serve(request).await) })
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
