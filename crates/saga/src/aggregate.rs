mod answers;
mod kind;
mod log;

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{BoxError, Json, SagaId, error::error_line};

pub use answers::{AggregateError, Change, ChangeError, Versioned};
use answers::{change, written};
pub use kind::Aggregate;
pub use log::{
    EventLog, EventLogError, EventLogFuture, NewEvents, Recorded, Snapshot, StreamId, StreamPage,
    StreamSummary,
};

/// Aggregates of one kind, kept as their events: **nothing is written over, two that change the same one do not overlook each other, and who changed what can be read
/// at any time.** What a method answered `Ok` to is as durable as the store.
///
/// ```
/// use gusset_saga::{Aggregate, Aggregates, ChangeError, MemoryStore};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Account {
///     cents: u64,
/// }
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// enum Moved {
///     In(u64),
///     Out(u64),
/// }
///
/// impl Aggregate for Account {
///     const KIND: &'static str = "account";
///     const FORMAT: u32 = 1;
///     type Event = Moved;
///
///     fn apply(&mut self, event: &Moved) {
///         match event {
///             Moved::In(cents) => self.cents += cents,
///             Moved::Out(cents) => self.cents -= cents,
///         }
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let accounts = Aggregates::<Account>::new(MemoryStore::new());
/// let pay = |cents| move |account: &Account| {
///     if account.cents < cents { Err("not enough") } else { Ok(vec![Moved::Out(cents)]) }
/// };
/// accounts.append("eva", 0, &[Moved::In(500)], "opened at the counter").await?;
/// let eva = accounts.change("eva", "order 7", pay(300)).await?;
/// assert_eq!((eva.state.cents, eva.version), (200, 2));
/// assert!(matches!(accounts.change("eva", "order 8", pay(300)).await, Err(ChangeError::Refused("not enough"))));
///
/// let history = accounts.history("eva", 0, 100).await?;
/// assert_eq!((&history[1].event, &*history[1].note), (&Moved::Out(300), "order 7"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Formats
///
/// Each event says the format that it was written in. An older one goes through [`upcast`](Aggregate::upcast), one newer than [`FORMAT`](Aggregate::FORMAT) makes reading fail as
/// [`AggregateError::Newer`], so that an older node changes nothing that it does not understand. A snapshot of another format is not used, and does no harm.
///
/// A format changes in two releases, so that nodes of both may run side by side at any time: the first reads the new one and still [writes](Aggregate::WRITTEN) the old one, the second
/// writes what all nodes read by then.
///
/// # Cost
///
/// Loading reads the snapshot and what came after it. A snapshot is written by [`change`](Self::change) every [100 events](Self::snapshot_every), beside the events, which stay.
/// Streams are never forgotten: they are the data.
pub struct Aggregates<A> {
    log: Arc<dyn EventLog>,
    every: u64,
    kind: PhantomData<fn() -> A>,
}

/// Clones share the log.
impl<A> Clone for Aggregates<A> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), every: self.every, kind: PhantomData }
    }
}

/// Others that were quicker, before a change is given up.
const CONFLICTS: u32 = 20;

/// How often something is written that may not have been.
const WRITES: u32 = 3;

/// Events that are read at once.
const PAGE: usize = 500;

impl<A: Aggregate> Aggregates<A> {
    /// In this log: any store of this crate.
    pub fn new(log: impl EventLog) -> Self {
        Self::with(Arc::new(log))
    }

    /// In a shared log.
    pub fn with(log: Arc<dyn EventLog>) -> Self {
        Self { log, every: 100, kind: PhantomData }
    }

    /// Snapshots after so many events; 0 is never. Default 100: reading these takes about as long as asking for them.
    #[must_use]
    pub const fn snapshot_every(mut self, events: u64) -> Self {
        self.every = events;
        self
    }

    /// The aggregate as it is now. One that does not exist is the default at version 0.
    ///
    /// # Errors
    ///
    /// [`AggregateError`].
    pub async fn load(&self, id: &str) -> Result<Versioned<A>, AggregateError> {
        let stream = StreamId::new(A::KIND, id)?;
        let snapshot = self.log.snapshot(&stream).await?;
        // A snapshot is only a shorter way: one that cannot be read is not missed.
        let known = snapshot.filter(|snapshot| snapshot.format == A::FORMAT);
        let known = known.and_then(|known| Some((known.state.decode().ok()?, known.version)));
        let (state, version) = known.unwrap_or_default();
        let mut loaded = Versioned { state, version };
        self.catch_up(&stream, &mut loaded).await?;
        Ok(loaded)
    }

