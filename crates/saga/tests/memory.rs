//! The memory store does what every store must.

#![cfg(feature = "testing")]

use std::sync::Arc;

use futures_util::{FutureExt, future::ready};
use gusset_saga::{MemoryStore, Store, StoreFuture, testing::conformance};

struct Bed(MemoryStore);

impl conformance::Bed for Bed {
    fn open(&self) -> StoreFuture<'_, Arc<dyn Store>> {
        ready(Ok(Arc::new(self.0.clone()) as Arc<dyn Store>)).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_is_a_store() {
    conformance::run(async || Bed(MemoryStore::new())).await;
}
