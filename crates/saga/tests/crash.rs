//! Every write to the journal goes wrong in every way, under every outcome of every step.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_saga::{
    Definition, Effect, MemoryStore, Options, Orchestrator, Policy, Query, Report, Saga, SagaError,
    SagaId, State, StepContext, StepError, StepState, Store,
    testing::{Fault, FaultyStore},
};
use tokio::time::sleep;

/// How a step's action goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Done,
    TransientOnce,
    /// The effect is there, the answer is lost.
    UnknownOnce,
    PanicOnce,
    HangOnce,
    /// Done, but whoever asks again finds the service down.
    DoneThenTransient,
    Rejected,
    TransientAlways,
    UnknownAlways,
    PanicAlways,
    /// Hangs before its effect, each time.
    HangAlways,
}

const GOING_ON: [Act; 6] = [
    Act::Done,
    Act::TransientOnce,
    Act::UnknownOnce,
    Act::PanicOnce,
    Act::HangOnce,
    Act::DoneThenTransient,
];
const TURNING_BACK: [Act; 5] =
    [Act::Rejected, Act::TransientAlways, Act::UnknownAlways, Act::PanicAlways, Act::HangAlways];

/// How a step's undo goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undo {
    Done,
    /// Carried out, the answer is lost.
    UnknownOnce,
    PanicOnce,
    Fails,
}

const UNDOS: [[Undo; 3]; 4] = [
    [Undo::Done; 3],
    [Undo::UnknownOnce, Undo::PanicOnce, Undo::UnknownOnce],
    [Undo::Done, Undo::Fails, Undo::PanicOnce],
    [Undo::Fails, Undo::Done, Undo::Fails],
];

#[derive(Clone, Copy, Debug)]
struct Script {
    acts: [Act; 3],
    undos: [Undo; 3],
}

const STEPS: [&str; 3] = ["reserve", "pay", "ship"];

/// What the participants of the saga see. Idempotent under the keys, as participants must be.
#[derive(Default)]
struct Ledger {
    entries: HashMap<String, Entry>,
    wrong: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    calls: u32,
    effect: bool,
    undo_calls: u32,
    undone: bool,
}

#[derive(Clone, Default)]
struct Participants(Arc<Mutex<Ledger>>);

impl Participants {
    fn with<T>(&self, what: impl FnOnce(&mut Ledger) -> T) -> T {
        what(&mut self.0.lock().unwrap())
    }

    async fn act(self, act: Act, cx: StepContext) -> Result<String, StepError> {
        let key = cx.idempotency_key();
        let calls = self.with(|ledger| {
            let entry = ledger.entries.entry(cx.step().to_owned()).or_default();
            entry.calls += 1;
            if entry.undo_calls > 0 {
                ledger.wrong.push(format!("{key} after its undo"));
            }
            ledger.entries[cx.step()].calls
        });
        let take_effect = || {
            self.with(|ledger| ledger.entries.get_mut(cx.step()).unwrap().effect = true);
        };
        match (act, calls) {
            (Act::Rejected, _) => return Err(StepError::rejected("no")),
            (Act::TransientOnce, 1) | (Act::TransientAlways, _) | (Act::DoneThenTransient, 2..) => {
                return Err(StepError::transient("later"));
            }
            (Act::HangAlways, _) => pending().await,
            (Act::UnknownOnce, 1) | (Act::UnknownAlways, _) => {
                take_effect();
                return Err(StepError::unknown("lost"));
            }
            (Act::PanicOnce, 1) | (Act::PanicAlways, _) => {
                take_effect();
                panic_quietly()
            }
            (Act::HangOnce, 1) => {
                take_effect();
                pending().await
            }
            _ => take_effect(),
        }
        Ok(key)
    }

    async fn undo(
        self,
        undo: Undo,
        cx: StepContext,
        effect: Effect<String>,
    ) -> Result<(), StepError> {
        let calls = self.with(|ledger| {
            let entry = ledger.entries.entry(cx.step().to_owned()).or_default();
            entry.undo_calls += 1;
            let entry = *entry;
            if entry.calls == 0 {
                ledger.wrong.push(format!("{} was undone, but never done", cx.step()));
            }
            if !(matches!(effect, Effect::Unknown) || effect == Effect::Known(cx.action_key())) {
                ledger.wrong.push(format!("{} was undone with {effect:?}", cx.step()));
            }
            entry.undo_calls
        });
        let take_effect = || {
            self.with(|ledger| ledger.entries.get_mut(cx.step()).unwrap().undone = true);
        };
        match (undo, calls) {
            (Undo::Fails, _) => return Err(StepError::rejected("cannot be undone")),
            (Undo::UnknownOnce, 1) => {
                take_effect();
                return Err(StepError::unknown("lost"));
            }
            (Undo::PanicOnce, 1) => panic_quietly(),
            _ => take_effect(),
        }
        Ok(())
    }
}

