use std::{fmt, future::Future, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Definition, DefinitionError, Policy, StepContext, StepError, StepKind,
    builder::{Wiring, millis},
    definition::PlannedStep,
    draft::{Draft, NewStep},
    needs::{Decode, Needs, StepRef},
    step::Action,
    typed::{acting, acting_on},
};

/// A definition in the making that has its [pivot](crate::Saga::pivot): only steps that are bound to succeed can follow.
///
/// ```
/// # use gusset_saga::{Saga, StepContext, StepError};
/// # async fn pay(_: StepContext, _: u32) -> Result<u32, StepError> { Ok(1) }
/// # async fn ship(_: StepContext, _: u32) -> Result<u32, StepError> { Ok(1) }
/// let mut saga = Saga::define("place-order", 1);
/// let paid = saga.step("pay").run(pay).no_undo();
/// let mut saga = saga.pivot(&paid);
/// let parcel = saga.step("ship").run(ship);
/// saga.finish(&parcel)?;
/// # Ok::<(), gusset_saga::DefinitionError>(())
/// ```
///
/// There is no way back, so no step has an undo:
///
/// ```compile_fail,E0599
/// # use gusset_saga::{Effect, Saga, StepContext, StepError};
/// # async fn pay(_: StepContext, _: u32) -> Result<u32, StepError> { Ok(1) }
/// # async fn recall(_: StepContext, _: u32, _: Effect<u32>) -> Result<(), StepError> { Ok(()) }
/// # let mut saga = Saga::define("place-order", 1);
/// # let paid = saga.step("pay").run(pay).no_undo();
/// # let mut saga = saga.pivot(&paid);
/// saga.step("ship").run(pay).undo(recall);
/// ```
///
/// and no bound of attempts:
///
/// ```compile_fail,E0599
/// # use gusset_saga::{Effect, Policy, Saga, StepContext, StepError};
/// # async fn pay(_: StepContext, _: u32) -> Result<u32, StepError> { Ok(1) }
/// # let mut saga = Saga::define("place-order", 1);
/// # let paid = saga.step("pay").run(pay).no_undo();
/// # let mut saga = saga.pivot(&paid);
/// saga.step("ship").policy(Policy::step().attempts(3)).run(pay);
/// ```
pub struct PastPivot<In> {
    pub(crate) draft: Draft,
    pub(crate) input: PhantomData<fn(In)>,
}

impl<In: DeserializeOwned + Serialize + 'static> PastPivot<In> {
    /// Adds a step that is attempted until it succeeds. One that is rejected nevertheless halts, and the saga is stuck once all else is done, until an
    /// operator has it tried again or supplies its output.
    pub fn step(&mut self, name: impl Into<Arc<str>>) -> CertainStep<'_, In, ()> {
        let wiring =
            Wiring { name: name.into(), needs: Vec::new(), after: Vec::new(), names: false };
        let policy = Policy::undo().attempts(u32::MAX);
        CertainStep { draft: &mut self.draft, wiring, policy, decode: (), input: PhantomData }
    }

    /// Ends the definition, as [`Saga::finish`](crate::Saga::finish).
    ///
    /// # Errors
    ///
    /// The same, and when the pivot was not the step that was defined last.
    pub fn finish<N: Needs>(self, result: N) -> Result<Definition<In, N::Values>, DefinitionError> {
        self.draft.finish(&result)
    }
}

/// A step behind the pivot in the making.
#[must_use = "a step is part of the saga from `run` on"]
pub struct CertainStep<'a, In, D> {
    draft: &'a mut Draft,
    wiring: Wiring,
    policy: Policy,
    decode: D,
    input: PhantomData<fn(In)>,
}

impl<In: DeserializeOwned + Serialize + 'static, D> CertainStep<'_, In, D> {
    /// Longest time for one attempt. Default 30 s.
    pub fn timeout(mut self, span: Duration) -> Self {
        self.policy = self.policy.timeout(span);
        self
    }

    /// Bound of the first pause, and of every pause, see [`Policy::backoff`]. Default 200 ms and 60 s.
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.policy = self.policy.backoff(base, cap);
        self
    }

    /// Waits for these steps, as [`Step::after`](crate::Step::after); all steps here wait for the pivot as well.
    pub fn after<N: Needs>(mut self, steps: N) -> Self {
        self.wiring.after.extend(self.draft.places(&steps, &self.wiring.name));
        self.wiring.names = true;
        self
    }

    /// Lets this much time pass, as [`Step::timer`](crate::Step::timer).
    pub fn timer(self, span: Duration) -> StepRef<()> {
        self.add(StepKind::Timer { millis: millis(span) }, None)
    }

    /// Waits for a signal, as [`Step::signal`](crate::Step::signal).
    pub fn signal<T>(self) -> StepRef<T> {
        self.add(StepKind::Signal { within: None }, None)
    }

    fn add<T>(self, kind: StepKind, action: Option<Arc<Action>>) -> StepRef<T> {
        let (policy, undo_policy) = (self.policy, Policy::undo());
        let planned = PlannedStep { policy, undo_policy, input_from: None, action, undo: None };
        self.draft.add(NewStep { wiring: self.wiring, kind, planned })
    }
}

impl<'a, In: DeserializeOwned + Serialize + 'static> CertainStep<'a, In, ()> {
    /// Waits for earlier steps and takes their outputs, as [`Step::needs`](crate::Step::needs).
    pub fn needs<N: Needs>(mut self, needs: N) -> CertainStep<'a, In, Decode<N::Values>> {
        self.wiring.needs = self.draft.places(&needs, &self.wiring.name);
        self.wiring.names = true;
        let Self { draft, wiring, policy, input, .. } = self;
        CertainStep { draft, wiring, policy, decode: needs.decoder(), input }
    }

    /// The action. It must be idempotent under [`StepContext::idempotency_key`].
    pub fn run<A, F, Out>(self, action: A) -> StepRef<Out>
    where
        A: Fn(StepContext, In) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Out, StepError>> + Send + 'static,
        Out: Serialize + DeserializeOwned + 'static,
    {
        self.add(StepKind::Certain, Some(acting(action)))
    }
}

impl<In: DeserializeOwned + Serialize + 'static, V: 'static> CertainStep<'_, In, Decode<V>> {
    /// The action, which also receives what it [`needs`](CertainStep::needs).
    pub fn run<A, F, Out>(self, action: A) -> StepRef<Out>
    where
        A: Fn(StepContext, In, V) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Out, StepError>> + Send + 'static,
        Out: Serialize + DeserializeOwned + 'static,
    {
        let action = acting_on(self.decode, action);
        self.add(StepKind::Certain, Some(action))
    }
}

impl<In> fmt::Debug for PastPivot<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PastPivot").field(&self.draft).finish()
    }
}

impl<In, D> fmt::Debug for CertainStep<'_, In, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertainStep").field("name", &self.wiring.name).finish_non_exhaustive()
    }
}
