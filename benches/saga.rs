//! What does it cost to run three steps as a saga, when the steps themselves do nothing?
//!
//! - `gusset` journals to `MemoryStore`; four records are written. The caller does the work, since nothing waits; there is no task.
//! - `bare` awaits the three steps, with no record and no task.
//! - `steno` runs the same steps as a chain of nodes under its `InMemorySecStore`, with its log discarded and the graph made once for all
//!   sagas. It keeps every finished saga for ever; gusset the last 10,000.
//!
//! `three_steps` is time, `three_steps_cpu` is what of it the processor worked. `two_wide_16_deep` is a ladder: 16 stages of two steps, each of which waits for
//! both of the stage before. What steno pays for it doubles with each stage, so it is run on its own, with few samples. `steps_100` and so on are sequences.
//!
//! With the feature `sqlite`, `three_steps_sqlite` is one caller whose four records go to a disk, and `bare` four commits of one row each by SQLite alone; the two
//! take turns within one run, since a disk has its moods, and how many times longer a saga takes than the commits next to it is printed.
//! `callers_1024_sqlite` is the time of 1,024 sagas that are begun at once.
//!
//! Everything in memory runs on a current-thread runtime, so a switch between tasks is a poll and no wake-up of a thread.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use gusset_saga::{Definition, Finished, MemoryStore, Orchestrator, Saga, StepContext, StepError};
use steno::{
    ActionContext, ActionError, ActionRegistry, DagBuilder, Node, SagaDag, SagaId, SagaName,
    SagaType, SecClient, new_action_noop_undo,
};

const STEPS: [&str; 3] = ["reserve", "pay", "order"];

async fn step(input: u32) -> Result<u32, StepError> {
    Ok(black_box(input))
}

fn definition() -> Definition<u32, u32> {
    let mut saga = Saga::define("bench", 1);
    let act = |_: StepContext, input: u32| step(input);
    let [_, _, last] = STEPS.map(|name| saga.step(name).run(act).no_undo());
    saga.finish(&last).expect("its steps have different names")
}

fn sequence(steps: u32) -> Definition<u32, u32> {
    let mut saga = Saga::define(format!("steps-{steps}"), 1);
    let act = |_: StepContext, input: u32| step(input);
    let mut last = saga.step("0").run(act).no_undo();
    for name in 1..steps {
        last = saga.step(name.to_string()).run(act).no_undo();
    }
    saga.finish(&last).expect("its steps have different names")
}

/// Stages of two steps that wait for both of the stage before.
const DEPTH: u32 = 16;

fn ladder() -> Definition<u32, Vec<u32>> {
    let mut saga = Saga::define("ladder", 1);
    let act = |_: StepContext, input: u32| step(input);
    let mut stage = [0, 1].map(|n| saga.step(format!("0-{n}")).after(()).run(act).no_undo());
    for depth in 1..DEPTH {
        let before = stage;
        stage = [0, 1].map(|n| {
            let step = saga.step(format!("{depth}-{n}")).after((&before[0], &before[1]));
            step.run(act).no_undo()
        });
    }
    saga.finish(&stage[..]).expect("its steps have different names")
}

#[derive(Debug)]
struct Bench;

impl SagaType for Bench {
    type ExecContextType = ();
}

async fn steno_step(cx: ActionContext<Bench>) -> Result<u32, ActionError> {
    Ok(black_box(cx.saga_params()?))
}

fn steno_saga() -> (Arc<SagaDag>, Arc<ActionRegistry<Bench>>) {
    let mut registry = ActionRegistry::new();
    let mut dag = DagBuilder::new(SagaName::new("bench"));
    for name in STEPS {
        let action = new_action_noop_undo(name, steno_step);
        dag.append(Node::action(name, name, action.as_ref()));
        registry.register(action);
    }
    let dag = dag.build().expect("it is a chain");
    (Arc::new(SagaDag::new(dag, serde_json::json!(7))), Arc::new(registry))
}