/// Without the hook that prints: thousands of them are meant.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("bug"))
}

fn definition(script: Script, participants: &Participants) -> Definition<(), ()> {
    let quick = Policy::step()
        .timeout(Duration::from_secs(1))
        .attempts(2)
        .backoff(Duration::from_millis(10), Duration::from_millis(10));
    let mut saga = Saga::define("order", 1);
    for (place, name) in STEPS.into_iter().enumerate() {
        let (acting, undoing) = (participants.clone(), participants.clone());
        let (act, undo) = (script.acts[place], script.undos[place]);
        saga.step(name)
            .policy(quick)
            .undo_policy(quick.attempts(3))
            .run(move |cx, (): ()| acting.clone().act(act, cx))
            .undo(move |cx, (), effect| undoing.clone().undo(undo, cx, effect));
    }
    saga.finish(()).unwrap()
}

fn scripts() -> Vec<Script> {
    let mut acts = Vec::new();
    for one in TURNING_BACK {
        acts.push([one, Act::Done, Act::Done]);
    }
    for one in GOING_ON {
        for two in TURNING_BACK {
            acts.push([one, two, Act::Done]);
        }
        for two in GOING_ON {
            acts.extend(TURNING_BACK.into_iter().chain(GOING_ON).map(|three| [one, two, three]));
        }
    }
    let goes_back = |acts: &[Act; 3]| {
        acts.iter().any(|act| *act == Act::DoneThenTransient || TURNING_BACK.contains(act))
    };
    let with_undos = |acts: [Act; 3]| {
        let undos = if goes_back(&acts) { &UNDOS[..] } else { &UNDOS[..1] };
        undos.iter().map(move |&undos| Script { acts, undos })
    };
    acts.into_iter().flat_map(with_undos).collect()
}

const LEASE: Duration = Duration::from_secs(30);

fn orchestrator(store: impl Store, definition: &Definition<(), ()>) -> Orchestrator {
    // A frozen write must stay frozen.
    let options = Options::default().lease(LEASE).store_timeout(Duration::from_secs(86_400));
    let sagas = Orchestrator::with(Arc::new(store), options);
    sagas.register(definition).unwrap();
    sagas
}

