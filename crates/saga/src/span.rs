//! A span of each attempt, as plain data.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use gusset_call::{Attempt, Context, Deadline, SpanId, TraceContext};
use tokio::time::Instant;

use crate::{Direction, FailureKind, SagaId, StepContext, StepError, step::Attempting};

/// One attempt at a step or at its undo, once it is over. From [`Orchestrator::on_span`](crate::Orchestrator::on_span).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Span {
    /// Trace, own identifier, and whether the trace is sampled.
    pub trace: TraceContext,
    /// The span that the saga was begun in, whichever process that was. None for one that an orchestrator without a listener began outside of any trace.
    pub parent: Option<SpanId>,
    /// The saga.
    pub saga: SagaId,
    /// Name of its definition.
    pub definition: Arc<str>,
    /// Name of the step.
    pub step: Arc<str>,
    /// Whether it was the action or the undo.
    pub direction: Direction,
    /// Which attempt it was.
    pub attempt: Attempt,
    /// Epoch of the process that made it.
    pub epoch: u64,
    /// When it began. By the wall clock.
    pub began_at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// How it ended.
    pub end: SpanEnd,
    /// The error and its causes, at most 2 KiB.
    pub error: Option<Arc<str>>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanEnd {
    /// It succeeded.
    Complete,
    /// It failed in this way; a timeout and a panic are [`FailureKind::Unknown`].
    Failed(FailureKind),
    /// It was dropped before it was done: an operator's order, or the end of the orchestrator.
    Cancelled,
}

impl Span {
    /// Its name: the definition and the step, and `undo` for an undo. There are as many as there are steps.
    #[must_use]
    pub fn name(&self) -> String {
        let undo = if self.direction == Direction::Undo { " undo" } else { "" };
        format!("{} {}{undo}", self.definition, self.step)
    }
}

/// Is told of each span when it is over.
pub(crate) type Listener = dyn Fn(Span) + Send + Sync;

/// Has an attempt run in a span of its own, a child of the current one.
pub(crate) fn watched(
    listener: Arc<Listener>,
    definition: Arc<str>,
    cx: &StepContext,
    begin: impl FnOnce() -> Attempting + Send + 'static,
) -> Attempting {
    let current = Context::current();
    let parent = current.trace();
    let trace = parent.map_or_else(TraceContext::new_root, |parent| parent.child());
    let span = Span {
        trace,
        parent: parent.map(|parent| parent.span_id()),
        saga: cx.saga().clone(),
        definition,
        step: cx.name().clone(),
        direction: cx.direction,
        attempt: cx.attempt,
        epoch: cx.epoch,
        began_at: wall_clock(),
        duration: Duration::ZERO,
        end: SpanEnd::Cancelled,
        error: None,
    };
    let (deadline, began) = (cx.deadline, Instant::now());
    let open = OpenSpan { span: Some(span), began, deadline, listener };
    // Called inside: what it does before its first await belongs to the span as well.
    let work = current.with_trace(trace).scope(async move { begin().await });
    Box::pin(async move {
        let result = work.await;
        open.end(&result);
        result
    })
}

/// A span that is not over. It ends once, at the latest when it is dropped.
struct OpenSpan {
    span: Option<Span>,
    began: Instant,
    deadline: Deadline,
    listener: Arc<Listener>,
}

impl OpenSpan {
    fn end<T>(mut self, result: &Result<T, StepError>) {
        match result {
            Ok(_) => self.close(SpanEnd::Complete, None),
            Err(error) => self.close(SpanEnd::Failed(error.kind()), Some(error.line())),
        }
    }

    fn close(&mut self, end: SpanEnd, error: Option<Arc<str>>) {
        let Some(mut span) = self.span.take() else { return };
        (span.end, span.error, span.duration) = (end, error, self.began.elapsed());
        // What an observer does must not decide what becomes of a saga.
        let told = catch_unwind(AssertUnwindSafe(|| (self.listener)(span)));
        if told.is_err() {
            tracing::error!("the listener of saga spans panicked");
        }
    }
}

/// The attempt is dropped by its timeout, by its own panic, or before it was done.
impl Drop for OpenSpan {
    fn drop(&mut self) {
        let unknown = SpanEnd::Failed(FailureKind::Unknown);
        if std::thread::panicking() {
            self.close(unknown, Some("panicked".into()));
        } else if self.deadline.remaining().is_zero() {
            self.close(unknown, Some("no answer in time".into()));
        } else {
            self.close(SpanEnd::Cancelled, None);
        }
    }
}

/// The wall clock, for observers only.
#[expect(clippy::disallowed_methods, reason = "observers compare it with that of other programs")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
