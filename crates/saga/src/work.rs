//! What the tasks of sagas do: begin one, or carry one on.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::time::sleep;

use crate::{
    Claim, Commit, Event, Hold, Journal, Json, Places, Record, Release, SagaError, SagaId, State,
    StoreError, Wanted,
    definition::Plan,
    engine::Engine,
    live::Task,
    progress::Progress,
    runner::{self, Parted, Runner},
    seat::{Phase, Seat},
    store,
};

/// How often creating a journal is tried.
const CREATIONS: u32 = 3;

/// How often a saga that another process works on is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A saga to begin.
pub(crate) struct Begin {
    pub(crate) plan: Arc<Plan>,
    pub(crate) saga: SagaId,
    pub(crate) input: Json,
    pub(crate) trace: Option<Arc<str>>,
}

pub(crate) async fn begin(task: Task, job: Begin) -> Phase {
    begun(task, job).await.unwrap_or_else(|error| Phase::Ended(Err(error)))
}

async fn begun(task: Task, job: Begin) -> Result<Phase, SagaError> {
    let engine = &task.engine;
    engine.sync(false).await?;
    let now = engine.now();
    let shape = job.plan.shape.clone();
    // As much as every reader of JSON keeps.
    let life = rand::rng().next_u64() >> 11;
    let event = Event::Started { shape, input: job.input.clone(), trace: job.trace.clone(), life };
    let graph = Some(job.plan.graph.clone());
    let mut progress = Progress::begin(&event, graph, now).map_err(StoreError::from)?;
    let opens = Places::from(progress.ready());
    progress.open(&opens, now).map_err(StoreError::from)?;
    let begin = store::Begin {
        saga: job.saga.clone(),
        definition: job.plan.shape.name.clone(),
        version: job.plan.shape.version,
        node: engine.node.clone(),
        lease: engine.options.lease,
        records: Arc::new([Record { opens, ..Record::new(0, 1, now, event) }]),
    };
    // In its box already while the journal is made, so that this future has no room for what is in it.
    let runner = Runner::new(
        engine.clone(),
        job.plan.clone(),
        job.saga.clone(),
        progress,
        task.seat.clone(),
    );
    match create(engine, &begin).await {
        Ok(()) => {
            engine.counters.started.add(1);
            task.seat.hold(1);
            task.seat.begun();
            ended(engine, job.saga, runner).await
        }
        // In a box: the future of a saga that begins has no room for the rare ways.
        Err(StoreError::Exists(_)) => {
            drop(runner);
            Box::pin(join(task, job)).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn create(engine: &Engine, begin: &store::Begin) -> Result<(), StoreError> {
    let mut retry = 0;
    loop {
        retry += 1;
        match engine.store(engine.store.create(begin)).await {
            Err(StoreError::Failed(_)) if retry < CREATIONS => {
                let pause = engine.options.store_policy().pause(retry, &mut rand::rng());
                Box::pin(sleep(pause)).await;
            }
            answer => return answer,
        }
    }
}

/// The saga exists: tells how it ended, carries it on if nobody does, or watches whoever does.
async fn join(task: Task, job: Begin) -> Result<Phase, SagaError> {
    let (engine, saga) = (&task.engine, &job.saga);
    loop {
        let Some(journal) = engine.store(engine.store.load(saga)).await? else {
            return Err(SagaError::NoSuchSaga(saga.clone()));
        };
        let progress = Progress::of(&journal).map_err(|error| SagaError::Blocked {
            saga: saga.clone(),
            reason: error.to_string().into(),
        })?;
        if progress.shape != job.plan.shape || !progress.input.same_as(&job.input) {
            return Err(SagaError::IdTaken(saga.clone()));
        }
        task.seat.begun();
        let state = progress.state();
        if state.is_final() || state == State::Stuck {
            return Ok(Phase::Ended(Ok(Arc::new(progress))));
        }
        let parked = journal.node.is_none() && journal.mail.is_empty() && waits(engine, &progress);
        if !parked {
            if let Some(journal) = claim(engine, saga).await? {
                // Read anew: whoever held it may have written since.
                let progress = Progress::of(&journal).map_err(StoreError::from)?;
                return resume(&task.engine, &task.seat, job.plan, journal, progress).await;
            }
            if journal.node.as_ref() == Some(&engine.node) {
                if let Some(lost) = lost_track_of(engine, saga).await? {
                    let progress = Progress::of(&lost).map_err(StoreError::from)?;
                    return resume(&task.engine, &task.seat, job.plan, lost, progress).await;
                }
                continue;
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = engine.drained() => return Err(SagaError::Interrupted(saga.clone())),
        }
    }
}

/// A saga that this process holds and has no task for, of one that is in its place already. Nobody here works on it, except one who has claimed it in
/// this moment, finds the place taken, and gives it back.
async fn lost_track_of(engine: &Engine, saga: &SagaId) -> Result<Option<Journal>, StoreError> {
    drop(engine.claims.lock().await);
    let journal = engine.store(engine.store.load(saga)).await?;
    Ok(journal.filter(|journal| journal.node.as_ref() == Some(&engine.node)))
}

/// Whether a saga that nobody holds has nothing to do yet.
fn waits(engine: &Engine, progress: &Progress) -> bool {
    let ends = progress.waits().iter().filter_map(|step| progress.wait_ends(*step));
    let next = ends.chain(progress.expires_at()).min();
    progress.only_waits()
        && !progress.waits().is_empty()
        && next.is_none_or(|next| next > engine.now())
        && engine.is_recovering()
}

/// Carries on a saga that this process has claimed.
pub(crate) async fn resumed(
    task: Task,
    plan: Arc<Plan>,
    journal: Journal,
    progress: Progress,
) -> Phase {
    let ended = resume(&task.engine, &task.seat, plan, journal, progress).await;
    ended.unwrap_or_else(|error| Phase::Ended(Err(error)))
}

async fn resume(
    engine: &Arc<Engine>,
    seat: &Arc<Seat>,
    plan: Arc<Plan>,
    journal: Journal,
    progress: Progress,
) -> Result<Phase, SagaError> {
    engine.counters.resumed.add(1);
    engine.sync(false).await?;
    let saga = journal.saga.clone();
    let runner = Runner::resume(engine.clone(), plan, journal, progress, seat.clone());
    ended(engine, saga, runner).await
}

async fn ended(engine: &Engine, saga: SagaId, runner: Box<Runner>) -> Result<Phase, SagaError> {
    let Ok((runner, parted)) = runner.run().await else {
        return Err(SagaError::Interrupted(saga));
    };
    let progress = runner.into_progress();
    let counters = &engine.counters;
    match (parted, progress.state()) {
        (Parted::Parked, _) => return Ok(Phase::Parked),
        (Parted::Ended, State::Completed) => counters.completed.add(1),
        (Parted::Ended, State::Compensated) => counters.compensated.add(1),
        (Parted::Ended, State::Closed) => counters.closed.add(1),
        _ => {
            counters.stuck.add(1);
            tracing::error!(%saga, "saga is stuck: an operator has to act");
        }
    }
    Ok(Phase::Ended(Ok(Arc::new(progress))))
}

/// The definition that a journal is to be carried on under, and where it stands; or why not.
pub(crate) fn plan_of(
    engine: &Engine,
    journal: &Journal,
) -> Result<(Arc<Plan>, Progress), Arc<str>> {
    let progress = Progress::of(journal).map_err(|error| Arc::from(error.to_string()))?;
    let (name, version) = (&progress.shape.name, progress.shape.version);
    match engine.plan(name, version) {
        None => Err(format!("definition {name} version {version} is not known").into()),
        Some(plan) if plan.shape != progress.shape => {
            Err(format!("definition {name} version {version} has other steps now").into())
        }
        Some(plan) => Ok((plan, progress)),
    }
}

/// Parks a saga that cannot be carried on here, and lets go of it: who knows its definition may have it at once.
pub(crate) async fn block(engine: &Engine, journal: &Journal, reason: Arc<str>) {
    let progress = Progress::of(journal).ok();
    let known = progress.as_ref().is_some_and(|progress| progress.blocked.is_some());
    if !known {
        engine.counters.blocked.add(1);
        tracing::error!(saga = %journal.saga, %reason, "saga is blocked");
    }
    let here = progress.as_ref().and_then(|one| engine.plan(&one.shape.name, one.shape.version));
    let unknown = progress.is_some() && here.is_none();
    // This process would claim it again at once where it knows the name.
    let due = engine.now() + if unknown { 0 } else { millis(engine.options.orphaned()) };
    if progress.is_some() && !known {
        let hold = Hold::Park { due: Some(due), note: note_of(journal) };
        let event = Event::Blocked { reason };
        match append(engine, journal, event, State::Blocked, hold).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(saga = %journal.saga, %error, "saga could not be parked as blocked");
            }
        }
    }
    let (saga, epoch, note) = (journal.saga.clone(), journal.epoch, journal.note.clone());
    release(engine, Release { saga, epoch, due: Some(due), note, blocked: true }).await;
}

/// The note for whoever comes after a write by one who does not go on with the saga. An append sets the count of crashes back, so what they say about the
/// attempts that were under way has to be in the note.
pub(crate) fn note_of(journal: &Journal) -> Option<Json> {
    let progress = Progress::of(journal).ok()?;
    runner::note_of(&progress, journal)
}

/// Closes a saga that is blocked here: that needs no definition.
pub(crate) async fn close(
    engine: &Engine,
    journal: &Journal,
    event: Event,
) -> Result<(), StoreError> {
    append(engine, journal, event, State::Closed, Hold::Keep(engine.options.lease)).await?;
    engine.counters.closed.add(1);
    Ok(())
}

/// Gives back a saga that was claimed in vain.
pub(crate) async fn give_back(engine: &Engine, journal: &Journal) {
    let (saga, epoch, note) = (journal.saga.clone(), journal.epoch, journal.note.clone());
    release(engine, Release { saga, epoch, due: Some(0), note, blocked: false }).await;
}

async fn release(engine: &Engine, release: Release) {
    if let Err(error) = engine.store(engine.store.release(&release)).await {
        tracing::debug!(saga = %release.saga, %error, "lease not released");
    }
}

pub(crate) async fn append(
    engine: &Engine,
    journal: &Journal,
    event: Event,
    state: State,
    hold: Hold,
) -> Result<(), StoreError> {
    let (saga, epoch) = (journal.saga.clone(), journal.epoch);
    let next = journal.records.as_ref().map_or(0, Vec::len) as u64;
    let records = Arc::new([Record::new(next, epoch, engine.now(), event)]);
    let (mail_taken, outbox) = (journal.mail_taken, Arc::new([]));
    let commit = Commit { saga, epoch, records, state, hold, mail_taken, outbox };
    engine.store(engine.store.append(&commit)).await
}

pub(crate) async fn claim(engine: &Engine, saga: &SagaId) -> Result<Option<Journal>, StoreError> {
    let (node, lease) = (engine.node.clone(), engine.options.lease);
    let claim = Claim { node, lease, wanted: Wanted::One(saga.clone()) };
    Ok(engine.store(engine.store.claim(&claim)).await?.pop())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
