mod copy;

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::BytesMut;
use gusset_call::Ratio;
use gusset_ratelimit::{Concurrency, ConcurrencyLimiter, Priority};
use http::Request;
use http_body::Body;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

pub(crate) use copy::BodyCopy;
use copy::{Call, head_of};

use crate::{Route, Upstream, body::RequestBody, transport::Wanted, upstream::Caller};

/// Copies of a route's requests for another upstream, whose answers nobody sees: [`Route::mirror`]. Clones share what they count and how many are under way.
///
/// A copy is sent once, when the request's own upstream has taken all of its body; it never makes a request wait or fail. What cannot be copied is left out and counted:
/// longer bodies, more copies at once than allowed, bodies that break off, upgrades, and requests on routes with [`Idempotency`](crate::Idempotency) that have a key. Copies
/// have the field `x-gusset-mirrored: 1` and else what the request's own upstream sees. Whatever they do, they do a second time: mirror to what has stores of its own.
///
/// ```
/// use gusset_gateway::{Mirror, Ratio, Route};
///
/// let tenth = Mirror::to("orders-next").share(Ratio::percent(10));
/// let orders = Route::new("/orders/{*rest}").to("orders").mirror(tenth.clone());
/// assert_eq!(tenth.stats().sent, 0);
/// ```
///
/// # Memory
///
/// At most [`at_once`](Self::at_once) times [`body_limit`](Self::body_limit), 4 MiB by default; each copy is a task, which ends with the gateway.
#[derive(Clone)]
pub struct Mirror {
    upstream: Upstream,
    share: Ratio,
    body_limit: usize,
    places: ConcurrencyLimiter,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    no_place: AtomicU64,
    too_large: AtomicU64,
}

/// What became of the copies, since the mirror was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorStats {
    /// Copies that were sent.
    pub sent: u64,
    /// Those of them that were not answered, or by 5xx.
    pub failed: u64,
    /// Requests that were not copied because too many copies were under way.
    pub no_place: u64,
    /// Requests that were not copied because of their size.
    pub too_large: u64,
}

impl Mirror {
    /// What is read of an answer, so that its connection can serve again.
    const READ: usize = 64 * 1024;

    /// Copies of all requests go there.
    pub fn to(upstream: impl Into<Upstream>) -> Self {
        Self {
            upstream: upstream.into(),
            share: Ratio::ALL,
            body_limit: 64 * 1024,
            places: places(NonZeroU32::MIN.saturating_add(63)),
            counts: Arc::default(),
        }
    }

    /// The part of the requests that is copied, by chance. Default all.
    #[must_use]
    pub const fn share(mut self, part: Ratio) -> Self {
        self.share = part;
        self
    }

    /// Requests with longer bodies are not copied, in bytes. Default 64 KiB, as what retries keep.
    #[must_use]
    pub const fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// How many copies may be under way at once. Default 64.
    #[must_use]
    pub fn at_once(mut self, most: NonZeroU32) -> Self {
        self.places = places(most);
        self
    }

    /// What became of the copies.
    #[must_use]
    pub fn stats(&self) -> MirrorStats {
        let Counts { sent, failed, no_place, too_large } = &*self.counts;
        MirrorStats {
            sent: sent.load(Relaxed),
            failed: failed.load(Relaxed),
            no_place: no_place.load(Relaxed),
            too_large: too_large.load(Relaxed),
        }
    }

    pub(crate) const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// What is wrong with it.
    pub(crate) fn mistake(&self) -> Option<String> {
        (!self.upstream.leads_somewhere()).then(|| "its mirror leads nowhere".into())
    }
}

fn places(most: NonZeroU32) -> ConcurrencyLimiter {
    ConcurrencyLimiter::new("mirror", Concurrency::fixed(most))
}

impl Route {
    /// Copies of its requests go elsewhere as well.
    #[must_use]
    pub fn mirror(mut self, mirror: Mirror) -> Self {
        self.mirror = Some(mirror);
        self
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("upstream", &self.upstream)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

/// A mirror and the way to its upstream.
pub(crate) struct Mirroring {
    mirror: Mirror,
    caller: Caller,
    limit: Duration,
    /// Copies end when it is dropped.
    open: watch::Sender<()>,
}

impl Mirroring {
    /// `caller` does not retry; `limit` is that of the route.
    pub(crate) fn new(mirror: Mirror, caller: Caller, limit: Duration) -> Self {
        Self { mirror, caller, limit, open: watch::Sender::new(()) }
    }

    /// Whether no copy is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.receiver_count() == 0
    }

    /// Where they go, and what became of them.
    pub(crate) fn stats(&self) -> (&Upstream, MirrorStats) {
        (self.mirror.upstream(), self.mirror.stats())
    }

    /// Copies a request that is about to go to its own upstream, as far as it may.
    pub(crate) fn copy(&self, request: &mut Request<RequestBody>) {
        let Mirror { share, body_limit, places, counts, .. } = &self.mirror;
        let is_upgrade = request.extensions().get::<Wanted>().is_some();
        let runtime = tokio::runtime::Handle::try_current();
        let (false, Ok(runtime)) = (is_upgrade || !share.covers(rand::random()), runtime) else {
            return;
        };
        let lower = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
        if lower > *body_limit {
            counts.too_large.fetch_add(1, Relaxed);
            return;
        }
        let Ok(place) = places.try_acquire(Priority::Normal) else {
            counts.no_place.fetch_add(1, Relaxed);
            return;
        };
        let body = (!request.body().is_end_stream()).then(|| {
            let (done, whole) = oneshot::channel();
            let (data, counts) = (BytesMut::new(), counts.clone());
            request.body_mut().copy_to(BodyCopy { data, left: *body_limit, done, counts });
            whole
        });
        let call = Call {
            head: head_of(request),
            body,
            caller: self.caller.clone(),
            counts: counts.clone(),
        };
        let (limit, mut open) = (self.limit, self.open.subscribe());
        let task = gusset_call::carry(async move {
            tokio::select! {
                // Fails when the gateway is gone.
                _ = open.changed() => {}
                // The body may take as long as the route allows, and then the answer.
                _ = timeout(limit.saturating_mul(2), call.run()) => {}
            }
            drop(place);
        });
        runtime.spawn(task);
    }
}
