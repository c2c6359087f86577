//! What the tasks of sagas do: begin one, carry one on, or try a stuck one again.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use crate::{
    Claim, Commit, Event, Hold, Journal, Json, Record, SagaError, SagaId, State, StoreError,
    Wanted,
    definition::Plan,
    engine::Engine,
    live::{Ended, Phase},
    progress::Progress,
    runner::Runner,
    store,
};

/// How often creating a journal is tried.
const CREATIONS: u32 = 3;

/// How often a saga that another process works on is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A saga to begin.
pub(crate) struct Begin {
    pub(crate) plan: Arc<Plan>,
    pub(crate) saga: SagaId,
    pub(crate) input: Json,
    pub(crate) trace: Option<Arc<str>>,
}

pub(crate) async fn begin(engine: Arc<Engine>, phase: watch::Sender<Phase>, job: Begin) -> Ended {
    let event = Progress::started(job.plan.shape.clone(), job.input.clone(), job.trace.clone());
    let progress = Progress::begin(&event).map_err(StoreError::from)?;
    engine.sync(false).await?;
    let begin = store::Begin {
        saga: job.saga.clone(),
        definition: job.plan.shape.name.clone(),
        version: job.plan.shape.version,
        node: engine.node.clone(),
        lease: engine.options.lease,
        records: Arc::new([Record::new(0, 1, engine.now(), event)]),
    };
    match create(&engine, &begin).await {
        Ok(()) => {
            engine.counters.started.add(1);
            phase.send_replace(Phase::Begun);
            let runner = Runner::new(engine.clone(), job.plan, job.saga.clone(), progress);
            ended(engine, &job.saga, runner).await
        }
        Err(StoreError::Exists(_)) => join(engine, phase, job).await,
        Err(error) => Err(error.into()),
    }
}

async fn create(engine: &Engine, begin: &store::Begin) -> Result<(), StoreError> {
    for retry in 1..CREATIONS {
        match engine.store(engine.store.create(begin)).await {
            Err(StoreError::Failed(_)) => {
                let pause = engine.options.store_policy().pause(retry, &mut rand::rng());
                sleep(pause).await;
            }
            answer => return answer,
        }
    }
    engine.store(engine.store.create(begin)).await
}

/// The saga exists: tells how it ended, carries it on if nobody does, or watches whoever does.
async fn join(engine: Arc<Engine>, phase: watch::Sender<Phase>, job: Begin) -> Ended {
    let saga = &job.saga;
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
        phase.send_replace(Phase::Begun);
        let state = progress.state();
        if state.is_final() || state == State::Stuck {
            return Ok(Arc::new(progress));
        }
        if let Some(journal) = claim_one(&engine, saga).await? {
            // Read anew: whoever held it may have written since.
            let progress = Progress::of(&journal).map_err(StoreError::from)?;
            return resume(engine, job.plan, journal, progress).await;
        }
        if journal.node.as_ref() == Some(&engine.node) {
            // A lease in our own name is one that this process lost track of: nobody else in it works on the saga.
            return resume(engine, job.plan, journal, progress).await;
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = engine.drained() => return Err(SagaError::Interrupted(saga.clone())),
        }
    }
}

/// Carries on a saga that this process has claimed.
pub(crate) async fn resume(
    engine: Arc<Engine>,
    plan: Arc<Plan>,
    journal: Journal,
    progress: Progress,
) -> Ended {
    engine.counters.resumed.add(1);
    let runner = Runner::resume(engine.clone(), plan, &journal, progress);
    // Not for as long as the saga runs: the runner has what it needs of it.
    let saga = journal.saga.clone();
    drop(journal);
    ended(engine, &saga, runner).await
}

/// Carries on a saga that is stuck, or that nobody works on, because an operator wants it.
pub(crate) async fn retry(engine: Arc<Engine>, saga: SagaId, note: Arc<str>) -> Ended {
    let journal = claim_for_operator(&engine, &saga).await?;
    let (plan, progress) = match plan_of(&engine, &journal) {
        Ok(found) => found,
        Err(reason) => {
            release(&engine, &journal).await;
            return Err(SagaError::Blocked { saga, reason });
        }
    };
    let stuck = progress.state() == State::Stuck;
    let event = stuck.then(|| progress.retried(note));
    engine.counters.resumed.add(1);
    let mut runner = Runner::resume(engine.clone(), plan, &journal, progress);
    if let Some(event) = event {
        if runner.commit(event).await.is_err() {
            runner.release().await;
            return Err(SagaError::Interrupted(saga));
        }
    }
    ended(engine, &saga, runner).await
}

