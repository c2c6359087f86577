//! A process that emits and relays on SQLite is killed, again and again, and everything that was committed arrives, in order, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_saga::{
    Definition, Event, MessageId, Options, Orchestrator, OutboxRelay, Outgoing, Policy, Query,
    RelayOptions, Saga, SagaId, SqliteStore, State, StepError, Store, StoreError,
};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::dir::Dir;

/// Each attempt of each step emits two messages with a mark of its own, and returns the mark. Two of five attempts fail after that.
fn definition() -> Definition<(), ()> {
    let mut saga = Saga::define("talks", 1);
    let quick = Policy::step().backoff(Duration::ZERO, Duration::from_millis(2)).attempts(50);
    for step in ["a", "b", "c"] {
        saga.step(step)
            .policy(quick)
            .run(|cx, (): ()| async move {
                let mark: u64 = rand::rng().random_range(0..1 << 50);
                for topic in ["one", "two"] {
                    cx.emit(topic, &mark).map_err(StepError::rejected)?;
                }
                match mark % 5 {
                    0 => Err(StepError::transient("not now")),
                    1 => Err(StepError::unknown("the answer was lost")),
                    _ => Ok(mark),
                }
            })
            .no_undo();
    }
    saga.finish(()).unwrap()
}

/// The broker: a file with a line for each message, on disk before it is answered. One of twenty takes the message and says that it did not.
fn relay(store: &SqliteStore, dir: &Path) -> OutboxRelay {
    let file = OpenOptions::new().append(true).create(true).open(dir.join("sent"));
    let file = Arc::new(Mutex::new(file.unwrap()));
    let target = move |message: Outgoing| {
        let line = format!("{} {}\n", message.id, message.message.body.get());
        let file = file.clone();
        async move {
            let wait = Duration::from_millis(rand::rng().random_range(0..3));
            sleep(wait).await;
            let mut file = file.lock().unwrap();
            file.write_all(line.as_bytes()).unwrap();
            file.sync_data().unwrap();
            let lost = rand::rng().random_range(0..20) == 0;
            if lost { Err(StoreError::failed("the answer was lost")) } else { Ok(()) }
        }
    };
    let options = RelayOptions::default().lease(Duration::from_secs(1));
    let options = options.backoff(Duration::from_millis(1), Duration::from_millis(20));
    OutboxRelay::spawn(
        Arc::new(store.clone()),
        target,
        options.look_every(Duration::from_millis(50)),
    )
}

async fn open(dir: &Path) -> (SqliteStore, Orchestrator) {
    let store = SqliteStore::open(dir.join("sagas.db")).await.unwrap();
    let options = Options::default().lease(Duration::from_secs(1));
    let sagas = Orchestrator::with(Arc::new(store.clone()), options);
    sagas.register(&definition()).unwrap();
    (store, sagas)
}

const TOLD: &str = "GUSSET_SAGA_EMITS_IN";

/// Begins sagas until it is killed.
async fn emit(dir: &Path) {
    let (store, sagas) = open(dir).await;
    let _relay = relay(&store, dir);
    let _recovery = sagas.spawn_recovery(Duration::from_millis(50));
    for n in 0.. {
        let id: SagaId = format!("r{}-{n}", std::process::id()).parse().unwrap();
        sagas.start(&definition(), id, ()).await.unwrap();
        if n == 0 {
            std::fs::write(begun(dir, std::process::id()), "").unwrap();
        }
    }
}

/// There when that process has begun something.
fn begun(dir: &Path, process: u32) -> PathBuf {
    dir.join(format!("begun-{process}"))
}

async fn patiently(what: &str, mut there: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(120);
    while !there().await {
        assert!(Instant::now() < patience, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_arrives_whenever_the_process_is_killed() {
    if let Some(dir) = std::env::var_os(TOLD) {
        return emit(Path::new(&dir)).await;
    }
    let dir = Dir::new();
    let rounds = if std::env::var_os("GUSSET_DEEP").is_some() { 200 } else { 20 };
    for _ in 0..rounds {
        let mut process = Command::new(std::env::current_exe().unwrap());
        let name = "outbox::what_was_committed_arrives_whenever_the_process_is_killed";
        process.args(["--exact", name, "--nocapture"]).env(TOLD, dir.path());
        let mut process = process.stdout(Stdio::null()).spawn().unwrap();
        let begun = begun(dir.path(), process.id());
        patiently("it begins something", async || begun.exists()).await;
        sleep(Duration::from_millis(rand::rng().random_range(20..250))).await;
        assert!(process.try_wait().unwrap().is_none(), "it ended by itself");
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let (store, sagas) = open(dir.path()).await;
    let relay = relay(&store, dir.path());
    let _recovery = sagas.spawn_recovery(Duration::from_millis(50));
    patiently("all sagas end", async || {
        let count = sagas.count().await.unwrap();
        count.iter().all(|(state, count)| *state == State::Completed || *count == 0)
    })
    .await;
    patiently("all messages are sent", async || store.pending().await.unwrap().messages == 0).await;
    relay.close().await;

    let committed = committed(&store).await;
    let sent = std::fs::read_to_string(dir.path().join("sent")).unwrap();
    let mut arrived: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for line in sent.lines().filter(|line| known.insert(*line)) {
        arrived.entry(line.split('/').next().unwrap()).or_default().push(line);
    }
    assert!(committed.len() as u32 > rounds, "it was killed while it worked: {}", committed.len());
    for (saga, lines) in &committed {
        assert_eq!(arrived.get(&**saga).unwrap(), lines, "first arrivals of {saga}");
    }
    assert_eq!(arrived.len(), committed.len());
}

/// Of each saga the lines that its journal says must be there, in order.
async fn committed(store: &SqliteStore) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let mut query = Query::all().limit(1_000);
    loop {
        let page = store.query(&query).await.unwrap();
        let Some(last) = page.last() else { return all };
        query = query.after(last.saga.clone());
        for summary in page {
            let saga = summary.saga;
            let records = store.load(&saga).await.unwrap().unwrap().records.unwrap();
            let (mut lines, mut born) = (Vec::new(), 0);
            for record in records {
                match record.event {
                    Event::Started { life, .. } => born = life,
                    Event::Done { output, .. } => lines.extend((0..2).map(|index| {
                        let id = MessageId::new(saga.clone(), record.sequence, index);
                        format!("{} {}", id.of_life(born), output.get())
                    })),
                    _ => {}
                }
            }
            all.insert(saga.to_string(), lines);
        }
    }
}
