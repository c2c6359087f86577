//! What is logged, which may change while the process runs.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter, span, subscriber::Interest};
use tracing_subscriber::{EnvFilter, Layer, layer::Context};

use super::InitError;

/// What is logged, to be read and changed at run time. Clones change the same.
///
/// ```
/// use gusset_sidecar::telemetry;
///
/// let (dispatch, telemetry) = telemetry::init("orders").build()?;
/// telemetry.filter().set("warn,gusset=debug")?;
/// assert_eq!(telemetry.filter().get(), "warn,gusset=debug");
/// assert!(telemetry.filter().set("orders=loud").is_err());
/// # Ok::<(), telemetry::InitError>(())
/// ```
#[derive(Clone)]
pub struct Filter(Arc<ArcSwap<Rules>>);

struct Rules {
    text: String,
    filter: EnvFilter,
    /// Whether spans matter, which cost a lock whenever one is entered. Only a directive with brackets asks for that.
    spans: bool,
}

impl Filter {
    /// Longest text that is taken, in bytes: enough for a hundred modules.
    pub const MAX_BYTES: usize = 4096;

    pub(super) fn new(directives: &str) -> Result<Self, InitError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Rules::parse(directives)?))))
    }

    /// Logs by these directives from now on, in the syntax of `RUST_LOG`. Spans that are open already stay as they are.
    ///
    /// # Errors
    ///
    /// If they cannot be parsed or are longer than [`Filter::MAX_BYTES`]. Nothing has changed then.
    pub fn set(&self, directives: &str) -> Result<(), InitError> {
        self.0.store(Arc::new(Rules::parse(directives)?));
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// The directives in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.load().text.clone()
    }
}

impl Rules {
    fn parse(directives: &str) -> Result<Self, InitError> {
        if directives.len() > Filter::MAX_BYTES {
            return Err(InitError::new("log filter", "is longer than 4 KiB"));
        }
        let filter =
            EnvFilter::try_new(directives).map_err(|error| InitError::new("log filter", error))?;
        let spans = directives.contains('[');
        Ok(Self { text: directives.to_owned(), filter, spans })
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.0.load().text).finish()
    }
}

/// [`Filter`] as a layer. Not that of `tracing_subscriber::reload`: that has a lock on the path of everything that is logged.
pub(super) struct Filtering(pub(super) Filter);

impl<S: Subscriber> Layer<S> for Filtering {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        Layer::<S>::register_callsite(&self.0.0.load().filter, metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.0.load().filter.max_level_hint()
    }

    fn enabled(&self, metadata: &Metadata<'_>, cx: Context<'_, S>) -> bool {
        self.0.0.load().filter.enabled(metadata, cx)
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, cx: Context<'_, S>) {
        let rules = self.0.0.load();
        if rules.spans {
            rules.filter.on_new_span(attributes, id, cx);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, cx: Context<'_, S>) {
        let rules = self.0.0.load();
        if rules.spans {
            rules.filter.on_record(id, values, cx);
        }
    }

    fn on_enter(&self, id: &span::Id, cx: Context<'_, S>) {
        let rules = self.0.0.load();
        if rules.spans {
            rules.filter.on_enter(id, cx);
        }
    }

    fn on_exit(&self, id: &span::Id, cx: Context<'_, S>) {
        let rules = self.0.0.load();
        if rules.spans {
            rules.filter.on_exit(id, cx);
        }
    }

    fn on_close(&self, id: span::Id, cx: Context<'_, S>) {
        let rules = self.0.0.load();
        if rules.spans {
            rules.filter.on_close(id, cx);
        }
    }
}
