//! Retries, deadlines, traces and metrics as tower layers.

mod sidecar;

#[cfg(feature = "telemetry")]
pub mod telemetry;

mod deadline;
mod metrics;
mod retry;
mod trace;

mod ambient;
mod names;
mod ratio;
mod watched;

pub use ambient::ATTEMPT_HEADER;
pub use deadline::{DeadlineFuture, DeadlineLayer, WithDeadline, timeout::TIMEOUT_HEADER};
pub use gusset_call::DeadlineExceeded;
pub use metrics::{
    Active, ActiveCall, Durations, Measure, MeasureFuture, Metrics, MetricsLayer, Samples,
    SeriesSnapshot, Snapshot, Summary,
};
pub use names::{Route, RouteOf};
pub use ratio::Ratio;
pub use retry::{
    AttemptTimedOut, Backoff, Budget, BudgetStats, Classify, Idempotent, ReplayBody, Retry,
    RetryFuture, RetryLayer, RetryPolicy, RetryStats, Transient, Verdict,
};
pub use sidecar::{InboundLayer, Intercept, OutboundLayer, Sidecar};
pub use trace::{
    ActiveSpan, Cursor, Record, Recorder, RecorderStats, SpanKind, Trace, TraceFuture, TraceLayer,
};
pub use watched::{End, Watched};
