//! One story: a definition, a journal, and one process after another.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::sleep;

use super::{Act, Check, Undo, world::World};
use crate::{
    Definition, Json, Options, Orchestrator, Query, Report, SagaError, SagaId, State, StepKind,
    StepState, Store,
    testing::{Fault, FaultyStore},
};

/// What goes wrong, by place of the step.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) act: Option<(usize, Act)>,
    pub(super) undo: Option<(usize, Undo)>,
}

pub(super) struct Cast {
    pub(super) signals: Vec<(Arc<str>, Json)>,
    pub(super) store: Arc<dyn Store>,
}

pub(super) struct Stage<In, Out> {
    world: World,
    definition: Definition<In, Out>,
    cast: Cast,
    saga: SagaId,
}

const LEASE: Duration = Duration::from_secs(30);

impl<In: Serialize + Send + 'static, Out: Send + 'static> Stage<In, Out> {
    pub(super) fn new(script: Script, definition: Definition<In, Out>, cast: Cast) -> Self {
        let world = World::default();
        let definition = world.play(&definition, &script);
        #[expect(clippy::expect_used, reason = "it is a name")]
        let saga = "story".parse().expect("it is a name");
        Self { world, definition, cast, saga }
    }

    /// Whether it came to the fault.
    pub(super) async fn play(&self, input: In, fault: Option<(u64, Fault)>, check: &Check) -> bool {
        let Some((write, fault)) = fault else {
            self.live(&self.process(self.cast.store.clone()), input).await;
            self.check(self.settled().await, false, check);
            self.no_undo_of_what_was_never_called();
            return true;
        };
        let faulty = FaultyStore::failing_at(self.cast.store.clone(), write, fault);
        let process = self.process(Arc::new(faulty.clone()));
        let mut life = Box::pin(self.live(&process, input));
        tokio::select! {
            biased;
            () = faulty.hit() => {}
            () = &mut life => return false,
        }
        if fault != Fault::Freeze {
            drop(life);
            drop(process);
            let report = self.settled().await;
            self.check(report, (write, fault) == (1, Fault::CrashBefore), check);
            return true;
        }
        let report = self.settled().await;
        faulty.thaw();
        // The zombie goes on, and must change nothing.
        let zombie = async {
            life.await;
            sleep(LEASE).await;
        };
        zombie.await;
        let after = self.settled().await;
        if let (Some(before), Some(after)) = (&report, &after) {
            assert_eq!(before, after, "the zombie changed something");
        }
        self.check(after, report.is_none(), check);
        true
    }

    fn process(&self, store: Arc<dyn Store>) -> Orchestrator {
        // A frozen write must stay frozen.
        let patience = Duration::from_secs(1_000_000);
        let options = Options::default().lease(LEASE).store_timeout(patience);
        let sagas = Orchestrator::with(store, options);
        let registered = sagas.register(&self.definition);
        assert!(registered.is_ok(), "it is the first of its name");
        sagas
    }

    /// A process begins the saga and sees it through, as long as it lives.
    async fn live(&self, process: &Orchestrator, input: In) {
        if let Ok(handle) = process.start(&self.definition, self.saga.clone(), input).await {
            self.send_signals(process).await;
            let _ = handle.outcome().await;
        }
    }

    async fn send_signals(&self, process: &Orchestrator) {
        for (name, payload) in &self.cast.signals {
            // One that has ended needs none.
            let _ = process.signal(&self.saga, name, "key", payload).await;
        }
    }

    /// Where the saga stands when another process has taken over what the first one left; `None` if there is none.
    #[expect(clippy::panic, reason = "a test kit")]
    async fn settled(&self) -> Option<Report> {
        let process = self.process(self.cast.store.clone());
        for _ in 0..10_000 {
            if process.stats().running == 0 {
                sleep(2 * LEASE).await;
                let recovered = process.recover().await;
                assert!(recovered.is_ok(), "{recovered:?}");
                self.send_signals(&process).await;
            }
            match process.report(&self.saga).await {
                Ok(report) if report.state.is_final() || report.state == State::Stuck => {
                    self.is_listed(&process, report.state).await;
                    return Some(report);
                }
                Ok(_) => sleep(Duration::from_secs(1)).await,
                Err(SagaError::NoSuchSaga(_)) => return None,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the saga does not settle")
    }

    async fn is_listed(&self, process: &Orchestrator, state: State) {
        let listed = process.list(&Query::in_state(state)).await.unwrap_or_default();
        assert!(listed.iter().any(|summary| summary.saga == self.saga), "not listed as {state:?}");
    }

    fn check(&self, report: Option<Report>, never_begun: bool, check: &Check) {
        let (entries, wrong) =
            self.world.with(|ledger| (ledger.entries.clone(), ledger.wrong.clone()));
        assert_eq!(wrong, Vec::<String>::new());
        let Some(report) = report else {
            assert!(never_begun && entries.is_empty(), "a lost saga has no effects: {entries:?}");
            return;
        };
        for (shape, step) in report.shape().steps.iter().zip(&report.steps) {
            let entry = entries.get(&shape.name).cloned().unwrap_or_default();
            let calls = !shape.kind.waits();
            match report.state {
                State::Completed => {
                    assert!(!calls || entry.effect, "{step:?} is done without an effect");
                    assert_eq!(entry.undo_calls, 0, "{step:?} is undone");
                }
                State::Compensated => {
                    let undone = !entry.effect || entry.undone || !shape.undo;
                    assert!(undone, "{step:?} {entry:?}");
                    assert!(!matches!(shape.kind, StepKind::Certain) || !entry.effect);
                    let pivot = shape.kind == StepKind::Pivot && !shape.undo;
                    assert!(!pivot || !entry.effect, "{step:?}: past the pivot, and undone");
                }
                _ => {
                    let left = step.state == StepState::UndoFailed;
                    let halted = report.steps.iter().any(|one| one.state == StepState::Halted);
                    let undone = !entry.effect || entry.undone || !shape.undo || left || halted;
                    assert!(undone, "{step:?} {entry:?}");
                }
            }
        }
        if report.state == State::Stuck {
            let left = |state| matches!(state, StepState::UndoFailed | StepState::Halted);
            assert!(report.steps.iter().any(|step| left(step.state)), "stuck without a reason");
            assert!(report.failure.is_some() || !report.halts.is_empty(), "and without an error");
        }
        check(&report);
    }

    fn no_undo_of_what_was_never_called(&self) {
        let entries = self.world.with(|ledger| ledger.entries.clone());
        for (step, entry) in entries {
            assert!(entry.undo_calls == 0 || entry.calls > 0, "{step} is undone, but never done");
        }
    }
}
