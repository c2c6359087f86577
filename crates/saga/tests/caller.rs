//! Sagas as their callers see them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_saga::{
    Definition, Effect, FailureKind, Finished, MemoryStore, Options, Orchestrator, Policy, Query,
    Saga, SagaError, SagaId, State, StepContext, StepError,
};
use tokio::time::{Instant, sleep, timeout};

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// The steps a, b and c; `act` and `undo` say how it goes, by the name of the step and the attempt.
fn three_steps<A, U>(log: &Log, act: A, undo: U) -> Definition<u32, (u32, u32, u32)>
where
    A: Fn(&str, u32) -> Result<(), StepError> + Clone + Send + Sync + 'static,
    U: Fn(&str, u32) -> Result<(), StepError> + Clone + Send + Sync + 'static,
{
    let act = {
        let log = log.clone();
        move |cx: StepContext, input: u32| {
            let done = act(cx.step(), cx.attempt().number());
            log.note(if done.is_ok() {
                format!("+{}", cx.step())
            } else {
                format!("!{}", cx.step())
            });
            async move { done.map(|()| input + 1) }
        }
    };
    let undo = {
        let log = log.clone();
        move |cx: StepContext, _: u32, effect: Effect<u32>| {
            let undone = undo(cx.step(), cx.attempt().number());
            let mark = match effect {
                Effect::Known(_) => "-",
                Effect::Unknown => "?",
            };
            log.note(if undone.is_ok() {
                format!("{mark}{}", cx.step())
            } else {
                format!("x{}", cx.step())
            });
            async move { undone }
        }
    };
    let mut saga = Saga::define("three", 1);
    let a = saga.step("a").run(act.clone()).undo(undo.clone());
    let b = saga.step("b").run(act.clone()).undo(undo.clone());
    let c = saga.step("c").run(act).undo(undo);
    saga.finish((&a, &b, &c)).unwrap()
}

fn fine(_: &str, _: u32) -> Result<(), StepError> {
    Ok(())
}

fn rejects(which: &'static str) -> impl Fn(&str, u32) -> Result<(), StepError> + Clone {
    move |step, _| if step == which { Err(StepError::rejected("no")) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn three_steps_are_done_in_order() {
    let log = Log::default();
    let sagas = Orchestrator::new(MemoryStore::new());
    let finished = sagas.run(&three_steps(&log, fine, fine), 7).await.unwrap();
    assert_eq!(finished, Finished::Completed((8, 8, 8)));
    assert_eq!(log.take(), ["+a", "+b", "+c"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_undone_once_in_reverse() {
    for (failing, story) in [
        ("a", vec!["!a"]),
        ("b", vec!["+a", "!b", "-a"]),
        ("c", vec!["+a", "+b", "!c", "-b", "-a"]),
    ] {
        let log = Log::default();
        let sagas = Orchestrator::new(MemoryStore::new());
        let definition = three_steps(&log, rejects(failing), fine);
        let finished = sagas.run(&definition, 7).await.unwrap();
        let Finished::Compensated { failure, .. } = finished else { panic!("{finished:?}") };
        assert_eq!((&*failure.step, failure.kind), (failing, FailureKind::Rejected));
        assert_eq!(log.take(), story);
    }
}
