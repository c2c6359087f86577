use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed},
            fence,
        },
    },
};

use futures_util::future::BoxFuture;
use gusset_call::{Attempt, Context, Deadline, TraceState};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{BoxError, Json, Message, SagaId, StepError, definition::Plan, span::Listener};

/// Which way a step is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The action.
    Act,
    /// Its undo.
    Undo,
}

/// What an undo has to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<Out> {
    /// The action succeeded with this output.
    Known(Out),
    /// The action was attempted, and nobody knows whether it had an effect: ask, by the idempotency key of the
    /// action ([`StepContext::action_key`]), and undo what is there. That there is nothing is a success.
    Unknown,
}

/// What an action or undo knows about its attempt.
///
/// It comes with all that the attempt may rely on, and with the [`Context`] of the saga. Task-locals of other libraries, and tracing's current span, as whoever began the
/// saga had them, are not for it: an attempt may run within the caller's task or in one of the saga's own, in this process or in another one, and
/// which of them is not promised. What a step needs belongs into the input.
#[derive(Clone)]
pub struct StepContext {
    pub(crate) ground: Arc<Ground>,
    /// Its place.
    pub(crate) step: u32,
    pub(crate) direction: Direction,
    pub(crate) attempt: Attempt,
    pub(crate) epoch: u64,
    pub(crate) deadline: Deadline,
}

/// What all attempts at the steps of a saga know, in one piece, and the messages of the one that is under way. The next attempt has it again,
/// unless somebody keeps the context of one that is over.
pub(crate) struct Ground {
    pub(crate) saga: SagaId,
    pub(crate) plan: Arc<Plan>,
    /// The saga's trace, and not the deadline of whoever began it: that one has no say here.
    pub(crate) context: Context,
    pub(crate) trace_state: Option<TraceState>,
    /// Whether there are messages: looked at by all, where few have any.
    emitted: AtomicBool,
    outbox: Mutex<Vec<Message>>,
}

impl Ground {
    pub(crate) fn new(
        saga: SagaId,
        plan: Arc<Plan>,
        context: Context,
        trace_state: Option<TraceState>,
    ) -> Self {
        let (emitted, outbox) = (AtomicBool::new(false), Mutex::default());
        Self { saga, plan, context, trace_state, emitted, outbox }
    }

    /// The same with no messages, for the next attempt.
    pub(crate) fn again(self: Arc<Self>) -> Arc<Self> {
        if Arc::strong_count(&self) > 1 {
            // Whoever has it still has the context of an attempt that is over.
            let (saga, plan) = (self.saga.clone(), self.plan.clone());
            return Arc::new(Self::new(saga, plan, self.context, self.trace_state.clone()));
        }
        // What the last of the others did with it, and be it too late, was done before.
        fence(Acquire);
        drop(self.take());
        self
    }

    /// The messages of the attempt.
    pub(crate) fn take(&self) -> Vec<Message> {
        if !self.emitted.load(Relaxed) {
            return Vec::new();
        }
        let mut outbox = self.outbox();
        self.emitted.store(false, Relaxed);
        std::mem::take(&mut outbox)
    }

    fn put(&self, message: Message) -> Result<(), BoxError> {
        let mut outbox = self.outbox();
        if outbox.len() == 100 {
            return Err("more than 100 messages in one attempt".into());
        }
        outbox.push(message);
        self.emitted.store(true, Relaxed);
        Ok(())
    }

    fn outbox(&self) -> MutexGuard<'_, Vec<Message>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self, step: u32) -> &Arc<str> {
        &self.plan.shape.steps[step as usize].name
    }
}

impl StepContext {
    /// The saga.
    #[must_use]
    pub fn saga(&self) -> &SagaId {
        &self.ground.saga
    }

    /// Name of the step.
    #[must_use]
    pub fn step(&self) -> &str {
        self.name()
    }

