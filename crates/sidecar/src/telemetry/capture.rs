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

/// Brings events into the ring.
pub(super) struct Capture {
    pub(super) service: Arc<str>,
    pub(super) ring: Arc<LogRing>,
}

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        // Our own are kept, for they only tell of changes.
        if EXPORTS.get() && !event.metadata().target().starts_with("gusset_sidecar") {
            return;
        }
        self.ring.push(Log::new(&self.service, Context::current().trace(), event));
    }
}
