//! The attempts of a saga are of one trace, whatever is killed.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[allow(dead_code, reason = "shared")]
#[path = "sqlite/dir.rs"]
mod dir;

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs::{File, OpenOptions},
    future::pending,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use dir::Dir;
use gusset_call::{Context, TraceContext};
use gusset_saga::{
    Definition, Effect, Options, Orchestrator, Policy, Saga, SagaId, Span, SqliteStore, State,
    StepContext, StepError,
};
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer, prelude::*};

/// What leaves the process, as an exporter sends it: a line for each span that has ended.
#[derive(Clone)]
struct Exporter(Arc<Mutex<File>>);

impl Exporter {
    fn to(dir: &Path) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(dir.join("spans")).unwrap();
        Self(Arc::new(Mutex::new(file)))
    }

    fn send(&self, line: String) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn span(&self, span: &Span) {
        let (trace, parent) = (span.trace, span.parent.unwrap());
        let (name, end) = (span.name().replace(' ', "_"), format!("{:?}", span.end));
        let (id, attempt, epoch) = (trace.span_id(), span.attempt, span.epoch);
        let trace = trace.trace_id();
        self.send(format!("span {trace} {parent} {id} {name} {attempt} {epoch} {end}"));
    }
}

/// The same for whoever exports the spans of `tracing`.
impl<S: tracing::Subscriber> Layer<S> for Exporter {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::Id,
        _: layer::Context<'_, S>,
    ) {
        struct Trace(Option<String>);
        impl Visit for Trace {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "trace_id" {
                    self.0 = Some(format!("{value:?}"));
                }
            }
        }
        if attributes.metadata().name() == "saga step" {
            let mut trace = Trace(None);
            attributes.record(&mut trace);
            self.send(format!("log {}", trace.0.unwrap()));
        }
    }
}

/// Whether the second step never answers, or says no.
fn order(exporter: &Exporter, hangs: bool) -> Definition<(), ()> {
    let exporter = exporter.clone();
    let tell = move |cx: &StepContext| {
        let inside = Context::current().trace().unwrap();
        exporter.send(format!("inside {} {}", inside.span_id(), cx.step()));
    };
    let (reserves, pays, releases) = (tell.clone(), tell.clone(), tell);
    let quick = Policy::step().backoff(Duration::from_millis(1), Duration::from_millis(1));
    let mut saga = Saga::define("order", 1);
    let reserve = move |cx: StepContext, ()| {
        reserves(&cx);
        async { Ok(()) }
    };
    let release = move |cx: StepContext, (), _: Effect<()>| {
        releases(&cx);
        async { Ok(()) }
    };
    saga.step("reserve").run(reserve).undo(release);
    let pay = move |cx: StepContext, ()| {
        pays(&cx);
        async move {
            match cx.attempt().number() {
                1 => Err(StepError::transient("busy")),
                _ if hangs => pending().await,
                _ => Err::<(), _>(StepError::rejected("no")),
            }
        }
    };
    saga.step("pay").policy(quick).run(pay).no_undo();
    saga.finish(()).unwrap()
}

async fn orchestrator(dir: &Path, exporter: &Exporter) -> Orchestrator {
    let store = SqliteStore::open(dir.join("sagas.db")).await.unwrap();
    let options = Options::default().lease(Duration::from_secs(1));
    let exporter = exporter.clone();
    Orchestrator::with(Arc::new(store), options).on_span(move |span| exporter.span(&span))
}

/// Held by each test: while another thread meets a span without a subscriber, tracing may take it for one that nobody wants.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn id() -> SagaId {
    "s-1".parse().unwrap()
}

