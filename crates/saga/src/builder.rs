use std::{
    collections::HashSet,
    fmt,
    future::Future,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::{FutureExt, future::ready};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Definition, DefinitionError, Effect, InvalidName, Json, Policy, Shape, StepContext, StepError,
    StepShape,
    definition::{Plan, PlannedStep},
    id::check_name,
    needs::{Decode, Needs, StepRef},
    step::{Action, Attempting, Call},
};

/// A definition in the making, whose sagas take an `In`.
///
/// ```
/// use gusset_saga::{Effect, Saga, StepContext, StepError};
///
/// async fn reserve(cx: StepContext, items: u32) -> Result<String, StepError> {
///     Ok(format!("{items} items for {}", cx.idempotency_key()))
/// }
/// async fn release(cx: StepContext, items: u32, stock: Effect<String>) -> Result<(), StepError> {
///     Ok(())
/// }
/// async fn pay(cx: StepContext, items: u32, stock: String) -> Result<u64, StepError> {
///     Ok(u64::from(items) * 100)
/// }
///
/// let mut saga = Saga::define("place-order", 1);
/// let stock = saga.step("reserve-stock").run(reserve).undo(release);
/// let paid = saga.step("pay").needs(&stock).run(pay).no_undo();
/// let place_order = saga.finish((&stock, &paid))?;
/// # Ok::<(), gusset_saga::DefinitionError>(())
/// ```
///
/// A step can need only steps that were defined before it, and receives what they return:
///
/// ```compile_fail
/// # use gusset_saga::{Saga, StepContext, StepError};
/// # async fn reserve(cx: StepContext, items: u32) -> Result<String, StepError> { todo!() }
/// # async fn pay(cx: StepContext, items: u32, stock: u64) -> Result<u64, StepError> { todo!() }
/// let mut saga = Saga::define("place-order", 1);
/// let stock = saga.step("reserve-stock").run(reserve).no_undo();
/// saga.step("pay").needs(&stock).run(pay).no_undo(); // pay takes a u64, stock is a String
/// ```
pub struct Saga<In> {
    /// Tells the handles of this definition from those of others.
    mark: u64,
    plan: Plan,
    error: Option<DefinitionError>,
    input: PhantomData<fn(In)>,
}

impl<In: DeserializeOwned + Serialize + 'static> Saga<In> {
    /// Begins a definition. The journal refers to it by `name` and `version`: a change of steps needs a new version, and the old one
    /// stays registered until its last saga is finished.
    pub fn define(name: impl Into<Arc<str>>, version: u32) -> Self {
        static MARKS: AtomicU64 = AtomicU64::new(0);
        let shape = Arc::new(Shape { name: name.into(), version, steps: Vec::new() });
        Self {
            mark: MARKS.fetch_add(1, Relaxed),
            plan: Plan { shape, steps: Vec::new() },
            error: None,
            input: PhantomData,
        }
    }

    /// Adds a step behind those that there are. The name is part of its idempotency keys.
    pub fn step(&mut self, name: impl Into<Arc<str>>) -> Step<'_, In, ()> {
        let (policy, undo_policy) = (Policy::step(), Policy::undo());
        Step { saga: self, name: name.into(), policy, undo_policy, needs: Vec::new(), decode: () }
    }

    /// Ends the definition. `result` names the steps whose outputs are the result of the saga: a handle, a tuple of handles, or `()`.
    ///
    /// # Errors
    ///
    /// When a name is not valid or given twice, a handle is of another definition, or there are no steps.
    pub fn finish<N: Needs>(
        mut self,
        result: N,
    ) -> Result<Definition<In, N::Values>, DefinitionError> {
        let name = self.plan.shape.name.clone();
        check_name(&name)?;
        let needs = self.places(&result, &name);
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut names = HashSet::new();
        for step in &self.plan.shape.steps {
            check_name(&step.name)?;
            if step.name.contains('/') {
                return Err(InvalidName(step.name.to_string()).into());
            }
            if !names.insert(&step.name) {
                return Err(DefinitionError::DuplicateStep(step.name.clone()));
            }
        }
        if names.is_empty() {
            return Err(DefinitionError::NoSteps);
        }
        let decode = result.decoder();
        Ok(Definition {
            plan: Arc::new(self.plan),
            needs: needs.into(),
            decode,
            input: PhantomData,
        })
    }

    fn places(&mut self, needs: &impl Needs, whose: &Arc<str>) -> Vec<u32> {
        let mut places = Vec::new();
        needs.each(&mut |mark, place| {
            if mark == self.mark {
                places.push(place);
            } else {
                self.error.get_or_insert_with(|| DefinitionError::ForeignStep(whose.clone()));
            }
        });
        places
    }
}

/// A step in the making: its policies, what it needs, and then [`run`](Step::run).
///
/// `D` is `()` until [`needs`](Step::needs).
#[must_use = "a step is part of the saga from `undo` or `no_undo` on"]
pub struct Step<'a, In, D> {
    saga: &'a mut Saga<In>,
    name: Arc<str>,
    policy: Policy,
    undo_policy: Policy,
    needs: Vec<u32>,
    decode: D,
}

impl<'a, In: DeserializeOwned + Serialize + 'static, D> Step<'a, In, D> {
    /// Timeout and retries of the action. Default [`Policy::step`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Timeout and retries of the undo. Default [`Policy::undo`].
    pub fn undo_policy(mut self, policy: Policy) -> Self {
        self.undo_policy = policy;
        self
    }

    fn acting<Out>(
        self,
        action: impl Fn(Call) -> Attempting + Send + Sync + 'static,
    ) -> Acting<'a, In, D, Out> {
        Acting { step: self, action: Box::new(action), output: PhantomData }
    }
}

