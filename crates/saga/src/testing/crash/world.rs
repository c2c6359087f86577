//! What the participants see and do.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Act, Times, Undo, story::Script};
use crate::{
    Definition, Direction, Json, StepError,
    definition::Plan,
    step::{Action, Attempting, Call},
};

/// Idempotent under the keys, and refusing older epochs, as participants should be.
#[derive(Clone, Default)]
pub(super) struct World(Arc<Mutex<Ledger>>);

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) entries: HashMap<Arc<str>, Entry>,
    pub(super) wrong: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) epoch: u64,
    pub(super) calls: u32,
    pub(super) effect: bool,
    pub(super) outputs: Vec<Json>,
    pub(super) undo_calls: u32,
    pub(super) undone: bool,
}

impl World {
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut Ledger) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The definition with actions and undos that go as the script says.
    pub(super) fn play<In, Out>(
        &self,
        definition: &Definition<In, Out>,
        script: &Script,
    ) -> Definition<In, Out> {
        let plan = &definition.plan;
        let mut steps = plan.steps.clone();
        for (place, step) in steps.iter_mut().enumerate() {
            let act = script.act.filter(|(at, _)| *at == place).map_or(Act::Done, |(_, act)| act);
            let undo = script.undo.filter(|(at, _)| *at == place).map_or(Undo::Done, |(_, u)| u);
            let until = plan.is_certain(place as u32) || plan.must_know(place as u32);
            let most = if until { 4 } else { u32::MAX };
            let world = self.clone();
            step.action = step.action.take().map(|action| -> Arc<Action> {
                Arc::new(move |call| world.clone().act(act, most, action.clone(), call))
            });
            let world = self.clone();
            step.undo = step.undo.take().map(|action| -> Arc<Action> {
                Arc::new(move |call| world.clone().undo(undo, action.clone(), call))
            });
        }
        let (shape, graph) = (plan.shape.clone(), plan.graph.clone());
        Definition { plan: Arc::new(Plan::new(shape, graph, steps)), ..definition.clone() }
    }

    /// How often the step was called that way, this time included; or that whoever calls was believed dead.
    fn enter(&self, call: &Call) -> Result<u32, StepError> {
        self.with(|ledger| {
            let entry = ledger.entries.entry(call.cx.name().clone()).or_default();
            if call.cx.epoch < entry.epoch {
                return Err(StepError::unknown("refused: of an older epoch"));
            }
            entry.epoch = call.cx.epoch;
            if call.cx.direction == Direction::Undo {
                entry.undo_calls += 1;
                return Ok(entry.undo_calls);
            }
            entry.calls += 1;
            let (calls, late) = (entry.calls, entry.undo_calls > 0);
            if late {
                ledger.wrong.push(format!("{} is done after its undo", call.cx.step()));
            }
            Ok(calls)
        })
    }

    fn act(self, act: Act, most: u32, action: Arc<Action>, call: Call) -> Attempting {
        Box::pin(async move {
            let calls = self.enter(&call)?;
            let step = call.cx.name().clone();
            let now = |times: Times| calls <= if times == Times::Once { 1 } else { most };
            match act {
                Act::Rejected => return Err(StepError::rejected("no")),
                Act::Transient(times) if now(times) => return Err(StepError::transient("later")),
                Act::DoneThenTransient if (2..=most).contains(&calls) => {
                    return Err(StepError::transient("down"));
                }
                Act::HangBefore(times) if now(times) => pending().await,
                _ => {}
            }
            let output = action(call).await?;
            self.with(|ledger| {
                let entry = ledger.entries.entry(step).or_default();
                entry.effect = true;
                entry.outputs.extend(output.clone());
            });
            match act {
                Act::Unknown(times) if now(times) => Err(StepError::unknown("lost")),
                Act::DoneThenTransient if calls == 1 => Err(StepError::unknown("lost")),
                // Without the hook that prints: hundreds of them are meant.
                Act::Panic(times) if now(times) => std::panic::resume_unwind(Box::new("meant")),
                Act::HangAfter(times) if now(times) => pending().await,
                _ => Ok(output),
            }
        })
    }

    fn undo(self, undo: Undo, action: Arc<Action>, call: Call) -> Attempting {
        Box::pin(async move {
            let calls = self.enter(&call)?;
            let step = call.cx.name().clone();
            self.with(|ledger| {
                let entry = ledger.entries.entry(step.clone()).or_default();
                let known = call.output.as_ref();
                if known.is_some_and(|output| !entry.outputs.contains(output)) {
                    ledger.wrong.push(format!("{step} is undone with another output"));
                }
            });
            match (undo, calls) {
                (Undo::Fails, _) => return Err(StepError::rejected("cannot be undone")),
                (Undo::Panic, 1) => std::panic::resume_unwind(Box::new("meant")),
                _ => {}
            }
            let done = action(call).await?;
            self.with(|ledger| ledger.entries.entry(step).or_default().undone = true);
            if (undo, calls) == (Undo::Unknown, 1) {
                return Err(StepError::unknown("lost"));
            }
            Ok(done)
        })
    }
}
