//! Sets up what a process tells about itself: logs with trace ids, a store that can be asked for them and, with the feature `otlp`, the export of traces,
//! metrics and logs.
//!
//! ```
//! use gusset_sidecar::{Sidecar, telemetry};
//!
//! let sidecar = Sidecar::new("orders");
//! let telemetry = telemetry::init("orders").sidecar(&sidecar).filter("info,hyper=warn").start()?;
//! tracing::info!(order = 7, "ready");
//!
//! assert_eq!(&*telemetry.store().logs(&telemetry::LogQuery::new())[0].message, "ready");
//! # Ok::<(), telemetry::InitError>(())
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`init`], [`Init`] | what is set up: lines as JSON or for humans, the filter, the export |
//! | [`Telemetry`] | the guard that exports what is left when it is dropped |
//! | [`Filter`] | what is logged, to be changed at run time |
//! | [`Store`], [`StoreService`] | the last logs and finished calls, and the same over HTTP |
//! | `Otlp` (feature `otlp`) | where spans, metrics and logs are exported to |
//! | [`sampling`] | the share of traces that the operator wants |
//!
//! # Spans of handlers
//!
//! With [`Init::sidecar`], a span of `tracing` that the filter lets through, of level INFO or above, is a record below its call when it closes, unless it has a field `span_id` and so is recorded by who opened it: with its name and its fields, in the same trace, also in tasks of
//! [`spawn`](crate::spawn) and in futures that carry their span. It is exported if its trace is sampled, and with a call that failed or was slow if it closed within that. What a handler
//! calls is below the call, beside its spans; logs carry the identifier of the call.
//!
//! # What is bounded
//!
//! | what | bound | beyond it | counted by |
//! |---|---|---|---|
//! | logs that are kept | 10,000, 8 MiB | the oldest goes | [`StoreStats::logs_overwritten`]; before their export `SignalStats::missed` |
//! | one log | 8 KiB of message, 32 fields of 1 KiB | cut, left out | [`Log::dropped_fields`] |
//! | spans of handlers | 64 of a trace, each with 16 fields of 256 bytes | not kept, cut | [`Telemetry::spans_left_out`] |
//! | a batch that is not taken | 1 MiB for each signal, 30 tries | dropped | `SignalStats::dropped` |
//! | an answer of the collector | 64 KiB | the request has failed | `SignalStats::failures` |
//! | text of the filter | 4 KiB | an error | |
//! | followers of the store | 64 | 503 | |

mod init;

mod filter;
mod human;
mod json;

mod capture;
mod handlers;
mod log;
pub(crate) mod store;

#[cfg(feature = "otlp")]
pub(crate) mod otlp;
#[cfg(feature = "otlp")]
mod resource;

mod environment;
mod error;

pub use error::InitError;
pub use filter::Filter;
pub use init::{Init, init};
pub use log::{FieldValue, Log};
#[cfg(feature = "otlp-tls")]
pub use otlp::OtlpTls;
#[cfg(feature = "otlp")]
pub use otlp::{ExportStats, Otlp, SignalStats};
pub use store::{LogQuery, Store, StoreBody, StoreService, StoreStats, TraceQuery, TraceSummary};

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use self::environment::Environment;
use crate::Ratio;

/// The share of new traces that the operator wants sampled, for [`Sidecar::sample`](crate::Sidecar::sample): what `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say; none if
/// they are silent.
///
/// The samplers `parentbased_always_on`, `parentbased_always_off` and `parentbased_traceidratio` are known, and the same without `parentbased_`, which mean the same
/// here: who continues a trace does what its caller decided, so that no trace has holes.
///
/// # Errors
///
/// If the sampler is another one, or the share is none. The error names the variable.
pub fn sampling() -> Result<Option<Ratio>, InitError> {
    Environment::default().sampler()
}

/// The telemetry of a process. Dropping it exports what was recorded until then, for at most the time that `Otlp::flush_within` gives; the logs
/// go on.
///
/// The export has a thread and a runtime of its own, so that it may be dropped in any runtime, on its only worker, and where there is none.
#[derive(Debug)]
#[must_use = "dropping it ends the export"]
pub struct Telemetry {
    filter: Filter,
    store: Store,
    spans_left_out: Arc<AtomicU64>,
    #[cfg(feature = "otlp")]
    exporter: Option<otlp::Exporter>,
}

impl Telemetry {
    /// What is logged, to be changed at run time.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The last logs and finished calls, to be asked.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// How many spans of handlers were not kept, since their trace had 64 in this process already.
    #[must_use]
    pub fn spans_left_out(&self) -> u64 {
        self.spans_left_out.load(Relaxed)
    }

    /// What became of what was recorded; none without export.
    #[cfg(feature = "otlp")]
    #[must_use]
    pub fn export_stats(&self) -> Option<ExportStats> {
        self.exporter.as_ref().map(|exporter| exporter.stats().read())
    }

    /// Exports what was recorded until now, for instance before a process is frozen. True if the collector has all of it, and if nothing is exported.
    ///
    /// It takes as long as the requests that it needs; bound it with a timeout.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not stop the export.
    #[cfg(feature = "otlp")]
    pub async fn flush(&self) -> bool {
        match &self.exporter {
            Some(exporter) => exporter.flush().await,
            None => true,
        }
    }

    /// Ends the export as dropping does, but without blocking a worker of the runtime meanwhile.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not stop the export, which ends in its own time.
    #[cfg(feature = "otlp")]
    pub async fn shutdown(self) {
        // The result only tells of a panic, and there is nothing left to do about one.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}
