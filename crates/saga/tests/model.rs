//! What a definition can say, and what operators can do with the sagas that run it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_saga::{
    Definition, DefinitionError, Effect, Event, FailureKind, Finished, MemoryStore, Orchestrator,
    Order, Outgoing, Policy, Query, Relay, Saga, SagaError, SagaId, State, StepContext, StepError,
    StepState, Store,
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap()).join(" ")
    }
}

/// An action of one second that says when it was done.
fn act(
    log: &Log,
    answer: Result<(), fn() -> StepError>,
) -> impl Fn(StepContext, u32) -> Acted + use<> {
    let log = log.clone();
    move |cx, _| {
        let log = log.clone();
        Box::pin(async move {
            sleep(SECOND).await;
            answer.map_err(|error| error())?;
            log.note(format!("+{}", cx.step()));
            Ok(cx.step().to_owned())
        })
    }
}

type Acted = futures_util::future::BoxFuture<'static, Result<String, StepError>>;
type Undone = futures_util::future::BoxFuture<'static, Result<(), StepError>>;

fn undo(log: &Log) -> impl Fn(StepContext, u32, Effect<String>) -> Undone + use<> {
    let log = log.clone();
    move |cx, _, effect| {
        let log = log.clone();
        Box::pin(async move {
            sleep(SECOND).await;
            let mark = if effect == Effect::Unknown { "?" } else { "-" };
            log.note(format!("{mark}{}", cx.step()));
            Ok(())
        })
    }
}

fn no() -> StepError {
    StepError::rejected("no")
}

fn memory() -> (MemoryStore, Orchestrator) {
    let store = MemoryStore::new();
    (store.clone(), Orchestrator::new(store))
}

fn id(text: &str) -> SagaId {
    text.parse().unwrap()
}

fn once() -> Policy {
    Policy::step().attempts(1)
}