fn steno_ladder() -> (Arc<SagaDag>, Arc<ActionRegistry<Bench>>) {
    let mut registry = ActionRegistry::new();
    let mut dag = DagBuilder::new(SagaName::new("ladder"));
    let action = new_action_noop_undo("step", steno_step);
    registry.register(action.clone());
    for depth in 0..DEPTH {
        let stage = [0, 1].map(|n| {
            let name = format!("{depth}-{n}");
            Node::action(name.clone(), name, action.as_ref())
        });
        dag.append_parallel(stage.into());
    }
    // A graph of steno ends in one node.
    dag.append(Node::action("order", "order", action.as_ref()));
    let dag = dag.build().expect("its nodes have different names");
    (Arc::new(SagaDag::new(dag, serde_json::json!(7))), Arc::new(registry))
}

async fn run_steno(sec: &SecClient, dag: &Arc<SagaDag>, registry: &Arc<ActionRegistry<Bench>>) {
    let id = SagaId::new_v4();
    let saga = sec.saga_create(id, Arc::new(()), dag.clone(), registry.clone()).await;
    let saga = saga.expect("the store is in memory");
    sec.saga_start(id).await.expect("it was created");
    let done = saga.await.kind.expect("no step fails");
    assert_eq!(done.lookup_node_output::<u32>("order").ok(), Some(7));
}

/// Time that this thread has had a processor for. The system counts it anew each some milliseconds, so it is meant for many sagas.
fn worked() -> Duration {
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = counted.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn saga(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("saga");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("it starts no thread");

    let (definition, sagas) = (definition(), Orchestrator::new(MemoryStore::new()));
    group.bench_function("three_steps/gusset", |bencher| {
        bencher.iter(|| {
            let finished = runtime.block_on(sagas.run(&definition, black_box(7)));
            assert!(matches!(finished, Ok(Finished::Completed(7))));
        });
    });
    group.bench_function("three_steps_cpu/gusset", |bencher| {
        bencher.iter_custom(|sagas_to_run| {
            let before = worked();
            for _ in 0..sagas_to_run {
                let finished = runtime.block_on(sagas.run(&definition, black_box(7)));
                assert!(matches!(finished, Ok(Finished::Completed(7))));
            }
            worked().saturating_sub(before)
        });
    });
    group.bench_function("three_steps/bare", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                for _ in STEPS {
                    assert!(matches!(step(black_box(7)).await, Ok(7)));
                }
            });
        });
    });
    let (dag, registry) = steno_saga();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let sec = runtime.block_on(async { steno::sec(log, Arc::new(steno::InMemorySecStore::new())) });
    group.bench_function("three_steps/steno", |bencher| {
        bencher.iter(|| runtime.block_on(run_steno(&sec, &dag, &registry)));
    });

    group.bench_function("three_steps_cpu/steno", |bencher| {
        bencher.iter_custom(|sagas_to_run| {
            let before = worked();
            for _ in 0..sagas_to_run {
                runtime.block_on(run_steno(&sec, &dag, &registry));
            }
            worked().saturating_sub(before)
        });
    });

    for steps in [100, 1_000, 10_000] {
        let sequence = sequence(steps);
        // Each of the longest takes some megabytes.
        let sagas = Orchestrator::new(MemoryStore::with_limits(10, 10));
        group.bench_function(format!("steps_{steps}/gusset"), |bencher| {
            bencher.iter(|| {
                let finished = runtime.block_on(sagas.run(&sequence, black_box(7)));
                assert!(matches!(finished, Ok(Finished::Completed(7))));
            });
        });
    }

    let ladder = ladder();
    group.bench_function("two_wide_16_deep/gusset", |bencher| {
        bencher.iter(|| {
            let finished = runtime.block_on(sagas.run(&ladder, black_box(7)));
            assert!(matches!(finished, Ok(Finished::Completed(_))));
        });
    });
    let (dag, registry) = steno_ladder();
    group.sample_size(10);
    group.bench_function("two_wide_16_deep/steno", |bencher| {
        bencher.iter(|| runtime.block_on(run_steno(&sec, &dag, &registry)));
    });
    durable(&mut group, &definition);
    group.finish();
}

