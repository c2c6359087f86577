//! Makes the active checks that are due, in tasks that end with the ticker.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::{net::lookup_host, sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    active::{Active, ActiveChecks, Ask},
    record::Status,
    rounds::Probe,
    server::{ConsulServer, State},
};
use crate::{Check, CheckError};

/// Attempts at once: with answers within 100 ms and intervals of 10 s that is enough for 6,400 checks. Others wait, so many slow instances make
/// checks rarer, and never more at once.
const PLACES: usize = 64;

#[derive(Debug)]
pub(super) struct Prober {
    tasks: JoinSet<()>,
    places: Arc<Semaphore>,
}

impl Default for Prober {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Prober {
    /// Begins what is due. Each check is under way once at most, so there are no more tasks than checks.
    pub(super) fn begin(&mut self, server: &ConsulServer) {
        while self.tasks.try_join_next().is_some() {}
        let probes = server.read(|state, _| std::mem::take(&mut state.catalog.probes));
        for probe in probes {
            let (server, places) = (server.clone(), self.places.clone());
            let attempt = Attempt { server, probe, found: None };
            self.tasks.spawn(async move {
                let mut attempt = attempt;
                // It is closed by nobody.
                let _place = places.acquire().await.ok();
                let policy = attempt.server.policy().checks;
                attempt.found = Some(attempt.probe.active.attempt(policy).await);
            });
        }
    }
}

/// One that is under way. However it ends, the check has its next turn: also after a panic, and when the ticker is dropped and another one spawned.
struct Attempt {
    server: ConsulServer,
    probe: Probe,
    found: Option<(Status, String)>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let found = self.found.take();
        self.server.change(|State { catalog, indexes, .. }, now| match found {
            Some(found) => catalog.probed(indexes, &self.probe, found, now),
            None => catalog.probe_again(&self.probe, now),
        });
    }
}

impl Active {
    async fn attempt(&self, policy: ActiveChecks) -> (Status, String) {
        let what = match &self.ask {
            Ask::Http { method, .. } => format!("HTTP {method} {}", self.target()),
            Ask::Tcp => format!("TCP connect {}", self.target()),
            Ask::Grpc { .. } => format!("gRPC check {}", self.target()),
        };
        let found = timeout(self.timeout, self.ask(policy)).await;
        match found.unwrap_or(Err(CheckError::Timeout(self.timeout))) {
            Ok(()) => (Status::Passing, format!("{what}: success")),
            // As in Consul: it lives, and has too much to do.
            Err(error @ CheckError::Status(429)) => (Status::Warning, format!("{what}: {error}")),
            Err(error) => match std::error::Error::source(&error) {
                Some(cause) => (Status::Critical, format!("{what}: {error}: {cause}")),
                None => (Status::Critical, format!("{what}: {error}")),
            },
        }
    }

    async fn ask(&self, policy: ActiveChecks) -> Result<(), CheckError> {
        let found = lookup_host((&*self.host, self.port)).await.map_err(CheckError::Connect)?;
        let ip = found.map(|address| address.ip()).find(|ip| policy.permits(*ip));
        let forbidden = || CheckError::Broken("no address that may be asked".into());
        let ip = ip.ok_or_else(forbidden)?.to_string();
        let check = match &self.ask {
            Ask::Tcp => Check::tcp(),
            Ask::Grpc { service } => Check::grpc(service),
            Ask::Http { path, method, header } => {
                let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
                Check::http_request(path, method, self.headers(header))
            }
        };
        check.timeout(self.timeout).probe(&ip, self.port).await
    }

    /// Those that were asked for, and the name of the host, which is connected to by its address.
    fn headers(&self, header: &std::collections::BTreeMap<String, Vec<String>>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if let Ok(host) = HeaderValue::from_str(&format!("{host}:{}", self.port)) {
            headers.insert(http::header::HOST, host);
        }
        for (name, values) in header {
            let Ok(name) = name.parse::<HeaderName>() else { continue };
            // The first in the place of ours.
            headers.remove(&name);
            for value in values {
                if let Ok(value) = HeaderValue::from_str(value) {
                    headers.append(&name, value);
                }
            }
        }
        headers
    }
}
