use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use gusset_call::{Attempt, Context, Deadline};
use tokio::time::{sleep, timeout_at};
use tracing::Instrument;

use crate::{
    Commit, Direction, Event, Hold, Journal, Json, Record, Release, SagaId, State, StepContext,
    StepError, StepState, StoreError,
    definition::Plan,
    engine::Engine,
    error::error_line,
    progress::{Next, Progress},
    step::Call,
    tries::{Tries, Verdict},
};

/// Carries one saga on, as the only one in its epoch.
pub(crate) struct Runner {
    engine: Arc<Engine>,
    plan: Arc<Plan>,
    saga: SagaId,
    epoch: u64,
    /// Of the next record.
    sequence: u64,
    progress: Progress,
    /// The step that was open when the journal was loaded: another process may have attempted it.
    inherited: Option<u32>,
}

/// This process must not go on with the saga, or does not want to.
pub(crate) struct Stopped;

/// An attempt that ended by itself, in time or not.
type Attempted = Result<Option<Json>, StepError>;

impl Runner {
    /// Of a saga that was just created.
    pub(crate) fn new(
        engine: Arc<Engine>,
        plan: Arc<Plan>,
        saga: SagaId,
        progress: Progress,
    ) -> Self {
        Self { engine, plan, saga, epoch: 1, sequence: 1, progress, inherited: None }
    }

    /// Of a saga that this process has claimed. `progress` is what its journal tells.
    pub(crate) fn resume(
        engine: Arc<Engine>,
        plan: Arc<Plan>,
        journal: &Journal,
        progress: Progress,
    ) -> Self {
        let under_way = |state| matches!(state, StepState::Acting | StepState::Undoing);
        let inherited = progress.steps.iter().position(|step| under_way(step.state));
        Self {
            engine,
            plan,
            saga: journal.saga.clone(),
            epoch: journal.epoch,
            sequence: journal.records.as_ref().map_or(0, Vec::len) as u64,
            progress,
            inherited: inherited.map(|index| index as u32),
        }
    }

    /// To the end of the saga, or to where an operator is needed.
    pub(crate) async fn run(mut self) -> Result<Progress, Stopped> {
        let ended = self.drive().await;
        if ended.is_err() {
            self.release().await;
        }
        ended.map(|()| self.progress)
    }

    async fn drive(&mut self) -> Result<(), Stopped> {
        if self.progress.state() == State::Blocked {
            self.commit(Event::Unblocked).await?;
        }
        loop {
            let event = match self.progress.next() {
                Next::Park => return Ok(()),
                Next::Open(_) if self.engine.is_draining() => return Err(Stopped),
                Next::Open(step) => Event::Opened { opens: vec![step] },
                Next::Attempt(step, direction) => self.attempts(step, direction).await?,
            };
            self.commit(event).await?;
        }
    }

    /// Attempts a step until it succeeds or is given up.
    async fn attempts(&mut self, step: u32, direction: Direction) -> Result<Event, Stopped> {
        let inherited = self.inherited.take() == Some(step);
        let mut tries = Tries::new(self.plan.policy(step, direction), inherited);
        let mut number = Attempt::FIRST;
        loop {
            if self.engine.is_draining() {
                return Err(Stopped);
            }
            tries.begun += 1;
            let attempted = self.attempt(step, direction, number).await?;
            let go_on = !self.engine.is_draining();
            let error = match attempted {
                Ok(output) => return Ok(self.progress.succeeded(step, output, go_on)),
                Err(error) => error,
            };
            self.engine.counters.failed_attempts.add(1);
            let name = self.progress.name(step);
            let verdict = tries.failed(&error, &mut rand::rng());
            tracing::warn!(
                saga = %self.saga, step = %name, ?direction, attempt = %number, kind = ?error.kind(),
                error = %error.line(), "saga step failed"
            );
            match verdict {
                Verdict::GiveUp(kind) => {
                    let maybe = tries.maybe;
                    let failure = tries.into_failure(name, kind);
                    return Ok(self.progress.gave_up(step, failure, maybe, go_on));
                }
                Verdict::RetryAfter(pause) => self.pause(pause).await?,
            }
            number = number.next();
        }
    }

    async fn attempt(
        &self,
        step: u32,
        direction: Direction,
        attempt: Attempt,
    ) -> Result<Attempted, Stopped> {
        let timeout = self.plan.policy(step, direction).timeout;
        let deadline = Deadline::after(timeout);
        let call = self.call(step, direction, attempt, deadline);
        let plan = self.plan.clone();
        // Begun inside the future, so that a panic before the first await is caught as well.
        let action = async move { plan.attempt(step, direction, call).await };
        let span = tracing::info_span!(
            "saga step", saga = %self.saga, step = %self.progress.name(step), ?direction, %attempt
        );
        let action = self.context(deadline).scope(AssertUnwindSafe(action).catch_unwind());
        tokio::select! {
            biased;
            answer = timeout_at(deadline.instant(), action.instrument(span)) => Ok(match answer {
                Ok(Ok(attempted)) => attempted,
                Ok(Err(panic)) => Err(panicked(&*panic)),
                Err(_) => Err(StepError::unknown(format!("no answer within {timeout:?}"))),
            }),
            () = self.lease_lost() => Err(Stopped),
        }
    }

