//! One service as this process sees it, and the task that keeps it so.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::stream;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Status;

use super::{
    calls::{self, Listing},
    connector::pause,
    engine::Engine,
    keys::{Record, Span},
    link::Link,
    mirror::{Applied, Change, Mirror},
    rpc::{Ask, Event, KeyValue, WatchCreate, WatchProgress, WatchRequest, WatchResponse, path},
};
use crate::{Instance, LastSeen, Publisher, Snapshot, Watch};

/// For how long a service that nobody watches is still followed after it was last asked for.
const IDLE: Duration = Duration::from_secs(300);

/// What is known of a service, and who is told.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: Arc<str>,
    span: Span,
    publisher: Publisher,
    state: Mutex<State>,
    epoch: Instant,
    /// Shared by all instances of the service: what confirms one confirms all.
    confirmed: LastSeen,
}

#[derive(Debug)]
struct State {
    mirror: Mirror,
    asked: Instant,
    /// What is known is old, and says so.
    suspect: bool,
}

/// Why a watch ended that might have gone on.
enum End {
    /// Revisions are missing, or there is room again: the service has to be listed.
    List,
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl Service {
    pub(super) fn new(name: Arc<str>, span: Span, capacity: usize) -> Self {
        let now = Instant::now();
        Self {
            publisher: Publisher::new(name.clone()),
            name,
            span,
            state: Mutex::new(State { mirror: Mirror::new(capacity), asked: now, suspect: false }),
            epoch: now,
            confirmed: LastSeen::never(now),
        }
    }

    pub(super) fn watch(&self) -> Watch {
        self.publisher.watch()
    }

    /// The last known set, if any is known.
    pub(super) fn last_known(&self) -> Option<Arc<Snapshot>> {
        let mut state = self.lock();
        state.asked = Instant::now();
        state.mirror.is_known().then(|| self.publisher.snapshot())
    }

    /// For how long nothing has confirmed what is known.
    pub(super) fn age(&self) -> Option<Duration> {
        self.confirmed.age()
    }

    /// Whether nobody has watched it, or asked for it, for a while.
    pub(super) fn is_idle(&self) -> bool {
        self.publisher.is_alone() && self.lock().asked.elapsed() > IDLE
    }

    /// Takes a listing in.
    pub(super) fn list(&self, engine: &Engine, link: &Link, listing: Listing) {
        let Listing { revision, pairs, more } = listing;
        let instances: Vec<_> =
            pairs.iter().filter_map(|pair| self.instance(engine, pair)).collect();
        if more {
            engine.meters.left_out.fetch_add(1, Relaxed);
            tracing::warn!(service = &*self.name, "more instances than there is room for");
        }
        self.change(|mirror| mirror.list(link.generation, revision, instances, more));
    }

    fn apply(&self, engine: &Engine, link: &Link, events: &[Event]) -> Result<(), End> {
        let changes: Vec<_> = events.iter().filter_map(|event| self.read(engine, event)).collect();
        let mut end = Ok(());
        self.change(|mirror| {
            let mut changed = false;
            for change in changes {
                match mirror.apply(link.generation, change) {
                    Applied::Yes => changed = true,
                    Applied::Known => {}
                    Applied::Cut => _ = engine.meters.left_out.fetch_add(1, Relaxed),
                    Applied::Room => (changed, end) = (true, Err(End::List)),
                }
            }
            changed
        });
        end
    }

    /// Changes the mirror, and publishes if that changed something. Nobody is woken under the lock.
    fn change(&self, change: impl FnOnce(&mut Mirror) -> bool) {
        self.confirmed.hear(self.epoch.elapsed());
        let mut state = self.lock();
        let believed = !mem::take(&mut state.suspect);
        let changed = change(&mut state.mirror) || !believed;
        if changed {
            self.publisher.store(state.mirror.instances());
        }
        drop(state);
        if changed {
            self.publisher.wake();
        }
    }

    /// Marks what is known as suspect, until something confirms it.
    fn doubt(&self) {
        let mut state = self.lock();
        if mem::replace(&mut state.suspect, true) {
            return;
        }
        let mut instances = state.mirror.instances();
        for instance in &mut instances {
            Arc::make_mut(instance).suspect = true;
        }
        self.publisher.store(instances);
        drop(state);
        self.publisher.wake();
    }

    fn read(&self, engine: &Engine, event: &Event) -> Option<Change> {
        let pair = event.kv.as_ref()?;
        let (_, id) = engine.keys.parse(&pair.key)?;
        let gone = event.kind == Event::DELETE;
        let instance = if gone { None } else { self.instance(engine, pair) };
        Some(Change { id: id.into(), revision: pair.mod_revision, instance })
    }

    /// The key says which instance it is, the value says the rest.
    fn instance(&self, engine: &Engine, pair: &KeyValue) -> Option<Instance> {
        let Some((_, id)) = engine.keys.parse(&pair.key) else {
            engine.meters.unreadable.fetch_add(1, Relaxed);
            return None;
        };
        let Some(Record { mut instance, .. }) = Record::parse(&pair.value) else {
            engine.meters.unreadable.fetch_add(1, Relaxed);
            tracing::debug!(service = &*self.name, id, "the value is no instance");
            return None;
        };
        instance.id = id.into();
        instance.service = self.name.clone();
        instance.suspect = false;
        instance.last_seen = self.confirmed.clone();
        Some(instance)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists and watches until nobody needs it any more.
    pub(super) async fn follow(self: Arc<Self>, engine: Arc<Engine>) {
        let mut failures = 0;
        while !engine.forget_if_idle(&self) {
            let link = self.link(&engine).await;
            let begin = Instant::now();
            match self.follow_over(&engine, &link).await {
                Ok(()) | Err(End::List) => failures = 0,
                Err(End::Failed(status)) => {
                    tracing::debug!(service = &*self.name, %status, "watch ended");
                    failures = if begin.elapsed() > IDLE { 1 } else { failures + 1 };
                    sleep(pause(engine.policy.ttl_used(), failures)).await;
                }
            }
        }
    }

    /// The present connection. While there is none, or one over which nothing is learnt, what is known grows old.
    async fn link(&self, engine: &Engine) -> Arc<Link> {
        let age = self.age().unwrap_or_default();
        let left = (engine.policy.ttl_used() / 3).saturating_sub(age);
        if !left.is_zero()
            && let Ok(link) = timeout(left, engine.line.link()).await
        {
            return link;
        }
        self.doubt();
        engine.line.link().await
    }

    /// Ends without an error when it is time to list again.
    async fn follow_over(&self, engine: &Engine, link: &Link) -> Result<(), End> {
        let listing = calls::list(link, &self.span, engine.policy.capacity.get()).await?;
        let revision = listing.revision;
        self.list(engine, link, listing);
        engine.meters.listings.fetch_add(1, Relaxed);

        let (asks, mut asked) = mpsc::channel(1);
        let create = WatchCreate {
            key: self.span.begin.clone(),
            range_end: self.span.end.clone(),
            start_revision: revision + 1,
            fragment: true,
        };
        let questions = stream::iter([WatchRequest { ask: Some(Ask::Create(create)) }]);
        let questions =
            stream::StreamExt::chain(questions, stream::poll_fn(move |cx| asked.poll_recv(cx)));
        let mut answers = link.stream::<_, WatchResponse>(path::WATCH, questions).await?;

        let whole = engine.policy.list_every.mul_f64(rand::random_range(0.8..=1.0));
        let end = Instant::now() + whole;
        loop {
            let ask_at = Instant::now() + engine.policy.ask_every;
            let answer = tokio::select! {
                answer = answers.message() => answer.inspect_err(|status| link.judge(status))?,
                cause = link.ended() => return Err(Status::unavailable(&*cause).into()),
                () = sleep_until(ask_at.min(end)) => {
                    if Instant::now() >= end || self.is_idle() {
                        return Ok(());
                    }
                    let ask = WatchRequest { ask: Some(Ask::Progress(WatchProgress {})) };
                    let _ = asks.try_send(ask);
                    // One that is not answered ends the watch.
                    link.bounded(answers.message()).await?
                }
            };
            let Some(answer) = answer else {
                return Err(Status::unavailable("the watch was ended").into());
            };
            if answer.compact_revision > 0 {
                return Err(End::List);
            }
            if answer.canceled {
                return Err(Status::aborted(answer.cancel_reason).into());
            }
            self.apply(engine, link, &answer.events)?;
        }
    }
}
