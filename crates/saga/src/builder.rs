use std::{fmt, future::Future, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Acting, Definition, DefinitionError, Policy, StepContext, StepError, StepKind,
    definition::PlannedStep,
    draft::{Draft, NewStep},
    needs::{Decode, Needs, StepRef},
    past_pivot::PastPivot,
    typed::{acting, acting_on, computing, computing_on},
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
/// # Order
///
/// A step begins when the steps are done that it names: those that it [`needs`](Step::needs), and those that it comes [`after`](Step::after).
/// Steps that do not wait for each other run at the same time. **A step that names none begins when the one defined before it is done**, so that
/// nothing runs at the same time by oversight.
///
/// ```
/// # use gusset_saga::{Saga, StepContext, StepError};
/// # async fn step(_: StepContext, _: u32) -> Result<u32, StepError> { Ok(1) }
/// # async fn join(_: StepContext, _: u32, _: (u32, u32)) -> Result<u32, StepError> { Ok(1) }
/// let mut saga = Saga::define("trip", 1);
/// let plan = saga.step("plan").run(step).no_undo();
/// let hotel = saga.step("hotel").after(&plan).run(step).no_undo();
/// let flight = saga.step("flight").after(&plan).run(step).no_undo(); // at the same time as the hotel
/// let bill = saga.step("bill").needs((&hotel, &flight)).run(join).no_undo();
/// # saga.finish(&bill).unwrap();
/// ```
///
/// # Wrong wiring does not compile
///
/// A step can need only steps that were defined before it, and receives what they return:
///
/// ```compile_fail,E0631
/// # use gusset_saga::{Saga, StepContext, StepError};
/// # async fn reserve(cx: StepContext, items: u32) -> Result<String, StepError> { Ok(String::new()) }
/// # async fn pay(cx: StepContext, items: u32, stock: u64) -> Result<u64, StepError> { Ok(stock) }
/// let mut saga = Saga::define("place-order", 1);
/// let stock = saga.step("reserve-stock").run(reserve).no_undo();
/// saga.step("pay").needs(&stock).run(pay).no_undo(); // pay takes a u64, stock is a String
/// ```
///
/// An undo must take the effect that its action may have had, known or not:
///
/// ```compile_fail
/// # use gusset_saga::{Saga, StepContext, StepError};
/// # async fn reserve(cx: StepContext, items: u32) -> Result<String, StepError> { Ok(String::new()) }
/// # async fn release(cx: StepContext, items: u32, stock: String) -> Result<(), StepError> { Ok(()) }
/// let mut saga = Saga::define("place-order", 1);
/// saga.step("reserve-stock").run(reserve).undo(release); // release cannot cope with Effect::Unknown
/// ```
///
/// Whether a step is undone has to be said before the saga can go on:
///
/// ```compile_fail
/// # use gusset_saga::{Saga, StepContext, StepError};
/// # async fn reserve(cx: StepContext, items: u32) -> Result<String, StepError> { Ok(String::new()) }
/// # async fn pay(cx: StepContext, items: u32, stock: String) -> Result<u64, StepError> { Ok(1) }
/// let mut saga = Saga::define("place-order", 1);
/// let stock = saga.step("reserve-stock").run(reserve);
/// saga.step("pay").needs(&stock).run(pay).no_undo();
/// ```
pub struct Saga<In> {
    pub(crate) draft: Draft,
    pub(crate) input: PhantomData<fn(In)>,
}

impl<In: DeserializeOwned + Serialize + 'static> Saga<In> {
    /// Begins a definition. The journal refers to it by `name` and `version`: a change of steps needs a new version, and the old one
    /// stays registered until its last saga is finished.
    pub fn define(name: impl Into<Arc<str>>, version: u32) -> Self {
        Self { draft: Draft::new(name.into(), version), input: PhantomData }
    }

    /// How long a saga may take, from its start on, before it turns back, whatever it is doing. It does not turn back once its pivot has begun.
    /// Default: as long as it takes. It is kept to the millisecond.
    pub fn deadline(&mut self, span: Duration) -> &mut Self {
        self.draft.deadline = Some(millis(span));
        self
    }

    /// Adds a step. The name is part of its idempotency keys.
    pub fn step(&mut self, name: impl Into<Arc<str>>) -> Step<'_, In, ()> {
        let (policy, undo_policy) = (Policy::step(), Policy::undo());
        let wiring =
            Wiring { name: name.into(), needs: Vec::new(), after: Vec::new(), names: false };
        Step { draft: &mut self.draft, wiring, policy, undo_policy, decode: (), input: PhantomData }
    }

    /// Makes the step that was defined last the pivot: once it is done the saga does not turn back. It begins when all others are done, and only steps that
    /// are [certain](PastPivot::step) can follow.
    ///
    /// A pivot with an undo is undone if it is given up and may have had an effect. A pivot without is attempted until its outcome is known.
    #[must_use = "the rest of the steps go here"]
    pub fn pivot<Out>(mut self, step: &StepRef<Out>) -> PastPivot<In> {
        self.draft.pivot(step.parts());
        PastPivot { draft: self.draft, input: PhantomData }
    }

    /// Ends the definition. `result` names the steps whose outputs are the result of the saga: a handle, a tuple of handles, or `()`.
    ///
    /// # Errors
    ///
    /// When a name is not valid or given twice, a handle is of another definition, or there are no steps.
    pub fn finish<N: Needs>(self, result: N) -> Result<Definition<In, N::Values>, DefinitionError> {
        self.draft.finish(&result)
    }
}