    fn call(&self, step: u32, direction: Direction, attempt: Attempt, deadline: Deadline) -> Call {
        let progress = &self.progress;
        let output = |place: &u32| progress.steps[*place as usize].output.clone();
        let needs = &progress.shape.steps[step as usize].needs;
        Call {
            cx: StepContext {
                saga: self.saga.clone(),
                step: progress.name(step),
                direction,
                attempt,
                epoch: self.epoch,
                deadline,
            },
            input: progress.input.clone(),
            needed: needs.iter().filter_map(output).collect(),
            output: output(&step),
        }
    }

    /// The saga's trace, and not the deadline of whoever began it: that one has no say here.
    fn context(&self, deadline: Deadline) -> Context {
        let context = Context::default().with_deadline(deadline);
        match self.progress.trace.as_ref().and_then(|trace| trace.parse().ok()) {
            Some(trace) => context.with_trace(trace),
            None => context,
        }
    }

    async fn pause(&self, span: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = sleep(span) => Ok(()),
            () = self.engine.drained() => Err(Stopped),
            () = self.lease_lost() => Err(Stopped),
        }
    }

    /// Keeps the lease while something else is waited for; ends when it is lost. A store that fails is not a lost lease:
    /// should another process take over, the next append tells.
    async fn lease_lost(&self) {
        let held = [(self.saga.clone(), self.epoch)];
        let lease = self.engine.options.lease;
        loop {
            sleep(lease / 3).await;
            match self.engine.store(self.engine.store.renew(&held, lease)).await {
                Ok(renewed) if renewed.lost.is_empty() => {}
                Ok(_) => return,
                Err(error) => tracing::warn!(saga = %self.saga, %error, "lease not renewed"),
            }
        }
    }

    /// Makes an event durable. Repeats until the store has it, or says that the saga is no longer ours.
    pub(crate) async fn commit(&mut self, event: Event) -> Result<(), Stopped> {
        if let Err(error) = self.progress.apply(&event) {
            tracing::error!(saga = %self.saga, %error, ?event, "saga stopped by a wrong event");
            return Err(Stopped);
        }
        let commit = Commit {
            saga: self.saga.clone(),
            epoch: self.epoch,
            records: Arc::new([Record::new(self.sequence, self.epoch, self.engine.now(), event)]),
            state: self.progress.state(),
            hold: if self.progress.state() == State::Stuck {
                Hold::Park { due: None, note: None }
            } else {
                Hold::Keep(self.engine.options.lease)
            },
            mail_taken: 0,
            outbox: Arc::new([]),
        };
        let end = self.sequence + 1;
        let engine = self.engine.clone();
        let mut waiting = None;
        let mut retries = 0;
        loop {
            match self.engine.store(self.engine.store.append(&commit)).await {
                Ok(()) => break,
                // An append that seemed to fail had succeeded: in this epoch nobody else writes.
                Err(StoreError::Conflict { next, .. }) if waiting.is_some() && next == end => break,
                Err(error @ (StoreError::Failed(_) | StoreError::Full(_))) => {
                    waiting.get_or_insert_with(|| engine.counters.waiting_for_store.raise());
                    retries += 1;
                    self.wait_for_store(retries, &error).await?;
                }
                Err(error) => {
                    tracing::warn!(saga = %self.saga, %error, "saga given up to whoever has it");
                    return Err(Stopped);
                }
            }
        }
        self.sequence = end;
        Ok(())
    }

    async fn wait_for_store(&self, retries: u32, error: &StoreError) -> Result<(), Stopped> {
        let error = error_line(error);
        tracing::error!(saga = %self.saga, %error, retries, "journal not written yet");
        let pause = self.engine.options.store_policy().pause(retries, &mut rand::rng());
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.engine.drained() => Err(Stopped),
        }
    }

    /// Lets others take over at once instead of after the lease. Failing to changes nothing but the time that takes.
    pub(crate) async fn release(&self) {
        let release = Release {
            saga: self.saga.clone(),
            epoch: self.epoch,
            due: Some(0),
            note: None,
            blocked: false,
        };
        if let Err(error) = self.engine.store(self.engine.store.release(&release)).await {
            tracing::debug!(saga = %self.saga, %error, "lease not released");
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> StepError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    StepError::unknown(format!("panicked: {}", text.unwrap_or("(no text)")))
}
