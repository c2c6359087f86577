//! What operators do to the sagas of programs that they see the store of, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_saga::{
    Definition, Effect, MemoryStore, Operator, Options, Orchestrator, Order, Ordered, Policy, Saga,
    SagaError, SagaId, State, StepContext, StepError, Store,
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

fn id(text: &str) -> SagaId {
    text.parse().unwrap()
}

/// How the attempts at the one step go, whichever process makes them.
#[derive(Clone, Default)]
struct Bank(Arc<AtomicU32>);

const BUSY: u32 = 0;
const SILENT: u32 = 1;
const NO: u32 = 2;
const FINE: u32 = 3;

impl Bank {
    fn set(&self, mood: u32) {
        self.0.store(mood, SeqCst);
    }

    async fn pay(self) -> Result<u32, StepError> {
        match self.0.load(SeqCst) {
            BUSY => Err(StepError::transient("busy")),
            SILENT => pending().await,
            NO => Err(StepError::rejected("no")),
            _ => Ok(7),
        }
    }

    /// `undone` counts undos of what may have happened.
    fn payment(&self, undone: &Arc<AtomicU32>) -> Definition<(), u32> {
        let (bank, undone) = (self.clone(), undone.clone());
        let mut saga = Saga::define("payment", 1);
        // Pauses are random up to their bound; hardly one in a million is so short that the saga is not let go of.
        let patient =
            Policy::step().timeout(1_000 * LEASE).backoff(5_000_000 * SECOND, 5_000_000 * SECOND);
        let pay = move |_: StepContext, ()| bank.clone().pay();
        let undo = move |_, (), effect: Effect<u32>| {
            undone.fetch_add(u32::from(effect == Effect::Unknown), SeqCst);
            async { Ok(()) }
        };
        let paid = saga.step("pay").policy(patient).run(pay).undo(undo);
        saga.finish(&paid).unwrap()
    }
}

