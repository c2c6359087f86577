use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, atomic::AtomicU64},
};

use futures_util::{FutureExt, future::ready};

use crate::{
    Direction, Policy, Shape, StepKind,
    needs::Decode,
    shape::Graph,
    span,
    step::{Action, Attempting, Call},
};

/// What a saga does: named, versioned, and independent of any saga that runs it. Clones share it.
pub struct Definition<In, Out> {
    pub(crate) plan: Arc<Plan>,
    pub(crate) needs: Arc<[u32]>,
    pub(crate) decode: Decode<Out>,
    pub(crate) input: PhantomData<fn(In)>,
}

impl<In, Out> Definition<In, Out> {
    /// Name of the definition.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.shape.name
    }

    /// Version of the definition.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.plan.shape.version
    }

    /// Names, undos and needs of the steps.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.plan.shape
    }

    /// A Mermaid flow chart of the steps, see [`Shape::to_mermaid`].
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        self.plan.shape.to_mermaid()
    }
}

impl<In, Out> Clone for Definition<In, Out> {
    fn clone(&self) -> Self {
        let (plan, needs) = (self.plan.clone(), self.needs.clone());
        Self { plan, needs, decode: self.decode, input: PhantomData }
    }
}

impl<In, Out> fmt::Debug for Definition<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Definition").field(self.shape()).finish()
    }
}

/// What the runner knows of a definition.
pub(crate) struct Plan {
    pub(crate) shape: Arc<Shape>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) steps: Vec<PlannedStep>,
    /// Number of the engine that has found it fit for its table last; 0: none.
    pub(crate) known_to: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct PlannedStep {
    pub(crate) policy: Policy,
    pub(crate) undo_policy: Policy,
    /// Of a step of a child: the step whose output is its input.
    pub(crate) input_from: Option<u32>,
    /// A step that waits has none.
    pub(crate) action: Option<Arc<Action>>,
    pub(crate) undo: Option<Arc<Action>>,
}

impl Plan {
    pub(crate) const fn new(shape: Arc<Shape>, graph: Arc<Graph>, steps: Vec<PlannedStep>) -> Self {
        Self { shape, graph, steps, known_to: AtomicU64::new(0) }
    }

    pub(crate) fn policy(&self, step: u32, direction: Direction) -> Policy {
        let step = &self.steps[step as usize];
        match direction {
            Direction::Act => step.policy,
            Direction::Undo => step.undo_policy,
        }
    }

    /// Whether a rejection halts the step instead of turning the saga back.
    pub(crate) fn is_certain(&self, step: u32) -> bool {
        self.shape.steps[step as usize].kind == StepKind::Certain
    }

    /// Whether the saga cannot take back what the step may have done: it has to be found out.
    pub(crate) fn must_know(&self, step: u32) -> bool {
        let shape = &self.shape.steps[step as usize];
        shape.kind == StepKind::Pivot && !shape.undo
    }

    /// Begins an attempt. Runs user code, which may panic.
    pub(crate) fn attempt(&self, step: u32, direction: Direction, call: Call) -> Attempting {
        let step = &self.steps[step as usize];
        let action = match direction {
            Direction::Act => &step.action,
            Direction::Undo => &step.undo,
        };
        match (action, call.listener.clone()) {
            (Some(action), None) => action(call),
            (Some(action), Some(listener)) => {
                let (action, cx) = (action.clone(), call.cx.clone());
                span::watched(listener, self.shape.name.clone(), &cx, move || action(call))
            }
            (None, _) => ready(Ok(None)).boxed(),
        }
    }
}
