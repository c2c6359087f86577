//! Keeps what is logged for those who ask later: the exporter and the store.

use std::{cell::Cell, sync::Arc};

use gusset_call::Context;
use tracing::{Event, Subscriber};
use tracing_subscriber::{Layer, layer};

use super::log::{Log, LogRing};

thread_local! {
    /// Whether this thread exports. What the HTTP client there logs would be exported, and logged, and exported again.
    static EXPORTS: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one that exports.
#[cfg(feature = "otlp")]
pub(super) fn this_thread_exports() {
    EXPORTS.set(true);
}

/// Whether it is such a one.
pub(super) fn this_thread_is_exporting() -> bool {
    EXPORTS.get()
}

/// Brings events into the ring.
pub(super) struct Capture {
    pub(super) service: Arc<str>,
    pub(super) ring: Arc<LogRing>,
}

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        if self.ring.is_off() {
            return;
        }
        // Our own are kept, for they only tell of changes.
        if this_thread_is_exporting() && !event.metadata().target().starts_with("gusset_sidecar") {
            return;
        }
        self.ring.push(Log::new(&self.service, Context::current().trace(), event));
    }
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// A request to the collector that logs would be exported with the next one, which logs.
    #[test]
    fn what_the_exporter_s_client_logs_is_not_exported() {
        let ring = Arc::new(LogRing::new(10, 1 << 20));
        let capture = Capture { service: "s".into(), ring: ring.clone() };
        let subscriber = tracing_subscriber::registry().with(capture);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "h2", "of the program");
            this_thread_exports();
            tracing::info!(target: "h2", "of the exporter");
            tracing::info!("our own");
        });
        EXPORTS.set(false);
        let kept: Vec<_> =
            ring.before(u64::MAX, 9).iter().map(|log| log.message.to_string()).collect();
        assert_eq!(kept, ["our own", "of the program"]);
    }
}
