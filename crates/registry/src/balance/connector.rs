use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tower_service::Service;

use crate::{
    Balance, MakeEndpoint, Watch,
    balance::{connection::Connection, service::Shared},
};

/// Keeps the endpoints of a [`Balance`] connected; from [`Balance::spawn_connector`]. Dropping it ends its task.
#[must_use = "dropping it ends the task"]
pub struct Connector(AbortHandle);

/// How many endpoints are connected to at once.
const AT_ONCE: usize = 32;
/// How long an endpoint may take to become ready.
const PATIENCE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

impl<M, P, T> Balance<M, P, T>
where
    M: MakeEndpoint + Send + Sync + 'static,
    M::Service: Send + Sync + 'static,
    P: Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// Spawns a task that makes endpoints as soon as their instances are known, and polls a clone of each until it is ready; calls go to
    /// others while that is under way. One whose readiness fails is made anew after its rest. Removed endpoints are dropped without
    /// waiting for a call. So no call pays for a connection, and none is needed to bring an endpoint back.
    ///
    /// At most 32 endpoints are connected to at once. An endpoint whose first readiness takes longer than 10 s counts as failed.
    /// The task ends with the guard, or with the last handle of the balancer.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_connector<Req>(&self) -> Connector
    where
        M::Service: Service<Req>,
        Req: 'static,
    {
        let task =
            run::<_, _, _, Req>(Arc::downgrade(&self.shared), self.shared.core.watch.clone());
        Connector(tokio::spawn(task).abort_handle())
    }
}

async fn run<M, P, T, Req>(balance: Weak<Shared<M, P, T>>, watch: Watch)
where
    M: MakeEndpoint + Send + Sync + 'static,
    M::Service: Service<Req> + Send + Sync + 'static,
    Req: 'static,
    P: Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    let (mut tasks, places) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        let Some(shared) = balance.upgrade() else { return };
        // Listens first and looks then.
        let (published, invalidated) = (watch.notified(), shared.core.hub.notified());
        let soonest = connect::<_, _, _, Req>(&shared, &mut tasks, &places);
        drop(shared);
        let mut events = (pin!(published), pin!(invalidated), pin!(sleep(soonest)));
        poll_fn(|cx| {
            while let Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
            let (published, invalidated, rested) = &mut events;
            let published = published.as_mut().poll(cx).is_ready();
            let invalidated = invalidated.as_mut().poll(cx).is_ready();
            let rested = rested.as_mut().poll(cx).is_ready();
            if published || invalidated || rested { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Begins to connect to whom nobody has connected to. For how long the next to rest still rests.
fn connect<M, P, T, Req>(
    shared: &Arc<Shared<M, P, T>>,
    tasks: &mut JoinSet<()>,
    places: &Arc<Semaphore>,
) -> Duration
where
    M: MakeEndpoint + Send + Sync + 'static,
    M::Service: Service<Req> + Send + Sync + 'static,
    Req: 'static,
    P: Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    let (set, now) = (shared.current(), shared.core.hub.now());
    let mut soonest = set.until;
    for (member, connection) in set.all() {
        let rests_until = connection.rests_until(|| now);
        if rests_until != 0 {
            soonest = soonest.min(rests_until);
        } else if connection.begin_to_connect() {
            let attempt = Attempt(connection.clone());
            let mut service = connection.service(&shared.make, &member.instance).clone();
            let places = places.clone();
            tasks.spawn(async move {
                // Never closed.
                let _place = places.acquire().await;
                let ready = poll_fn(|cx| service.poll_ready(cx));
                let ready = timeout(PATIENCE, ready).await;
                attempt.end(matches!(ready, Ok(Ok(()))));
            });
        }
    }
    // The timer has milliseconds, and no more than a day is needed.
    Duration::from_nanos(soonest.saturating_sub(now)).clamp(Duration::from_millis(1), DAY)
}

/// One who asks an endpoint whether it is ready.
struct Attempt<S>(Arc<Connection<S>>);

impl<S> Attempt<S> {
    fn end(self, ready: bool) {
        if ready {
            self.0.seat.state.was_ready(self.0.epoch());
        } else {
            self.0.seat.broke(self.0.epoch());
        }
    }
}

impl<S> Drop for Attempt<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // By the endpoint's code. Without a rest it would be asked again at once, for ever.
            self.0.seat.broke(self.0.epoch());
        }
        // Aborted, so that the next connector can ask.
        self.0.give_up_connecting();
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}
