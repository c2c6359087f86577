use std::{fmt, future::Future, marker::PhantomData, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Step, StepContext, StepError, StepKind,
    definition::PlannedStep,
    draft::NewStep,
    needs::{Decode, StepRef},
    step::Action,
    typed::{undoing, undoing_on},
};

/// A step with its action, of which remains to be said how it is undone.
#[must_use = "a step is part of the saga from `undo` or `no_undo` on"]
pub struct Acting<'a, In, D, Out> {
    pub(crate) step: Step<'a, In, D>,
    pub(crate) action: Arc<Action>,
    pub(crate) output: PhantomData<fn() -> Out>,
}

impl<In, D, Out> Acting<'_, In, D, Out> {
    /// There is nothing to undo: it reads only, or what it does may stay.
    pub fn no_undo(self) -> StepRef<Out> {
        self.add(None)
    }

    fn add(self, undo: Option<Arc<Action>>) -> StepRef<Out> {
        let Step { draft, wiring, policy, undo_policy, .. } = self.step;
        let action = Some(self.action);
        let planned = PlannedStep { policy, undo_policy, input_from: None, action, undo };
        draft.add(NewStep { wiring, kind: StepKind::Action, planned })
    }
}

impl<In: DeserializeOwned + Serialize + 'static, Out: DeserializeOwned + 'static>
    Acting<'_, In, (), Out>
{
    /// Undoes what the action did. It must be idempotent under [`StepContext::idempotency_key`], and must cope with
    /// [`Effect::Unknown`](crate::Effect::Unknown). A rejection means that it cannot be undone, and leaves the saga stuck without further attempts.
    pub fn undo<U, F>(self, undo: U) -> StepRef<Out>
    where
        U: Fn(StepContext, In, crate::Effect<Out>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.add(Some(undoing(undo)))
    }
}

impl<In, V, Out> Acting<'_, In, Decode<V>, Out>
where
    In: DeserializeOwned + Serialize + 'static,
    V: 'static,
    Out: DeserializeOwned + 'static,
{
    /// Undoes what the action did; it receives what the step [`needs`](Step::needs) as well. See [`Acting::undo`] of a step without
    /// needs for what it must promise.
    pub fn undo<U, F>(self, undo: U) -> StepRef<Out>
    where
        U: Fn(StepContext, In, V, crate::Effect<Out>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        let undo = undoing_on(self.step.decode, undo);
        self.add(Some(undo))
    }
}

impl<In, D, Out> fmt::Debug for Acting<'_, In, D, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acting").field(&self.step).finish()
    }
}
