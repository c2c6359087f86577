//! One service as this process sees it, and the task that keeps it so.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
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
use crate::{
    Instance, Snapshot, Watch,
    last_known::{IDLE, LastKnown},
};

/// What is known of a service, and who is told.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: Arc<str>,
    span: Span,
    known: LastKnown<Mirror>,
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
        Self { known: LastKnown::new(name.clone(), Mirror::new(capacity)), name, span }
    }

    pub(super) fn watch(&self) -> Watch {
        self.known.watch()
    }

    /// The last known set, if any is known.
    pub(super) fn last_known(&self) -> Option<Arc<Snapshot>> {
        self.known.ask();
        self.known.snapshot()
    }

    /// For how long nothing has confirmed what is known.
    pub(super) fn age(&self) -> Option<Duration> {
        self.known.age()
    }

    /// Whether nobody has watched it, or asked for it, for a while.
    pub(super) fn is_idle(&self) -> bool {
        self.known.is_idle()
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
        self.known.confirm(|mirror, _| mirror.list(link.generation, revision, instances, more));
    }

    fn apply(&self, engine: &Engine, link: &Link, events: &[Event]) -> Result<(), End> {
        let changes: Vec<_> = events.iter().filter_map(|event| self.read(engine, event)).collect();
        let mut end = Ok(());
        self.known.confirm(|mirror, _| {
            for change in changes {
                match mirror.apply(link.generation, change) {
                    Applied::Yes | Applied::Known => {}
                    Applied::Cut => _ = engine.meters.left_out.fetch_add(1, Relaxed),
                    Applied::Room => end = Err(End::List),
                }
            }
        });
        end
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
        instance.last_seen = self.known.confirmed().clone();
        Some(instance)
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
        self.known.doubt(Duration::ZERO);
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
