use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use gusset_call::Clock;
use redis::{Client, RedisError};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::timeout,
};

use super::{
    gate::{Admit, Gate},
    link::{Link, is_broken, is_script_missing},
    meter::{Answer, Take},
    policy::RedisPolicy,
    state::{RedisCounters, RedisState, RedisStats, count},
};

/// A Redis server, and whether it is asked at present. Clones share the connection and all that is known about it.
///
/// Give all limiters of a process the same one. It connects when somebody asks for the first time; until then, and
/// while the server is down, it costs nothing to have.
///
/// # Memory
///
/// One connection. What waits on it is what callers wait for, and what those asked who left within the last
/// [`RedisPolicy::wait`]; a server that answers nothing is given up with all of that after
/// [`RedisPolicy::failures`] calls.
///
/// # Tasks
///
/// It needs tokio's runtime. The connection has a task that reads and writes, on the runtime of the call that opened it. Another one connects, for
/// at most [`RedisPolicy::connect_within`]. Both end when the last clone, and the last limiter with one, is dropped.
#[derive(Clone)]
pub struct RedisServer(Arc<Inner>);

struct Inner {
    client: Client,
    policy: RedisPolicy,
    clock: Clock,
    gate: Gate,
    link: ArcSwapOption<Link>,
    /// One attempt to connect at a time.
    connecting: AtomicBool,
    attempt: Mutex<Option<Attempt>>,
    attempt_over: Notify,
    /// Changes of the gate are made under its lock, so that they are told in their order.
    state: watch::Sender<RedisState>,
    counters: RedisCounters,
}

impl RedisServer {
    /// The server at `url`, for instance `redis://user:password@host:6379/0` or `redis+unix:///run/redis.sock`. Does not
    /// connect, so the server may be down.
    ///
    /// `rediss://` needs one of the TLS features of the `redis` crate, which a program turns on by naming them in its own
    /// manifest.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if it is none of a Redis server.
    pub fn new(url: &str) -> Result<Self, InvalidUrl> {
        Self::with_policy(url, RedisPolicy::default())
    }

    /// As [`new`](Self::new), with another policy than the default.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if `url` is none of a Redis server.
    pub fn with_policy(url: &str, policy: RedisPolicy) -> Result<Self, InvalidUrl> {
        let client = Client::open(url).map_err(|error| InvalidUrl(error.to_string()))?;
        let (first, longest) = (millis(policy.first_pause), millis(policy.longest_pause));
        Ok(Self(Arc::new(Inner {
            client,
            policy,
            clock: Clock::new(),
            gate: Gate::new(policy.failures.get(), first, longest),
            link: ArcSwapOption::empty(),
            connecting: AtomicBool::new(false),
            attempt: Mutex::new(None),
            attempt_over: Notify::new(),
            state: watch::Sender::new(RedisState::New),
            counters: RedisCounters::default(),
        })))
    }

    /// Whether it is asked at present.
    #[must_use]
    pub fn state(&self) -> RedisState {
        self.0.state.borrow().clone()
    }

    /// The state, and each change of it. Ends when the last clone is dropped.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<RedisState> {
        self.0.state.subscribe()
    }

    /// What became of the calls.
    #[must_use]
    pub fn stats(&self) -> RedisStats {
        self.0.counters.stats()
    }

    /// What this server is asked by.
    #[must_use]
    pub fn policy(&self) -> RedisPolicy {
        self.0.policy
    }

    /// Connects if need be, and says what is known then. For the start of a program, so that its first calls find a connection; it
    /// need not be called.
    ///
    /// Waits for as long as [`RedisPolicy::connect_within`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the wait, not the attempt to connect.
    pub async fn connect(&self) -> RedisState {
        // The attempt has its own bound; this one is for a runtime that ends it unfinished.
        let _ = timeout(self.0.policy.connect_within, self.0.link()).await;
        self.state()
    }

    /// How long until somebody may try again.
    pub(crate) fn away_for(&self) -> Duration {
        Duration::from_millis(self.0.gate.away_for(self.0.now()))
    }

    /// What the script says, or `None` if it cannot be known in time.
    pub(crate) async fn ask(&self, bucket: &[u8], take: Take) -> Option<Answer> {
        let inner = &*self.0;
        let start = inner.clock.nanos();
        let patience = millis(inner.policy.connect_within);
        let generation = match inner.gate.admit(start / 1_000_000, patience) {
            Admit::Ask(generation) | Admit::Try(generation) => generation,
            Admit::Skip => {
                count(&inner.counters.skipped);
                return None;
            }
        };
        count(&inner.counters.asked);
        let mut call = Call { inner, start, generation, settled: false };
        match timeout(inner.policy.wait, self.0.answer(bucket, take)).await {
            Ok(Ok(answer)) => {
                call.answered();
                Some(answer)
            }
            Ok(Err(error)) => {
                call.failed(error);
                None
            }
            Err(_) => {
                call.timed_out();
                None
            }
        }
    }
}

/// Why there is no answer.
enum NoAnswer {
    /// It could not be reached, which whoever tried has told the gate.
    Unreachable,
    Failed(RedisError),
}

impl Inner {
    fn now(&self) -> u64 {
        self.clock.nanos() / 1_000_000
    }

