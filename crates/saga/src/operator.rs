use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{
    Claim, Journal, Orchestrator, Query, Record, Report, Retention, SagaError, SagaId, StoreError,
    Summary, Wanted,
    engine::Engine,
    error::shortened,
    live::{Ended, Live, NotEntered, Phase},
    orchestrator::shutting_down,
    work,
};

/// For operators: what there is, what happened, and what to do about it. The rest is at the top of the page.
impl Orchestrator {
    /// Lists sagas by id.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(&self, query: &Query) -> Result<Vec<Summary>, SagaError> {
        let engine = self.engine();
        Ok(engine.store(engine.store.query(query)).await?)
    }

    /// The journal of a saga.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], or when the store fails.
    pub async fn history(&self, saga: &SagaId) -> Result<Vec<Record>, SagaError> {
        let engine = self.engine();
        let journal = engine.store(engine.store.load(saga)).await?;
        journal.map_or_else(
            || Err(SagaError::NoSuchSaga(saga.clone())),
            |found| found.records.map_err(|error| StoreError::from(error).into()),
        )
    }

    /// Where a saga stands, by its journal.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], or when the store fails or has a damaged journal.
    pub async fn report(&self, saga: &SagaId) -> Result<Report, SagaError> {
        Report::replay(saga.clone(), &self.history(saga).await?)
    }

    /// Tries all undos that were given up again, with new attempts, and answers when the saga is at its end or stuck again. A blocked saga is carried
    /// on, if its definition is known by now. `note` goes into the journal.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], [`SagaError::Refused`] when it is finished or under way, [`SagaError::Blocked`] when the definition is
    /// not registered, [`SagaError::Interrupted`], or when the store fails.
    ///
    /// # Cancellation
    ///
    /// Once begun, the saga goes on without the caller.
    pub async fn retry(&self, saga: &SagaId, note: &str) -> Result<Report, SagaError> {
        let note = shortened(note).into();
        self.order(saga, |engine, _| work::retry(engine, saga.clone(), note)).await
    }

    /// Settles an undo that was given up, because it was carried out by hand, or is not needed. `note` goes into the journal and the
    /// result. Once all are settled the saga is compensated.
    ///
    /// # Errors
    ///
    /// [`SagaError::NoSuchSaga`], [`SagaError::Refused`] when there is no such undo, or when the store fails.
    pub async fn skip(&self, saga: &SagaId, step: &str, note: &str) -> Result<Report, SagaError> {
        let (step, note) = (step.into(), shortened(note).into());
        self.order(saga, |engine, _| work::skip(engine, saga.clone(), step, note)).await
    }

    /// Forgets finished sagas that `keep` does not cover. Their ids can be started anew.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn purge(&self, keep: &Retention) -> Result<u64, SagaError> {
        let engine = self.engine();
        Ok(engine.store(engine.store.purge(keep)).await?)
    }

    /// Takes over all sagas that nobody works on, once: those of processes that have shut down, and those whose process fell silent
    /// longer than its lease. Register the definitions before. Returns when each has its task, not when they end.
    ///
    /// A saga whose definition is not known, or whose journal cannot be read, is parked as [`State::Blocked`](crate::State::Blocked) and
    /// hinders no other; the next recovery looks at it again.
    ///
    /// # Errors
    ///
    /// When the store fails to hand sagas out, or during a shutdown.
    ///
    /// # Cancellation
    ///
    /// Sagas that were claimed in the very moment are free again after their lease.
    pub async fn recover(&self) -> Result<Recovered, SagaError> {
        recover(self.engine()).await
    }

    /// Spawns a task that calls [`recover`](Self::recover) now and then `every` so often, until the guard is dropped. A failure is a
    /// `tracing` event, and the next round tries again.
    #[must_use = "dropping the guard ends the recovery"]
    pub fn spawn_recovery(&self, every: Duration) -> Recovery {
        let engine = self.engine().clone();
        Recovery(tokio::spawn(async move {
            while !engine.is_draining() {
                if let Err(error) = recover(&engine).await {
                    tracing::warn!(%error, "recovery of sagas failed");
                }
                tokio::select! {
                    () = sleep(every) => {}
                    () = engine.drained() => {}
                }
            }
        }))
    }

    async fn order<F>(
        &self,
        saga: &SagaId,
        work: impl FnOnce(Arc<Engine>, watch::Sender<Phase>) -> F,
    ) -> Result<Report, SagaError>
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        let permit = self.permit().await?;
        let mut phase = match Live::enter(self.engine(), saga.clone(), None, permit, work) {
            Ok(phase) => phase,
            Err(NotEntered::Occupied) => {
                return Err(SagaError::Refused { saga: saga.clone(), why: "is under way" });
            }
            Err(NotEntered::Closed) => return Err(shutting_down()),
        };
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        match ended.as_deref() {
            Ok(Phase::Ended(Ok(progress))) => Ok(Report::of(saga.clone(), progress)),
            Ok(Phase::Ended(Err(error))) => Err(error.clone()),
            Ok(_) | Err(_) => Err(SagaError::Interrupted(saga.clone())),
        }
    }
}

