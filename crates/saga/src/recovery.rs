use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::SemaphorePermit, task::JoinHandle, time::sleep};

use crate::{
    Claim, Journal, Orchestrator, SagaError, Wanted, blocked, engine::Engine, live::Live,
    orchestrator::shutting_down, seat::Seat, work,
};

/// Taking over what nobody works on.
impl Orchestrator {
    /// Takes over all sagas that nobody works on, once: those of processes that have shut down, those whose process fell silent
    /// longer than its lease, and those whose timer or mail is due. Register the definitions before. Returns when each has its task, not when they end.
    ///
    /// A saga whose definition is not known is left to processes that know it for a third of a lease. Then, or if its journal cannot be read, it is parked as
    /// [`State::Blocked`](crate::State::Blocked), hinders no other, and goes on as soon as a process comes along that can.
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
    ///
    /// While it runs, sagas that wait for 5 s and longer for a timer, a signal or another attempt leave memory until they are due: timers are late by up to
    /// `every` then, and so are signals that come from another process.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping the guard ends the recovery"]
    pub fn spawn_recovery(&self, every: Duration) -> Recovery {
        let engine = self.engine().clone();
        engine.begin_recovering();
        let task = tokio::spawn({
            let engine = engine.clone();
            async move {
                while !engine.is_draining() {
                    if let Err(error) = recover(&engine).await {
                        tracing::warn!(%error, "recovery of sagas failed");
                    }
                    tokio::select! {
                        () = sleep(every) => {}
                        () = engine.drained() => {}
                    }
                }
            }
        });
        Recovery { engine, task }
    }
}

/// What a recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Sagas that are carried on.
    pub resumed: u64,
    /// Sagas that are parked as blocked, now or since earlier.
    pub blocked: u64,
}

/// Ends the recovery of [`Orchestrator::spawn_recovery`] when dropped.
pub struct Recovery {
    engine: Arc<Engine>,
    task: JoinHandle<()>,
}

impl Drop for Recovery {
    fn drop(&mut self) {
        self.task.abort();
        self.engine.end_recovering();
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recovery").field(&self.task).finish()
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sagas carried on, {} blocked", self.resumed, self.blocked)
    }
}

async fn recover(engine: &Arc<Engine>) -> Result<Recovered, SagaError> {
    /// Sagas claimed at once: few enough that their journals fit into memory.
    const BATCH: usize = 32;
    engine.sync(true).await?;
    let mut found = Recovered::default();
    // Mail makes a blocked saga due at once: without this a round would claim it for ever.
    let mut blocked = Vec::new();
    loop {
        let first = engine.permits.acquire().await.map_err(|_| shutting_down())?;
        let mut permits = vec![first];
        while let (true, Ok(permit)) = (permits.len() < BATCH, engine.permits.try_acquire()) {
            permits.push(permit);
        }
        let limit = permits.len();
        let claims = engine.claims.lock().await;
        let wanted = Wanted::Due {
            known: engine.known(),
            orphaned: engine.options.orphaned(),
            // Even if a lease of ours lapsed: who works on a saga here is not to be fenced by ourselves.
            except: engine.live.ids().into_iter().chain(blocked.iter().cloned()).collect(),
            limit,
        };
        let (node, lease) = (engine.node.clone(), engine.options.lease);
        let journals = engine.store(engine.store.claim(&Claim { node, lease, wanted })).await?;
        let last = journals.len() < limit;
        // No await between here and the tasks: what is claimed is not lost by dropping this future.
        let mut parked = Vec::new();
        let mut unwanted = Vec::new();
        for (journal, permit) in journals.into_iter().zip(permits) {
            match take_over(engine, journal, permit) {
                TakenOver::Yes => found.resumed += 1,
                TakenOver::Blocked(journal, reason) => parked.push((journal, reason)),
                TakenOver::Unwanted(journal) => unwanted.push(journal),
            }
        }
        for journal in unwanted {
            work::give_back(engine, &journal).await;
        }
        drop(claims);
        for (journal, reason) in parked {
            found.blocked += 1;
            blocked.push(journal.saga.clone());
            blocked::block(engine, &journal, reason).await;
        }
        if last {
            return Ok(found);
        }
    }
}

pub(crate) enum TakenOver {
    Yes,
    Blocked(Journal, Arc<str>),
    /// Someone in this process was quicker, or it shuts down.
    Unwanted(Journal),
}

/// Gives a saga that was claimed its task.
pub(crate) fn take_over(
    engine: &Arc<Engine>,
    journal: Journal,
    permit: SemaphorePermit<'_>,
) -> TakenOver {
    let (plan, progress) = match blocked::plan_of(engine, &journal) {
        Ok(found) => found,
        Err(reason) => return TakenOver::Blocked(journal, reason),
    };
    let held = journal.clone();
    let given = (progress.shape.clone(), progress.input.clone());
    let seat = Seat::new(engine.clone(), journal.saga.clone(), given);
    let entered = Live::enter(seat, permit, |seat| {
        seat.begun();
        work::resumed(seat, plan, journal, progress)
    });
    match entered {
        Ok(entered) => {
            entered.spawn();
            TakenOver::Yes
        }
        Err(_) => TakenOver::Unwanted(held),
    }
}
