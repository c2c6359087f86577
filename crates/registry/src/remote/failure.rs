use std::borrow::Cow;

use gusset_call::BoxError;
use http::{Method, StatusCode};
use thiserror::Error;

use crate::Error;

/// Why a call brought nothing: what was asked, of whom, and what was wrong.
#[derive(Debug, Error)]
#[error("{method} {url}: {what}")]
pub(super) struct Failure {
    method: Method,
    url: String,
    what: Cow<'static, str>,
    pub(super) kind: Kind,
    #[source]
    cause: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody answered, or not in time, or with something that makes no sense.
    Away,
    /// It answered that it cannot do it now.
    Busy,
    /// It answered with another status than was hoped for.
    Status(StatusCode),
}

/// So much of what the server said is repeated.
const LONGEST: usize = 200;

impl Failure {
    pub(super) fn new(
        method: &Method,
        url: String,
        kind: Kind,
        what: impl Into<Cow<'static, str>>,
        cause: Option<BoxError>,
    ) -> Self {
        Self { method: method.clone(), url, what: what.into(), kind, cause }
    }

    pub(super) fn status(method: &Method, url: String, status: StatusCode, body: &[u8]) -> Self {
        let said: String = String::from_utf8_lossy(body)
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST)
            .collect();
        let what = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
        let kind = if is_busy(status) { Kind::Busy } else { Kind::Status(status) };
        Self::new(method, url, kind, what, None)
    }

    /// Whether it is how Consul said, before it had a status for it, that it does not know a check.
    pub(super) fn is_of_an_unknown_check(&self) -> bool {
        self.kind == Kind::Busy && self.what.contains("does not have associated TTL")
    }

    /// With all causes, in one line.
    pub(super) fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            line = format!("{line}: {inner}");
            cause = inner.source();
        }
        line
    }
}

/// Whether it says that the server cannot do it now, and not that it will not.
pub(super) fn is_busy(status: StatusCode) -> bool {
    let for_now = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    for_now.contains(&status)
        || (status.is_server_error() && status != StatusCode::INSUFFICIENT_STORAGE)
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            Kind::Away | Kind::Busy => Self::Unavailable(failure.into()),
            Kind::Status(_) => Self::Refused(failure.into()),
        }
    }
}
