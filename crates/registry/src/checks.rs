//! Whether an instance works, found out by asking it.

mod probe;
mod runner;
mod threshold;

use std::time::Duration;

use gusset_call::BoxError;
use http::{HeaderMap, Method};
pub use runner::{CheckGuard, Checker};
use thiserror::Error;

/// How an instance is asked whether it works, and how often.
///
/// ```
/// # use std::time::Duration;
/// use gusset_registry::Check;
///
/// let ready = Check::http("/readyz").interval(Duration::from_secs(5)).fall(2);
/// let listens = Check::tcp().at("10.0.0.7", 9090);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    how: How,
    at: Option<(String, u16)>,
    interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
    deregister_after: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    Tcp,
    Http {
        path: String,
        method: Method,
        /// Beside those that every request has, or in their place.
        headers: HeaderMap,
    },
    Grpc {
        service: String,
    },
}

/// Why an instance does not work, as far as one attempt can tell.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// No connection was made.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// It took longer than the check allows.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It answered, and not that it is well.
    #[error("answered with status {0}")]
    Status(u16),
    /// It answered by gRPC that it does not serve: the number of its `ServingStatus`, of which 1 would be well.
    #[error("answered with serving status {0}")]
    NotServing(u64),
    /// It answered by gRPC with an error.
    #[error("answered with gRPC status {0}")]
    GrpcStatus(String),
    /// What came back is not understood, or the connection broke.
    #[error("no proper answer")]
    Broken(#[source] BoxError),
}

impl Check {
    /// It works if a connection is accepted.
    #[must_use]
    pub fn tcp() -> Self {
        Self::new(How::Tcp)
    }

    /// It works if it answers `GET path` by HTTP/1.1 with a status of 2xx. Redirections are not followed. No TLS.
    ///
    /// A path that cannot be one fails with [`CheckError::Broken`].
    #[must_use]
    pub fn http(path: impl Into<String>) -> Self {
        Self::http_request(path, Method::GET, HeaderMap::new())
    }

    pub(crate) fn http_request(
        path: impl Into<String>,
        method: Method,
        headers: HeaderMap,
    ) -> Self {
        Self::new(How::Http { path: path.into(), method, headers })
    }

    /// It works if `Check` of `grpc.health.v1.Health` answers that `service` is serving; the empty name is the server as a whole. No TLS.
    #[must_use]
    pub fn grpc(service: impl Into<String>) -> Self {
        Self::new(How::Grpc { service: service.into() })
    }

    fn new(how: How) -> Self {
        Self {
            how,
            at: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            rise: 2,
            fall: 3,
            deregister_after: None,
        }
    }

    /// Asks there, and not where the instance is.
    #[must_use]
    pub fn at(mut self, host: impl Into<String>, port: u16) -> Self {
        self.at = Some((host.into(), port));
        self
    }

    /// From the end of one attempt to the begin of the next, or up to a tenth less, so that many do not ask in step. Default 10 s,
    /// at least 10 ms.
    #[must_use]
    pub const fn interval(mut self, span: Duration) -> Self {
        self.interval = span;
        self
    }

    /// How long an attempt may take. Default 5 s: longer than any healthy answer, shorter than the interval.
    #[must_use]
    pub const fn timeout(mut self, span: Duration) -> Self {
        self.timeout = span;
        self
    }

    /// After how many good attempts in a row an instance that did not work does again. Default 2; 0 means 1. The first attempt of all
    /// decides alone.
    #[must_use]
    pub const fn rise(mut self, attempts: u32) -> Self {
        self.rise = attempts;
        self
    }

    /// After how many bad attempts in a row an instance that worked does not any more. Default 3; 0 means 1.
    #[must_use]
    pub const fn fall(mut self, attempts: u32) -> Self {
        self.fall = attempts;
        self
    }

    /// For how long it may not work until it is deregistered (Consul's `DeregisterCriticalServiceAfter`). Default for ever.
    #[must_use]
    pub const fn deregister_after(mut self, span: Duration) -> Self {
        self.deregister_after = Some(span);
        self
    }
}
