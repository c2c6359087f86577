//! From tower's `Discover`.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use gusset_call::BoxError;
use pin_project_lite::pin_project;
use tokio::{task::AbortHandle, time::sleep};
use tower::discover::{Change, Discover};
use tower_service::Service;

use crate::{Balance, Health, Instance, MakeEndpoint, Publisher};

/// Keeps a [`Balance`] at what a `Discover` says; from [`Balance::spawn_follower`]. Dropping it ends its task, and what is known by then stays.
#[must_use = "dropping it ends the task"]
pub struct Follower(AbortHandle);

/// The services that a `Discover` brought, as a [`MakeEndpoint`]; from [`Balance::spawn_follower`].
pub struct Followed<S>(Arc<Mutex<Services<S>>>);

/// By id: the one that counts, and those of whom some call may still think that they do.
type Services<S> = BTreeMap<Arc<str>, Vec<Entry<S>>>;

struct Entry<S> {
    /// Published, so that its other owners are those who may still make an endpoint of it.
    instance: Arc<Instance>,
    service: Arc<S>,
    left: bool,
}

impl<S> Balance<Followed<S>>
where
    S: Clone + Send + Sync + 'static,
{
    /// Spawns a task that follows `discover`, and balances over the services that it brings. Calls use clones of them.
    ///
    /// `describe` says who a key is: an id that no other key has, and, if pickers or a [`Fleet`](crate::Fleet) shall know of them, a weight, a zone, tags.
    /// It has to say the same each time. Whoever is there takes calls, whatever health it is given here.
    ///
    /// Inserting a key again replaces its service. When `discover` ends, the last set stays; after an error it is polled again, after a rest from 100 ms up
    /// to 10 s. There are as many endpoints as `discover` brings. The task ends with the guard, or with `discover`.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use gusset_registry::{Balance, Instance, LeastLoaded};
    /// use tower::{ServiceExt, discover::ServiceList, service_fn};
    ///
    /// let answers = |name: &'static str| service_fn(move |()| std::future::ready(Ok::<_, std::io::Error>(name)));
    /// let list = ServiceList::new::<()>([answers("one"), answers("two")]);
    /// let describe = |key: &usize| Instance::new("cart", format!("cart-{key}"), 80);
    /// let (cart, _follower) = Balance::spawn_follower(list, describe);
    /// let cart = cart.pick(LeastLoaded::new());
    /// assert!(["one", "two"].contains(&cart.oneshot(()).await.unwrap()));
    /// # });
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_follower<D>(
        discover: D,
        describe: impl FnMut(&D::Key) -> Instance + Send + 'static,
    ) -> (Self, Follower)
    where
        D: Discover<Service = S> + Send + 'static,
        D::Error: Into<BoxError>,
    {
        let (publisher, followed) = (Publisher::new("followed"), Followed(Arc::default()));
        let balance = Self::new(publisher.watch(), followed.clone());
        let task = tokio::spawn(follow(discover, describe, publisher, followed));
        (balance, Follower(task.abort_handle()))
    }
}

/// How often it is looked whether the services that left are still thought of.
const LOOK: Duration = Duration::from_secs(1);
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Changes that become one, so that an endless stream of them does not hide the first.
const AT_ONCE: usize = 256;

