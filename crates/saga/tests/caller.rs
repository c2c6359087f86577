//! Sagas as their callers and operators see them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::HashSet,
    future::pending,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use gusset_call::{Context, Deadline, TraceContext, refusal_in};
use gusset_saga::{
    Definition, DefinitionError, Effect, Event, FailureKind, Finished, MemoryStore, Options,
    Orchestrator, Order, Policy, Query, Recovered, Saga, SagaError, SagaId, State, StepContext,
    StepError,
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// What happened, in order: `+` done, `!` failed, `-` undone, `?` undone as unknown, `x` undo failed.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, mark: &str, cx: &StepContext) {
        self.0.lock().unwrap().push(format!("{mark}{}", cx.step()));
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap()).join(" ")
    }
}

type Answer = Result<(), StepError>;

/// The steps a, b and c of one second each; `act` and `undo` say how it goes.
fn abc<A, U>(log: &Log, act: A, undo: U) -> Definition<u32, (u32, u32, u32)>
where
    A: Fn(&StepContext) -> Answer + Clone + Send + Sync + 'static,
    U: Fn(&StepContext) -> Answer + Clone + Send + Sync + 'static,
{
    let mut saga = Saga::define("abc", 1);
    let [a, b, c] = ["a", "b", "c"].map(|name| {
        let (acts, undoes) = (log.clone(), log.clone());
        let (act, undo) = (act.clone(), undo.clone());
        let act = move |cx: StepContext, input: u32| {
            let (answer, log) = (act(&cx), acts.clone());
            async move {
                sleep(SECOND).await;
                log.note(if answer.is_ok() { "+" } else { "!" }, &cx);
                answer.map(|()| input + 1)
            }
        };
        let undo = move |cx: StepContext, _: u32, effect: Effect<u32>| {
            let (answer, log) = (undo(&cx), undoes.clone());
            async move {
                sleep(SECOND).await;
                let undone = if effect == Effect::Unknown { "?" } else { "-" };
                log.note(if answer.is_ok() { undone } else { "x" }, &cx);
                answer
            }
        };
        saga.step(name).policy(retries(3)).undo_policy(retries(4)).run(act).undo(undo)
    });
    saga.finish((&a, &b, &c)).unwrap()
}

fn retries(attempts: u32) -> Policy {
    Policy::step().attempts(attempts).backoff(Duration::from_millis(100), SECOND)
}

fn fine(_: &StepContext) -> Answer {
    Ok(())
}

fn rejects(which: &'static str) -> impl Fn(&StepContext) -> Answer + Clone {
    move |cx| if cx.step() == which { Err(StepError::rejected("no")) } else { Ok(()) }
}

fn memory() -> (MemoryStore, Orchestrator) {
    let store = MemoryStore::new();
    (store.clone(), Orchestrator::new(store))
}