    /// Whether this is the action or the undo.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Which attempt this is; it begins anew when another process takes over.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The same for every attempt of this step in this direction, in every process, and different from all others: send it along, so
    /// that the receiver can tell a repetition. `<saga>/<step>/do` or `<saga>/<step>/undo`.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        match self.direction {
            Direction::Act => self.action_key(),
            Direction::Undo => format!("{}/{}/undo", self.saga(), self.step()),
        }
    }

    /// The key that the action of this step runs under, for an undo that has to find out what the action did.
    #[must_use]
    pub fn action_key(&self) -> String {
        format!("{}/{}/do", self.saga(), self.step())
    }

    /// Grows whenever a process takes the saga over. A receiver that remembers the highest it saw can refuse a process that was
    /// believed dead.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Has a message sent, if and only if this attempt succeeds: it becomes durable in the same write as the success, and an
    /// [`OutboxRelay`](crate::OutboxRelay) sends it, after the earlier ones of this saga and at least once. What an attempt emits that fails, times out or is
    /// not the last is dropped. The trace of [`Context::current`] goes along as the header `traceparent`, and
    /// that of [`TraceState::current`] as `tracestate`, which is the one that the saga was begun with. At most 100 for an attempt.
    ///
    /// ```
    /// # use gusset_saga::{StepContext, StepError};
    /// async fn pay(cx: StepContext, cents: u64) -> Result<u64, StepError> {
    ///     cx.emit("order.paid", &cents).map_err(StepError::rejected)?;
    ///     Ok(cents)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// When there are too many, or the body has no JSON form or too long a one.
    pub fn emit<T: Serialize + ?Sized>(
        &self,
        topic: impl Into<Arc<str>>,
        body: &T,
    ) -> Result<(), BoxError> {
        let mut message = Message::new(topic.into(), Json::encode(body)?);
        if let Some(trace) = Context::current().trace() {
            message.headers.insert("traceparent".into(), trace.to_string().into());
            if let Some(state) = TraceState::current() {
                message.headers.insert("tracestate".into(), state.as_str().into());
            }
        }
        self.ground.put(message)
    }

    /// When this attempt is given up. It is also the deadline of [`gusset_call::Context::current`] during the attempt, so
    /// that layers pass it on.
    #[must_use]
    pub const fn deadline(&self) -> Deadline {
        self.deadline
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        self.ground.name(self.step)
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("saga", self.saga())
            .field("step", &self.step())
            .field("direction", &self.direction)
            .field("attempt", &self.attempt)
            .field("epoch", &self.epoch)
            .field("deadline", &self.deadline)
            .finish()
    }
}

/// An action or undo without its types: what the runner calls.
pub(crate) type Action = dyn Fn(Call) -> Attempting + Send + Sync;

/// An attempt under way. An action has an output, an undo has none.
pub(crate) type Attempting = BoxFuture<'static, Result<Option<Json>, StepError>>;

/// Arguments of an [`Action`].
pub(crate) struct Call {
    pub(crate) cx: StepContext,
    pub(crate) input: Json,
    pub(crate) needed: Vec<Json>,
    /// For an undo: what the action returned, if that is known.
    pub(crate) output: Option<Json>,
    pub(crate) listener: Option<Arc<Listener>>,
}

impl Call {
    /// Nothing was attempted yet where an argument cannot be read, hence the rejection.
    pub(crate) fn input<In: DeserializeOwned>(&self) -> Result<In, StepError> {
        self.input.decode().map_err(|error| StepError::rejected(format!("input: {error}")))
    }

    pub(crate) fn effect<Out: DeserializeOwned>(&self) -> Result<Effect<Out>, StepError> {
        let Some(output) = &self.output else { return Ok(Effect::Unknown) };
        match output.decode() {
            Ok(output) => Ok(Effect::Known(output)),
            Err(error) => Err(StepError::rejected(format!("output: {error}"))),
        }
    }
}
