//! What the tasks of sagas do: begin one, or carry one on.

use std::{sync::Arc, time::Duration};

use gusset_call::{TraceContext, TraceState};
use rand::Rng;
use tokio::time::sleep;

use crate::{
    Claim, Commit, Event, Hold, Journal, Json, Places, Record, Release, SagaError, SagaId, State,
    StoreError, Wanted,
    definition::Plan,
    engine::Engine,
    progress::Progress,
    runner::{Parted, Runner},
    seat::{Left, Outcome, Seat},
    store,
};

/// How often creating a journal is tried.
const CREATIONS: u32 = 3;

/// How often a saga that another process works on is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A saga to begin.
pub(crate) struct Begin {
    pub(crate) plan: Arc<Plan>,
    pub(crate) input: Json,
    pub(crate) trace: Option<Trace>,
}

/// The trace that a saga is begun in.
pub(crate) struct Trace {
    pub(crate) context: TraceContext,
    pub(crate) state: Option<TraceState>,
}

pub(crate) async fn begin(seat: Arc<Seat>, job: Begin) -> Outcome {
    let engine = &seat.engine;
    engine.sync(false).await?;
    loop {
        let (runner, begin) = prepared(&seat, &job)?;
        match create(engine, &begin).await {
            Ok(()) => {
                engine.counters.started.add(1);
                seat.hold(1);
                seat.begun();
                return ended(runner.reusing(begin.records)).await;
            }
            // In a box: the future of a saga that begins has no room for the rare ways.
            Err(StoreError::Exists(_)) => {
                drop((runner, begin));
                if let Some(left) = Box::pin(join(&seat, &job)).await? {
                    return Ok(left);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What runs the saga, and what is to be written before. Not a part of the future, which has no room for what is on the way to its box.
fn prepared(seat: &Arc<Seat>, job: &Begin) -> Result<(Box<Runner>, store::Begin), SagaError> {
    let engine = &seat.engine;
    let now = engine.now();
    let (plan, shape) = (&job.plan, &job.plan.shape);
    let event = Event::Started {
        shape: shape.clone(),
        input: job.input.clone(),
        trace: job.trace.as_ref().map(|trace| trace.context.to_string().into()),
        trace_state: job
            .trace
            .as_ref()
            .and_then(|trace| Some(trace.state.as_ref()?.as_str().into())),
        // As much as every reader of JSON keeps.
        life: rand::rng().next_u64() >> 11,
    };
    let graph = Some(plan.graph.clone());
    let mut progress = Progress::begin(&event, graph, now).map_err(StoreError::from)?;
    let opens = Places::from(progress.ready());
    progress.open(&opens, now).map_err(StoreError::from)?;
    let begin = store::Begin {
        saga: seat.saga.clone(),
        definition: shape.name.clone(),
        version: shape.version,
        node: engine.node.clone(),
        lease: engine.options.lease,
        records: Arc::new([Record { opens, ..Record::new(0, 1, now, event) }]),
    };
    Ok((Runner::new(seat.clone(), plan.clone(), progress), begin))
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

/// The saga exists: tells how it ended, carries it on if nobody does, or watches whoever does. `None`: it was purged since, and its id is free.
async fn join(seat: &Arc<Seat>, job: &Begin) -> Result<Option<Left>, SagaError> {
    let (engine, saga) = (&seat.engine, &seat.saga);
    loop {
        let Some(journal) = engine.store(engine.store.load(saga)).await? else {
            return Ok(None);
        };
        let progress = Progress::of(&journal).map_err(|error| SagaError::Blocked {
            saga: saga.clone(),
            reason: error.to_string().into(),
        })?;
        if progress.shape != job.plan.shape || !progress.input.same_as(&job.input) {
            return Err(SagaError::IdTaken(saga.clone()));
        }
        seat.begun();
        let state = progress.state();
        if state.is_final() || state == State::Stuck {
            seat.settle(progress);
            return Ok(Some(Left::Ended));
        }
        let parked = journal.node.is_none() && journal.mail.is_empty() && waits(engine, &progress);
        if !parked {
            if let Some(journal) = claim(engine, saga).await? {
                // Read anew: whoever held it may have written since.
                let progress = Progress::of(&journal).map_err(StoreError::from)?;
                return resume(seat, job.plan.clone(), journal, progress).await.map(Some);
            }
            if journal.node.as_ref() == Some(&engine.node) {
                if let Some(lost) = lost_track_of(engine, saga).await? {
                    let progress = Progress::of(&lost).map_err(StoreError::from)?;
                    return resume(seat, job.plan.clone(), lost, progress).await.map(Some);
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
    seat: Arc<Seat>,
    plan: Arc<Plan>,
    journal: Journal,
    progress: Progress,
) -> Outcome {
    resume(&seat, plan, journal, progress).await
}

async fn resume(
    seat: &Arc<Seat>,
    plan: Arc<Plan>,
    journal: Journal,
    progress: Progress,
) -> Outcome {
    seat.engine.counters.resumed.add(1);
    seat.engine.sync(false).await?;
    ended(Runner::resume(seat.clone(), plan, journal, progress)).await
}

async fn ended(mut runner: Box<Runner>) -> Outcome {
    let parted = runner.run().await;
    let Runner { seat, progress, .. } = *runner;
    let saga = &seat.saga;
    let Ok(parted) = parted else {
        return Err(SagaError::Interrupted(saga.clone()));
    };
    let counters = &seat.engine.counters;
    match (parted, progress.state()) {
        (Parted::Parked, _) => return Ok(Left::Parked),
        (Parted::Ended, State::Completed) => counters.completed.add(1),
        (Parted::Ended, State::Compensated) => counters.compensated.add(1),
        (Parted::Ended, State::Closed) => counters.closed.add(1),
        _ => {
            counters.stuck.add(1);
            tracing::error!(%saga, "saga is stuck: an operator has to act");
        }
    }
    seat.settle(progress);
    Ok(Left::Ended)
}

/// Gives back a saga that was claimed in vain.
pub(crate) async fn give_back(engine: &Engine, journal: &Journal) {
    let (saga, epoch, note) = (journal.saga.clone(), journal.epoch, journal.note.clone());
    release(engine, Release { saga, epoch, due: Some(0), note, blocked: false }).await;
}

pub(crate) async fn release(engine: &Engine, release: Release) {
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
