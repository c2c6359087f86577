//! The task that always has a connection, and where the others find it.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::seq::SliceRandom;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{Status, transport::Endpoint};

use super::{
    keys::Keys,
    link::Link,
    policy::EtcdPolicy,
    rpc::{RangeRequest, RangeResponse, path},
    state::{EtcdState, Meters},
};
use crate::{Error, pause::LONGEST};

/// etcd takes a client that pings more often than every 5 s for a nuisance, and hangs up.
const PING_EVERY: Duration = Duration::from_secs(6);
/// With the default of 64 KiB a listing would wait for the other side several times.
const WINDOW: u32 = 1 << 20;
/// A connection that held for so long was no failure.
const HELD: Duration = Duration::from_secs(5);

/// Where the present connection is found.
#[derive(Debug)]
pub(super) struct Line {
    /// Of the last connection that was tried.
    generation: AtomicU64,
    links: watch::Sender<Option<Arc<Link>>>,
    state: watch::Sender<EtcdState>,
}

impl Line {
    pub(super) fn new() -> Self {
        let cause = "not connected yet".into();
        Self {
            generation: AtomicU64::new(0),
            links: watch::Sender::new(None),
            state: watch::Sender::new(EtcdState::Away { since: Instant::now(), cause }),
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<EtcdState> {
        self.state.subscribe()
    }

    /// The present connection, or none.
    pub(super) fn present(&self) -> Option<Arc<Link>> {
        self.links.borrow().clone().filter(|link| !link.is_broken())
    }

    /// A connection, as soon as there is one.
    pub(super) async fn link(&self) -> Arc<Link> {
        let usable = |link: &Option<Arc<Link>>| link.as_ref().is_some_and(|link| !link.is_broken());
        let mut links = self.links.subscribe();
        let link = links.wait_for(usable).await.ok().and_then(|link| link.clone());
        match link {
            Some(link) => link,
            // The sender is in `self`, so the wait does not end without.
            None => pending().await,
        }
    }

    /// Why there is no connection.
    pub(super) fn unavailable(&self) -> Error {
        let cause = match &*self.state.borrow() {
            EtcdState::Away { cause, .. } => cause.to_string(),
            EtcdState::Connected { .. } => "no answer in time".into(),
        };
        Error::Unavailable(cause.into())
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Relaxed) + 1
    }

    fn up(&self, link: &Arc<Link>) {
        tracing::debug!(endpoint = &*link.endpoint, "connected to etcd");
        self.links.send_replace(Some(link.clone()));
        self.state.send_replace(EtcdState::Connected { endpoint: link.endpoint.clone() });
    }

    fn down(&self, cause: Arc<str>) {
        self.links.send_replace(None);
        self.state.send_modify(|state| {
            let since = match state {
                EtcdState::Away { since, .. } => *since,
                EtcdState::Connected { .. } => {
                    tracing::warn!(cause = &*cause, "connection to etcd lost");
                    Instant::now()
                }
            };
            *state = EtcdState::Away { since, cause };
        });
    }
}

/// Keeps a connection to one of the endpoints.
pub(super) struct Connector {
    endpoints: Vec<(Arc<str>, Endpoint)>,
    policy: Arc<EtcdPolicy>,
    keys: Keys,
}

impl Connector {
    pub(super) fn new(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        policy: Arc<EtcdPolicy>,
        keys: Keys,
    ) -> Result<Self, Error> {
        let mut endpoints = Vec::new();
        for address in addresses {
            let address: String = address.into();
            let scheme = if policy.has_tls() { "https" } else { "http" };
            let uri =
                if address.contains("://") { address } else { format!("{scheme}://{address}") };
            let endpoint = Endpoint::from_shared(uri.clone()).map_err(|_| invalid(&uri, NO_URI))?;
            // Half of it encrypted would be what nobody wanted.
            if !uri.starts_with(&format!("{scheme}://")) {
                return Err(invalid(&uri, "is https without a policy of TLS, or http with one"));
            }
            let endpoint = policy
                .over_tls(endpoint)
                .ok_or_else(|| invalid(&uri, "has certificates or a key that are not PEM"))?
                .connect_timeout(policy.connect_within)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(policy.call_within)
                .keep_alive_while_idle(false)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(4 * WINDOW);
            endpoints.push((uri.into(), endpoint));
        }
        if endpoints.is_empty() {
            return Err(invalid("", NO_URI));
        }
        // Many processes with one list do not all use its first entry.
        endpoints.shuffle(&mut rand::rng());
        Ok(Self { endpoints, policy, keys })
    }

    /// Never ends. The next endpoint is tried at once; when all have failed, after a pause.
    pub(super) async fn run(self: Arc<Self>, line: Arc<Line>, meters: Arc<Meters>) {
        let mut failures = 0_u32;
        for (address, endpoint) in self.endpoints.iter().cycle() {
            let opened = self.open(line.next_generation(), address, endpoint);
            let late = |_| Err(Status::deadline_exceeded("no answer to a new connection"));
            match timeout(self.policy.connect_within, opened).await.unwrap_or_else(late) {
                Ok(link) => {
                    meters.connected.fetch_add(1, Relaxed);
                    let (link, since) = (Arc::new(link), Instant::now());
                    line.up(&link);
                    line.down(link.ended().await);
                    failures = if since.elapsed() > HELD { 0 } else { failures.saturating_add(1) };
                }
                Err(status) => {
                    failures = failures.saturating_add(1);
                    line.down(format!("{address}: {}", reason(&status)).into());
                }
            }
            let endpoints = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
            if failures > 0 && failures % endpoints == 0 {
                sleep(pause(self.policy.ttl_used(), failures / endpoints)).await;
            }
        }
    }

    /// Connects and has a first question answered, one that a member without a quorum cannot answer.
    async fn open(
        &self,
        generation: u64,
        address: &Arc<str>,
        endpoint: &Endpoint,
    ) -> Result<Link, Status> {
        let mut link = Link::connect(generation, address.clone(), endpoint).await?;
        if let Some((user, password)) = &self.policy.credentials {
            link.authenticate(user, password).await?;
        }
        let span = self.keys.all();
        let (key, range_end) = (span.begin, span.end);
        let trial =
            RangeRequest { key, range_end, limit: 1, keys_only: true, ..Default::default() };
        link.ask::<_, RangeResponse>(path::RANGE, trial).await?;
        link.call_within = self.policy.call_within;
        Ok(link)
    }
}

const NO_URI: &str = "is neither host:port nor a URI";

fn invalid(endpoint: &str, reason: &'static str) -> Error {
    let value = endpoint.chars().take(80).collect();
    Error::Invalid { field: "endpoint of etcd", value, reason }
}

/// With the innermost cause, which for a transport's error is the one that tells something.
fn reason(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::addr_eq(cause, status) { status.message().into() } else { cause.to_string() }
}

/// Grows to a sixth of the TTL, but at most 5 s.
pub(super) fn pause(ttl: Duration, failures: u32) -> Duration {
    crate::pause::pause(failures, (ttl / 6).min(LONGEST))
}
