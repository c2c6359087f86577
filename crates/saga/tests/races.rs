//! What happens in the moment in which a saga changes hands.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::VecDeque,
    future::{Future, pending, ready},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use gusset_saga::{
    Begin, BoxError, Bundle, Claim, Commit, Definition, Effect, Finished, Journal, Mail,
    MemoryStore, Options, Orchestrator, Outgoing, Pending, Policy, Post, Query, Relay,
    RelayOptions, Relayed, Release, Renewed, Retention, Saga, SagaError, SagaId, State,
    StepContext, StepError, Store, StoreError, StoreFuture, Summary, Wanted,
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

fn id(text: &str) -> SagaId {
    text.parse().unwrap()
}

/// A store whose answer takes a second, after it has done what it was asked, to a claim of what is due and to the append that parks a saga as stuck.
#[derive(Clone, Default)]
struct Late(MemoryStore, Arc<Mood>);

#[derive(Default)]
struct Mood {
    /// It renews no lease.
    deaf: AtomicBool,
    /// So often it does not write down what was relayed.
    refusals: AtomicU32,
    /// How far its clock was set back, in milliseconds.
    behind: AtomicU64,
    /// Purges all that is finished right after it has refused to create a saga that there is.
    purges: AtomicBool,
}

impl Late {
    fn deaf(&self, deaf: bool) {
        self.1.deaf.store(deaf, SeqCst);
    }
}

macro_rules! pass {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        fn $name<'a>(&'a self, $($arg: &'a $type),*) -> StoreFuture<'a, $answer> {
            self.0.$name($($arg),*)
        }
    )*};
}

fn late<T: Send + 'static>(late: bool, answer: StoreFuture<'_, T>) -> StoreFuture<'_, T> {
    async move {
        let answer = answer.await;
        if late {
            sleep(SECOND).await;
        }
        answer
    }
    .boxed()
}

impl Store for Late {
    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        async move {
            let answer = self.0.create(begin).await;
            if answer.is_err() && self.1.purges.load(SeqCst) {
                self.0.purge(&Retention::newest(0)).await?;
            }
            answer
        }
        .boxed()
    }

    pass! {
        load(saga: SagaId) -> Option<Journal>;
        release(release: Release) -> ();
        send(mail: Mail) -> bool;
        query(query: Query) -> Vec<Summary>;
        purge(keep: Retention) -> u64;
        outbox(relay: Relay) -> Vec<Bundle>;
    }

    fn now(&self) -> StoreFuture<'_, u64> {
        let behind = self.1.behind.load(SeqCst);
        self.0.now().map(move |now| now.map(|now| now - behind)).boxed()
    }

    fn relayed<'a>(&'a self, done: &'a [Relayed]) -> StoreFuture<'a, ()> {
        let refuse = |left: u32| left.checked_sub(1);
        if self.1.refusals.fetch_update(SeqCst, SeqCst, refuse).is_ok() {
            return ready(Err(StoreError::failed("not now"))).boxed();
        }
        self.0.relayed(done)
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        late(commit.state == State::Stuck, self.0.append(commit))
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>> {
        late(matches!(claim.wanted, Wanted::Due { .. }), self.0.claim(claim))
    }

    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed> {
        if self.1.deaf.load(SeqCst) { pending().boxed() } else { self.0.renew(held, lease) }
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        self.0.mail(saga, from)
    }

    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>> {
        self.0.count()
    }

    fn pending(&self) -> StoreFuture<'_, Pending> {
        self.0.pending()
    }
}

/// How the attempts go, one after the other; without an end when all are used up.
type Script = Arc<Mutex<VecDeque<Result<u32, StepError>>>>;

async fn follow(script: Script, calls: Arc<AtomicU32>) -> Result<u32, StepError> {
    calls.fetch_add(1, SeqCst);
    let next = script.lock().unwrap().pop_front();
    match next {
        Some(answer) => answer,
        None => pending().await,
    }
}

fn one_step(policy: Policy, script: &Script, calls: &Arc<AtomicU32>) -> Definition<(), u32> {
    let (script, calls) = (script.clone(), calls.clone());
    let mut saga = Saga::define("one", 1);
    let act = move |_: StepContext, ()| follow(script.clone(), calls.clone());
    let undo = |_, (), _: Effect<u32>| async { Ok(()) };
    let step = saga.step("act").policy(policy).run(act).undo(undo);
    saga.finish(&step).unwrap()
}