/// Recovers what another process left, and waits for it to settle.
async fn settle(sagas: &Orchestrator, saga: &SagaId) -> Option<Report> {
    sleep(LEASE * 2).await;
    sagas.recover().await.unwrap();
    loop {
        match sagas.report(saga).await {
            Ok(report) if report.state.is_final() || report.state == State::Stuck => {
                return Some(report);
            }
            Ok(_) => sleep(Duration::from_secs(1)).await,
            Err(SagaError::NoSuchSaga(_)) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// One story: a participant ledger, a journal, and one process after another.
struct Stage {
    participants: Participants,
    definition: Definition<(), ()>,
    saga: SagaId,
    memory: MemoryStore,
}

impl Stage {
    fn new(script: Script) -> Self {
        let participants = Participants::default();
        let definition = definition(script, &participants);
        let saga = "order-1".parse().unwrap();
        Self { participants, definition, saga, memory: MemoryStore::new() }
    }

    fn orchestrator(&self) -> Orchestrator {
        orchestrator(self.memory.clone(), &self.definition)
    }

    /// A process whose store fails; whether it came to that.
    async fn life(&self, write: u64, fault: Fault, recovering: bool) -> bool {
        let (faulty, sagas) = self.faulty(write, fault);
        let run = async {
            if recovering {
                settle(&sagas, &self.saga).await;
            } else {
                let _ = sagas.run_as(&self.definition, self.saga.clone(), ()).await;
            }
        };
        tokio::select! {
            biased;
            () = faulty.hit() => true,
            () = run => false,
        }
    }

    fn faulty(&self, write: u64, fault: Fault) -> (FaultyStore, Orchestrator) {
        let faulty = FaultyStore::failing_at(Arc::new(self.memory.clone()), write, fault);
        (faulty.clone(), orchestrator(faulty, &self.definition))
    }

    async fn settled(&self) -> Option<Report> {
        settle(&self.orchestrator(), &self.saga).await
    }

    /// Where nothing crashed, the journal knows better than to undo what was declined.
    fn no_undo_without_a_possible_effect(&self, script: Script) {
        for (act, step) in script.acts.into_iter().zip(STEPS) {
            let entry = self.participants.with(|ledger| ledger.entries.get(step).copied());
            if matches!(act, Act::Rejected | Act::TransientAlways) {
                assert_eq!(entry.map_or(0, |entry| entry.undo_calls), 0, "{step}");
            }
        }
    }

    async fn check(&self, report: Option<Report>, never_begun: bool) {
        check(&self.orchestrator(), &self.participants, report, never_begun).await;
    }
}

/// Plays a script with a fault at one write, and whatever it takes after it. `None` when there are fewer writes than that.
async fn play(script: Script, write: u64, fault: Fault) -> Option<()> {
    let stage = Stage::new(script);
    let never_begun = fault == Fault::CrashBefore && write == 1;
    match fault {
        Fault::CrashBefore | Fault::CrashAfter => {
            stage.life(write, fault, false).await.then_some(())?;
            stage.check(stage.settled().await, never_begun).await;
        }
        Fault::Freeze => {
            let (faulty, sagas) = stage.faulty(write, fault);
            let mut run = Box::pin(sagas.run_as(&stage.definition, stage.saga.clone(), ()));
            tokio::select! {
                biased;
                () = faulty.hit() => {}
                _ = &mut run => return None,
            }
            let report = stage.settled().await;
            faulty.thaw();
            assert_eq!(run.await.is_err(), report.is_some(), "the zombie was fenced");
            stage.check(stage.settled().await, never_begun).await;
        }
        Fault::Panic => panic!("it has a test of its own"),
        Fault::FailBefore | Fault::FailAfter => {
            let (faulty, sagas) = stage.faulty(write, fault);
            sagas.run_as(&stage.definition, stage.saga.clone(), ()).await.unwrap();
            (faulty.writes() >= write).then_some(())?;
            stage.check(sagas.report(&stage.saga).await.ok(), false).await;
            // A journal that was found instead of created may have been found by someone before.
            if (write, fault) != (1, Fault::FailAfter) {
                stage.no_undo_without_a_possible_effect(script);
            }
        }
    }
    Some(())
}

/// The process that recovers crashes as well.
async fn play_twice(script: Script, writes: (u64, u64), fault: Fault) -> Option<()> {
    let stage = Stage::new(script);
    stage.life(writes.0, fault, false).await.then_some(())?;
    stage.life(writes.1, fault, true).await.then_some(())?;
    stage.check(stage.settled().await, writes.0 == 1).await;
    Some(())
}

async fn check(
    sagas: &Orchestrator,
    participants: &Participants,
    report: Option<Report>,
    never_begun: bool,
) {
    let (entries, wrong) =
        participants.with(|ledger| (ledger.entries.clone(), std::mem::take(&mut ledger.wrong)));
    assert_eq!(wrong, Vec::<String>::new());
    let Some(report) = report else {
        assert!(never_begun && entries.is_empty(), "a lost saga has no effects: {entries:?}");
        return;
    };
    for step in &report.steps {
        let entry = entries.get(&*step.name).copied().unwrap_or_default();
        match report.state {
            State::Completed => assert!(entry.effect && entry.undo_calls == 0, "{entry:?}"),
            State::Compensated => assert!(!entry.effect || entry.undone, "{step:?} {entry:?}"),
            State::Stuck => assert!(
                !entry.effect || entry.undone || step.state == StepState::UndoFailed,
                "{step:?} {entry:?}"
            ),
            other => panic!("not settled: {other:?}"),
        }
    }
    let listed = sagas.list(&Query::in_state(report.state)).await.unwrap();
    assert_eq!(listed.len(), 1);
    if report.state == State::Stuck {
        let failed = report.steps.iter().filter(|step| step.state == StepState::UndoFailed).count();
        assert!(failed > 0 && report.undo_failures.len() >= failed && report.failure.is_some());
    }
}

fn every_write_goes_wrong(fault: Fault) {
    let mut played = 0;
    for script in scripts() {
        for write in 1.. {
            match tell(play(script, write, fault)) {
                Ok(Some(())) => played += 1,
                Ok(None) => break,
                Err(_) => panic!("{script:?}, write {write}, {fault:?}"),
            }
        }
    }
    assert!(played > 4_000, "only {played} stories");
}

fn tell(story: impl Future<Output = Option<()>>) -> std::thread::Result<Option<()>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(story)))
}

