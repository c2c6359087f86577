//! Carries one saga on, as the only one in its epoch.

mod attempts;
mod journal;
mod mail;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::Rng;
use tokio::time::{Instant, sleep_until};

use crate::{
    Direction, Event, Failure, FailureKind, Journal, Json, Post, Release, SagaId, State, StepError,
    StepKind, StepState,
    definition::Plan,
    engine::Engine,
    live::Control,
    progress::Progress,
    tries::{Tries, Verdict},
};

pub(crate) use attempts::note_of;
use attempts::{Attempted, Happened, Running};

pub(crate) struct Runner {
    engine: Arc<Engine>,
    plan: Arc<Plan>,
    saga: SagaId,
    epoch: u64,
    /// Of the next record.
    sequence: u64,
    progress: Progress,
    control: Arc<Control>,
    /// Attempts and pauses under way.
    running: Running,
    /// Steps under way that were attempted in vain, in this process or before.
    tries: BTreeMap<u32, Tries>,
    mail: VecDeque<Post>,
    mail_taken: u64,
    /// Written, and not durable yet.
    batch: journal::Batch,
    /// Whether there may be steps that get no further attempt.
    reconsider: bool,
    /// Whether the lease is ours still.
    held: bool,
}

/// This process must not go on with the saga, or does not want to.
pub(crate) struct Stopped;

/// Why the runner is through with the saga.
pub(crate) enum Parted {
    /// It is at its end, or stuck.
    Ended,
    /// Nothing happens for a while; the store has it fetched again.
    Parked,
}

/// Waits of this length and longer are not held in memory, where a recovery fetches the saga again.
const LONG: Duration = Duration::from_secs(5);

const DAY: Duration = Duration::from_secs(86_400);

/// How often a step that cannot be given up may take the process with it, before an operator has to look.
const FATAL: u32 = 20;

impl Runner {
    /// Of a saga that was just created.
    pub(crate) fn new(
        engine: Arc<Engine>,
        plan: Arc<Plan>,
        saga: SagaId,
        progress: Progress,
        control: Arc<Control>,
    ) -> Box<Self> {
        control.hold(1);
        Self::holding(engine, plan, saga, progress, control)
    }

    fn holding(
        engine: Arc<Engine>,
        plan: Arc<Plan>,
        saga: SagaId,
        progress: Progress,
        control: Arc<Control>,
    ) -> Box<Self> {
        Box::new(Self {
            engine,
            plan,
            saga,
            epoch: 1,
            sequence: 1,
            progress,
            control,
            running: Running::default(),
            tries: BTreeMap::new(),
            mail: VecDeque::new(),
            mail_taken: 0,
            batch: journal::Batch::default(),
            reconsider: false,
            held: true,
        })
    }

    /// Of a saga that this process has claimed. `progress` is what its journal tells.
    pub(crate) fn resume(
        engine: Arc<Engine>,
        plan: Arc<Plan>,
        journal: Journal,
        progress: Progress,
        control: Arc<Control>,
    ) -> Box<Self> {
        control.hold(journal.epoch);
        let tries = attempts::inherited(&progress, &journal);
        let mut runner = Self::holding(engine, plan, journal.saga, progress, control);
        runner.epoch = journal.epoch;
        runner.sequence = journal.records.map_or(0, |records| records.len()) as u64;
        runner.reconsider = true;
        runner.tries = tries;
        runner.mail = journal.mail.into();
        runner.mail_taken = journal.mail_taken;
        runner
    }

    /// To the end of the saga, or to where an operator is needed, or to where it waits for long.
    pub(crate) async fn run(mut self: Box<Self>) -> Result<(Progress, Parted), Stopped> {
        let parted = self.drive().await;
        if self.held && !self.control.is_lost() {
            // Where nothing was written that says more: stopped, or stuck as before.
            let due = if parted.is_err() { Some(0) } else { self.next_due() };
            self.release(due).await;
        }
        parted.map(|parted| (self.progress, parted))
    }

    async fn drive(&mut self) -> Result<Parted, Stopped> {
        let under_way: Vec<u32> = self.progress.under_way().collect();
        if self.progress.state() == State::Blocked {
            self.write(Event::Unblocked)?;
        }
        self.read_mail()?;
        // Only what earlier records opened: what these ones open is not durable yet.
        self.take_up(&under_way);
        loop {
            self.read_mail()?;
            self.write_what_is_due()?;
            if let Some(parted) = self.commit().await? {
                return Ok(parted);
            }
            let state = self.progress.state();
            if state.is_final() || state == State::Stuck && !self.running.is_busy() {
                return Ok(Parted::Ended);
            }
            if self.engine.is_draining() && !self.running.is_busy() {
                return Err(Stopped);
            }
            if self.control.is_lost() {
                return Err(Stopped);
            }
            if self.is_long_wait() {
                let due = self.next_due().map(|due| due.max(1));
                self.release(due).await;
                self.held = false;
                return Ok(Parted::Parked);
            }
            if let Some(happened) = self.wait().await? {
                self.happened(happened)?;
            }
        }
    }