/// The order is in the mail after the saga was parked, and before its task has gone: neither of them reads it.
#[tokio::test(start_paused = true)]
async fn an_order_to_a_saga_that_gets_stuck_in_this_moment_is_read_without_a_recovery() {
    let script = Script::default();
    let mut saga = Saga::define("stuck", 1);
    saga.step("take").run(|_, (): ()| async { Ok(1) }).undo({
        let script = script.clone();
        move |_, (), _: Effect<i32>| {
            let next = script.lock().unwrap().pop_front();
            async move { next.unwrap().map(drop) }
        }
    });
    saga.step("fail").run(|_, (): ()| async { Err::<(), _>(StepError::rejected("no")) }).no_undo();
    let definition = saga.finish(()).unwrap();
    script.lock().unwrap().extend([Err(StepError::rejected("not now")), Ok(0)]);
    let sagas = Orchestrator::new(Late::default());
    let handle = sagas.start(&definition, id("s-1"), ()).await.unwrap();
    assert_eq!(sagas.report(&id("s-1")).await.unwrap().state, State::Stuck);
    assert_eq!(sagas.stats().running, 1, "it has not heard so yet");
    let retried = timeout(LEASE, sagas.retry(&id("s-1"), "again")).await;
    retried.expect("somebody reads it").unwrap();
    assert_eq!(sagas.settled(&id("s-1")).await.unwrap().state, State::Compensated);
    assert!(matches!(handle.outcome().await.unwrap(), Finished::Stuck { .. }));
}

/// The recovery has claimed it, and finds its place taken by who asks for the same id.
#[tokio::test(start_paused = true)]
async fn a_saga_that_is_asked_for_while_it_is_recovered_is_held_as_long_as_it_runs() {
    let (script, calls) = (Script::default(), Arc::default());
    let policy = Policy::step().timeout(10 * LEASE);
    let definition = one_step(policy, &script, &calls);
    let store = Late::default();
    let dead = Orchestrator::new(store.clone());
    dead.start(&definition, id("s-1"), ()).await.unwrap();
    drop(dead);
    sleep(LEASE + SECOND).await;

    let sagas = Orchestrator::new(store.clone());
    sagas.register(&definition).unwrap();
    let ask = async {
        sleep(SECOND / 2).await;
        sagas.start(&definition, id("s-1"), ()).await.unwrap()
    };
    let (recovered, handle) = tokio::join!(sagas.recover(), ask);
    recovered.unwrap();
    sleep(2 * SECOND).await;
    let node = store.load(&id("s-1")).await.unwrap().unwrap().node;
    assert!(node.is_some(), "nobody else may take what runs here");
    let stolen = Orchestrator::new(store.clone());
    stolen.register(&definition).unwrap();
    assert_eq!(stolen.recover().await.unwrap().resumed, 0);
    let early = timeout(3 * LEASE, handle.outcome()).await;
    assert!(early.is_err(), "it goes on: {early:?}");
    assert_eq!(calls.load(SeqCst), 2, "once by each process");
}

/// Its store was out of reach for longer than the lease. Nobody else took it, so it goes on.
#[tokio::test(start_paused = true)]
async fn a_recovery_takes_nothing_up_that_runs_here_though_its_lease_has_lapsed() {
    let (script, calls) = (Script::default(), Arc::default());
    let definition = one_step(Policy::step().timeout(10 * LEASE), &script, &calls);
    let store = Late::default();
    let sagas = Orchestrator::new(store.clone());
    store.deaf(true);
    let handle = sagas.start(&definition, id("s-1"), ()).await.unwrap();
    sleep(2 * LEASE).await;
    assert_eq!(sagas.recover().await.unwrap().resumed, 0);
    assert_eq!(store.load(&id("s-1")).await.unwrap().unwrap().epoch, 1, "not fenced by ourselves");
    let other = Orchestrator::new(store.clone());
    other.register(&definition).unwrap();
    assert_eq!(other.recover().await.unwrap().resumed, 1, "it was free to be taken");

    // Told so, it drops what it is doing, and does not wait for the write that is refused.
    store.deaf(false);
    let lost = timeout(LEASE, handle.outcome()).await.expect("at the next renewal");
    assert!(matches!(lost, Err(SagaError::Interrupted(_))), "{lost:?}");
}

/// A pause that is long lets go of the saga; whoever takes it up again has been told of the crash, and must not count it once more.
#[tokio::test(start_paused = true)]
async fn a_crash_uses_up_one_attempt_however_often_the_saga_changes_hands_afterwards() {
    for hands in [false, true] {
        let (script, calls) = (Script::default(), Arc::default());
        let policy = Policy::step().attempts(8).timeout(10 * LEASE).backoff(LEASE, LEASE);
        let definition = one_step(policy, &script, &calls);
        let store = MemoryStore::new();
        let dead = Orchestrator::new(store.clone());
        dead.start(&definition, id("s-1"), ()).await.unwrap();
        drop(dead);
        script.lock().unwrap().extend((0..20).map(|_| Err(StepError::transient("busy"))));
        sleep(LEASE + SECOND).await;

        let sagas = Orchestrator::new(store);
        sagas.register(&definition).unwrap();
        let recovery = hands.then(|| sagas.spawn_recovery(SECOND));
        if !hands {
            assert_eq!(sagas.recover().await.unwrap().resumed, 1);
        }
        let report = timeout(100 * LEASE, sagas.settled(&id("s-1"))).await.unwrap().unwrap();
        assert_eq!(report.state, State::Compensated);
        assert_eq!(calls.load(SeqCst), 8, "changes hands: {hands}");
        assert_eq!(report.failure.unwrap().attempts, 8);
        drop(recovery);
    }
}

