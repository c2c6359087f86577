//! A process that runs sagas on SQLite is killed, again and again, and what its participants did always balances.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_saga::{
    Definition, Effect, Options, Orchestrator, Policy, Query, Saga, SagaId, SqliteStore, State,
    StepContext, StepError,
};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::dir::Dir;

const STEPS: [&str; 3] = ["reserve", "pay", "ship"];

/// What the participants did: `+` an action, `-` an undo, each with the saga and step that it was for, on disk before it is answered.
#[derive(Clone)]
struct Ledger(Arc<Mutex<(File, HashSet<String>)>>);

impl Ledger {
    fn open(dir: &Path) -> Self {
        let path = dir.join("ledger");
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = there.lines().map(str::to_owned).collect();
        let file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        Self(Arc::new(Mutex::new((file, lines))))
    }

    /// Once, however often it is asked.
    fn enter(&self, line: String) {
        let mut ledger = self.0.lock().unwrap();
        let (file, lines) = &mut *ledger;
        if !lines.contains(&line) {
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
            file.sync_data().unwrap();
            lines.insert(line);
        }
    }

    fn has(&self, line: &str) -> bool {
        self.0.lock().unwrap().1.contains(line)
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().1.len()
    }
}

/// What becomes of a saga is in its id: one in four is rejected at the end, and of those every other cannot undo its payment.
fn kind(cx: &StepContext) -> u64 {
    let id = cx.saga().as_str();
    id.rsplit('-').next().unwrap().parse::<u64>().unwrap() % 8
}

fn definition(ledger: &Ledger) -> Definition<u32, (String, String, String)> {
    let mut saga = Saga::define("order", 1);
    let quick = Policy::step().backoff(Duration::from_millis(1), Duration::from_millis(10));
    let [a, b, c] = STEPS.map(|step| {
        let (acts, undoes) = (ledger.clone(), ledger.clone());
        let act = move |cx: StepContext, _: u32| {
            let ledger = acts.clone();
            async move {
                let line = format!("{} {}", cx.saga(), cx.step());
                if ledger.has(&format!("-{line}")) {
                    return Err(StepError::rejected("it was undone before"));
                }
                if (cx.step(), kind(&cx) % 4) == ("ship", 3) {
                    return Err(StepError::rejected("no"));
                }
                sleep(Duration::from_millis(1)).await;
                ledger.enter(format!("+{line}"));
                if cx.step() == "pay" && kind(&cx) == 5 && cx.attempt().number() == 1 {
                    return Err(StepError::unknown("the answer was lost"));
                }
                Ok(line)
            }
        };
        let undo = move |cx: StepContext, _: u32, _: Effect<String>| {
            let ledger = undoes.clone();
            async move {
                if (cx.step(), kind(&cx)) == ("pay", 7) {
                    return Err(StepError::rejected("cannot be undone"));
                }
                ledger.enter(format!("-{} {}", cx.saga(), cx.step()));
                Ok(())
            }
        };
        saga.step(step).policy(quick).undo_policy(quick).run(act).undo(undo)
    });
    saga.finish((&a, &b, &c)).unwrap()
}

async fn orchestrator(
    dir: &Path,
    definition: &Definition<u32, (String, String, String)>,
) -> Orchestrator {
    let store = SqliteStore::open(dir.join("sagas.db")).await.unwrap();
    let options = Options::default().lease(Duration::from_secs(1));
    let sagas = Orchestrator::with(Arc::new(store), options);
    sagas.register(definition).unwrap();
    sagas
}

/// Begins `most` sagas, and notes the id of each that was acknowledged.
async fn begin(dir: &Path, round: &str, most: u32) -> (Orchestrator, Ledger) {
    let ledger = Ledger::open(dir);
    let definition = definition(&ledger);
    let sagas = orchestrator(dir, &definition).await;
    let recovery = sagas.spawn_recovery(Duration::from_millis(50));
    let begun = OpenOptions::new().append(true).create(true).open(dir.join("begun"));
    let mut begun = begun.unwrap();
    for n in 0..most {
        let id: SagaId = format!("{round}-{n}").parse().unwrap();
        sagas.start(&definition, id.clone(), n).await.unwrap();
        begun.write_all(format!("{id}\n").as_bytes()).unwrap();
    }
    drop(recovery);
    (sagas, ledger)
}