impl<'a, In: DeserializeOwned + Serialize + 'static> Step<'a, In, ()> {
    /// Hands the outputs of earlier steps to the action and to the undo: a handle, or a tuple of at most eight.
    pub fn needs<N: Needs>(mut self, needs: N) -> Step<'a, In, Decode<N::Values>> {
        self.needs = self.saga.places(&needs, &self.name);
        let Self { saga, name, policy, undo_policy, needs: places, .. } = self;
        Step { saga, name, policy, undo_policy, needs: places, decode: needs.decoder() }
    }

    /// The action. It must be idempotent under [`StepContext::idempotency_key`]: it is called again when an attempt before it left
    /// no answer.
    pub fn run<A, F, Out>(self, action: A) -> Acting<'a, In, (), Out>
    where
        A: Fn(StepContext, In) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Out, StepError>> + Send + 'static,
        Out: Serialize + DeserializeOwned + 'static,
    {
        self.acting(move |call| match call.input() {
            Ok(input) => returning(action(call.cx, input)),
            Err(error) => refusing(error),
        })
    }
}

impl<'a, In: DeserializeOwned + Serialize + 'static, V: 'static> Step<'a, In, Decode<V>> {
    /// The action, which also receives what it [`needs`](Step::needs). It must be idempotent under
    /// [`StepContext::idempotency_key`].
    pub fn run<A, F, Out>(self, action: A) -> Acting<'a, In, Decode<V>, Out>
    where
        A: Fn(StepContext, In, V) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Out, StepError>> + Send + 'static,
        Out: Serialize + DeserializeOwned + 'static,
    {
        let decode = self.decode;
        self.acting(move |call| match (call.input(), needed(decode, &call)) {
            (Ok(input), Ok(needed)) => returning(action(call.cx, input, needed)),
            (Err(error), _) | (_, Err(error)) => refusing(error),
        })
    }
}

/// A step that lacks the decision whether it can be undone.
#[must_use = "a step is part of the saga from `undo` or `no_undo` on"]
pub struct Acting<'a, In, D, Out> {
    step: Step<'a, In, D>,
    action: Box<Action>,
    output: PhantomData<fn() -> Out>,
}

impl<In: DeserializeOwned + Serialize + 'static, D, Out> Acting<'_, In, D, Out> {
    /// There is nothing to undo, as after a mere query.
    pub fn no_undo(self) -> StepRef<Out> {
        self.add(None)
    }

    fn add(self, undo: Option<Box<Action>>) -> StepRef<Out> {
        let Step { saga, name, policy, undo_policy, needs, .. } = self.step;
        let steps = &mut Arc::make_mut(&mut saga.plan.shape).steps;
        let place = steps.len() as u32;
        steps.push(StepShape { name, undo: undo.is_some(), needs });
        saga.plan.steps.push(PlannedStep { policy, undo_policy, action: self.action, undo });
        StepRef::new(saga.mark, place)
    }
}

impl<In: DeserializeOwned + Serialize + 'static, Out: DeserializeOwned> Acting<'_, In, (), Out> {
    /// Undoes what the action did. It must be idempotent under [`StepContext::idempotency_key`], and must cope with
    /// [`Effect::Unknown`]. A rejection means that it cannot be undone, and leaves the saga stuck without further attempts.
    pub fn undo<U, F>(self, undo: U) -> StepRef<Out>
    where
        U: Fn(StepContext, In, Effect<Out>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        self.add(Some(Box::new(move |call| match (call.input(), call.effect()) {
            (Ok(input), Ok(effect)) => undoing(undo(call.cx, input, effect)),
            (Err(error), _) | (_, Err(error)) => refusing(error),
        })))
    }
}

impl<In, V, Out> Acting<'_, In, Decode<V>, Out>
where
    In: DeserializeOwned + Serialize + 'static,
    V: 'static,
    Out: DeserializeOwned,
{
    /// Undoes what the action did; it receives what the step [`needs`](Step::needs) as well. See [`Acting::undo`] of a step without
    /// needs for what it must promise.
    pub fn undo<U, F>(self, undo: U) -> StepRef<Out>
    where
        U: Fn(StepContext, In, V, Effect<Out>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        let decode = self.step.decode;
        self.add(Some(Box::new(move |call| {
            match (call.input(), needed(decode, &call), call.effect()) {
                (Ok(input), Ok(needed), Ok(effect)) => {
                    undoing(undo(call.cx, input, needed, effect))
                }
                (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => refusing(error),
            }
        })))
    }
}

fn needed<V>(decode: Decode<V>, call: &Call) -> Result<V, StepError> {
    decode(&call.needed).map_err(|error| StepError::rejected(format!("needed output: {error}")))
}

fn returning<Out: Serialize>(
    action: impl Future<Output = Result<Out, StepError>> + Send + 'static,
) -> Attempting {
    // The effect is there: an output that cannot be kept must not pass for a clean failure.
    Box::pin(action.map(|output| Json::encode(&output?).map(Some).map_err(StepError::unknown)))
}

fn undoing(undo: impl Future<Output = Result<(), StepError>> + Send + 'static) -> Attempting {
    Box::pin(undo.map(|done| done.map(|()| None)))
}

fn refusing(error: StepError) -> Attempting {
    ready(Err(error)).boxed()
}

impl<In> fmt::Debug for Saga<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Saga").field(&self.plan.shape).finish()
    }
}

impl<In, D> fmt::Debug for Step<'_, In, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<In, D, Out> fmt::Debug for Acting<'_, In, D, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acting").field(&self.step).finish()
    }
}
