//! The attempts of sagas.

use gusset_saga::{Direction, Span, SpanEnd};
use gusset_sidecar::{End, Recorder, SpanKind};

/// A listener for [`Orchestrator::on_span`](gusset_saga::Orchestrator::on_span) that has each attempt at a step, or at its undo, stand in `recorder`, with the saga, the step and
/// the direction as the tags `saga.id`, `saga.step` and `saga.direction` (`act` or `undo`). A console shows them beside the saga.
///
/// ```
/// use gusset::{
///     observe,
///     saga::{MemoryStore, Orchestrator, Saga, StepContext, StepError},
///     sidecar::Recorder,
/// };
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let recorder = Recorder::new("orders");
/// let sagas = Orchestrator::new(MemoryStore::new()).on_span(observe::attempts(&recorder));
/// let mut saga = Saga::define("greet", 1);
/// let said = |_: StepContext, name: String| async move { Ok::<_, StepError>(name) };
/// let said = saga.step("say").run(said).no_undo();
/// let greet = saga.finish(&said).unwrap();
/// sagas.run(&greet, "ann".to_owned()).await.unwrap();
/// assert_eq!(&*recorder.recent(1)[0].name(), "greet say");
/// # });
/// ```
pub fn attempts(recorder: &Recorder) -> impl Fn(Span) + Send + Sync + 'static {
    let recorder = recorder.clone();
    move |span| {
        let name = span.name();
        let mut record = recorder.finished(span.trace, SpanKind::Internal, name, span.duration);
        record.parent_id = span.parent;
        record.attempt = span.attempt.number();
        record.end = match span.end {
            SpanEnd::Complete => End::Complete,
            SpanEnd::Cancelled => End::Cancelled,
            _ => End::Error,
        };
        record.error = span.error.as_deref().map(Into::into);
        let direction = if span.direction == Direction::Undo { "undo" } else { "act" };
        record.tags = vec![
            ("saga.id".into(), span.saga.as_str().to_owned().into()),
            ("saga.step".into(), span.step.to_string().into()),
            ("saga.direction".into(), direction.into()),
        ];
        recorder.record(record);
    }
}
