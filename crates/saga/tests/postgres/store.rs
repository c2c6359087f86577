//! What the store does with its tables.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use futures_util::FutureExt;
use gusset_saga::{PostgresOptions, PostgresStore, Store, StoreFuture, testing::conformance};

use crate::harness::Server;

/// A schema of its own in a server for all.
struct Bed(PostgresOptions);

impl conformance::Bed for Bed {
    fn open(&self) -> StoreFuture<'_, Arc<dyn Store>> {
        async {
            let store = PostgresStore::connect(self.0.clone()).await?;
            Ok(Arc::new(store) as Arc<dyn Store>)
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_postgres_store_is_a_store() {
    let server = Server::start();
    let next = AtomicU32::new(0);
    conformance::run(async || {
        let schema = format!("case_{}", next.fetch_add(1, Relaxed));
        Bed(server.options().schema(&schema).unwrap())
    })
    .await;
}