#[cfg(not(feature = "sqlite"))]
fn durable(_: &mut BenchmarkGroup<'_, WallTime>, _: &Definition<u32, u32>) {}

#[cfg(feature = "sqlite")]
fn durable(group: &mut BenchmarkGroup<'_, WallTime>, definition: &Definition<u32, u32>) {
    use gusset_saga::{Options, SqliteStore};

    /// As the store has it.
    const SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
        CREATE TABLE bare (place INTEGER PRIMARY KEY, record TEXT NOT NULL)";
    /// A record of a step that returns a number has so many bytes.
    const RECORD: usize = 100;

    let folder = std::env::temp_dir().join(format!("gusset-bench-saga-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("there is a disk");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build();
    let runtime = runtime.expect("threads can be begun");
    let store = runtime.block_on(SqliteStore::open(folder.join("sagas.db")));
    let store = Arc::new(store.expect("the file can be made"));
    let sagas = Orchestrator::with(store, Options::default().max_running(1_024));
    group.sample_size(20);
    let bare = rusqlite::Connection::open(folder.join("bare.db")).expect("the file can be made");
    bare.execute_batch(SETTINGS).expect("it is empty");
    let mut insert = bare.prepare("INSERT INTO bare (record) VALUES (?1)").expect("it is SQL");
    let record = "x".repeat(RECORD);
    // One right after the other, so that what others do to the disk is done to both.
    let mut pair = || {
        let begin = std::time::Instant::now();
        let finished = runtime.block_on(sagas.run(definition, black_box(7)));
        assert!(matches!(finished, Ok(Finished::Completed(7))));
        let between = std::time::Instant::now();
        for _ in 0..=STEPS.len() {
            insert.execute([&record]).expect("there is room");
        }
        (between - begin, between.elapsed())
    };
    // A log that grows costs more than one that is written over again, as both are from a thousand pages on.
    for _ in 0..300 {
        pair();
    }
    group.bench_function("three_steps_sqlite/gusset", |bencher| {
        bencher.iter_custom(|sagas| (0..sagas).map(|_| pair().0).sum());
    });
    group.bench_function("three_steps_sqlite/bare", |bencher| {
        bencher.iter_custom(|sagas| (0..sagas).map(|_| pair().1).sum());
    });
    let ratio = |(saga, commits): (Duration, Duration)| saga.as_secs_f64() / commits.as_secs_f64();
    let mut ratios: Vec<f64> = (0..300).map(|_| ratio(pair())).collect();
    ratios.sort_by(f64::total_cmp);
    let [low, half, high] = [1, 2, 3].map(|quarter| ratios[ratios.len() * quarter / 4]);
    eprintln!(
        "saga/three_steps_sqlite: gusset over bare {half:.2}, half of them from {low:.2} to {high:.2}"
    );
    drop(insert);
    group.sample_size(10);
    group.bench_function("callers_1024_sqlite/gusset", |bencher| {
        bencher.iter(|| {
            let all = (0..1_024).map(|_| {
                let (sagas, definition) = (sagas.clone(), definition.clone());
                runtime.spawn(async move { sagas.run(&definition, 7).await.is_ok() })
            });
            for run in all.collect::<Vec<_>>() {
                assert!(runtime.block_on(run).expect("no task panics"));
            }
        });
    });
    drop((sagas, bare));
    runtime.shutdown_timeout(Duration::from_secs(1));
    let _may_be_in_use = std::fs::remove_dir_all(&folder);
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = saga
}
criterion_main!(benches);