    /// Asks, and once more if the connection turns out to be broken: a server or something between may have closed it
    /// long ago. Then the first question may have been heard, and tokens be taken twice.
    async fn answer(self: &Arc<Self>, bucket: &[u8], take: Take) -> Result<Answer, NoAnswer> {
        let mut link = self.link().await.ok_or(NoAnswer::Unreachable)?;
        let mut result = link.take(bucket, take).await;
        if result.as_ref().is_err_and(is_broken) {
            self.lost(&link);
            link = self.link().await.ok_or(NoAnswer::Unreachable)?;
            result = link.take(bucket, take).await;
        }
        if result.as_ref().is_err_and(is_script_missing) {
            count(&self.counters.reloads);
            result = link.load_and_take(bucket, take).await;
        }
        if result.as_ref().is_err_and(is_broken) {
            self.lost(&link);
        }
        result.map_err(NoAnswer::Failed)
    }

    /// The connection; waits for it if need be, through one attempt to connect.
    async fn link(self: &Arc<Self>) -> Option<Arc<Link>> {
        let mut over = pin!(self.attempt_over.notified());
        // From here on the end of an attempt is not missed.
        over.as_mut().enable();
        if let Some(link) = self.link.load_full() {
            return Some(link);
        }
        self.start_attempt();
        over.await;
        self.link.load_full()
    }

    /// Gives up `link`, if it is still the one in use.
    fn lost(&self, link: &Arc<Link>) {
        self.link.rcu(|current| match current {
            Some(current) if Arc::ptr_eq(current, link) => None,
            current => current.clone(),
        });
    }

    fn start_attempt(self: &Arc<Self>) {
        // Held until the handle is in its place, or a later attempt's could be overwritten, which would end it.
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        if self.connecting.swap(true, SeqCst) {
            return;
        }
        count(&self.counters.connects);
        let over = AttemptOver(Arc::downgrade(self));
        let (client, policy) = (self.client.clone(), self.policy);
        let task = tokio::spawn(async move {
            let opened = timeout(policy.connect_within, Link::open(&client, policy.wait)).await;
            if let Some(inner) = over.0.upgrade() {
                match opened {
                    Ok(Ok(link)) => inner.reached(link),
                    Ok(Err(error)) => inner.unreachable(&error.to_string()),
                    Err(_) => inner.unreachable("it took too long to connect"),
                }
            }
        });
        *attempt = Some(Attempt(task.abort_handle()));
    }

    fn reached(&self, link: Link) {
        self.link.store(Some(Arc::new(link)));
        let changed = self.state.send_if_modified(|state| {
            self.gate.reached(self.now());
            std::mem::replace(state, RedisState::Here) != RedisState::Here
        });
        if changed {
            tracing::info!(server = %self.address(), "redis answers");
        }
    }

    fn unreachable(&self, cause: &str) {
        self.link.store(None);
        self.go_away(cause, || {
            self.gate.unreachable(self.now(), &mut rand::rng());
            true
        });
    }

    fn failed(&self, generation: u16, cause: &str) {
        self.go_away(cause, || {
            let away = self.gate.failed(self.now(), generation, &mut rand::rng());
            if away {
                // With all that it still owes. A new one shows whether the server or only the way to it is gone.
                self.link.store(None);
            }
            away
        });
    }

    /// Here → Away, if `decide` says so.
    fn go_away(&self, cause: &str, decide: impl FnOnce() -> bool) {
        let mut was_away = true;
        let changed = self.state.send_if_modified(|state| {
            was_away = matches!(state, RedisState::Away { .. });
            let away = RedisState::Away { cause: cause.into() };
            decide() && std::mem::replace(state, away.clone()) != away
        });
        if changed && !was_away {
            tracing::warn!(server = %self.address(), cause, "redis is away; its limits are kept by other means");
        }
    }

    fn address(&self) -> impl fmt::Display {
        self.client.get_connection_info().addr().clone()
    }
}

/// A call that waits for its answer. Dropped before that, it tells what it can.
struct Call<'a> {
    inner: &'a Inner,
    start: u64,
    generation: u16,
    settled: bool,
}

impl Call<'_> {
    fn answered(&mut self) {
        self.settled = true;
        count(&self.inner.counters.answered);
        self.inner.gate.answered(self.inner.now(), self.generation);
    }

    fn failed(&mut self, why: NoAnswer) {
        self.settled = true;
        count(&self.inner.counters.errors);
        if let NoAnswer::Failed(error) = why {
            self.inner.failed(self.generation, &error.to_string());
        }
    }

    fn timed_out(&mut self) {
        self.settled = true;
        count(&self.inner.counters.timeouts);
        self.inner.failed(self.generation, "no answer in time");
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        count(&self.inner.counters.left);
        // Callers that are less patient than the policy would otherwise hide forever that nothing answers.
        let waited = Duration::from_nanos(self.inner.clock.nanos().saturating_sub(self.start));
        if waited >= self.inner.policy.wait / 2 {
            self.inner.failed(self.generation, "callers left before the answer");
        }
    }
}

/// Ends the task that connects.
struct Attempt(AbortHandle);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells that an attempt is over, even if its runtime was shut down in the middle of it.
struct AttemptOver(Weak<Inner>);

impl Drop for AttemptOver {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.connecting.store(false, SeqCst);
            inner.attempt_over.notify_waiters();
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for RedisServer {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer")
            .field("address", &self.0.address().to_string())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// An address that is none of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidUrl(String);

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not the address of a redis server: {}", self.0)
    }
}

impl std::error::Error for InvalidUrl {}
