//! The database is killed, frozen, cut off, full, and read-only.

use std::{error::Error, fmt::Debug, process::Command, sync::Arc, time::Duration};

use gusset_engines::{Faults, Folder, Postgres, Proxy, is_root, run};
use gusset_saga::{PostgresOptions, PostgresStore, Store, StoreError};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    harness::{Server, times},
    orders::{self, Ledger, definition, orchestrator, place},
};

/// All orders come to their end while `trouble` happens, and the ledger balances.
async fn orders_survive(options: PostgresOptions, orders: u32, trouble: impl AsyncFnOnce()) {
    // Makes the tables, for which half a second may be too little here.
    drop(PostgresStore::connect(options.clone()).await.unwrap());
    let store =
        PostgresStore::connect(options.call_within(Duration::from_millis(500))).await.unwrap();
    let ledger = Ledger::here();
    let definition = Arc::new(definition(&ledger));
    let sagas = orchestrator(store.clone());
    sagas.register(&definition).unwrap();
    let _recovery = sagas.spawn_recovery(Duration::from_millis(100));
    let mut all = JoinSet::new();
    for number in 0..orders {
        let (sagas, definition) = (sagas.clone(), definition.clone());
        all.spawn(async move {
            sleep(Duration::from_millis(u64::from(number) * 5)).await;
            place(sagas, definition, number).await;
        });
    }
    trouble().await;
    let ended = async { while all.join_next().await.transpose().unwrap().is_some() {} };
    timeout(Duration::from_secs(120), ended).await.expect("all orders end");
    ledger.balances(orders as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_survive_the_sigkill_of_the_database() {
    let mut server = Server::start();
    let kills = times(2, 20);
    let orders = 150 * kills as u32;
    orders_survive(server.options(), orders, async || {
        for kill in 0..kills {
            sleep(Duration::from_millis(300 + 37 * kill as u64)).await;
            tokio::task::block_in_place(|| server.restart());
        }
    })
    .await;
    let unfinished = server.psql("SELECT count(*) FROM gusset.sagas WHERE finished_at IS NULL");
    assert_eq!(unfinished, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_survive_a_database_that_stands_still_for_longer_than_a_lease() {
    let server = Server::start();
    orders_survive(server.options(), 200, async || {
        sleep(Duration::from_millis(400)).await;
        server.pause();
        sleep(orders::LEASE * 3 / 2).await;
        server.resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_survive_connections_whose_answers_are_lost() {
    let server = Server::start();
    let proxy = Proxy::before(server.port());
    let url = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.port());
    orders_survive(PostgresOptions::new(&url).unwrap(), 200, async || {
        for _ in 0..times(6, 60) {
            sleep(Duration::from_millis(120)).await;
            // What was asked reaches the database, which carries it out; nobody hears of it.
            proxy.set(Faults { mute: true, ..Faults::default() });
            sleep(Duration::from_millis(60)).await;
            proxy.cut();
            sleep(Duration::from_millis(30)).await;
            proxy.mend();
        }
    })
    .await;
}

/// What went wrong, and why.
fn causes(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn fails_as<T: Debug>(answer: Result<T, StoreError>, expected: &str) {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Failed(_)), "{error:?}");
    assert!(causes(&error).contains(expected), "{}", causes(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_says_so_and_orders_go_on_when_it_is_not() {
    let server = Server::start();
    let store = server.store().await;
    let ledger = Ledger::here();
    let definition = Arc::new(definition(&ledger));
    let sagas = orchestrator(store.clone());
    place(sagas.clone(), definition.clone(), 1).await;

    let read_only = |on| {
        server.psql(&format!("ALTER SYSTEM SET default_transaction_read_only = {on}"));
        server.psql("SELECT pg_reload_conf()");
    };
    read_only("on");
    // The setting reaches each session in its own time; this is a write that changes nothing.
    let refused = loop {
        let answer = store.relayed(&[]).await;
        if answer.is_err() {
            break answer;
        }
        sleep(Duration::from_millis(10)).await;
    };
    fails_as(refused, "read-only transaction (25006)");
    let later = {
        let (sagas, definition) = (sagas.clone(), definition.clone());
        tokio::spawn(async move {
            place(sagas.clone(), definition.clone(), 2).await;
            place(sagas, definition, 3).await;
        })
    };
    sleep(Duration::from_millis(300)).await;
    assert!(!later.is_finished(), "what cannot be written is not begun");
    read_only("off");
    timeout(Duration::from_secs(60), later).await.expect("it goes on").unwrap();
    ledger.balances(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_a_free_connection_says_so_and_is_asked_again() {
    let server = Server::start_with(&["max_connections=8", "superuser_reserved_connections=0"]);
    let store = server.store().await;
    let mut others = Vec::new();
    while let Ok((client, link)) =
        tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await
    {
        others.push((client, tokio::spawn(link)));
    }
    let refused = store.now().await;
    fails_as(refused, "(53300)");
    for (client, link) in others {
        drop(client);
        link.await.unwrap().unwrap();
    }
    timeout(Duration::from_secs(10), async {
        while store.now().await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("there is room again");
}

/// A disk of 8 MiB.
struct Disk(Folder);

impl Disk {
    fn new() -> Self {
        let disk = Self(Folder::new("pg-disk"));
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&*disk.0));
        Postgres::give(&disk.0);
        disk
    }

    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[1; 4 << 10]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the database may not have closed its files yet.
        run(Command::new("umount").arg("-l").arg(&*self.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_says_so_and_orders_go_on_when_there_is_room() {
    if !is_root() {
        eprintln!("NOT RUN: only root can mount a small disk");
        return;
    }
    let disk = Disk::new();
    let server = Server::start();
    server.psql(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display()));
    let url = format!("{} options='-c default_tablespace=small'", server.url());
    let store = PostgresStore::connect(PostgresOptions::new(&url).unwrap()).await.unwrap();
    let ledger = Ledger::here();
    let definition = Arc::new(definition(&ledger));
    let sagas = orchestrator(store);
    let _recovery = sagas.spawn_recovery(Duration::from_millis(100));
    disk.fill();
    let mut orders = 0;
    let refused = loop {
        match sagas.start(&definition, orders::id(orders), orders).await {
            Ok(_) => orders += 1,
            Err(error) => break causes(&error),
        }
        assert!(orders < 20_000, "that is more than fits");
    };
    assert!(refused.contains("(53100)"), "{refused}");
    disk.make_room();
    let mut all = JoinSet::new();
    for number in 0..=orders {
        all.spawn(place(sagas.clone(), definition.clone(), number));
    }
    let ended = async { while all.join_next().await.transpose().unwrap().is_some() {} };
    timeout(Duration::from_secs(60), ended).await.expect("they go on");
    ledger.balances(orders as usize + 1);
}