    /// Until something happens, or is due, or somebody wants something.
    async fn wait(&mut self) -> Result<Option<Happened>, Stopped> {
        if let Some(happened) = self.running.ready() {
            return Ok(Some(happened));
        }
        let due = self.next_wait().map(|due| due.saturating_sub(self.engine.now()));
        // No clock overflows by a day; then it looks again.
        let due = due.map(|span| Instant::now() + Duration::from_millis(span).min(DAY));
        let control = self.control.clone();
        tokio::select! {
            biased;
            happened = self.running.next() => Ok(Some(happened)),
            () = control.called() => {
                if self.control.take_mail() {
                    self.fetch_mail().await;
                }
                Ok(None)
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Ok(None),
        }
    }

    /// Goes on with the steps that were under way when the journal was loaded.
    fn take_up(&mut self, under_way: &[u32]) {
        for &step in under_way {
            if self.tries.get(&step).is_none_or(|tries| !self.is_over(step, tries)) {
                self.start(step);
            }
        }
    }

    /// Whether a step that another process left under way is not attempted again.
    fn is_over(&self, step: u32, tries: &Tries) -> bool {
        let forward = tries.direction == Direction::Act;
        let attempts = if !forward {
            self.plan.policy(step, Direction::Undo).attempts
        } else if self.plan.is_certain(step) {
            return tries.crashes >= FATAL;
        } else if self.plan.must_know(step) {
            u32::MAX
        } else {
            self.plan.policy(step, Direction::Act).attempts
        };
        tries.begun >= attempts || forward && self.progress.failure.is_some()
    }

    /// Writes what follows from the time, from signals, and from attempts that are not made again.
    fn write_what_is_due(&mut self) -> Result<(), Stopped> {
        let now = self.engine.now();
        let waits = !self.progress.waits().is_empty();
        if self.progress.expires_at().is_some_and(|at| at <= now) {
            let why = "the deadline of the saga has passed".to_owned();
            let failure = Failure::of_the_saga(FailureKind::Overdue, why);
            self.write(Event::Expired { failure })?;
        } else if waits {
            self.write_ended_waits(now)?;
        }
        if std::mem::take(&mut self.reconsider) {
            self.write_given_up()?;
        }
        if !self.progress.ready().is_empty() && !self.engine.is_draining() {
            self.write(Event::Opened)?;
        }
        Ok(())
    }

    fn write_ended_waits(&mut self, now: u64) -> Result<(), Stopped> {
        for step in self.progress.waits().to_vec() {
            let over = self.progress.wait_ends(step).is_some_and(|end| end <= now);
            let kind = &self.progress.shape.steps[step as usize].kind;
            let signal = self.progress.signal_for(step).cloned();
            let event = match (kind, signal) {
                (StepKind::Timer { .. }, _) if over => Event::Done { step, output: Json::null() },
                (StepKind::Signal { .. }, Some(output)) => Event::Done { step, output },
                (StepKind::Signal { .. }, None) if over => {
                    let mut tries = Tries::new(Direction::Act);
                    tries.note("no signal came in time".into());
                    let failure = tries.failure(self.progress.name(step), FailureKind::Rejected);
                    Event::Failed { step, failure, maybe: false }
                }
                _ => continue,
            };
            let turns = matches!(event, Event::Failed { .. });
            self.write(event)?;
            if turns {
                break;
            }
        }
        Ok(())
    }

    /// Ends steps between two attempts that get no further one, because the saga has turned back, or took too many processes with them.
    fn write_given_up(&mut self) -> Result<(), Stopped> {
        let over = |(step, tries): (&u32, &Tries)| {
            (!self.running.has(*step) || tries.pausing) && self.is_over(*step, tries)
        };
        let over: Vec<u32> =
            self.tries.iter().filter(|tries| over(*tries)).map(|(s, _)| *s).collect();
        for step in over {
            self.running.drop_step(step);
            let Some(tries) = self.tries.remove(&step) else { continue };
            let kind = if tries.maybe { FailureKind::Unknown } else { FailureKind::Transient };
            let event = self.gave_up(step, &tries, kind);
            self.write(event)?;
        }
        Ok(())
    }

    fn happened(&mut self, happened: Happened) -> Result<(), Stopped> {
        let mut next = Some(happened);
        while let Some(happened) = next {
            match happened {
                Happened::Rested(step) => self.start(step),
                Happened::Attempted(attempted) => self.attempted(attempted)?,
            }
            next = self.running.ready();
        }
        Ok(())
    }

    fn attempted(&mut self, attempted: Attempted) -> Result<(), Stopped> {
        let Attempted { step, direction, begun, result, outbox } = attempted;
        let error = match (result, direction) {
            (Ok(output), Direction::Act) => {
                self.tries.remove(&step);
                let output = output.unwrap_or_else(Json::null);
                return self.write_with(Event::Done { step, output }, outbox);
            }
            (Ok(_), Direction::Undo) => {
                self.tries.remove(&step);
                return self.write_with(Event::Undone { step }, outbox);
            }
            (Err(error), _) => error,
        };
        self.engine.counters.failed_attempts.add(1);
        tracing::warn!(
            saga = %self.saga, step = %self.progress.name(step), ?direction, kind = ?error.kind(),
            error = %error.line(), "saga step failed"
        );
        let mut tries = self.tries.remove(&step).unwrap_or_else(|| Tries::new(direction));
        tries.begun = begun;
        match self.verdict(step, &mut tries, &error, &mut rand::rng()) {
            Verdict::RetryAfter(pause) => {
                tries.pausing = true;
                self.running.pause(step, pause, self.engine.now());
                self.tries.insert(step, tries);
                Ok(())
            }
            Verdict::GiveUp(kind) => {
                let event = self.gave_up(step, &tries, kind);
                self.write(event)
            }
        }
    }

    fn verdict(
        &self,
        step: u32,
        tries: &mut Tries,
        error: &StepError,
        rng: &mut impl Rng,
    ) -> Verdict {
        let direction = tries.direction;
        let policy = self.plan.policy(step, direction);
        let verdict = tries.failed(error, &policy, rng);
        if direction == Direction::Undo {
            return verdict;
        }
        if self.progress.failure.is_some() {
            return Verdict::GiveUp(error.kind());
        }
        if self.plan.must_know(step) && tries.maybe {
            if error.kind() == FailureKind::Rejected {
                // Under its key it was never done, and never will be.
                tries.maybe = false;
                return verdict;
            }
            return Verdict::RetryAfter(tries.pause(error, &policy, rng));
        }
        verdict
    }

    /// The event of an attempt that was the last one.
    fn gave_up(&self, step: u32, tries: &Tries, kind: FailureKind) -> Event {
        let failure = tries.failure(self.progress.name(step), kind);
        if tries.direction == Direction::Undo {
            Event::UndoFailed { step, failure }
        } else if self.plan.is_certain(step) {
            Event::Halted { step, failure }
        } else {
            Event::Failed { step, failure, maybe: tries.maybe }
        }
    }

    /// When there is something to do without anybody's asking, by the store's clock.
    fn next_due(&self) -> Option<u64> {
        self.next_wait().into_iter().chain(self.running.next_due()).min()
    }

    fn next_wait(&self) -> Option<u64> {
        let waits = self.progress.waits().iter().filter_map(|step| self.progress.wait_ends(*step));
        waits.chain(self.progress.expires_at()).min()
    }

    fn is_long_wait(&self) -> bool {
        if self.running.is_busy() || !self.engine.is_recovering() || !self.mail.is_empty() {
            return false;
        }
        let long = self.engine.now().saturating_add(LONG.as_millis() as u64);
        self.next_due().is_none_or(|due| due >= long)
    }

    /// Lets others take over at once, or when it is due, instead of after the lease. Failing to changes nothing but the time that takes.
    async fn release(&mut self, due: Option<u64>) {
        let (saga, epoch) = (self.saga.clone(), self.epoch);
        let note = attempts::note(&self.progress, &self.tries);
        let release = Release { saga, epoch, due, note, blocked: false };
        if let Err(error) = self.engine.store(self.engine.store.release(&release)).await {
            tracing::debug!(saga = %self.saga, %error, "lease not released");
        }
    }

    /// Whether a step is under way in this direction still.
    fn is_under_way(&self, step: u32, direction: Direction) -> bool {
        let state = self.progress.steps[step as usize].state;
        state == if direction == Direction::Act { StepState::Acting } else { StepState::Undoing }
    }
}
