//! What the store does with its tables.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use gusset_saga::{
    EventLog, EventLogFuture, PostgresOptions, PostgresStore, Query, Store, StoreFuture,
    testing::conformance::{self, events},
};
use tokio::time::timeout;

use crate::{
    harness::Server,
    orders::{Ledger, definition, orchestrator, place},
};

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

impl events::Bed for Bed {
    fn open_log(&self) -> EventLogFuture<'_, Arc<dyn EventLog>> {
        async {
            let store = PostgresStore::connect(self.0.clone()).await?;
            Ok(Arc::new(store) as Arc<dyn EventLog>)
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_postgres_store_is_an_event_log() {
    let server = Server::start();
    let next = AtomicU32::new(0);
    events::run(async || {
        let schema = format!("case_{}", next.fetch_add(1, Relaxed));
        Bed(server.options().schema(&schema).unwrap())
    })
    .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_that_come_first_make_the_tables_once() {
    let server = Server::start();
    let connecting = (0..8).map(|_| PostgresStore::connect(server.options()));
    for store in join_all(connecting).await {
        assert_eq!(store.unwrap().count().await.unwrap(), []);
    }
    assert_eq!(server.psql("SELECT version, compatible FROM gusset.format"), "2|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_later_release_are_refused_unless_they_only_add_something() {
    let server = Server::start();
    let store = server.store().await;
    server.psql("UPDATE gusset.format SET version = 4");
    server.psql("ALTER TABLE gusset.sagas ADD COLUMN colour text DEFAULT 'red'");
    let beside = server.store().await;
    run_one(beside).await;
    server.psql("UPDATE gusset.format SET compatible = 3");
    let refused = PostgresStore::connect(server.options()).await.unwrap_err();
    let text = refused.source().unwrap().to_string();
    let expected =
        "tables of sagas are of format 4, which needs a release that knows 3; this one knows 2";
    assert_eq!(text, expected);
    // One that was there before is refused as soon as it connects again.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
    server.psql(end);
    timeout(Duration::from_secs(10), async {
        while !store
            .count()
            .await
            .is_err_and(|error| error.source().is_some_and(|e| e.to_string() == expected))
        {}
    })
    .await
    .expect("it is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_tables_works_with_those_that_there_are() {
    let server = Server::start();
    server.psql("CREATE ROLE worker LOGIN");
    let as_worker = || {
        let url = server.url().replace("user=postgres", "user=worker");
        PostgresStore::connect(PostgresOptions::new(&url).unwrap())
    };
    let refused = as_worker().await.unwrap_err();
    assert!(refused.source().unwrap().to_string().contains("permission denied"), "{refused:?}");
    drop(server.store().await);
    server.psql(
        "GRANT USAGE ON SCHEMA gusset TO worker; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gusset TO worker",
    );
    run_one(as_worker().await.unwrap()).await;
}

/// A saga of three steps, from its beginning to its end.
async fn run_one(store: PostgresStore) {
    let ledger = Ledger::here();
    place(orchestrator(store), Arc::new(definition(&ledger)), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_saga_that_cannot_be_written_hinders_none_that_is_written_with_it() {
    let server = Server::start();
    let store = server.store().await;
    // Where the journal of order 7 will want to go on, there is something already.
    server.psql("INSERT INTO gusset.journal VALUES ('order-00007', 2, 'no record')");
    let ledger = Ledger::here();
    let definition = Arc::new(definition(&ledger));
    let sagas = orchestrator(store);
    let stuck = tokio::spawn(place(sagas.clone(), definition.clone(), 7));
    let others = (0..200).filter(|number| *number != 7);
    let others = join_all(others.map(|number| place(sagas.clone(), definition.clone(), number)));
    timeout(Duration::from_secs(60), others).await.expect("the others end");
    assert!(!stuck.is_finished());
    server.psql("DELETE FROM gusset.journal WHERE record = 'no record'");
    timeout(Duration::from_secs(60), stuck).await.expect("it goes on").unwrap();
    ledger.balances(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_leave_neither_connections_nor_transactions() {
    let server = Server::start();
    let store = server.store().await;
    let all = Query::all();
    assert_eq!(store.count().await.unwrap(), []);
    for wait in 0..200 {
        let waiting = timeout(Duration::from_micros(wait * 10), async {
            join_all([
                store.count().map(drop).boxed(),
                store.query(&all).map(drop).boxed(),
                store.now().map(drop).boxed(),
            ])
            .await
        });
        drop(waiting.await);
    }
    // The socket may still be full of connections that nobody waits for.
    timeout(Duration::from_secs(10), async { while store.count().await.is_err() {} })
        .await
        .expect("it answers");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let in_use = async || server.psql(sessions).parse::<u32>().unwrap();
    timeout(Duration::from_secs(10), async { while in_use().await > 6 {} })
        .await
        .expect("at most six are left");
    run_one(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_commits_without_waiting_for_its_disk_is_told_to_wait() {
    let server = Server::start_with(&[
        "synchronous_commit=off",
        "log_min_messages=log",
        "log_statement=none",
    ]);
    let store = server.store().await;
    server.psql("CREATE TABLE seen (setting text)");
    server.psql(
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$",
    );
    server.psql(
        "CREATE TRIGGER look AFTER INSERT ON gusset.journal FOR EACH ROW EXECUTE FUNCTION look()",
    );
    run_one(store).await;
    assert_eq!(server.psql("SELECT DISTINCT setting FROM seen"), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_steps_cost_four_commits() {
    let server = Server::start();
    let store = server.store().await;
    run_one(store.clone()).await;
    // The first one reads the clock as well, and makes connections; this is one that only reads.
    let journal = store.load(&crate::orders::id(1)).await.unwrap().unwrap();
    assert_eq!(journal.records.unwrap().len(), 4);
    let transactions = "SELECT count(DISTINCT xmin::text) FROM gusset.journal";
    assert_eq!(server.psql(transactions), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_at_once_is_written_in_few_commits() {
    let server = Server::start();
    let ledger = Ledger::here();
    let (sagas, definition) = (orchestrator(server.store().await), Arc::new(definition(&ledger)));
    join_all((1..=300).map(|number| place(sagas.clone(), definition.clone(), number))).await;
    let counts = server.psql("SELECT count(*), count(DISTINCT xmin::text) FROM gusset.journal");
    let (records, commits) = counts.split_once('|').unwrap();
    let (records, commits): (u32, u32) = (records.parse().unwrap(), commits.parse().unwrap());
    assert!(records >= 1_200 && commits * 3 < records, "{commits} commits for {records} records");
}

#[test]
fn options_are_shown_without_the_password_and_refuse_what_is_no_schema() {
    let options = PostgresOptions::new("postgres://shop:secret@db/orders").unwrap();
    let shown = format!("{options:?}");
    assert!(shown.contains("orders") && !shown.contains("secret"), "{shown}");
    for bad in ["", "a b", "a\"b", "A", &"x".repeat(64)] {
        assert!(options.clone().schema(bad).is_err(), "{bad:?}");
    }
    assert!(PostgresOptions::new("mysql://db").is_err());
}