#[test]
fn a_crash_of_the_recovery_changes_nothing_either() {
    let mut played = 0;
    for script in scripts().into_iter().filter(|script| script.undos == UNDOS[1]) {
        for first in 1.. {
            let mut any = false;
            for second in 1.. {
                // A recovery that crashes before its write at once leaves what it found.
                let fault = if second % 2 == 0 { Fault::CrashBefore } else { Fault::CrashAfter };
                match tell(play_twice(script, (first, second), fault)) {
                    Ok(Some(())) => (any, played) = (true, played + 1),
                    Ok(None) => break,
                    Err(_) => panic!("{script:?}, writes {first} and {second}"),
                }
            }
            if !any {
                break;
            }
        }
    }
    assert!(played > 3_000, "only {played} stories");
}

#[test]
fn a_crash_before_any_write_leaves_all_done_or_all_undone_or_listed() {
    every_write_goes_wrong(Fault::CrashBefore);
}

#[test]
fn a_crash_after_any_write_leaves_all_done_or_all_undone_or_listed() {
    every_write_goes_wrong(Fault::CrashAfter);
}

#[test]
fn a_process_that_comes_back_after_another_took_over_changes_nothing() {
    every_write_goes_wrong(Fault::Freeze);
}

#[test]
fn a_write_that_fails_is_repeated() {
    every_write_goes_wrong(Fault::FailBefore);
}

#[test]
fn a_write_that_seems_to_fail_is_recognised() {
    every_write_goes_wrong(Fault::FailAfter);
}

#[tokio::test(start_paused = true)]
async fn three_steps_cost_four_writes() {
    let script = Script { acts: [Act::Done; 3], undos: UNDOS[0] };
    let stage = Stage::new(script);
    let counting = FaultyStore::new(Arc::new(stage.memory.clone()));
    let sagas = orchestrator(counting.clone(), &stage.definition);
    sagas.run(&stage.definition, ()).await.unwrap().completed().unwrap();
    assert_eq!(counting.writes(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_seen_and_holds_up_no_shutdown() {
    let stage = Stage::new(Script { acts: [Act::Done; 3], undos: UNDOS[0] });
    let memory = Arc::new(stage.memory.clone());
    let faulty = FaultyStore::failing_at(memory, 2, Fault::CrashBefore);
    let sagas = Orchestrator::with(Arc::new(faulty), Options::default());
    let handle = sagas.start(&stage.definition, stage.saga.clone(), ()).await.unwrap();
    let mut seen = 0;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        seen += sagas.stats().waiting_for_store;
    }
    assert!(seen > 0 && sagas.stats().store_errors >= 3, "{:?}", sagas.stats());
    assert_eq!(sagas.stats().running, 1, "it goes on trying");
    tokio::time::timeout(Duration::from_secs(60), sagas.shutdown()).await.unwrap();
    assert!(matches!(handle.outcome().await, Err(SagaError::Interrupted(_))));
    stage.check(stage.settled().await, false).await;
}

#[tokio::test(start_paused = true)]
async fn work_that_dies_gives_its_place_back_and_tells_who_waits() {
    let mut saga = Saga::define("sleep", 1);
    let act = |_: StepContext, millis: u64| async move {
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
        Ok(())
    };
    saga.step("sleep").run(act).no_undo();
    let sleeps = saga.finish(()).unwrap();
    // It dies where its caller does the work, or, once it has waited, in its task.
    for millis in [0, 10] {
        let store = FaultyStore::failing_at(Arc::new(MemoryStore::new()), 2, Fault::Panic);
        let sagas = Orchestrator::with(Arc::new(store), Options::default().max_running(1));
        let error = sagas.run(&sleeps, millis).await.unwrap_err();
        assert!(matches!(error, SagaError::Interrupted(_)), "{error}");
        assert_eq!((sagas.stats().running, sagas.stats().interrupted), (0, 1));
        // There is a place for the next one.
        assert!(sagas.run(&sleeps, millis).await.unwrap().completed().is_some());
    }
}