const TOLD: &str = "GUSSET_SAGA_TRACED_IN";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn begin_and_hang(dir: &Path) {
    let exporter = Exporter::to(dir);
    let sagas = orchestrator(dir, &exporter).await;
    let trace: TraceContext = PARENT.parse().unwrap();
    let order = order(&exporter, true);
    Context::default().with_trace(trace).scope(sagas.start(&order, id(), ())).await.unwrap();
    sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn attempts_before_and_after_a_kill_are_children_of_one_span() {
    let logs = |dir: &Path| {
        let subscriber = tracing_subscriber::registry().with(Exporter::to(dir));
        tracing::subscriber::set_default(subscriber)
    };
    if let Some(dir) = std::env::var_os(TOLD) {
        let _logs = logs(Path::new(&dir));
        return begin_and_hang(Path::new(&dir)).await;
    }
    let _alone = ALONE.lock().await;
    let dir = Dir::new();
    let told = || std::fs::read_to_string(dir.path().join("spans")).unwrap_or_default();
    let mut process = Command::new(std::env::current_exe().unwrap());
    let name = "attempts_before_and_after_a_kill_are_children_of_one_span";
    process.args(["--exact", name]).env(TOLD, dir.path()).stdout(Stdio::null());
    let mut process = process.spawn().unwrap();
    let begin = Instant::now();
    while told().matches(" pay\n").count() < 2 {
        assert!(begin.elapsed() < Duration::from_secs(30), "{}", told());
        sleep(Duration::from_millis(5)).await;
    }
    process.kill().unwrap();
    process.wait().unwrap();

    let _logs = logs(dir.path());
    let exporter = Exporter::to(dir.path());
    let sagas = orchestrator(dir.path(), &exporter).await;
    sagas.register(&order(&exporter, false)).unwrap();
    let _recovery = sagas.spawn_recovery(Duration::from_millis(50));
    assert_eq!(sagas.settled(&id()).await.unwrap().state, State::Compensated);

    let told = told();
    let lines = |kind: &'static str| {
        told.lines().filter_map(move |line| line.strip_prefix(kind)).map(str::to_owned)
    };
    let spans: Vec<Vec<String>> =
        lines("span ").map(|line| line.split(' ').map(str::to_owned).collect()).collect();
    let stories: Vec<String> = spans.iter().map(|span| span[3..].join(" ")).collect();
    assert_eq!(
        stories,
        [
            "order_reserve 1 1 Complete",
            "order_pay 1 1 Failed(Transient)",
            // One ended with its process, which tells of it no more.
            "order_pay 2 2 Failed(Rejected)",
            "order_reserve_undo 1 2 Complete",
        ],
        "{told}"
    );
    for span in &spans {
        assert_eq!((&*span[0], &*span[1]), (&PARENT[3..35], &PARENT[36..52]), "{told}");
    }
    let ids: BTreeSet<&String> = spans.iter().map(|span| &span[2]).collect();
    assert_eq!(ids.len(), 4, "each has its own");
    // What an action calls is a child of its own span, and what it logs is of the trace.
    let inside: BTreeSet<String> =
        lines("inside ").map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| inside.contains(*id)), "{told}");
    assert_eq!(inside.len(), 5, "of the one that was killed as well");
    assert_eq!(lines("log ").collect::<Vec<_>>(), vec![PARENT[3..35].to_owned(); 5]);
}

/// Without a span that somebody records there still is one trace.
#[tokio::test(start_paused = true)]
async fn a_saga_that_nobody_traces_has_a_trace_of_its_own_for_who_listens() {
    let _alone = ALONE.lock().await;
    let (spans, ended) = std::sync::mpsc::channel();
    let store = gusset_saga::MemoryStore::new();
    let sagas = Orchestrator::new(store).on_span(move |span| drop(spans.send(span)));
    let mut saga = Saga::define("two", 1);
    saga.step("fine").run(|_, (): ()| async { Ok(()) }).no_undo();
    let minute = Duration::from_secs(60);
    let hour = Duration::from_secs(3_600);
    let silent = Policy::step().attempts(1).timeout(hour);
    let hangs = |_, (): ()| pending::<Result<(), StepError>>();
    saga.step("silent").policy(silent).run(hangs).no_undo();
    let panics = move |_, (): ()| async move {
        sleep(minute).await;
        if true { panic!("boo") } else { Ok(()) }
    };
    saga.step("panics").after(()).policy(silent).run(panics).no_undo();
    sagas.run(&saga.finish(()).unwrap(), ()).await.unwrap();
    let spans: Vec<Span> = ended.try_iter().collect();
    let ends: Vec<String> =
        spans.iter().map(|span| format!("{} {:?}", span.step, span.end)).collect();
    assert_eq!(spans.len(), 3, "{ends:?}");
    assert!(ends.contains(&"silent Failed(Unknown)".to_owned()), "{ends:?}");
    assert!(ends.contains(&"panics Failed(Unknown)".to_owned()), "{ends:?}");
    let traces: BTreeSet<_> = spans.iter().map(|span| span.trace.trace_id()).collect();
    assert_eq!(traces.len(), 1);
    let slow = spans.iter().find(|span| &*span.step == "silent").unwrap();
    assert_eq!(slow.duration, hour);
}