fn id(text: &str) -> SagaId {
    text.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn three_steps_are_done_in_order() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let finished = sagas.run(&abc(&log, fine, fine), 7).await.unwrap();
    assert_eq!(finished, Finished::Completed((8, 8, 8)));
    assert_eq!(log.take(), "+a +b +c");
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_undone_once_in_reverse() {
    for (failing, story) in [("a", "!a"), ("b", "+a !b -a"), ("c", "+a +b !c -b -a")] {
        let (log, (_, sagas)) = (Log::default(), memory());
        let finished = sagas.run(&abc(&log, rejects(failing), fine), 7).await.unwrap();
        let Finished::Compensated { failure, undo_failures, .. } = finished else {
            panic!("{finished:?}")
        };
        assert_eq!((&*failure.step, failure.kind), (failing, FailureKind::Rejected));
        assert_eq!(failure.attempts, 1, "a rejection is not retried");
        assert_eq!(undo_failures, []);
        assert_eq!(log.take(), story);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_after_a_bounded_pause() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let twice = |cx: &StepContext| {
        if cx.step() == "b" && cx.attempt().number() < 3 {
            return Err(StepError::transient("later"));
        }
        Ok(())
    };
    let start = Instant::now();
    sagas.run(&abc(&log, twice, fine), 7).await.unwrap().completed().unwrap();
    assert_eq!(log.take(), "+a !b !b +b +c");
    let pauses = start.elapsed() - 5 * SECOND;
    assert!(pauses <= Duration::from_millis(100 + 200 + 4), "full jitter: {pauses:?}");
    assert_eq!(sagas.stats().failed_attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn transient_failures_without_end_turn_the_saga_back() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let later = |cx: &StepContext| match cx.step() {
        "b" => Err(StepError::transient(format!("later {}", cx.attempt()))),
        _ => Ok(()),
    };
    let finished = sagas.run(&abc(&log, later, fine), 7).await.unwrap();
    assert_eq!(log.take(), "+a !b !b !b -a", "b has no effect to undo");
    let errors = &finished.failure().unwrap().errors;
    assert_eq!(*errors, ["later 1".into(), "later 2".into(), "later 3".into()]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_unknown_retried_under_one_key_and_undone() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let (acting, undoing) = (keys.clone(), keys.clone());
    let mut saga = Saga::define("slow", 1);
    let policy = Policy::step().timeout(SECOND).attempts(2).backoff(SECOND, SECOND);
    saga.step("wait")
        .policy(policy)
        .run(move |cx, (): ()| {
            acting.lock().unwrap().push(cx.idempotency_key());
            assert_eq!(cx.deadline().remaining(), SECOND);
            assert_eq!(Context::current().deadline(), Some(cx.deadline()));
            pending::<Result<u32, _>>()
        })
        .undo(move |cx, (), effect| {
            assert_eq!(effect, Effect::Unknown);
            undoing.lock().unwrap().extend([cx.action_key(), cx.idempotency_key()]);
            async { Ok(()) }
        });
    let slow = saga.finish(()).unwrap();
    let (_, sagas) = memory();
    let finished = sagas.run_as(&slow, id("s-1"), ()).await.unwrap();
    let Finished::Compensated { failure, .. } = finished else { panic!("{finished:?}") };
    assert_eq!((failure.kind, failure.attempts), (FailureKind::Unknown, 2));
    assert_eq!(failure.error(), "no answer within 1s");
    let keys = keys.lock().unwrap();
    assert_eq!(*keys, ["s-1/wait/do", "s-1/wait/do", "s-1/wait/do", "s-1/wait/undo"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_unknown_wherever_it_happens() {
    let mut saga = Saga::define("panics", 1);
    let undone = Arc::new(AtomicU32::new(0));
    for (name, before_the_future) in [("inside", false), ("before", true)] {
        let undone = undone.clone();
        saga.step(name)
            .policy(retries(2))
            .run(move |cx, (): ()| {
                let panics = cx.attempt().number() == 1 || cx.step() == "before";
                assert!(!(panics && before_the_future), "bug before");
                async move {
                    assert!(!panics, "bug inside");
                    Ok(())
                }
            })
            .undo(move |_, (), _| {
                undone.fetch_add(1, SeqCst);
                async { Ok(()) }
            });
    }
    let (_, sagas) = memory();
    let finished = sagas.run(&saga.finish(()).unwrap(), ()).await.unwrap();
    assert_eq!(finished.failure().unwrap().error(), "panicked: bug before");
    assert_eq!(undone.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_output_that_cannot_be_kept_is_no_clean_failure() {
    let mut saga = Saga::define("large", 1);
    let undone = Arc::new(AtomicU32::new(0));
    let counted = undone.clone();
    saga.step("large").run(|_, (): ()| async { Ok("x".repeat(2 << 20)) }).undo(
        move |_, (), effect: Effect<String>| {
            assert_eq!(effect, Effect::Unknown);
            counted.fetch_add(1, SeqCst);
            async { Ok(()) }
        },
    );
    let (_, sagas) = memory();
    sagas.run(&saga.finish(()).unwrap(), ()).await.unwrap();
    assert_eq!(undone.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_is_kept_beside_the_failure_and_holds_up_no_other() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let back = Arc::new(AtomicU32::new(0));
    let provider = back.clone();
    let refund = move |cx: &StepContext| match cx.step() {
        "b" if provider.load(SeqCst) == 0 => Err(StepError::transient("refund refused")),
        _ => Ok(()),
    };
    let definition = abc(&log, rejects("c"), refund);
    let finished = sagas.run_as(&definition, id("s-1"), 7).await.unwrap();
    assert_eq!(log.take(), "+a +b !c xb xb xb xb -a");
    let Finished::Stuck { failure, undo_failures, .. } = &finished else { panic!("{finished:?}") };
    assert_eq!((&*failure.step, failure.error()), ("c", "no"));
    assert_eq!((&*undo_failures[0].step, undo_failures[0].error()), ("b", "refund refused"));
    assert_eq!(undo_failures[0].attempts, 4);

    let stuck = sagas.list(&Query::in_state(State::Stuck)).await.unwrap();
    assert_eq!((stuck.len(), &stuck[0].saga), (1, &id("s-1")));
    assert_eq!(sagas.stats().stuck, 1);
    assert_eq!(sagas.recover().await.unwrap(), Recovered::default(), "not by itself");

    sagas.retry(&id("s-1"), "once more").await.unwrap();
    let report = sagas.settled(&id("s-1")).await.unwrap();
    assert_eq!((report.state, log.take().as_str()), (State::Stuck, "xb xb xb xb"));
    back.store(1, SeqCst);
    let report = sagas.retry(&id("s-1"), "provider is back").await.unwrap();
    assert_eq!(report.state, State::TurningBack);
    let report = sagas.settled(&id("s-1")).await.unwrap();
    assert_eq!((report.state, log.take().as_str()), (State::Compensated, "-b"));
    assert_eq!(report.undo_failures.len(), 2, "what went wrong is not forgotten");

    let error = sagas.retry(&id("s-1"), "again").await.unwrap_err();
    assert_eq!(error.to_string(), "saga s-1 has come to its end");
    let finished = sagas.run_as(&definition, id("s-1"), 7).await.unwrap();
    assert!(matches!(finished, Finished::Compensated { .. }), "{finished:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operator_settles_an_undo_by_hand_and_leaves_a_note() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let definition = abc(&log, rejects("c"), rejects("b"));
    sagas.run_as(&definition, id("s-1"), 7).await.unwrap();
    assert_eq!(log.take(), "+a +b !c xb -a", "a rejected undo is not retried");

    for (saga, step) in [("s-1", "a"), ("s-1", "z"), ("s-2", "b")] {
        let error = sagas.skip(&id(saga), step, "").await.unwrap_err();
        assert!(matches!(error, SagaError::Refused { .. } | SagaError::NoSuchSaga(_)), "{error}");
    }
    let report = sagas.skip(&id("s-1"), "b", "refunded by hand").await.unwrap();
    assert_eq!(report.state, State::Compensated);
    let history = sagas.history(&id("s-1")).await.unwrap();
    assert!(matches!(
        &history.last().unwrap().event,
        Event::Ordered { order: Order::Skip { .. }, .. }
    ));
    let finished = sagas.run_as(&definition, id("s-1"), 7).await.unwrap();
    let Finished::Compensated { skipped, undo_failures, .. } = finished else { panic!() };
    assert_eq!(&*skipped[0].note, "refunded by hand");
    assert_eq!(undo_failures.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_stops_neither_the_saga_nor_its_undos() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let definition = abc(&log, rejects("c"), fine);
    timeout(SECOND / 2, sagas.run(&definition, 7)).await.unwrap_err();
    assert_eq!(log.take(), "");
    sleep(10 * SECOND).await;
    assert_eq!(log.take(), "+a +b !c -b -a");
    assert_eq!((sagas.stats().running, sagas.stats().compensated), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn one_id_is_one_saga() {
    let (log, (store, sagas)) = (Log::default(), memory());
    let definition = abc(&log, fine, fine);
    let one = sagas.start(&definition, id("s-1"), 7).await.unwrap();
    let two = sagas.start(&definition, id("s-1"), 7).await.unwrap();
    let error = sagas.start(&definition, id("s-1"), 8).await.unwrap_err();
    assert!(matches!(error, SagaError::IdTaken(_)), "{error}");
    assert_eq!(one.outcome().await.unwrap(), two.outcome().await.unwrap());
    assert_eq!(one.outcome().await.unwrap().completed(), Some((8, 8, 8)), "asked again");

    let later = Orchestrator::new(store);
    let finished = later.run_as(&definition, id("s-1"), 7).await.unwrap();
    assert_eq!(finished.completed(), Some((8, 8, 8)));
    let error = later.run_as(&definition, id("s-1"), 8).await.unwrap_err();
    assert!(matches!(error, SagaError::IdTaken(_)), "{error}");
    assert_eq!(log.take(), "+a +b +c");
    assert_eq!((sagas.stats().completed, later.stats().completed), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_another_process_runs_is_watched() {
    let (log, (store, sagas)) = (Log::default(), memory());
    let definition = abc(&log, fine, fine);
    let here = sagas.start(&definition, id("s-1"), 7).await.unwrap();
    let elsewhere = Orchestrator::new(store);
    let there = elsewhere.start(&definition, id("s-1"), 7).await.unwrap();
    assert_eq!(there.outcome().await.unwrap(), here.outcome().await.unwrap());
    assert_eq!(log.take(), "+a +b +c");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_sagas_at_once_keep_to_the_bound() {
    let running = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
    let seen = running.clone();
    let mut saga = Saga::define("busy", 1);
    let twice = saga
        .step("work")
        .run(move |_, n: u32| {
            let seen = seen.clone();
            async move {
                seen.1.fetch_max(seen.0.fetch_add(1, SeqCst) + 1, SeqCst);
                sleep(SECOND).await;
                seen.0.fetch_sub(1, SeqCst);
                Ok(2 * n)
            }
        })
        .no_undo();
    let busy = saga.finish(&twice).unwrap();
    let options = Options::default().max_running(10);
    let sagas = Orchestrator::with(Arc::new(MemoryStore::new()), options);
    let runs = (0..100).map(|n| {
        let (sagas, busy) = (sagas.clone(), busy.clone());
        tokio::spawn(async move { (n, sagas.run(&busy, n).await.unwrap().completed().unwrap()) })
    });
    let start = Instant::now();
    for run in runs.collect::<Vec<_>>() {
        let (n, result) = run.await.unwrap();
        assert_eq!(result, 2 * n);
    }
    assert_eq!(running.1.load(SeqCst), 10);
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!((sagas.stats().started, sagas.stats().running), (100, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_sagas_on_threads_all_come_to_the_right_end() {
    let mut saga = Saga::define("divide", 1);
    let undone = Arc::new(Mutex::new(HashSet::new()));
    let undoing = undone.clone();
    let half =
        saga.step("halve").run(|_, n: u32| async move { Ok(n / 2) }).undo(move |cx, n, effect| {
            assert_eq!(effect, Effect::Known(n / 2));
            assert!(undoing.lock().unwrap().insert(cx.saga().clone()), "undone twice");
            async { Ok(()) }
        });
    saga.step("check")
        .needs(&half)
        .run(|_, n: u32, half: u32| async move {
            if 2 * half == n { Ok(()) } else { Err(StepError::rejected("odd")) }
        })
        .no_undo();
    let divide = saga.finish(&half).unwrap();
    let (_, sagas) = memory();
    let runs = (0..100_u32).map(|n| {
        let (sagas, divide) = (sagas.clone(), divide.clone());
        tokio::spawn(async move { sagas.run(&divide, n).await.unwrap().completed() })
    });
    for (n, run) in (0_u32..).zip(runs.collect::<Vec<_>>()) {
        assert_eq!(run.await.unwrap(), (n % 2 == 0).then_some(n / 2));
    }
    assert_eq!(undone.lock().unwrap().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_stops_between_two_attempts_and_others_go_on_at_once() {
    let (log, (store, sagas)) = (Log::default(), memory());
    let definition = abc(&log, rejects("b"), fine);
    let handle = sagas.start(&definition, id("s-1"), 7).await.unwrap();
    sleep(SECOND / 2).await;
    sagas.shutdown().await;
    assert_eq!(log.take(), "+a", "the attempt was finished, no other was begun");
    assert!(matches!(handle.outcome().await, Err(SagaError::Interrupted(_))));
    let error = sagas.run(&definition, 7).await.unwrap_err();
    assert_eq!(refusal_in(&error).unwrap().status(), 503);

    let next = Orchestrator::new(store);
    next.register(&definition).unwrap();
    assert_eq!(next.recover().await.unwrap().resumed, 1);
    sleep(10 * SECOND).await;
    assert_eq!(log.take(), "!b -a", "b was never attempted before, so it is not undone");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_pauses_or_for_callers() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let mut saga = Saga::define("patient", 1);
    let hour = Duration::from_secs(3_600);
    let again = StepError::transient("later").retry_after(hour);
    let again = Arc::new(Mutex::new(Some(again)));
    saga.step("wait")
        .policy(Policy::step().backoff(hour, hour))
        .run(move |_, (): ()| {
            let answer = again.lock().unwrap().take().map_or(Ok(()), Err);
            async { answer }
        })
        .no_undo();
    let patient = saga.finish(()).unwrap();
    let _waiting = sagas.start(&patient, id("s-1"), ()).await.unwrap();
    sleep(SECOND).await;
    timeout(SECOND, sagas.shutdown()).await.unwrap();
    assert_eq!((sagas.stats().interrupted, log.take().as_str()), (1, ""));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_orchestrator_is_a_crash_that_recovery_mends_after_the_lease() {
    let (log, (store, sagas)) = (Log::default(), memory());
    let definition = abc(&log, rejects("c"), fine);
    let handle = sagas.start(&definition, id("s-1"), 7).await.unwrap();
    sleep(SECOND * 5 / 2).await;
    drop(sagas);
    assert!(matches!(handle.outcome().await, Err(SagaError::Interrupted(_))));
    assert_eq!(log.take(), "+a +b");

    let next = Orchestrator::new(store);
    next.register(&definition).unwrap();
    let _recovery = next.spawn_recovery(5 * SECOND);
    sleep(20 * SECOND).await;
    assert_eq!(log.take(), "", "the lease of the dead is respected");
    sleep(20 * SECOND).await;
    assert_eq!(log.take(), "!c ?c -b -a", "c may have had an effect before the crash");
    assert_eq!(next.report(&id("s-1")).await.unwrap().state, State::Compensated);
}

#[tokio::test(start_paused = true)]
async fn a_long_attempt_keeps_its_lease() {
    let mut saga = Saga::define("long", 1);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    saga.step("work")
        .policy(Policy::step().timeout(600 * SECOND))
        .run(move |_, (): ()| {
            counted.fetch_add(1, SeqCst);
            async {
                sleep(500 * SECOND).await;
                Ok(())
            }
        })
        .no_undo();
    let long = saga.finish(()).unwrap();
    let (store, sagas) = memory();
    let other = Orchestrator::new(store);
    other.register(&long).unwrap();
    let _recovery = other.spawn_recovery(SECOND);
    sagas.run(&long, ()).await.unwrap().completed().unwrap();
    assert_eq!((calls.load(SeqCst), other.stats().resumed), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_definition_blocks_its_saga_and_no_other() {
    let (log, (store, sagas)) = (Log::default(), memory());
    let known = abc(&log, fine, fine);
    async fn takes_a_second(_: StepContext, n: u32) -> Result<u32, StepError> {
        sleep(SECOND).await;
        Ok(n)
    }
    let unknown = || {
        let mut saga = Saga::define("old", 3);
        let done = saga.step("only").run(takes_a_second).no_undo();
        saga.finish(&done).unwrap()
    };
    for (saga, definition) in [("s-1", 0), ("s-2", 1), ("s-3", 0)] {
        if definition == 0 {
            sagas.start(&known, id(saga), 7).await.unwrap();
        } else {
            sagas.start(&unknown(), id(saga), 7).await.unwrap();
        }
    }
    drop(sagas);
    sleep(31 * SECOND).await;

    let next = Orchestrator::new(store.clone());
    next.register(&known).unwrap();
    for _ in 0..3 {
        next.recover().await.unwrap();
        sleep(10 * SECOND).await;
    }
    assert_eq!(next.stats().completed, 2);
    let blocked = next.list(&Query::in_state(State::Blocked)).await.unwrap();
    assert_eq!((blocked.len(), blocked[0].records), (1, 2), "noted once");
    let report = next.report(&id("s-2")).await.unwrap();
    assert_eq!(report.blocked.as_deref(), Some("definition old version 3 is not known"));
    let error = next.retry(&id("s-2"), "").await.unwrap_err();
    assert!(matches!(error, SagaError::Blocked { .. }), "{error}");

    let mut other_steps = Saga::define("old", 3);
    other_steps.step("other").run(|_, _: u32| async { Ok(()) }).no_undo();
    let upgraded = Orchestrator::new(store);
    upgraded.register(&other_steps.finish(()).unwrap()).unwrap();
    assert_eq!(upgraded.recover().await.unwrap().blocked, 1, "never under other steps");
    let error = upgraded.register(&unknown()).unwrap_err();
    assert!(matches!(error, SagaError::DefinitionDiffers(_, 3)), "{error}");

    next.register(&unknown()).unwrap();
    sleep(10 * SECOND).await;
    assert_eq!(next.recover().await.unwrap().resumed, 1);
    sleep(10 * SECOND).await;
    assert_eq!(next.report(&id("s-2")).await.unwrap().state, State::Completed);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_a_saga_that_is_recovered_or_retried_gets_that_one() {
    let (log, (store, sagas)) = (Log::default(), memory());
    let definition = abc(&log, rejects("b"), |cx| match cx.attempt().number() {
        1..4 => Err(StepError::transient("later")),
        _ => Ok(()),
    });
    sagas.start(&definition, id("s-1"), 7).await.unwrap();
    drop(sagas);
    sleep(31 * SECOND).await;
    let next = Orchestrator::new(store);
    next.register(&definition).unwrap();
    next.recover().await.unwrap();
    let error = next.start(&definition, id("s-1"), 8).await.unwrap_err();
    assert!(matches!(error, SagaError::IdTaken(_)), "{error}");
    let finished = next.run_as(&definition, id("s-1"), 7).await.unwrap();
    assert!(matches!(finished, Finished::Compensated { .. }), "{finished:?}");

    let stuck = abc(&log, rejects("b"), rejects("a"));
    let other = Orchestrator::new(MemoryStore::new());
    other.run_as(&stuck, id("s-2"), 7).await.unwrap();
    let saga = id("s-2");
    other.retry(&saga, "again").await.unwrap();
    let finished = other.run_as(&stuck, id("s-2"), 7).await;
    let Finished::Stuck { undo_failures, .. } = finished.unwrap() else { panic!() };
    assert_eq!(undo_failures.len(), 2, "as it was after the retry");
}

/// A runtime that shuts down drops what is spawned on it; that must not take the orchestrator's lock for ever.
#[test]
fn a_runtime_that_shuts_down_takes_its_sagas_with_it() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let definition = abc(&log, fine, fine);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let handle = runtime.handle().clone();
    let begun = runtime.block_on(sagas.start(&definition, id("s-1"), 7)).unwrap();
    drop(runtime);
    let _inside = handle.enter();
    let outcome = futures_util::FutureExt::now_or_never(begun.outcome()).unwrap();
    assert!(matches!(outcome, Err(SagaError::Interrupted(_))));
    let late = futures_util::FutureExt::now_or_never(sagas.start(&definition, id("s-2"), 7));
    assert!(matches!(late, Some(Err(SagaError::Interrupted(_)))), "{late:?}");
    assert_eq!(sagas.stats().running, 0);
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_the_caller_goes_on_and_its_deadline_does_not() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let mut saga = Saga::define("traced", 1);
    saga.step("look")
        .run(move |_, (): ()| {
            noted.lock().unwrap().push(Context::current());
            async { Ok(()) }
        })
        .no_undo();
    let traced = saga.finish(()).unwrap();
    let (_, sagas) = memory();
    let trace = TraceContext::new_root();
    let caller = Context::default().with_trace(trace).with_deadline(Deadline::after(SECOND / 10));
    caller.scope(sagas.run(&traced, ())).await.unwrap();
    sagas.run(&traced, ()).await.unwrap();
    let seen = seen.lock().unwrap();
    // Whoever records a span of the step makes it a child; a span that nobody records would tear the trace.
    assert_eq!(seen[0].trace(), Some(trace));
    assert!(seen[0].deadline().unwrap().remaining() > SECOND);
    assert_eq!(seen[1].trace(), None);
}

/// Panics when it is dropped unfinished.
struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "trap");
    }
}

#[tokio::test(start_paused = true)]
async fn an_action_that_panics_when_it_is_dropped_has_an_unknown_outcome() {
    let mut saga = Saga::define("trap", 1);
    saga.step("trap")
        .policy(Policy::step().timeout(SECOND).attempts(1))
        .run(|_, (): ()| async {
            let _trap = Trap;
            pending::<()>().await;
            Ok(())
        })
        .no_undo();
    let trap = saga.finish(()).unwrap();
    let (_, sagas) = memory();
    let finished = sagas.run(&trap, ()).await.unwrap();
    assert_eq!(finished.failure().unwrap().kind, FailureKind::Unknown);
    assert_eq!((sagas.stats().running, sagas.stats().compensated), (0, 1));
}

/// Those who wait for one future of several leave the others alone for as long as they like.
#[tokio::test(start_paused = true)]
async fn a_saga_goes_on_while_nobody_polls_its_caller() {
    let (log, (_, sagas)) = (Log::default(), memory());
    let abc = abc(&log, fine, fine);
    let mut run = std::pin::pin!(sagas.run_as(&abc, id("s-1"), 7));
    assert!((&mut run).now_or_never().is_none());
    let report = sagas.settled(&id("s-1")).await.unwrap();
    assert_eq!((report.state, log.take()), (State::Completed, "+a +b +c".to_owned()));
    assert_eq!(run.await.unwrap().completed(), Some((8, 8, 8)));
}

/// Who begins a saga does its work where it stands, and an action that begins one stands on the stack of its own saga.
#[tokio::test(start_paused = true)]
async fn sagas_that_begin_sagas_do_not_overflow_the_stack() {
    let options = Options::default().max_running(4_096);
    let sagas = Orchestrator::with(Arc::new(MemoryStore::new()), options);
    let nested = Arc::new(OnceLock::<Definition<u32, u32>>::new());
    let mut saga = Saga::define("nested", 1);
    let shared = (sagas.clone(), nested.clone());
    let act = move |_: StepContext, left: u32| {
        let (sagas, nested) = shared.clone();
        async move {
            if left == 0 {
                return Ok(0);
            }
            let inner = sagas.run(nested.get().unwrap(), left - 1).await;
            Ok(inner.map_err(StepError::unknown)?.completed().unwrap() + 1)
        }
    };
    let step = saga.step("next").run(act).no_undo();
    nested.set(saga.finish(&step).unwrap()).unwrap();
    let finished = sagas.run(nested.get().unwrap(), 2_000).await.unwrap();
    assert_eq!(finished.completed(), Some(2_000));
}

/// As many steps as are done while others wait for the thread is bounded.
#[tokio::test(start_paused = true)]
async fn a_saga_that_never_waits_lets_others_have_the_thread() {
    let mut saga = Saga::define("long", 1);
    let done = Arc::new(AtomicU32::new(0));
    for step in 0..1_000 {
        let done = done.clone();
        let act = move |_, (): ()| {
            done.fetch_add(1, SeqCst);
            async { Ok(()) }
        };
        saga.step(format!("s{step}")).run(act).no_undo();
    }
    let long = saga.finish(()).unwrap();
    let (_, sagas) = memory();
    let handle = sagas.start(&long, id("s-1"), ()).await.unwrap();
    let mut seen = 0;
    while seen < 1_000 {
        let now = done.load(SeqCst);
        assert!(now - seen <= 64, "{seen} and then {now}");
        seen = now;
        tokio::task::yield_now().await;
    }
    assert!(handle.outcome().await.unwrap().completed().is_some());
}

#[test]
fn definitions_that_are_none_say_why() {
    async fn nothing(_: StepContext, (): ()) -> Result<(), StepError> {
        Ok(())
    }
    let mut twice: Saga<()> = Saga::define("twice", 1);
    twice.step("a").run(nothing).no_undo();
    let a = twice.step("a").run(nothing).no_undo();
    assert_eq!(twice.finish(()).unwrap_err(), DefinitionError::DuplicateStep("a".into()));

    let mut foreign: Saga<()> = Saga::define("foreign", 1);
    foreign.step("b").needs(&a).run(|_, (), ()| async { Ok(()) }).no_undo();
    assert_eq!(foreign.finish(()).unwrap_err(), DefinitionError::ForeignStep("b".into()));

    let empty: Saga<()> = Saga::define("empty", 1);
    assert_eq!(empty.finish(()).unwrap_err(), DefinitionError::NoSteps);

    for (saga, step) in [("", "a"), ("a b", "a"), ("a", ""), ("a", "b/c"), ("a", "ü")] {
        let mut named: Saga<()> = Saga::define(saga, 1);
        named.step(step).run(nothing).no_undo();
        let error = named.finish(()).unwrap_err();
        assert!(matches!(error, DefinitionError::Name(_)), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_of_a_thousand_steps_comes_back_whole() {
    let mut saga = Saga::define("long", 1);
    let sum = Arc::new(AtomicU32::new(0));
    for n in 0..1_000_u32 {
        let (add, subtract) = (sum.clone(), sum.clone());
        saga.step(format!("step-{n}"))
            .run(move |_, (): ()| {
                add.fetch_add(n, SeqCst);
                async move { Ok(n) }
            })
            .undo(move |_, (), effect| {
                assert_eq!(effect, Effect::Known(n));
                subtract.fetch_sub(n, SeqCst);
                async { Ok(()) }
            });
    }
    saga.step("last").run(|_, (): ()| async { Err::<(), _>(StepError::rejected("no")) }).no_undo();
    let long = saga.finish(()).unwrap();
    let (_, sagas) = memory();
    let finished = sagas.run_as(&long, id("s-1"), ()).await.unwrap();
    assert!(matches!(finished, Finished::Compensated { .. }));
    assert_eq!(sum.load(SeqCst), 0);
    assert_eq!(sagas.history(&id("s-1")).await.unwrap().len(), 1 + 1_000 + 1 + 1_000);
}