#[tokio::test(start_paused = true)]
async fn steps_that_do_not_wait_for_each_other_run_at_the_same_time() {
    let log = Log::default();
    let mut saga = Saga::define("trip", 1);
    let plan = saga.step("plan").run(act(&log, Ok(()))).undo(undo(&log));
    let hotel = saga.step("hotel").after(&plan).run(act(&log, Ok(()))).undo(undo(&log));
    let flight = saga.step("flight").after(&plan).run(act(&log, Ok(()))).undo(undo(&log));
    let bill =
        saga.step("bill").needs((&hotel, &flight)).run(|_, _: u32, (hotel, flight)| async move {
            sleep(SECOND).await;
            if hotel == flight { Ok(()) } else { Err(StepError::rejected("too dear")) }
        });
    bill.no_undo();
    let trip = saga.finish(&plan).unwrap();
    let (_, sagas) = memory();
    let start = Instant::now();
    let finished = sagas.run_as(&trip, id("s-1"), 7).await.unwrap();
    assert!(matches!(finished, Finished::Compensated { .. }));
    assert_eq!(start.elapsed().as_secs(), 1 + 1 + 1 + 1 + 1, "both at once, forward and back");
    let story = log.take();
    assert!(story.starts_with("+plan +") && story.ends_with("-plan"), "{story}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_names_none_follows_the_one_before_it() {
    let log = Log::default();
    let mut saga = Saga::define("chain", 1);
    for name in ["a", "b", "c"] {
        saga.step(name).run(act(&log, Ok(()))).no_undo();
    }
    saga.step("d").after(()).run(act(&log, Ok(()))).no_undo();
    let (_, sagas) = memory();
    let start = Instant::now();
    sagas.run(&saga.finish(()).unwrap(), 7).await.unwrap().completed().unwrap();
    assert_eq!(start.elapsed(), 3 * SECOND, "d begins with the saga");
}

#[tokio::test(start_paused = true)]
async fn a_branch_under_way_is_let_end_and_then_undone() {
    let log = Log::default();
    let mut saga = Saga::define("branches", 1);
    let fails = saga.step("fails").run(act(&log, Err(no))).undo(undo(&log));
    let (acts, undoes) = (log.clone(), log.clone());
    saga.step("slow")
        .after(())
        .policy(once())
        .run(move |_, _: u32| {
            let log = acts.clone();
            async move {
                sleep(5 * SECOND).await;
                log.note("+slow".into());
                Ok(7)
            }
        })
        .undo(move |_, _, effect: Effect<u32>| {
            undoes.note(format!("undo of {effect:?}"));
            async { Ok(()) }
        });
    let retried = Arc::new(AtomicU32::new(0));
    let tries = retried.clone();
    saga.step("flaky")
        .after(())
        .run(move |_, _: u32| {
            tries.fetch_add(1, SeqCst);
            async {
                sleep(2 * SECOND).await;
                Err::<(), _>(StepError::unknown("lost"))
            }
        })
        .undo(|_, _, effect| async move {
            assert_eq!(effect, Effect::Unknown);
            Ok(())
        });
    let branches = saga.finish(&fails).unwrap();
    let (_, sagas) = memory();
    let finished = sagas.run(&branches, 7).await.unwrap();
    assert_eq!(&*finished.failure().unwrap().step, "fails");
    assert_eq!(log.take(), "+slow undo of Known(7)");
    assert_eq!(retried.load(SeqCst), 1, "no further attempt on the way back");
}

/// Both end in one moment: where the one that succeeds is seen first, its record opens the next step, and the other's turns the saga back in the same write.
#[tokio::test(start_paused = true)]
async fn a_step_that_the_write_opens_that_turns_the_saga_back_is_not_waited_for() {
    for succeeds_first in [true, false] {
        let mut saga = Saga::define("moment", 1);
        for succeeds in [succeeds_first, !succeeds_first] {
            let act = move |_, _: u32| async move {
                sleep(SECOND).await;
                if succeeds { Ok(()) } else { Err(no()) }
            };
            let name = if succeeds { "first" } else { "fails" };
            let done = saga.step(name).after(()).run(act).no_undo();
            if succeeds {
                saga.step("next").after(&done).run(|_, _: u32| async { Ok(()) }).no_undo();
            }
        }
        let (_, sagas) = memory();
        let moment = saga.finish(()).unwrap();
        let finished = timeout(60 * SECOND, sagas.run(&moment, 7)).await.expect("it ends");
        assert_eq!(&*finished.unwrap().failure().unwrap().step, "fails");
    }
}

/// Only what the journal's writes and the calls of actions count: nothing that time decides.
#[tokio::test(start_paused = true)]
async fn a_ladder_of_width_2_and_depth_1000_takes_one_write_for_each_step() {
    let calls = Arc::new(AtomicU32::new(0));
    let mut saga = Saga::define("ladder", 1);
    let step = |calls: &Arc<AtomicU32>| {
        let calls = calls.clone();
        move |_: StepContext, n: u32| {
            calls.fetch_add(1, SeqCst);
            async move { Ok(n) }
        }
    };
    let mut rung =
        [0, 1].map(|n| saga.step(format!("0-{n}")).after(()).run(step(&calls)).no_undo());
    for depth in 1..1_000 {
        rung = [0, 1].map(|n| {
            let name = format!("{depth}-{n}");
            saga.step(name).after((&rung[0], &rung[1])).run(step(&calls)).no_undo()
        });
    }
    let ladder = saga.finish(&rung[..]).unwrap();
    let (_, sagas) = memory();
    let finished = sagas.run_as(&ladder, id("s-1"), 7).await.unwrap();
    assert_eq!(finished.completed(), Some(vec![7, 7]));
    assert_eq!(calls.load(SeqCst), 2_000);
    assert_eq!(sagas.history(&id("s-1")).await.unwrap().len(), 2_001);
}

#[tokio::test(start_paused = true)]
async fn behind_the_pivot_there_is_no_way_back_but_on_and_on() {
    let log = Log::default();
    let mut saga = Saga::define("order", 1);
    let stock = saga.step("reserve").run(act(&log, Ok(()))).undo(undo(&log));
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    let paid = saga
        .step("pay")
        .policy(once())
        .run(move |_, _: u32| {
            let n = counted.fetch_add(1, SeqCst);
            async move { if n < 5 { Err(StepError::unknown("lost")) } else { Ok(n) } }
        })
        .no_undo();
    let mut saga = saga.pivot(&paid);
    let ships = Arc::new(AtomicU32::new(0));
    let counted = ships.clone();
    let ship = saga.step("ship").needs((&stock, &paid)).run(move |_, _: u32, (stock, paid)| {
        let n = counted.fetch_add(1, SeqCst);
        async move {
            if n < 50 { Err(StepError::transient("later")) } else { Ok(format!("{stock} {paid}")) }
        }
    });
    let order = saga.finish(&ship).unwrap();
    let (_, sagas) = memory();
    let handle = sagas.start(&order, id("s-1"), 7).await.unwrap();
    sleep(120 * SECOND).await;
    let error = sagas.turn_back(&id("s-1"), "too late").await.unwrap_err();
    assert!(error.to_string().contains("past the point"), "{error}");
    assert_eq!(handle.outcome().await.unwrap().completed().as_deref(), Some("reserve 5"));
    assert_eq!(tries.load(SeqCst), 6, "it is tried until it is known");
}

#[tokio::test(start_paused = true)]
async fn a_pivot_that_is_rejected_turns_the_saga_back() {
    let log = Log::default();
    let mut saga = Saga::define("order", 1);
    saga.step("reserve").run(act(&log, Ok(()))).undo(undo(&log));
    saga.step("beside").after(()).run(act(&log, Ok(()))).undo(undo(&log));
    let paid = saga.step("pay").run(act(&log, Err(no))).no_undo();
    let mut saga = saga.pivot(&paid);
    saga.step("ship").run(act(&log, Ok(())));
    let order = saga.finish(()).unwrap();
    let pay = &order.shape().steps[2];
    assert_eq!((&pay.needs[..], &pay.after[..]), (&[][..], &[1, 0][..]), "behind all others");
    let (_, sagas) = memory();
    assert!(matches!(sagas.run(&order, 7).await.unwrap(), Finished::Compensated { .. }));
    let story = log.take();
    assert!(!story.contains("ship") && story.contains("-reserve") && story.contains("-beside"));
}

#[tokio::test(start_paused = true)]
async fn a_step_behind_the_pivot_that_is_rejected_waits_for_an_operator() {
    let log = Log::default();
    let mut saga = Saga::define("order", 1);
    let paid = saga.step("pay").run(act(&log, Ok(()))).no_undo();
    let mut saga = saga.pivot(&paid);
    let ship = saga.step("ship").run(act(&log, Err(no)));
    saga.step("tell").after(()).run(act(&log, Ok(())));
    let order = saga.finish(&ship).unwrap();
    let (_, sagas) = memory();
    let finished = sagas.run_as(&order, id("s-1"), 7).await.unwrap();
    let Finished::Stuck { failure, .. } = finished else { panic!("{finished:?}") };
    assert_eq!((&*failure.step, log.take().as_str()), ("ship", "+pay +tell"));
    let report = sagas.report(&id("s-1")).await.unwrap();
    assert_eq!(report.steps[1].state, StepState::Halted);
    assert!(sagas.count().await.unwrap().contains(&(State::Stuck, 1)));

    sagas.supply(&id("s-1"), "ship", &"by hand", "carried it there").await.unwrap();
    let report = sagas.settled(&id("s-1")).await.unwrap();
    assert_eq!((report.state, report.halts.len()), (State::Completed, 1));
    let finished = sagas.run_as(&order, id("s-1"), 7).await.unwrap();
    assert_eq!(finished.completed().as_deref(), Some("by hand"));
}

#[test]
fn a_pivot_is_the_last_step_of_its_own_saga_and_no_child_has_one() {
    let step = |_: StepContext, n: u32| async move { Ok::<_, StepError>(n) };
    let mut saga = Saga::define("order", 1);
    let first = saga.step("first").run(step).no_undo();
    saga.step("second").run(step).no_undo();
    assert_eq!(saga.pivot(&first).finish(()).unwrap_err(), DefinitionError::PivotNotLast);

    let mut child = Saga::define("child", 1);
    let paid = child.step("pay").run(step).no_undo();
    let child: Definition<u32, u32> = child.pivot(&paid).finish(&paid).unwrap();
    let mut parent = Saga::define("parent", 1);
    parent.step("child").child(&child, |n: u32| n);
    assert_eq!(parent.finish(()).unwrap_err(), DefinitionError::ChildPivot("child".into()));
}

fn waiting() -> Definition<u32, u32> {
    let mut saga = Saga::define("waiting", 1);
    saga.step("cool-off").timer(Duration::from_secs(3_600));
    let approved = saga.step("approval").signal_within::<u32>(Duration::from_secs(86_400));
    let last = saga.step("last").needs(&approved).run(|_, _: u32, n| async move { Ok(2 * n) });
    let last = last.no_undo();
    saga.finish(&last).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_timer_and_a_signal_survive_the_process_and_leave_its_memory() {
    let (store, sagas) = memory();
    let waiting = waiting();
    let _recovery = sagas.spawn_recovery(SECOND);
    let handle = sagas.start(&waiting, id("s-1"), 7).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(sagas.stats().running, 0, "a saga that only waits is not held");
    drop((handle, _recovery, sagas));

    let next = Orchestrator::new(store.clone());
    next.register(&waiting).unwrap();
    let _recovery = next.spawn_recovery(SECOND);
    sleep(3_590 * SECOND).await;
    assert_eq!(next.report(&id("s-1")).await.unwrap().steps[0].state, StepState::Acting);
    sleep(15 * SECOND).await;
    assert_eq!(next.report(&id("s-1")).await.unwrap().steps[0].state, StepState::Done);
    assert_eq!(next.stats().running, 0);

    // From a process that knows no definition.
    let elsewhere = Orchestrator::new(store);
    assert!(elsewhere.signal(&id("s-1"), "approval", "by-ann", &21).await.unwrap());
    assert!(!elsewhere.signal(&id("s-1"), "approval", "by-ann", &22).await.unwrap(), "again");
    let report = elsewhere.settled(&id("s-1")).await.unwrap();
    assert_eq!(
        (report.state, report.steps[2].output.as_ref().unwrap().get()),
        (State::Completed, "42")
    );
    let error = elsewhere.signal(&id("s-1"), "cool-off", "x", &()).await.unwrap_err();
    assert!(matches!(error, SagaError::Refused { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_comes_early_is_kept_and_one_that_does_not_come_turns_back() {
    let (_, sagas) = memory();
    let waiting = waiting();
    let handle = sagas.start(&waiting, id("s-1"), 7).await.unwrap();
    assert!(sagas.signal(&id("s-1"), "approval", "by-ann", &4).await.unwrap());
    assert_eq!(handle.outcome().await.unwrap().completed(), Some(8));

    let finished = sagas.run_as(&waiting, id("s-2"), 7).await.unwrap();
    assert_eq!(finished.failure().unwrap().error(), "no signal came in time");
}

#[tokio::test(start_paused = true)]
async fn a_saga_past_its_deadline_turns_back_whatever_it_waits_for() {
    let log = Log::default();
    let mut saga = Saga::define("late", 1);
    saga.deadline(10 * SECOND);
    saga.step("a").run(act(&log, Ok(()))).undo(undo(&log));
    saga.step("wait").signal::<u32>();
    let late = saga.finish(()).unwrap();
    let (_, sagas) = memory();
    let start = Instant::now();
    let finished = sagas.run(&late, 7).await.unwrap();
    assert_eq!(finished.failure().unwrap().kind, FailureKind::Overdue);
    assert_eq!((log.take().as_str(), start.elapsed().as_secs()), ("+a -a", 11));
}

#[tokio::test(start_paused = true)]
async fn a_child_is_a_part_of_its_parent_with_types_and_undos() {
    let log = Log::default();
    let mut child = Saga::define("shipping", 3);
    let pick = child.step("pick").run(act(&log, Ok(()))).undo(undo(&log));
    let pack = child
        .step("pack")
        .needs(&pick)
        .run(|_, n: u32, pick: String| async move { Ok(format!("{pick} {n}")) });
    let pack = pack.no_undo();
    let child = child.finish((&pick, &pack)).unwrap();

    let define = |ends: Result<(), fn() -> StepError>| {
        let mut saga = Saga::define("order", 1);
        let stock = saga.step("stock").run(act(&log, Ok(()))).undo(undo(&log));
        let shipped =
            saga.step("ship").needs(&stock).child(&child, |n, stock| n + stock.len() as u32);
        let check = saga.step("check").run(act(&log, ends)).no_undo();
        let _ = check;
        saga.finish(&shipped).unwrap()
    };
    let (_, sagas) = memory();
    let order = define(Ok(()));
    let names: Vec<_> = order.shape().steps.iter().map(|step| &*step.name).collect();
    assert_eq!(names, ["stock", "ship.begin", "ship.pick", "ship.pack", "ship", "check"]);
    let finished = sagas.run(&order, 7).await.unwrap();
    assert_eq!(finished.completed(), Some(("ship.pick".to_owned(), "ship.pick 12".to_owned())));
    assert_eq!(log.take(), "+stock +ship.pick +check");

    let sagas = Orchestrator::new(MemoryStore::new());
    let finished = sagas.run(&define(Err(no)), 7).await.unwrap();
    assert!(matches!(finished, Finished::Compensated { .. }));
    assert_eq!(log.take(), "+stock +ship.pick -ship.pick -stock");
}

#[tokio::test(start_paused = true)]
async fn operators_supply_turn_back_and_close_what_is_under_way() {
    let log = Log::default();
    let mut saga = Saga::define("hangs", 1);
    saga.step("a").run(act(&log, Ok(()))).undo(undo(&log));
    let hung = saga
        .step("hangs")
        .policy(Policy::step().timeout(Duration::from_secs(3_600)))
        .run(|_, _: u32| pending::<Result<u32, _>>())
        .no_undo();
    saga.step("c").run(act(&log, Ok(()))).undo(undo(&log));
    let hangs = saga.finish(&hung).unwrap();
    let (_, sagas) = memory();
    let [one, two, three] = ["s-1", "s-2", "s-3"].map(id);
    let supplied = sagas.start(&hangs, one.clone(), 7).await.unwrap();
    let turned = sagas.start(&hangs, two.clone(), 7).await.unwrap();
    let closed = sagas.start(&hangs, three.clone(), 7).await.unwrap();
    sleep(2 * SECOND).await;

    let error = sagas.supply(&one, "c", &1, "").await.unwrap_err();
    assert!(matches!(error, SagaError::Refused { .. }), "{error}");
    sagas.supply(&one, "hangs", &5, "asked them by phone").await.unwrap();
    assert_eq!(supplied.outcome().await.unwrap().completed(), Some(5));

    let report = sagas.turn_back(&two, "changed their mind").await.unwrap();
    assert_eq!(report.state, State::TurningBack);
    let error = sagas.turn_back(&two, "again").await.unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    let finished = turned.outcome().await.unwrap();
    let failure = finished.failure().unwrap();
    assert_eq!(failure.to_string(), "turned back by an operator: changed their mind");

    let report = sagas.close(&three, "nobody wants it").await.unwrap();
    assert_eq!(report.state, State::Closed);
    assert!(matches!(closed.outcome().await.unwrap(), Finished::Closed(_)));
    let history = sagas.history(&three).await.unwrap();
    let last = &history.last().unwrap().event;
    assert!(
        matches!(last, Event::Ordered { order: Order::Close, note, .. } if &**note == "nobody wants it")
    );
    let error = sagas.retry(&three, "").await.unwrap_err();
    assert!(error.to_string().contains("end"), "{error}");
    assert_eq!(sagas.stats().closed, 1);
    assert_eq!(sagas.list(&Query::in_state(State::Closed)).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_cuts_a_pause_short_and_an_order_reaches_another_process() {
    let hour = Duration::from_secs(3_600);
    let mut saga = Saga::define("patient", 1);
    saga.step("try")
        .policy(Policy::step().attempts(2).backoff(hour, hour))
        .run(|cx, (): ()| async move {
            match cx.attempt().number() {
                1 => Err(StepError::transient("later").retry_after(Duration::from_secs(3_600))),
                _ => Ok(()),
            }
        })
        .no_undo();
    let patient = saga.finish(()).unwrap();
    let (store, sagas) = memory();
    let handle = sagas.start(&patient, id("s-1"), ()).await.unwrap();
    sleep(SECOND).await;
    let elsewhere = Orchestrator::new(store);
    timeout(15 * SECOND, elsewhere.retry(&id("s-1"), "it is back")).await.unwrap().unwrap();
    timeout(SECOND, handle.outcome()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_across_processes_and_a_fatal_step_is_given_up() {
    let log = Log::default();
    let define = |log: &Log| {
        let log = log.clone();
        let mut saga = Saga::define("fatal", 1);
        saga.step("kills")
            .policy(Policy::step().attempts(3).timeout(Duration::from_secs(3_600)))
            .run(move |cx, (): ()| {
                log.note(format!("{}", cx.attempt()));
                pending::<Result<(), _>>()
            })
            .no_undo();
        saga.finish(()).unwrap()
    };
    let store = MemoryStore::new();
    let first = Orchestrator::new(store.clone());
    first.start(&define(&log), id("s-1"), ()).await.unwrap();
    sleep(SECOND).await;
    drop(first);
    for _ in 0..2 {
        sleep(31 * SECOND).await;
        let next = Orchestrator::new(store.clone());
        next.register(&define(&log)).unwrap();
        assert_eq!(next.recover().await.unwrap().resumed, 1);
        sleep(SECOND).await;
    }
    assert_eq!(log.take(), "1 2 3");
    sleep(31 * SECOND).await;
    let last = Orchestrator::new(store);
    last.register(&define(&log)).unwrap();
    last.recover().await.unwrap();
    let report = last.settled(&id("s-1")).await.unwrap();
    assert_eq!((report.state, log.take().as_str()), (State::Compensated, ""), "no fourth time");
    assert_eq!(report.failure.unwrap().attempts, 3);
    assert_eq!(last.history(&id("s-1")).await.unwrap().len(), 2, "counted, not appended");
}

#[tokio::test(start_paused = true)]
async fn messages_go_out_with_the_attempt_that_succeeds_and_with_no_other() {
    let mut saga = Saga::define("tells", 1);
    saga.step("tell")
        .run(|cx, n: u32| async move {
            cx.emit("orders", &(n, cx.attempt().number())).map_err(StepError::rejected)?;
            cx.emit("bills", &n).map_err(StepError::rejected)?;
            if cx.attempt().is_retry() { Ok(()) } else { Err(StepError::unknown("lost")) }
        })
        .no_undo();
    let (store, sagas) = memory();
    sagas.run_as(&saga.finish(()).unwrap(), id("s-1"), 7).await.unwrap();
    let relay = Relay { node: "relay".into(), lease: SECOND, after: None, sagas: 9, messages: 9 };
    let messages = store.outbox(&relay).await.unwrap().pop().unwrap().messages.unwrap();
    let told: Vec<_> = messages
        .iter()
        .map(|Outgoing { id, message }| {
            format!("{}/{} {} {}", id.sequence, id.index, message.topic, message.body.get())
        })
        .collect();
    assert_eq!(told, ["1/0 orders [7,2]", "1/1 bills 7"]);
}

#[tokio::test(start_paused = true)]
async fn diagrams_show_the_definition_and_where_a_saga_stands() {
    let log = Log::default();
    let mut saga = Saga::define("order", 1);
    let stock = saga.step("re\"serve").run(act(&log, Ok(()))).undo(undo(&log));
    let cool = saga.step("cool-off").after(&stock).timer(SECOND);
    let paid = saga
        .step("pay")
        .needs(&stock)
        .after(&cool)
        .run(|_, _: u32, _| async { Err::<(), _>(no()) });
    let paid = paid.no_undo();
    let mut saga = saga.pivot(&paid);
    saga.step("ack").signal::<()>();
    let order = saga.finish(()).unwrap();
    let drawn = "flowchart TD\n    s0[[\"re#34;serve\"]]\n    s1([\"cool-off\"])\n    s2{{\"pay\"}}\n    s3>\"ack\"]\n    \
                 s0 -.-> s1\n    s0 --> s2\n    s1 -.-> s2\n    s2 -.-> s3\n";
    assert_eq!(order.to_mermaid(), drawn);
    let (_, sagas) = memory();
    sagas.run_as(&order, id("s-1"), 7).await.unwrap();
    let drawn = sagas.report(&id("s-1")).await.unwrap().to_mermaid();
    assert!(drawn.contains("s0[[\"re#34;serve<br/>undone\"]]:::back"), "{drawn}");
    assert!(drawn.contains("s2{{\"pay<br/>failed\"}}:::bad"), "{drawn}");
}

#[tokio::test(start_paused = true)]
async fn a_certain_step_is_not_given_up_for_the_number_of_its_attempts_by_a_takeover() {
    let pause = 6 * SECOND;
    let define = || {
        let mut saga = Saga::define("certain", 1);
        let first = saga.step("first").run(|_, (): ()| async { Ok(()) }).no_undo();
        let mut saga = saga.pivot(&first);
        saga.step("try").backoff(pause, pause).run(|cx, (): ()| async move {
            let later = StepError::transient("later").retry_after(Duration::from_secs(6));
            if cx.attempt().number() < 60 { Err(later) } else { Ok(()) }
        });
        saga.finish(()).unwrap()
    };
    let (store, sagas) = memory();
    let recovery = sagas.spawn_recovery(SECOND);
    sagas.start(&define(), id("s-1"), ()).await.unwrap();
    sleep(200 * SECOND).await;
    assert_eq!(sagas.stats().running, 0, "it pauses in the store");
    drop((recovery, sagas));
    let next = Orchestrator::new(store);
    next.register(&define()).unwrap();
    let _recovery = next.spawn_recovery(SECOND);
    assert_eq!(next.settled(&id("s-1")).await.unwrap().state, State::Completed);
    assert_eq!(next.history(&id("s-1")).await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_saga_that_is_told_nothing_new_is_let_go_again() {
    let mut saga = Saga::define("stuck", 1);
    let fails = |_, (): (), _: Effect<()>| async { Err(no()) };
    saga.step("a").run(|_, (): ()| async { Ok(()) }).undo(fails);
    saga.step("b").run(|_, (): ()| async { Err::<(), _>(no()) }).no_undo();
    let (store, sagas) = memory();
    sagas.run_as(&saga.finish(()).unwrap(), id("s-1"), ()).await.unwrap();
    for _ in 0..3 {
        sagas.retry(&id("s-1"), "").await.unwrap();
        sagas.settled(&id("s-1")).await.unwrap();
    }
    let _recovery = sagas.spawn_recovery(SECOND);
    sleep(600 * SECOND).await;
    let journal = store.load(&id("s-1")).await.unwrap().unwrap();
    assert_eq!((journal.epoch, journal.node), (4, None), "taken over for each order and no more");
}
