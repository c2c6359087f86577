//! The crash suite on one definition of each kind.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use gusset_saga::{
    Definition, Effect, Policy, Saga, State, StepContext, StepError, testing::crash::Suite,
};

async fn act(cx: StepContext, n: u32) -> Result<u32, StepError> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(n + cx.step().len() as u32)
}

async fn undo(_: StepContext, _: u32, _: Effect<u32>) -> Result<(), StepError> {
    Ok(())
}

fn quick() -> Policy {
    let pause = Duration::from_millis(10);
    Policy::step().timeout(Duration::from_secs(1)).attempts(2).backoff(pause, pause)
}

macro_rules! steps {
    ($saga:ident: $($name:ident)*) => {$(
        let $name = $saga.step(stringify!($name)).policy(quick()).undo_policy(quick().attempts(3));
        let $name = $name.run(act).undo(undo);
    )*};
}

fn sequence() -> Definition<u32, u32> {
    let mut saga = Saga::define("sequence", 1);
    steps!(saga: a b c);
    let _ = (a, b);
    saga.finish(&c).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_sequence_survives_every_crash() {
    assert!(Suite::new(|| (sequence(), 7)).run().await > 500);
}

#[tokio::test(start_paused = true)]
async fn branches_survive_every_crash() {
    let suite = Suite::new(|| {
        let mut saga = Saga::define("branches", 1);
        steps!(saga: a);
        let policy = |step: &str| {
            let slow = if step == "b" { 5 } else { 1 };
            quick().timeout(Duration::from_secs(slow))
        };
        let [b, c] = ["b", "c"].map(|name| {
            saga.step(name).after(&a).policy(policy(name)).undo_policy(quick()).run(act).undo(undo)
        });
        let d = saga.step("d").needs((&b, &c)).policy(quick()).undo_policy(quick());
        let join = |_, _: u32, (b, c)| async move { Ok::<u32, StepError>(b + c) };
        let d = d.run(join).undo(|_, _, _, _| async { Ok(()) });
        (saga.finish(&d).unwrap(), 7)
    });
    assert!(suite.run().await > 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_pivot_survives_every_crash() {
    let suite = Suite::new(|| {
        let mut saga = Saga::define("pivot", 1);
        steps!(saga: a);
        let _ = a;
        let paid = saga.step("pay").policy(quick()).run(act).no_undo();
        let mut saga = saga.pivot(&paid);
        let pause = Duration::from_millis(10);
        let ship = saga.step("ship").timeout(Duration::from_secs(1)).backoff(pause, pause).run(act);
        saga.step("tell").after(()).timeout(Duration::from_secs(1)).backoff(pause, pause).run(act);
        (saga.finish(&ship).unwrap(), 7)
    });
    let suite = suite.also(|report| {
        let paid = report.steps[1].output.is_some();
        assert!(paid == (report.state == State::Completed) || report.state == State::Stuck);
    });
    assert!(suite.run().await > 500);
}

#[tokio::test(start_paused = true)]
async fn a_child_survives_every_crash() {
    let suite = Suite::new(|| {
        let mut saga = Saga::define("parent", 1);
        steps!(saga: first);
        let _ = first;
        let child = saga.step("child").child(&sequence(), |n: u32| n);
        steps!(saga: last);
        (saga.finish((&child, &last)).unwrap(), 7)
    });
    assert!(suite.run().await > 2_000);
}

#[tokio::test(start_paused = true)]
async fn timers_and_signals_survive_every_crash() {
    let suite = Suite::new(|| {
        let mut saga = Saga::define("timer", 1);
        saga.deadline(Duration::from_secs(100_000));
        steps!(saga: a);
        saga.step("cool-off").timer(Duration::from_secs(40));
        let go = saga.step("go").after(&a).signal::<bool>();
        let end = saga.step("end").needs((&a, &go)).policy(quick()).undo_policy(quick());
        let last = |_, n: u32, (_, go)| async move {
            if go { Ok(n) } else { Err(StepError::rejected("no")) }
        };
        let end = end.run(last).undo(|_, _, _, _| async { Ok(()) });
        (saga.finish(&end).unwrap(), 7)
    });
    assert!(suite.signal("go", &true).run().await > 300);
}
