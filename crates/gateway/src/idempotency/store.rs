use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{HeaderMap, StatusCode};

/// What a store is asked, to be awaited.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// Where answers are kept until they are asked for again. [`AnswersInMemory`](crate::AnswersInMemory) is one; gateways that run in several processes need one
/// that they share, as `AnswersInRedis` is (feature `redis`).
///
/// A store that cannot be reached lets no request pass: 503.
pub trait IdempotencyStore: Send + Sync + 'static {
    /// Claims `key`, unless somebody has it or it was answered; in one step, whoever else asks. A claim ends by itself after `lease`.
    fn begin<'a>(&'a self, key: &'a RequestKey, lease: Duration) -> Pending<'a, Begun>;

    /// Keeps the answer for `span`, if `claim` still holds; otherwise nothing.
    fn keep<'a>(
        &'a self,
        key: &'a RequestKey,
        claim: u64,
        answer: Arc<StoredAnswer>,
        span: Duration,
    ) -> Pending<'a, ()>;

    /// Gives `key` back, if `claim` still holds. It must not block; where that takes a while, it goes on in the background, and if it fails the lease ends the claim.
    fn release(&self, key: &RequestKey, claim: u64);
}

/// What [`IdempotencyStore::begin`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Begun {
    /// Nobody had it. The number tells this claim from others.
    Claimed(u64),
    /// Somebody has.
    Running,
    /// It was answered.
    Answered(Arc<StoredAnswer>),
    /// There is no room: 503.
    Full,
}

/// Route, sender and key of a request, hashed: a store learns none of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(pub(crate) [u8; 32]);

impl RequestKey {
    /// The hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "RequestKey({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// The answer to a request, and what tells the request from others with its key. Stores that write it down should note a version with it.
#[derive(Clone, Debug)]
pub struct StoredAnswer {
    /// Hash of the request's target and sender.
    pub target: [u8; 32],
    /// SHA-256 of the request's body. `None` if the upstream answered without reading it.
    pub sent: Option<[u8; 32]>,
    /// The status of the answer.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body. `None` if it was too large to be kept.
    pub body: Option<Bytes>,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

impl StoredAnswer {
    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let fields = |map: &HeaderMap| -> usize {
            map.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum()
        };
        let body = self.body.as_ref().map_or(0, Bytes::len);
        256 + body + fields(&self.headers) + self.trailers.as_ref().map_or(0, fields)
    }
}