async fn follow<D, S>(
    discover: D,
    mut describe: impl FnMut(&D::Key) -> Instance,
    publisher: Publisher,
    followed: Followed<S>,
) where
    D: Discover<Service = S>,
    D::Error: Into<BoxError>,
{
    let (mut discover, mut runs, mut rest) = (pin!(discover), 0, FIRST_REST);
    let mut ended = false;
    loop {
        let mut look = pin!(followed.has_left().then(|| sleep(LOOK)));
        let (mut changes, mut failed) = (0, None);
        poll_fn(|cx| {
            while !ended && failed.is_none() && changes < AT_ONCE {
                match discover.as_mut().poll_discover(cx) {
                    Poll::Ready(Some(Ok(change))) => {
                        (changes, runs) = (changes + 1, runs + 1);
                        followed.change(change, &mut describe, runs);
                    }
                    Poll::Ready(Some(Err(error))) => failed = Some(error.into()),
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => break,
                }
            }
            let looks = match look.as_mut().as_pin_mut() {
                Some(look) => look.poll(cx).is_ready(),
                None => ended,
            };
            let idle = changes == 0 && failed.is_none() && !looks;
            if idle { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        if changes > 0 {
            rest = FIRST_REST;
            publisher.publish(followed.present());
        }
        followed.forget();
        if let Some(error) = failed {
            let error: BoxError = error;
            tracing::warn!(error = &*error as &dyn std::error::Error, "discovery failed");
            sleep(rest).await;
            rest = (rest * 2).min(LONGEST_REST);
        }
        if ended && !followed.has_left() {
            return;
        }
    }
}

impl<S> Followed<S> {
    fn services(&self) -> MutexGuard<'_, Services<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `run` tells a service from others of the same key.
    fn change<K>(&self, change: Change<K, S>, mut describe: impl FnMut(&K) -> Instance, run: u64) {
        let (key, service) = match change {
            Change::Insert(key, service) => (key, Some(Arc::new(service))),
            Change::Remove(key) => (key, None),
        };
        let instance = describe(&key).with_health(Health::Healthy).with_incarnation(run);
        let mut services = self.services();
        let entries = services.entry(instance.id.clone()).or_default();
        entries.iter_mut().for_each(|entry| entry.left = true);
        if let Some(service) = service {
            entries.push(Entry { instance: Arc::new(instance), service, left: false });
        }
    }

    fn present(&self) -> Vec<Arc<Instance>> {
        let services = self.services();
        let present = services.values().flatten().filter(|entry| !entry.left);
        present.map(|entry| entry.instance.clone()).collect()
    }

    fn has_left(&self) -> bool {
        self.services().values().flatten().any(|entry| entry.left)
    }

    /// Drops the services that left and that nobody thinks of any more.
    fn forget(&self) {
        let is_gone = |e: &Entry<S>| e.left && Arc::strong_count(&e.instance) == 1;
        let mut forgotten: Vec<Vec<Entry<S>>> = Vec::new();
        let mut services = self.services();
        services.retain(|_, entries| {
            if entries.iter().any(is_gone) {
                let (gone, stay) = std::mem::take(entries).into_iter().partition(is_gone);
                forgotten.push(gone);
                *entries = stay;
            }
            !entries.is_empty()
        });
        // The code of services does not run under the lock.
        drop(services);
        drop(forgotten);
    }
}

impl<S: Clone> MakeEndpoint for Followed<S> {
    type Service = FollowedService<S>;

    fn make(&self, instance: &Instance) -> FollowedService<S> {
        let services = self.services();
        let mut entries = services.get(&instance.id).into_iter().flatten();
        let found = entries.find(|entry| entry.instance.incarnation == instance.incarnation);
        let found = found.map(|entry| entry.service.clone());
        drop(services);
        FollowedService(found.map(|service| S::clone(&service)))
    }
}

/// An endpoint of [`Followed`].
///
/// # Readiness
///
/// That of the service that was discovered.
///
/// # Cancellation
///
/// That of the service that was discovered.
// Never without a service, for what can be chosen is kept; should it be, that is an error and no panic.
#[derive(Clone, Debug)]
pub struct FollowedService<S>(Option<S>);

impl<S, Req> Service<Req> for FollowedService<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = FollowedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Some(service) => service.poll_ready(cx).map_err(Into::into),
            None => Poll::Ready(Err(LEFT.into())),
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        FollowedFuture { future: self.0.as_mut().map(|service| service.call(request)) }
    }
}

const LEFT: &str = "the service left";

pin_project! {
    /// Future of [`FollowedService`].
    #[derive(Debug)]
    pub struct FollowedFuture<F> {
        #[pin]
        future: Option<F>,
    }
}

impl<F, T, E> Future for FollowedFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = self.project().future.as_pin_mut() else {
            return Poll::Ready(Err(LEFT.into()));
        };
        Poll::Ready(ready!(future.poll(cx)).map_err(Into::into))
    }
}

impl<S> Clone for Followed<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Followed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("services", &self.services().len()).finish_non_exhaustive()
    }
}