/// Settles an undo that was given up.
pub(crate) async fn skip(
    engine: Arc<Engine>,
    saga: SagaId,
    step: Arc<str>,
    note: Arc<str>,
) -> Ended {
    let journal = claim_for_operator(&engine, &saga).await?;
    let progress = Progress::of(&journal).map_err(StoreError::from);
    let found = progress.map(|mut progress| {
        let event = Event::Skipped { step: progress.place(&step), note };
        let stuck = progress.state() == State::Stuck;
        (stuck && progress.apply(&event).is_ok()).then_some((event, progress))
    });
    let answer = match found {
        Ok(Some((event, progress))) => {
            let append = append(&engine, &journal, event, progress.state()).await;
            if append.is_ok() && progress.state() == State::Compensated {
                engine.counters.compensated.add(1);
            }
            append.map(|()| Arc::new(progress)).map_err(SagaError::from)
        }
        Ok(None) => Err(SagaError::Refused { saga, why: "has no undo of that step to skip" }),
        Err(error) => Err(error.into()),
    };
    release(&engine, &journal).await;
    answer
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

/// Parks a saga that cannot be carried on here, and lets go of it.
pub(crate) async fn block(engine: &Engine, journal: &Journal, reason: Arc<str>) {
    let last = journal.records.as_ref().map(|records| records.last().map(|record| &record.event));
    if !matches!(last, Ok(Some(Event::Blocked { .. }))) {
        engine.counters.blocked.add(1);
        tracing::error!(saga = %journal.saga, %reason, "saga is blocked");
    }
    let readable = last.is_ok();
    if matches!(last, Ok(last) if !matches!(last, Some(Event::Blocked { .. }))) {
        let event = Event::Blocked { reason };
        if let Err(error) = append(engine, journal, event, State::Blocked).await {
            tracing::warn!(saga = %journal.saga, %error, "saga could not be parked as blocked");
        }
    }
    end_lease(engine, journal, !readable).await;
}

pub(crate) async fn release(engine: &Engine, journal: &Journal) {
    end_lease(engine, journal, false).await;
}

async fn end_lease(engine: &Engine, journal: &Journal, blocked: bool) {
    let (saga, epoch, note) = (journal.saga.clone(), journal.epoch, journal.note.clone());
    let release = store::Release { saga, epoch, due: Some(0), note, blocked };
    if let Err(error) = engine.store(engine.store.release(&release)).await {
        tracing::debug!(saga = %journal.saga, %error, "lease not released");
    }
}

async fn ended(engine: Arc<Engine>, saga: &SagaId, runner: Runner) -> Ended {
    let Ok(progress) = runner.run().await else {
        return Err(SagaError::Interrupted(saga.clone()));
    };
    let counters = &engine.counters;
    match progress.state() {
        State::Completed => counters.completed.add(1),
        State::Compensated => counters.compensated.add(1),
        _ => {
            counters.stuck.add(1);
            tracing::error!(%saga, "saga is stuck: an operator has to retry or skip");
        }
    }
    Ok(Arc::new(progress))
}

async fn append(
    engine: &Engine,
    journal: &Journal,
    event: Event,
    state: State,
) -> Result<(), StoreError> {
    let (saga, epoch) = (journal.saga.clone(), journal.epoch);
    let next = journal.records.as_ref().map_or(0, Vec::len) as u64;
    let records = Arc::new([Record::new(next, epoch, engine.now(), event)]);
    let hold = if state == State::Stuck {
        Hold::Park { due: None, note: None }
    } else {
        Hold::Keep(engine.options.lease)
    };
    let (mail_taken, outbox) = (journal.mail_taken, Arc::new([]));
    let commit = Commit { saga, epoch, records, state, hold, mail_taken, outbox };
    engine.store(engine.store.append(&commit)).await
}

async fn claim_one(engine: &Engine, saga: &SagaId) -> Result<Option<Journal>, StoreError> {
    let (node, lease) = (engine.node.clone(), engine.options.lease);
    let claim = Claim { node, lease, wanted: Wanted::One(saga.clone()) };
    Ok(engine.store(engine.store.claim(&claim)).await?.pop())
}

async fn claim_for_operator(engine: &Engine, saga: &SagaId) -> Result<Journal, SagaError> {
    /// Orders are journaled, and a journal must not grow without end.
    const MOST_RECORDS: usize = 10_000;
    let Some(journal) = claim_one(engine, saga).await? else {
        let Some(journal) = engine.store(engine.store.load(saga)).await? else {
            return Err(SagaError::NoSuchSaga(saga.clone()));
        };
        let state = Progress::of(&journal).map(|progress| progress.state());
        let why = match state {
            Ok(state) if state.is_final() => "has come to its end",
            _ => "is under way elsewhere",
        };
        return Err(SagaError::Refused { saga: saga.clone(), why });
    };
    let steps = Progress::of(&journal).map_or(0, |progress| progress.steps.len());
    if journal.records.as_ref().map_or(0, Vec::len) > MOST_RECORDS + 2 * steps {
        release(engine, &journal).await;
        return Err(SagaError::Refused { saga: saga.clone(), why: "has had too many orders" });
    }
    Ok(journal)
}