/// Where a step stands among the others.
pub(crate) struct Wiring {
    pub(crate) name: Arc<str>,
    pub(crate) needs: Vec<u32>,
    pub(crate) after: Vec<u32>,
    /// Whether it says what it waits for, and be it nothing.
    pub(crate) names: bool,
}

/// A step in the making: its policies, what it waits for, and then what it does: [`run`](Step::run), [`timer`](Step::timer),
/// [`signal`](Step::signal) or [`child`](Step::child).
///
/// `D` is `()` until [`needs`](Step::needs).
#[must_use = "a step is part of the saga from `undo` or `no_undo` on"]
pub struct Step<'a, In, D> {
    pub(crate) draft: &'a mut Draft,
    pub(crate) wiring: Wiring,
    pub(crate) policy: Policy,
    pub(crate) undo_policy: Policy,
    pub(crate) decode: D,
    pub(crate) input: PhantomData<fn(In)>,
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

    /// Waits for these steps, without a use for their outputs: a handle, a tuple, a slice, or `()` for none, which begins with the saga.
    pub fn after<N: Needs>(mut self, steps: N) -> Self {
        self.wiring.after.extend(self.draft.places(&steps, &self.wiring.name));
        self.wiring.names = true;
        self
    }

    /// Lets this much time pass, from when the step begins; it survives crashes, and goes by the store's clock, to the millisecond.
    pub fn timer(self, span: Duration) -> StepRef<()> {
        self.wait(StepKind::Timer { millis: millis(span) })
    }

    /// Waits for a signal of the step's name, which [`Orchestrator::signal`](crate::Orchestrator::signal) sends, before or while the step waits. Its payload
    /// is the output; one that is no `T` is a failure of whoever needs it.
    pub fn signal<T>(self) -> StepRef<T> {
        self.wait(StepKind::Signal { within: None })
    }

    /// As [`signal`](Self::signal), but the saga turns back if none comes for this long after the step began.
    pub fn signal_within<T>(self, span: Duration) -> StepRef<T> {
        self.wait(StepKind::Signal { within: Some(millis(span)) })
    }

    fn wait<T>(self, kind: StepKind) -> StepRef<T> {
        let planned = PlannedStep {
            policy: self.policy,
            undo_policy: self.undo_policy,
            input_from: None,
            action: None,
            undo: None,
        };
        self.draft.add(NewStep { wiring: self.wiring, kind, planned })
    }
}

impl<'a, In: DeserializeOwned + Serialize + 'static> Step<'a, In, ()> {
    /// Waits for earlier steps, and hands their outputs to the action and to the undo: a handle, a tuple of at most eight, or a slice.
    pub fn needs<N: Needs>(mut self, needs: N) -> Step<'a, In, Decode<N::Values>> {
        self.wiring.needs = self.draft.places(&needs, &self.wiring.name);
        self.wiring.names = true;
        let Self { draft, wiring, policy, undo_policy, input, .. } = self;
        Step { draft, wiring, policy, undo_policy, decode: needs.decoder(), input }
    }

    /// The action. It must be idempotent under [`StepContext::idempotency_key`]: it is called again when an attempt before it left
    /// no answer.
    pub fn run<A, F, Out>(self, action: A) -> Acting<'a, In, (), Out>
    where
        A: Fn(StepContext, In) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Out, StepError>> + Send + 'static,
        Out: Serialize + DeserializeOwned + 'static,
    {
        Acting { step: self, action: acting(action), output: PhantomData }
    }

    /// Runs another saga as a part of this one: its steps become steps of this one, named `<step>.<its step>`, with one journal, one lease, and one order of
    /// undo. `input` makes its input; its result is the output. A deadline of its own does not count here.
    pub fn child<I, CIn, Out>(self, child: &Definition<CIn, Out>, input: I) -> StepRef<Out>
    where
        I: Fn(In) -> CIn + Send + Sync + 'static,
        CIn: Serialize + DeserializeOwned + 'static,
        Out: Serialize + DeserializeOwned + 'static,
    {
        self.draft.child(self.wiring, child, computing(input))
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
        let action = acting_on(self.decode, action);
        Acting { step: self, action, output: PhantomData }
    }

    /// Runs another saga as a part of this one, whose input is made from what it [`needs`](Step::needs) as well.
    pub fn child<I, CIn, Out>(self, child: &Definition<CIn, Out>, input: I) -> StepRef<Out>
    where
        I: Fn(In, V) -> CIn + Send + Sync + 'static,
        CIn: Serialize + DeserializeOwned + 'static,
        Out: Serialize + DeserializeOwned + 'static,
    {
        self.draft.child(self.wiring, child, computing_on(self.decode, input))
    }
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl<In> fmt::Debug for Saga<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Saga").field(&self.draft).finish()
    }
}

impl<In, D> fmt::Debug for Step<'_, In, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.wiring.name).finish_non_exhaustive()
    }
}
