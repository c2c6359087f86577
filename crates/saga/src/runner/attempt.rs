//! One attempt: the action of a step, or its undo, called once.

use std::{
    any::Any,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use gusset_call::{Attempt as Number, Context, Deadline, TraceState};
use tokio::time::{Sleep, sleep_until};
use tracing::Span;

use super::Runner;
use crate::{
    Direction, Json, StepContext, StepError, StepState,
    step::{Attempting, Call, Ground},
    tries::Tries,
};

/// An attempt that is over.
pub(super) struct Attempted {
    pub(super) step: u32,
    pub(super) direction: Direction,
    /// How many attempts have begun, this one included.
    pub(super) begun: u32,
    pub(super) result: Result<Option<Json>, StepError>,
    pub(super) ground: Option<Arc<Ground>>,
}

/// An attempt under way. Costs no allocation beside the action's own future, and no timer before the action waits for something.
pub(super) struct Attempt {
    /// None once it is over.
    ground: Option<Arc<Ground>>,
    step: u32,
    direction: Direction,
    begun: u32,
    timeout: Duration,
    deadline: Deadline,
    span: Span,
    work: Option<Work>,
    alarm: Option<Pin<Box<Sleep>>>,
}

enum Work {
    /// The action is called when the attempt is polled, so that a panic in it is the attempt's.
    Due(Call),
    UnderWay(Attempting),
}

impl Runner {
    /// Begins an attempt at a step that a durable record has opened.
    pub(super) fn start(&mut self, step: u32) {
        let direction = match self.progress.steps[step as usize].state {
            StepState::Acting => Direction::Act,
            StepState::Undoing => Direction::Undo,
            _ => return,
        };
        if self.progress.shape.steps[step as usize].kind.waits() {
            return;
        }
        if direction == Direction::Act && self.progress.failure.is_some() {
            // The write that opened it has also turned the saga back. Nobody will attempt it, so nobody else will end it.
            self.tries.entry(step).or_insert_with(|| Tries::new(direction));
            self.reconsider = true;
            return;
        }
        if self.seat.engine.is_draining() {
            return;
        }
        let before = self.tries.get_mut(&step).map_or(0, |tries| {
            tries.pausing = false;
            tries.begun
        });
        let attempt = self.attempt(step, direction, before.saturating_add(1));
        self.running.begin(attempt);
    }

    fn attempt(&mut self, step: u32, direction: Direction, begun: u32) -> Attempt {
        let timeout = self.plan.policy(step, direction).timeout;
        let deadline = Deadline::after(timeout);
        // That of the attempt before, unless it is in use by others that run at the same time.
        let ground = match self.ground.take() {
            Some(ground) => ground.again(),
            None => Arc::new(self.new_ground()),
        };
        let cx = StepContext {
            ground: ground.clone(),
            step,
            direction,
            attempt: NonZeroU32::new(begun).map_or(Number::FIRST, Number::new),
            epoch: self.epoch,
            deadline,
        };
        // Whoever began the saga may have a span of its own, which is no part of it.
        let trace = ground.context.trace();
        let trace = trace.as_ref().map(|trace| tracing::field::display(trace.trace_id()));
        let span = tracing::info_span!(
            parent: None, "saga step", trace_id = trace, saga = %ground.saga, step = %cx.step(), ?direction, attempt = begun, epoch = self.epoch
        );
        let work = Some(Work::Due(self.call(step, cx)));
        let (ground, alarm) = (Some(ground), None);
        Attempt { ground, step, direction, begun, timeout, deadline, span, work, alarm }
    }

    fn new_ground(&self) -> Ground {
        let progress = &self.progress;
        let trace = progress.trace.as_ref().and_then(|trace| trace.parse().ok());
        let state = progress.trace_state.as_ref().and_then(|state| state.parse().ok());
        let context =
            trace.map_or(Context::default(), |trace| Context::default().with_trace(trace));
        Ground::new(
            self.seat.saga.clone(),
            self.plan.clone(),
            context,
            state.filter(|_| trace.is_some()),
        )
    }

    fn call(&self, step: u32, cx: StepContext) -> Call {
        let progress = &self.progress;
        let output = |place: &u32| progress.steps[*place as usize].output.clone();
        let input = self.plan.steps[step as usize].input_from.as_ref().and_then(output);
        let needs = &progress.shape.steps[step as usize].needs;
        Call {
            cx,
            input: input.unwrap_or_else(|| progress.input.clone()),
            needed: needs.iter().filter_map(output).collect(),
            output: output(&step),
            listener: self.seat.engine.listener.get().cloned(),
        }
    }
}

impl Attempt {
    pub(super) const fn step(&self) -> u32 {
        self.step
    }

    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Attempted> {
        let (step, direction, begun) = (self.step, self.direction, self.begun);
        let result = ready!(self.poll_result(cx));
        let ground = self.ground.take();
        Poll::Ready(Attempted { step, direction, begun, result, ground })
    }

    fn poll_result(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Json>, StepError>> {
        let (step, direction) = (self.step, self.direction);
        let (mut work, ground) = (self.work.take(), self.ground.as_deref());
        let poll = || loop {
            match work.take() {
                Some(Work::Due(call)) => {
                    let action = ground.map(|ground| ground.plan.attempt(step, direction, call));
                    work = action.map(Work::UnderWay);
                }
                Some(Work::UnderWay(mut action)) => {
                    let poll = action.as_mut().poll(cx);
                    if poll.is_pending() {
                        work = Some(Work::UnderWay(action));
                    }
                    return poll;
                }
                None => return Poll::Pending,
            }
        };
        if let Poll::Ready(result) = self.inside(AssertUnwindSafe(poll)) {
            return Poll::Ready(result);
        }
        self.work = work;
        let deadline = self.deadline.instant();
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        ready!(alarm.as_mut().poll(cx));
        self.end();
        let timeout = self.timeout;
        Poll::Ready(Err(StepError::unknown(format!("no answer within {timeout:?}"))))
    }

    /// Runs code of the action: in the span and the context of the attempt. Its panic is an outcome that nobody knows.
    fn inside<F>(&self, code: AssertUnwindSafe<F>) -> Poll<Result<Option<Json>, StepError>>
    where
        F: FnOnce() -> Poll<Result<Option<Json>, StepError>>,
    {
        let _entered = self.span.enter();
        let Some(ground) = &self.ground else { return Poll::Pending };
        let context = ground.context.with_deadline(self.deadline);
        let code = || context.sync_scope(|| catch_unwind(code));
        // Where the saga's own task does not poll it, another call's may be current.
        let poll = TraceState::sync_scope(ground.trace_state.clone(), code);
        poll.unwrap_or_else(|panic| Poll::Ready(Err(panicked(&*panic))))
    }

    /// Drops the action where it is.
    fn end(&mut self) {
        if let Some(work) = self.work.take() {
            let dropped = move || {
                drop(work);
                Poll::Pending
            };
            let _ = self.inside(AssertUnwindSafe(dropped));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.end();
    }
}

fn panicked(panic: &(dyn Any + Send)) -> StepError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    StepError::unknown(format!("panicked: {}", text.unwrap_or("(no text)")))
}
