//! `gusset saga` as its operator sees it, beside a program that runs sagas on a real file and on a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    future::pending,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use gusset_engines::{Folder, Postgres};
use gusset_saga::{
    Definition, Effect, Options, Orchestrator, Policy, PostgresOptions, PostgresStore, Recovery,
    Saga, SagaId, SqliteStore, State, StepContext, StepError, Store,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// What becomes of an order is its input.
const FINE: u32 = 0;
const CANNOT_BE_UNDONE: u32 = 1;
const HANGS: u32 = 2;
const PAUSES: u32 = 3;

/// Long enough for a busy machine to do something within a third of it.
const LEASE: Duration = Duration::from_secs(5);

fn order() -> Definition<u32, u64> {
    let mut saga = Saga::define("order", 1);
    let hour = Duration::from_secs(3_600);
    let patient = Policy::step().timeout(hour).backoff(hour, hour);
    let release = |_, input: u32, _: Effect<String>| async move {
        if input == CANNOT_BE_UNDONE {
            return Err(StepError::rejected("the shelf is\ngone"));
        }
        Ok(())
    };
    let reserve = |_: StepContext, _: u32| async { Ok("shelf 7".to_owned()) };
    let stock = saga.step("reserve").run(reserve).undo(release);
    let pay = |cx: StepContext, input: u32, _: String| async move {
        match input {
            CANNOT_BE_UNDONE => Err(StepError::rejected("declined")),
            HANGS => pending().await,
            PAUSES if cx.attempt().number() == 1 => Err(StepError::transient("busy")),
            _ => Ok(7_u64),
        }
    };
    let paid = saga.step("pay").needs(&stock).policy(patient).run(pay).no_undo();
    saga.finish(&paid).unwrap()
}

/// The program whose sagas they are.
struct Program(Orchestrator, #[expect(dead_code, reason = "held for its drop")] Recovery);

impl Program {
    fn start(store: Arc<dyn Store>) -> Self {
        let sagas = Orchestrator::with(store, Options::default().lease(LEASE));
        sagas.register(&order()).unwrap();
        let recovery = sagas.spawn_recovery(Duration::from_millis(100));
        Self(sagas, recovery)
    }

    async fn begin(&self, id: &str, input: u32) {
        self.0.start(&order(), saga(id), input).await.unwrap();
    }

    async fn until(&self, id: &str, what: impl Fn(State, usize) -> bool) {
        let begin = Instant::now();
        loop {
            let history = self.0.history(&saga(id)).await.unwrap();
            let state = self.0.report(&saga(id)).await.unwrap().state;
            if what(state, history.len()) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{id} is {state:?}: {history:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn becomes(&self, id: &str, state: State) {
        self.until(id, |now, _| now == state).await;
    }
}

fn saga(id: &str) -> SagaId {
    id.parse().unwrap()
}

/// The binary, told where the sagas are.
struct Gusset(Vec<String>);

impl Gusset {
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gusset"));
        command.arg("saga").args(args).args(&self.0).env_remove("GUSSET_POSTGRES");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn says(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn refuses(&self, args: &[&str], code: i32, why: &str) {
        let output = self.run(args).await;
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {complaint}");
        assert!(complaint.contains(why), "{args:?}: {complaint}");
    }
}

async fn an_operator_sees_and_mends(store: Arc<dyn Store>, gusset: &Gusset) {
    let program = Program::start(store.clone());
    for n in 0..3 {
        program.begin(&format!("fine-{n}"), FINE).await;
    }
    for (id, input) in [
        ("stuck-1", CANNOT_BE_UNDONE),
        ("stuck-2", CANNOT_BE_UNDONE),
        ("hangs-1", HANGS),
        ("hangs-2", HANGS),
        ("pauses", PAUSES),
    ] {
        program.begin(id, input).await;
    }
    program.becomes("stuck-1", State::Stuck).await;
    program.becomes("stuck-2", State::Stuck).await;
    program.becomes("fine-2", State::Completed).await;
    program.until("hangs-1", |_, records| records == 2).await;

    sees(gusset).await;
    is_told_what_is_wrong(gusset).await;

    // Nobody holds it: it is done when the command is.
    let said = gusset.says(&["skip", "stuck-1", "reserve", "--note", "by hand"]).await;
    assert_eq!(said, "stuck-1 is compensated\n");
    let story = gusset.says(&["show", "stuck-1"]).await;
    assert!(story.contains("skipped      undo of reserve: by hand"), "{story}");
    assert!(story.contains("ordered: skip the undo of reserve (by hand)"), "{story}");

    // The program holds it, and reads its mail within a third of the lease.
    let begin = Instant::now();
    let said = gusset.says(&["supply", "hangs-1", "pay", "9", "--note", "paid in cash"]).await;
    assert_eq!(said, "hangs-1 is completed\n");
    assert!(begin.elapsed() < LEASE, "{:?}", begin.elapsed());
    program.becomes("hangs-1", State::Completed).await;

    // The program waits for it in the store, and goes on in the next round of its recovery.
    program.until("pauses", |_, records| records == 2).await;
    let said = gusset.says(&["retry", "pauses", "--note", "now"]).await;
    assert!(said.starts_with("pauses is running; programs that know order 1 go on"), "{said}");
    let begin = Instant::now();
    program.becomes("pauses", State::Completed).await;
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());

    // As a crash would: what it held is held until its lease lapses.
    drop(program);
    sleep(LEASE).await;
}

async fn sees(gusset: &Gusset) {
    let list = gusset.says(&["list", "--state", "stuck"]).await;
    let rows: Vec<Vec<&str>> = list.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{list}");
    assert_eq!(
        (rows[1][0], rows[1][1], rows[1][2], rows[1][3]),
        ("stuck-1", "stuck", "order", "1")
    );
    assert_eq!(rows[2][0], "stuck-2");

    let mut all = Vec::new();
    // Before all others.
    let mut after = "!".to_owned();
    loop {
        let page = gusset.says(&["list", "--json", "--limit", "3", "--after", &after]).await;
        let page: Vec<Value> =
            page.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let Some(last) = page.last() else { break };
        last["saga"].as_str().unwrap().clone_into(&mut after);
        all.extend(page.iter().map(|saga| saga["saga"].as_str().unwrap().to_owned()));
    }
    let names =
        ["fine-0", "fine-1", "fine-2", "hangs-1", "hangs-2", "pauses", "stuck-1", "stuck-2"];
    assert_eq!(all, names);
    let none = gusset.says(&["list", "--definition", "other", "--json"]).await;
    assert_eq!(none, "");

    let story = gusset.says(&["show", "stuck-1"]).await;
    for line in [
        "state        stuck",
        "turned back  step pay failed after 1 attempt: declined",
        "step         reserve: undo_failed",
        "reserve done: \"shelf 7\"; begins pay",
        "step pay failed after 1 attempt: declined (rejected); begins undo of reserve",
        "undo: step reserve failed after 1 attempt: the shelf is gone (rejected)",
    ] {
        assert!(story.contains(line), "{line} in\n{story}");
    }
    let json: Value =
        serde_json::from_str(&gusset.says(&["show", "stuck-1", "--json"]).await).unwrap();
    assert_eq!(json["report"]["state"], "stuck");
    assert_eq!(json["records"].as_array().unwrap().len(), 4);
    let chart = gusset.says(&["show", "stuck-1", "--mermaid"]).await;
    assert!(chart.starts_with("flowchart TD\n") && chart.contains("undo failed"), "{chart}");
}

async fn is_told_what_is_wrong(gusset: &Gusset) {
    gusset.refuses(&["show", "nobody"], 1, "no saga nobody").await;
    gusset.refuses(&["retry", "nobody"], 1, "no saga nobody").await;
    gusset.refuses(&["skip", "stuck-1", "ship"], 1, "has no such step").await;
    gusset.refuses(&["skip", "stuck-1", "pay"], 1, "has no undo of that step to skip").await;
    gusset.refuses(&["turn-back", "stuck-1"], 1, "has turned back already").await;
    gusset.refuses(&["close", "fine-0"], 1, "has come to its end").await;
    gusset.refuses(&["show", "a b"], 2, "is not a name").await;
}

/// What is left when the program has ended is told at once, and done when it comes back.
async fn orders_wait_for_the_program(store: Arc<dyn Store>, gusset: &Gusset) {
    let said = gusset.says(&["turn-back", "hangs-2", "--note", "too late"]).await;
    assert!(said.starts_with("hangs-2 is turning_back; programs that know order 1"), "{said}");
    assert_eq!(gusset.says(&["close", "stuck-2", "--note", "lost"]).await, "stuck-2 is closed\n");

    let program = Program::start(store);
    program.becomes("hangs-2", State::Compensated).await;
    program.begin("hangs-3", HANGS).await;
    program.until("hangs-3", |_, records| records == 2).await;
    drop(program);
    let said = gusset.says(&["close", "hangs-3", "--wait", "0"]).await;
    assert!(said.starts_with("hangs-3: the order waits for "), "{said}");
    sleep(LEASE).await;
    assert_eq!(gusset.says(&["close", "hangs-3"]).await, "hangs-3 is closed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_in_a_file_are_seen_and_mended_from_a_shell() {
    let folder = Folder::new("cli-saga");
    let file = folder.join("sagas.db");
    let gusset = Gusset(vec!["--sqlite".into(), file.display().to_string()]);
    gusset.refuses(&["list"], 2, "there is no such file of sagas").await;
    assert!(!file.exists(), "it was not made");

    let store = Arc::new(SqliteStore::open(&file).await.unwrap());
    an_operator_sees_and_mends(store.clone(), &gusset).await;
    orders_wait_for_the_program(store, &gusset).await;

    newer(&file, &gusset).await;
}

async fn newer(file: &Path, gusset: &Gusset) {
    let later = file.with_extension("later");
    drop(SqliteStore::open(&later).await.unwrap());
    // What was written last is in the file when the store is closed, which its own thread does.
    let (log, begin) = (file.with_extension("later-wal"), Instant::now());
    while log.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the store is not closed");
        sleep(Duration::from_millis(5)).await;
    }
    // The header of a SQLite file has its user version in four bytes from 60 on.
    let mut bytes = std::fs::read(&later).unwrap();
    bytes[63] = 200;
    std::fs::write(&later, bytes).unwrap();
    let gusset = Gusset(vec![gusset.0[0].clone(), later.display().to_string()]);
    gusset.refuses(&["list"], 2, "file is of format 200, this release knows up to").await;
    std::fs::write(&later, "").unwrap();
    gusset.refuses(&["list"], 2, "there is no such file of sagas").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_in_a_database_are_seen_and_mended_from_a_shell() {
    let server = Postgres::start();
    let gusset = Gusset(vec!["--postgres".into(), server.url()]);
    gusset.refuses(&["list"], 2, "there are no tables of sagas in schema gusset").await;
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'gusset'";
    assert_eq!(server.psql(schemas), "0", "they were not made");

    let store = {
        let options = PostgresOptions::new(&server.url()).unwrap();
        Arc::new(PostgresStore::connect(options).await.unwrap())
    };
    an_operator_sees_and_mends(store.clone(), &gusset).await;
    orders_wait_for_the_program(store, &gusset).await;

    server.psql("UPDATE gusset.format SET version = 200, compatible = 200");
    gusset.refuses(&["list"], 2, "tables of sagas are of format 200").await;
    let tls = Gusset(vec!["--postgres".into(), format!("{} sslmode=require", server.url())]);
    tls.refuses(&["list"], 2, "TLS").await;
}
