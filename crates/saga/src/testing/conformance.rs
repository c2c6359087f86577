//! What every [`Store`] must do, as tests for any of them.
//!
//! ```
//! use std::sync::Arc;
//!
//! use futures_util::{FutureExt, future::ready};
//! use gusset_saga::{MemoryStore, Store, StoreFuture, testing::conformance};
//!
//! /// One store, of which each call opens another handle.
//! struct Bed(MemoryStore);
//!
//! impl conformance::Bed for Bed {
//!     fn open(&self) -> StoreFuture<'_, Arc<dyn Store>> {
//!         ready(Ok(Arc::new(self.0.clone()) as Arc<dyn Store>)).boxed()
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! conformance::run(async || Bed(MemoryStore::new())).await;
//! # });
//! ```

mod cases;
pub mod events;
mod kit;

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;

use crate::{Store, StoreFuture};

/// One store: where its data is, and how a process gets at it.
pub trait Bed: Send + Sync {
    /// Another handle on the data, with connections of its own, as another node or a later process would have it.
    ///
    /// # Errors
    ///
    /// Any error fails the case.
    fn open(&self) -> StoreFuture<'_, Arc<dyn Store>>;
}

/// One case. It panics when the store does not do what it must.
pub struct Case {
    /// What holds, as a test name.
    pub name: &'static str,
    run: for<'a> fn(&'a dyn Bed) -> LocalBoxFuture<'a, ()>,
}

impl Case {
    /// Runs it on a store that must be empty.
    ///
    /// # Panics
    ///
    /// When the store does not do what it must.
    pub async fn run(&self, bed: &dyn Bed) {
        (self.run)(bed).await;
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

/// All cases.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases::ALL
}

/// Runs all cases, each on a store of its own that `fresh` makes. Says on standard error which one is under way, so that a panic has a name. A store
/// with a clock of its own takes some seconds: leases of a fifth of a second are waited for.
///
/// # Panics
///
/// When the store does not do what it must.
#[expect(clippy::print_stderr, reason = "a test kit tells which case it runs")]
pub async fn run<B: Bed>(mut fresh: impl AsyncFnMut() -> B) {
    for case in cases() {
        eprintln!("store case: {}", case.name);
        case.run(&fresh().await).await;
    }
}