/// What a recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Sagas that are carried on.
    pub resumed: u64,
    /// Sagas that are parked, now or since earlier.
    pub blocked: u64,
}

/// Ends the recovery of [`Orchestrator::spawn_recovery`] when dropped.
#[derive(Debug)]
pub struct Recovery(JoinHandle<()>);

impl Drop for Recovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn recover(engine: &Arc<Engine>) -> Result<Recovered, SagaError> {
    /// Sagas claimed at once: few enough that their journals fit into memory.
    const BATCH: usize = 32;
    let mut found = Recovered::default();
    let mut parked_before = Vec::new();
    loop {
        let first = engine.permits.clone().acquire_owned().await.map_err(|_| shutting_down())?;
        let mut permits = vec![first];
        while let (true, Ok(permit)) =
            (permits.len() < BATCH, engine.permits.clone().try_acquire_owned())
        {
            permits.push(permit);
        }
        let limit = permits.len();
        let wanted = Wanted::Due {
            known: engine.known(),
            orphaned: Duration::ZERO,
            except: engine.live.ids().into_iter().chain(parked_before.iter().cloned()).collect(),
            limit,
        };
        let (node, lease) = (engine.node.clone(), engine.options.lease);
        let claim = Claim { node, lease, wanted };
        let journals = engine.store(engine.store.claim(&claim)).await?;
        let last = journals.len() < limit;
        // No await between here and the tasks: what is claimed is not lost by dropping this future.
        let mut parked = Vec::new();
        let mut unwanted = Vec::new();
        for (journal, permit) in journals.into_iter().zip(permits) {
            match resume(engine, journal, permit) {
                Resumed::Yes => found.resumed += 1,
                Resumed::Blocked(journal, reason) => parked.push((journal, reason)),
                Resumed::Unwanted(journal) => unwanted.push(journal),
            }
        }
        for (journal, reason) in parked {
            found.blocked += 1;
            parked_before.push(journal.saga.clone());
            work::block(engine, &journal, reason).await;
        }
        for journal in unwanted {
            work::release(engine, &journal).await;
        }
        if last {
            return Ok(found);
        }
    }
}

enum Resumed {
    Yes,
    Blocked(Journal, Arc<str>),
    /// Someone in this process was quicker, or it shuts down.
    Unwanted(Journal),
}

fn resume(
    engine: &Arc<Engine>,
    journal: Journal,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> Resumed {
    let (plan, progress) = match work::plan_of(engine, &journal) {
        Ok(found) => found,
        Err(reason) => return Resumed::Blocked(journal, reason),
    };
    let (saga, held) = (journal.saga.clone(), journal.clone());
    let given = Some((progress.shape.clone(), progress.input.clone()));
    let entered = Live::enter(engine, saga, given, permit, |engine, phase| {
        phase.send_replace(Phase::Begun);
        work::resume(engine, plan, journal, progress)
    });
    if entered.is_ok() { Resumed::Yes } else { Resumed::Unwanted(held) }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sagas carried on, {} blocked", self.resumed, self.blocked)
    }
}