fn journaled(ordered: Result<Ordered, SagaError>) -> State {
    match ordered.unwrap() {
        Ordered::Journaled(report) => report.state,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_to_a_saga_that_nobody_holds_is_in_its_journal_at_once() {
    let (store, bank, undone) = (MemoryStore::new(), Bank::default(), Arc::default());
    let payment = bank.payment(&undone);
    let sagas = Orchestrator::new(store.clone());
    let recovery = sagas.spawn_recovery(SECOND);
    sagas.start(&payment, id("s-1"), ()).await.unwrap();
    sleep(SECOND).await;
    let operator = Operator::new(Arc::new(store.clone()));
    let held = store.load(&id("s-1")).await.unwrap().unwrap().node;
    assert_eq!(held, None, "it pauses for long");

    bank.set(FINE);
    let begin = Instant::now();
    let state = journaled(operator.order(&id("s-1"), Order::Retry, "now", LEASE).await);
    assert_eq!((state, begin.elapsed()), (State::Running, Duration::ZERO));
    let report = sagas.settled(&id("s-1")).await.unwrap();
    assert_eq!(report.state, State::Completed);
    assert!(begin.elapsed() <= 2 * SECOND, "in the next round: {:?}", begin.elapsed());
    let late = operator.order(&id("s-1"), Order::Close, "", LEASE).await;
    assert!(matches!(late, Err(SagaError::Refused { .. })), "{late:?}");
    let nobody = operator.order(&id("s-2"), Order::Close, "", LEASE).await;
    assert!(matches!(nobody, Err(SagaError::NoSuchSaga(_))), "{nobody:?}");
    drop(recovery);
}

#[tokio::test(start_paused = true)]
async fn who_holds_a_saga_reads_an_order_within_a_third_of_the_lease() {
    let (store, bank, undone) = (MemoryStore::new(), Bank::default(), Arc::default());
    bank.set(SILENT);
    let sagas = Orchestrator::new(store.clone());
    sagas.start(&bank.payment(&undone), id("s-1"), ()).await.unwrap();
    sleep(SECOND).await;
    let operator = Operator::new(Arc::new(store));
    let begin = Instant::now();
    let output = gusset_saga::Json::encode(&8).unwrap();
    let supply = Order::Supply { step: "pay".into(), output };
    let ordered = operator.order(&id("s-1"), supply, "in cash", LEASE).await;
    assert_eq!(journaled(ordered), State::Completed);
    assert!(begin.elapsed() <= LEASE / 3 + SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_order_that_nobody_reads_in_time_stands() {
    let (store, bank, undone) = (MemoryStore::new(), Bank::default(), Arc::default());
    bank.set(SILENT);
    let payment = bank.payment(&undone);
    let sagas = Orchestrator::new(store.clone());
    sagas.start(&payment, id("s-1"), ()).await.unwrap();
    sleep(SECOND).await;
    drop(sagas);
    let operator = Operator::new(Arc::new(store.clone()));
    let ordered = operator.order(&id("s-1"), Order::TurnBack, "too late", SECOND).await;
    assert!(matches!(ordered, Ok(Ordered::Waiting { .. })), "{ordered:?}");
    sleep(LEASE).await;
    let next = Orchestrator::new(store);
    next.register(&payment).unwrap();
    next.recover().await.unwrap();
    assert_eq!(next.settled(&id("s-1")).await.unwrap().state, State::Compensated);
    assert_eq!(undone.load(SeqCst), 1, "it may have happened");
}

/// One attempt without an effect, which is noted; then one of which nobody knows, by a process that is gone.
async fn left_in_the_dark(store: &MemoryStore, bank: &Bank, payment: &Definition<(), u32>) {
    let first = Orchestrator::new(store.clone());
    first.start(payment, id("s-1"), ()).await.unwrap();
    sleep(SECOND).await;
    first.shutdown().await;
    bank.set(SILENT);
    let second = Orchestrator::new(store.clone());
    second.register(payment).unwrap();
    assert_eq!(second.recover().await.unwrap().resumed, 1);
    sleep(SECOND).await;
    drop(second);
    sleep(2 * LEASE).await;
}

async fn knows_that_it_may_have_happened(store: &MemoryStore, payment: &Definition<(), u32>) {
    let last = Orchestrator::new(store.clone());
    last.register(payment).unwrap();
    sleep(LEASE).await;
    last.recover().await.unwrap();
    let report = last.settled(&id("s-1")).await.unwrap();
    assert_eq!(report.state, State::Compensated);
    assert!(report.failure.unwrap().attempts >= 3, "all of them are counted");
}

#[tokio::test(start_paused = true)]
async fn what_may_have_happened_is_not_forgotten_by_who_cannot_carry_it_on() {
    let (store, bank, undone) = (MemoryStore::new(), Bank::default(), Arc::default());
    let payment = bank.payment(&undone);
    left_in_the_dark(&store, &bank, &payment).await;
    let stranger = Orchestrator::new(store.clone());
    assert_eq!(stranger.recover().await.unwrap().blocked, 1);
    bank.set(NO);
    knows_that_it_may_have_happened(&store, &payment).await;
    assert_eq!(undone.load(SeqCst), 1, "undone, since nobody knows");
}

#[tokio::test(start_paused = true)]
async fn what_may_have_happened_is_not_forgotten_by_an_order() {
    let (store, bank, undone) = (MemoryStore::new(), Bank::default(), Arc::default());
    let payment = bank.payment(&undone);
    left_in_the_dark(&store, &bank, &payment).await;
    let operator = Operator::new(Arc::new(store.clone()));
    journaled(operator.order(&id("s-1"), Order::Retry, "", LEASE).await);
    bank.set(NO);
    knows_that_it_may_have_happened(&store, &payment).await;
    assert_eq!(undone.load(SeqCst), 1, "undone, since nobody knows");
}

#[tokio::test(start_paused = true)]
async fn blocked_sagas_with_mail_do_not_keep_a_recovery_for_ever() {
    let store = MemoryStore::new();
    let waits = |further: bool| -> Definition<(), ()> {
        let mut saga = Saga::define("waits", 1);
        saga.step("go").signal::<u32>();
        if further {
            saga.step("further").timer(SECOND);
        }
        saga.finish(()).unwrap()
    };
    let first = Orchestrator::new(store.clone());
    for n in 0..3 {
        first.start(&waits(false), id(&format!("s-{n}")), ()).await.unwrap();
    }
    first.shutdown().await;
    // By mistake it has other steps under the same version.
    let next = Orchestrator::with(Arc::new(store), Options::default().max_running(1));
    next.register(&waits(true)).unwrap();
    for n in 0..3 {
        next.signal(&id(&format!("s-{n}")), "go", "key", &7).await.unwrap();
    }
    for _ in 0..2 {
        let found = timeout(SECOND, next.recover()).await.expect("it comes to an end").unwrap();
        assert_eq!(found.blocked, 3);
    }
}