    /// Adds events, if the aggregate is at the expected version; answers the new one. The note is for the audit: who, or why.
    ///
    /// # Errors
    ///
    /// [`EventLogError::Conflict`] in [`AggregateError::Log`] if it is not: nothing was added. After [`EventLogError::Failed`] they may have been.
    pub async fn append(
        &self,
        id: &str,
        expected: u64,
        events: &[A::Event],
        note: &str,
    ) -> Result<u64, AggregateError> {
        let stream = StreamId::new(A::KIND, id)?;
        if events.is_empty() {
            return Ok(expected);
        }
        let texts: Result<Arc<[_]>, _> = events.iter().map(written::<A>).collect();
        let new = NewEvents {
            stream,
            expected,
            key: SagaId::random().as_str().into(),
            note: note.into(),
            format: A::WRITTEN,
            events: texts.map_err(|error| AggregateError::Unwritable(error_line(&*error)))?,
        };
        let mut writes = 0;
        loop {
            writes += 1;
            match self.log.extend(&new).await {
                // It may have been written. Under its key it is not written twice.
                Err(EventLogError::Failed(_)) if writes < WRITES => {
                    sleep(Duration::from_millis(50) * writes).await;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Has `decide` say what happens to the aggregate as it is, adds that, and answers what it is then. If somebody else was quicker, `decide` is asked again about what it is by
    /// then, up to twenty times. No events are no change.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Refused`] with what `decide` said, or why it was not read or written.
    ///
    /// # Cancellation
    ///
    /// It may have been changed.
    pub async fn change<E>(
        &self,
        id: &str,
        note: &str,
        mut decide: impl FnMut(&A) -> Result<Vec<A::Event>, E>,
    ) -> Result<Versioned<A>, ChangeError<E>> {
        let stream = StreamId::new(A::KIND, id).map_err(AggregateError::from)?;
        let mut loaded = self.load(id).await?;
        let mut conflicts = 0;
        loop {
            let events = decide(&loaded.state).map_err(ChangeError::Refused)?;
            match self.append(id, loaded.version, &events, note).await {
                Ok(version) => {
                    events.iter().for_each(|event| loaded.state.apply(event));
                    let before = std::mem::replace(&mut loaded.version, version);
                    if let Some(snapshot) = self.snapshot(&loaded, before) {
                        self.keep(&stream, snapshot).await;
                    }
                    return Ok(loaded);
                }
                Err(AggregateError::Log(EventLogError::Conflict { .. }))
                    if conflicts < CONFLICTS =>
                {
                    conflicts += 1;
                    self.catch_up(&stream, &mut loaded).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All that happened after version `after`, in order, at most `limit`: the audit.
    ///
    /// # Errors
    ///
    /// [`AggregateError`].
    pub async fn history(
        &self,
        id: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Change<A::Event>>, AggregateError> {
        let stream = StreamId::new(A::KIND, id)?;
        let recorded = self.log.read(&stream, after, limit).await?;
        (after..).zip(recorded).map(|(before, one)| change::<A>(&stream, before, one)).collect()
    }

    /// Those that there are, by their ids, only those behind `after`, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`AggregateError`].
    pub async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StreamSummary>, AggregateError> {
        let after = after.map(|id| StreamId::new(A::KIND, id)).transpose()?;
        Ok(self.log.streams(&StreamPage { kind: A::KIND.into(), after, limit }).await?)
    }

    async fn catch_up(
        &self,
        stream: &StreamId,
        loaded: &mut Versioned<A>,
    ) -> Result<(), AggregateError> {
        loop {
            let page = self.log.read(stream, loaded.version, PAGE).await?;
            let last = page.len() < PAGE;
            for recorded in page {
                let change = change::<A>(stream, loaded.version, recorded)?;
                loaded.state.apply(&change.event);
                loaded.version = change.version;
            }
            if last {
                return Ok(());
            }
        }
    }

    /// What shortens the way to what is loaded now, if it is time for that.
    fn snapshot(&self, loaded: &Versioned<A>, before: u64) -> Option<Result<Snapshot, BoxError>> {
        if self.every == 0 || loaded.version / self.every == before / self.every {
            return None;
        }
        let snapshot = |state| Snapshot { version: loaded.version, format: A::FORMAT, state };
        Some(Json::encode(&loaded.state).map(snapshot))
    }

    async fn keep(&self, stream: &StreamId, snapshot: Result<Snapshot, BoxError>) {
        let kept = match snapshot {
            Ok(snapshot) => {
                self.log.keep(stream, &snapshot).await.map_err(|error| error_line(&error))
            }
            Err(error) => Err(error_line(&*error)),
        };
        if let Err(error) = kept {
            tracing::warn!(%stream, %error, "no snapshot kept: loading goes on from an earlier one");
        }
    }
}

impl<A> fmt::Debug for Aggregates<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aggregates").field("snapshot_every", &self.every).finish_non_exhaustive()
    }
}
