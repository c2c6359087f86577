use std::{
    fmt,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use gusset_call::Clock;
use redis::Client;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{
    attempt::Attempt,
    gate::Gate,
    link::Link,
    policy::RedisPolicy,
    state::{RedisCounters, RedisState, RedisStats},
};

/// A Redis server, and whether it is asked at present. Clones share the connection and all that is known about it.
///
/// Give all limiters of a process the same one. It connects when somebody asks for the first time; until then, and
/// while the server is down, it costs nothing to have.
///
/// # Memory
///
/// One connection. What waits on it is what callers wait for, and what those asked who left within the last
/// [`RedisPolicy::call_within`]; a server that answers nothing is given up with all of that after
/// [`RedisPolicy::failures`] calls.
///
/// # Tasks
///
/// It needs tokio's runtime. The connection has a task that reads and writes, on the runtime of the call that opened it. Another one connects, for
/// at most [`RedisPolicy::connect_within`]. Both end when the last clone, and the last limiter with one, is dropped.
#[derive(Clone)]
pub struct RedisServer(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) policy: RedisPolicy,
    pub(super) clock: Clock,
    pub(super) gate: Gate,
    pub(super) link: ArcSwapOption<Link>,
    /// One attempt to connect at a time.
    pub(super) connecting: AtomicBool,
    pub(super) attempt: Mutex<Option<Attempt>>,
    pub(super) attempt_over: Notify,
    /// Changes of the gate are made under its lock, so that they are told in their order.
    pub(super) state: watch::Sender<RedisState>,
    pub(super) counters: RedisCounters,
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
            gate: Gate::new(
                policy.failures.get(),
                2 * millis(policy.call_within).min(1 << 38),
                first,
                longest,
            ),
            link: ArcSwapOption::empty(),
            connecting: AtomicBool::new(false),
            attempt: Mutex::new(None),
            attempt_over: Notify::new(),
            state: watch::Sender::new(RedisState::Unknown),
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
}

impl Inner {
    pub(super) fn now(&self) -> u64 {
        self.clock.nanos() / 1_000_000
    }

    pub(super) fn address(&self) -> impl fmt::Display {
        self.client.get_connection_info().addr().clone()
    }
}

pub(super) fn millis(span: Duration) -> u64 {
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