/// Whoever sends it finds nobody here yet who could be told, and the journal that was claimed is from before.
#[tokio::test(start_paused = true)]
async fn a_signal_between_a_claim_and_its_task_is_read_without_waiting_for_a_renewal() {
    let mut saga = Saga::define("wait", 1);
    let word = saga.step("word").signal::<String>();
    let definition = saga.finish(&word).unwrap();
    let store = Late::default();
    let dead = Orchestrator::new(store.clone());
    dead.start(&definition, id("s-1"), ()).await.unwrap();
    drop(dead);
    sleep(LEASE + SECOND).await;

    let sagas = Orchestrator::new(store);
    sagas.register(&definition).unwrap();
    let begin = Instant::now();
    let signal = async {
        sleep(SECOND / 2).await;
        sagas.signal(&id("s-1"), "word", "1", &"go").await.unwrap()
    };
    let (recovered, new) = tokio::join!(sagas.recover(), signal);
    assert_eq!((recovered.unwrap().resumed, new), (1, true));
    assert_eq!(sagas.settled(&id("s-1")).await.unwrap().state, State::Completed);
    assert!(begin.elapsed() < 3 * SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_saga_whose_namesake_is_purged_while_it_is_started_begins() {
    let (script, calls) = (Script::default(), Arc::default());
    let definition = one_step(Policy::step(), &script, &calls);
    script.lock().unwrap().extend([Ok(1), Ok(2)]);
    let store = Late::default();
    let sagas = Orchestrator::new(store.clone());
    let first = sagas.run_as(&definition, id("s-1"), ()).await.unwrap();
    store.1.purges.store(true, SeqCst);
    let second = sagas.run_as(&definition, id("s-1"), ()).await.unwrap();
    assert_eq!((first.completed(), second.completed()), (Some(1), Some(2)));
}

/// The clock of the machine was wrong, or is now. What counts is the store's.
#[tokio::test(start_paused = true)]
async fn a_timer_under_way_moves_with_the_clock_of_the_store() {
    let mut saga = Saga::define("timer", 1);
    saga.step("pause").timer(4 * SECOND);
    let definition = saga.finish(()).unwrap();
    let store = Late::default();
    let sagas = Orchestrator::new(store.clone());
    let (begin, handle) = (Instant::now(), sagas.start(&definition, id("s-1"), ()).await.unwrap());
    sleep(SECOND).await;
    store.1.behind.store(3_000, SeqCst);
    sagas.recover().await.unwrap();
    handle.outcome().await.unwrap();
    let took = begin.elapsed();
    assert!(took >= 7 * SECOND && took <= 8 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_stops_writes_down_what_it_sent_though_its_store_fails_at_first() {
    let mut saga = Saga::define("tell", 1);
    let tell =
        |cx: StepContext, ()| async move { cx.emit("told", &7).map_err(StepError::rejected) };
    saga.step("tell").run(tell).no_undo();
    let definition = saga.finish(()).unwrap();
    let store = Late::default();
    store.1.refusals.store(3, SeqCst);
    let sagas = Orchestrator::new(store.clone());
    let sent = Arc::new(AtomicU32::new(0));
    let target = {
        let sent = sent.clone();
        move |_: Outgoing| {
            sent.fetch_add(1, SeqCst);
            ready(Ok::<(), BoxError>(()))
        }
    };
    let relay = sagas.spawn_relay(target, RelayOptions::default());
    sagas.run(&definition, ()).await.unwrap();
    while sent.load(SeqCst) == 0 {
        sleep(SECOND / 100).await;
    }
    relay.close().await;
    assert_eq!(store.pending().await.unwrap().messages, 0, "nobody sends it again");
}

type Nested = Pin<Box<dyn Future<Output = Result<u32, StepError>> + Send>>;

fn nest(sagas: Orchestrator) -> Definition<u32, u32> {
    let mut saga = Saga::define("nest", 1);
    let act = move |_: StepContext, depth: u32| -> Nested {
        let sagas = sagas.clone();
        Box::pin(async move {
            let Some(depth) = depth.checked_sub(1) else { return Ok(0) };
            match sagas.run(&nest(sagas.clone()), depth).await {
                Ok(Finished::Completed(below)) => Ok(below + 1),
                other => Err(StepError::rejected(format!("{other:?}"))),
            }
        })
    };
    let done = saga.step("act").run(act).no_undo();
    saga.finish(&done).unwrap()
}

/// Who begins a saga does the work until it first waits; here each begins another one in it.
#[test]
fn sagas_that_begin_sagas_do_not_use_up_the_stack() {
    let deep = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let options = Options::default().max_running(1_000);
            let sagas = Orchestrator::with(Arc::new(MemoryStore::new()), options);
            sagas.run(&nest(sagas.clone()), 500).await.map_err(|error: SagaError| error.to_string())
        })
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(deep).unwrap();
    assert!(matches!(thread.join().unwrap(), Ok(Finished::Completed(500))));
}
