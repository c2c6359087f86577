//! A request with an `Idempotency-Key` has one effect, however often it is sent (draft-ietf-httpapi-idempotency-key-header).

mod gathered;
mod key;
mod memory;
mod once;
#[cfg(feature = "redis")]
mod redis;
mod store;
#[cfg(feature = "redis")]
mod wire;

#[cfg(all(any(test, fuzzing), feature = "redis"))]
pub(crate) mod fuzz;

use std::{fmt, sync::Arc, time::Duration};

pub use memory::{AnswersInMemory, AnswersStats};
#[cfg(feature = "redis")]
pub use redis::{AnswersInRedis, AnswersInRedisStats};
pub use store::{Begun, IdempotencyStore, Pending, RequestKey, StoredAnswer};

pub(crate) use gathered::Gathered;
pub(crate) use key::{KeyFault, Keyed};
pub(crate) use once::{Once, Run};

/// What a route makes of `Idempotency-Key` on POST and PATCH; other methods are idempotent by themselves.
///
/// | a request with a key | its answer |
/// |---|---|
/// | that is new | the upstream's |
/// | whose first request is under way | 409 |
/// | that was answered, with the same target and body | the same again, with `Idempotent-Replayed: true` |
/// | that was answered, with another target or body | 422 |
/// | that is no key, or none though [`required`](Self::required) | 400 |
///
/// Keys are those of the sender ([`Identity::subject`](crate::Identity::subject)) and of the route. Where nobody is known, a request counts as another one if it comes from
/// another address, or with other `Authorization` or `Cookie` fields, so that nobody gets the answer of somebody else.
///
/// A request whose client leaves goes on to its end, in a task of its own, so that the answer is there when the
/// client asks again; it ends after about twice [`Route::timeout`](crate::Route::timeout), once for the upstream and once for the body of its answer. If an upstream cannot be reached, breaks off or fails, the key is free again; so it is if the body of the request could not be read.
///
/// Answers are read as a whole before they are passed on, up to [`max_body`](Self::max_body). One that is larger is streamed and not kept: repetitions get 409.
///
/// ```
/// use gusset_gateway::{AnswersInMemory, Idempotency, Route};
/// use http::Method;
///
/// let once = Idempotency::by(AnswersInMemory::default()).required();
/// let pay = Route::new("/payments").methods([Method::POST]).to("payments").idempotency(once);
/// ```
#[derive(Clone)]
pub struct Idempotency {
    store: Arc<dyn IdempotencyStore>,
    required: bool,
    server_errors: bool,
    max_body: usize,
    keep: Duration,
}

impl Idempotency {
    /// With answers kept there. Routes may share a store.
    pub fn by(store: impl IdempotencyStore) -> Self {
        Self {
            store: Arc::new(store),
            required: false,
            server_errors: false,
            max_body: 64 * 1024,
            keep: Duration::from_secs(24 * 3600),
        }
    }

    /// Requests without a key are answered with 400. Default no: they are passed on as ever.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Answers of 5xx are kept as well, for upstreams whose failures are final. Default no: the next request with the key is a new try.
    #[must_use]
    pub const fn keep_server_errors(mut self) -> Self {
        self.server_errors = true;
        self
    }

    /// How many bytes the body of an answer may have to be kept. Default 64 KiB.
    #[must_use]
    pub const fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// How long an answer is kept. Default a day, as clients try again over a night.
    #[must_use]
    pub const fn keep(mut self, span: Duration) -> Self {
        self.keep = span;
        self
    }
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("required", &self.required)
            .field("server_errors", &self.server_errors)
            .field("max_body", &self.max_body)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}
