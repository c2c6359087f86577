//! To tower's `Discover`.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use tokio::sync::futures::OwnedNotified;
use tower::discover::Change;

use crate::{Instance, Watch};

/// The healthy instances of a service as tower's [`Discover`](tower::discover::Discover), keyed by id, for tower's own `Balance` and, change by change, for tonic's
/// `balance_channel`.
///
/// An instance that is at another place than before is removed and inserted. It never ends and never fails. Changes that nobody
/// polls for become one; nothing is kept but the last state.
///
/// tonic has a `Change` of its own, so its channel is told by a few lines of the caller:
///
/// ```
/// use gusset_registry::{Discovered, Instance, MemoryRegistry, Registry};
/// use tonic::transport::{Channel, Endpoint, channel};
/// use tower::discover::Change;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let registry = MemoryRegistry::default();
/// let endpoint = |instance: &Instance| Endpoint::from_shared(format!("http://{}", instance.authority()));
/// let mut carts = Discovered::new(registry.watch("cart"), endpoint);
/// let (channel, changes) = Channel::balance_channel(64);
/// let follower = tokio::spawn(async move {
///     loop {
///         let change = match carts.next_change().await {
///             Change::Insert(id, Ok(endpoint)) => channel::Change::Insert(id, endpoint),
///             Change::Insert(id, Err(_)) | Change::Remove(id) => channel::Change::Remove(id),
///         };
///         if changes.send(change).await.is_err() {
///             break; // nobody calls any more
///         }
///     }
/// });
/// // CartClient::new(channel).items(request).await
/// # drop((channel, follower));
/// # });
/// ```
///
/// A [`Balance`](crate::Balance) around channels needs none of that: `Balance::new(watch, |instance: &Instance| endpoint(instance).connect_lazy())` is a client for
/// tonic's generated code as it is.
///
/// # Cancellation
///
/// Nothing is lost by not polling any more.
pub struct Discovered<F> {
    watch: Watch,
    make: F,
    /// What was told of.
    known: BTreeMap<Arc<str>, Arc<Instance>>,
    /// What is to be told.
    due: VecDeque<Change<Arc<str>, Arc<Instance>>>,
    version: Option<u64>,
    changed: Pin<Box<OwnedNotified>>,
}

impl<F, S> Discovered<F>
where
    F: Fn(&Instance) -> S,
{
    /// Follows `watch` and makes the services by `make`.
    pub fn new(watch: Watch, make: F) -> Self {
        let (known, due) = (BTreeMap::new(), VecDeque::new());
        let changed = Box::pin(watch.notified());
        Self { watch, make, known, due, version: None, changed }
    }

    /// Waits for the next change.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub async fn next_change(&mut self) -> Change<Arc<str>, S> {
        poll_fn(|cx| self.poll_change(cx)).await
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Change<Arc<str>, S>> {
        loop {
            if let Some(change) = self.due.pop_front() {
                return Poll::Ready(match change {
                    Change::Insert(id, instance) => Change::Insert(id, (self.make)(&instance)),
                    Change::Remove(id) => Change::Remove(id),
                });
            }
            // Listens first and looks then.
            if self.changed.as_mut().poll(cx).is_ready() {
                self.changed.set(self.watch.notified());
                continue;
            }
            if self.version == Some(self.watch.version()) {
                return Poll::Pending;
            }
            self.compare();
        }
    }

    /// Puts down what changed since it was last told.
    fn compare(&mut self) {
        let snapshot = self.watch.snapshot();
        self.version = Some(snapshot.version());
        let now: BTreeMap<_, _> =
            snapshot.healthy().map(|instance| (instance.id.clone(), instance.clone())).collect();
        let known = std::mem::take(&mut self.known);
        for (id, instance) in &known {
            if now.get(id).is_none_or(|now| !now.is_reached_like(instance)) {
                self.due.push_back(Change::Remove(id.clone()));
            }
        }
        for (id, instance) in &now {
            if known.get(id).is_none_or(|known| !known.is_reached_like(instance)) {
                self.due.push_back(Change::Insert(id.clone(), instance.clone()));
            }
        }
        self.known = now;
    }
}

// Nothing in it is pinned but by its box.
impl<F> Unpin for Discovered<F> {}

impl<F, S> Stream for Discovered<F>
where
    F: Fn(&Instance) -> S,
{
    type Item = Result<Change<Arc<str>, S>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(ready!(self.get_mut().poll_change(cx)))))
    }
}

impl<F> fmt::Debug for Discovered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovered").field("known", &self.known).finish_non_exhaustive()
    }
}