/// Has all sagas come to an end, and holds what the journals say against what the participants did.
async fn balance(dir: &Path) -> usize {
    let ledger = Ledger::open(dir);
    let definition = definition(&ledger);
    let sagas = orchestrator(dir, &definition).await;
    let recovery = sagas.spawn_recovery(Duration::from_millis(50));
    let patience = Instant::now() + Duration::from_secs(120);
    let ended = |state: State| state.is_final() || state == State::Stuck;
    while !sagas.count().await.unwrap().iter().all(|(state, count)| ended(*state) || *count == 0) {
        assert!(Instant::now() < patience, "not ended: {:?}", sagas.count().await);
        sleep(Duration::from_millis(50)).await;
    }
    drop(recovery);

    let mut listed = HashSet::new();
    let mut query = Query::all().limit(1_000);
    loop {
        let page = sagas.list(&query).await.unwrap();
        let Some(last) = page.last() else { break };
        query = query.after(last.saga.clone());
        for summary in page {
            let saga = summary.saga.to_string();
            for step in STEPS {
                let [done, undone] =
                    ["+", "-"].map(|mark| ledger.has(&format!("{mark}{saga} {step}")));
                let balanced = match summary.state {
                    State::Completed => done && !undone,
                    State::Compensated => !done || undone,
                    State::Stuck => !done || undone || step == "pay",
                    _ => false,
                };
                assert!(balanced, "{saga} {:?}: {step} {done} {undone}", summary.state);
            }
            listed.insert(saga);
        }
    }
    let begun = std::fs::read_to_string(dir.join("begun")).unwrap_or_default();
    for saga in begun.lines() {
        assert!(listed.contains(saga), "{saga} was acknowledged and is gone");
    }
    for line in &ledger.0.lock().unwrap().1 {
        let saga = line[1..].split(' ').next().unwrap();
        assert!(listed.contains(saga), "{line} without a saga");
    }
    ledger.len()
}

const TOLD: &str = "GUSSET_SAGA_KILLED_IN";

/// Without a parent that kills it, it runs to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledgers_balance_when_nothing_is_killed() {
    if let Some(dir) = std::env::var_os(TOLD) {
        let round = format!("r{}", std::process::id());
        let (_sagas, _ledger) = begin(Path::new(&dir), &round, 100_000).await;
        return sleep(Duration::from_secs(60)).await;
    }
    let dir = Dir::new();
    let (sagas, ledger) = begin(dir.path(), "calm", 40).await;
    sagas.shutdown().await;
    drop((sagas, ledger));
    // Of eight orders six are done, one is undone, and one has a payment that cannot be.
    assert_eq!(balance(dir.path()).await, 5 * (6 * 3 + 4 + 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledgers_balance_whenever_the_process_is_killed() {
    let dir = Dir::new();
    let rounds = if std::env::var_os("GUSSET_DEEP").is_some() { 200 } else { 20 };
    for _ in 0..rounds {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "kill::ledgers_balance_when_nothing_is_killed", "--nocapture"]);
        let process = process.env(TOLD, dir.path()).stdout(Stdio::null()).spawn();
        let mut process = process.unwrap();
        let lives = rand::rng().random_range(20..250);
        // From when it has begun something, which takes a busy machine its time.
        let (begun, since) = (dir.path().join("begun"), Instant::now());
        let mark = format!("r{}-", process.id());
        while !std::fs::read_to_string(&begun).unwrap_or_default().contains(&mark) {
            assert!(since.elapsed() < Duration::from_secs(60), "it begins nothing");
            sleep(Duration::from_millis(2)).await;
        }
        sleep(Duration::from_millis(lives)).await;
        assert!(process.try_wait().unwrap().is_none(), "it ended by itself");
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let entries = balance(dir.path()).await;
    assert!(entries > 10 * rounds, "it was killed while it worked: {entries} entries");
}
