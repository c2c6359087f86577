use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use gusset_call::{Clock, Open};
use tokio::sync::watch;

use crate::{
    Event, Outcome, Permit, Policy, Recent, State, Stats,
    event::Listener,
    machine::{Machine, Recorded, Refused, Ticket, Transition, World, word::Generation},
    stats::Counters,
};

/// A circuit: what all who call one dependency know of its health. Clones share one state.
///
/// ```
/// use gusset_breaker::{Circuit, Policy};
///
/// let circuit = Circuit::new("db", Policy::consecutive(5));
/// match circuit.try_acquire() {
///     Ok(permit) => match std::fs::read("/etc/hostname") {
///         Ok(_) => permit.success(),
///         Err(error) => permit.failure_with(error),
///     },
///     Err(open) => println!("{open}, try again in {:?}", open.retry_after()),
/// }
/// ```
#[derive(Clone)]
pub struct Circuit(Arc<Shared>);

struct Shared {
    machine: Machine,
    clock: Clock,
    listener: Option<Arc<Listener>>,
    /// Calls that the circuit would refuse pass all the same.
    observing: AtomicBool,
    name: Arc<str>,
    /// Why it is open, or was last, and which generation that began.
    cause: RwLock<Option<(Generation, Arc<str>)>>,
    counters: Counters,
    state: watch::Sender<State>,
}

impl Circuit {
    /// A closed circuit. The name appears in [`Open`] and in events.
    pub fn new(name: impl Into<Arc<str>>, policy: Policy) -> Self {
        Self::build(name.into(), policy, None)
    }

    /// A closed circuit that tells `listener` what happens to it, by its name; for instance to count it in metrics. The listener
    /// runs within the call, under no lock: let it be quick, and not panic.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    /// use gusset_breaker::{Circuit, Event, Policy, State};
    ///
    /// static OPENED: AtomicU32 = AtomicU32::new(0);
    /// let circuit = Circuit::with_listener("db", Policy::consecutive(1), |_name, event| {
    ///     if let Event::Transition { to: State::Open, .. } = event {
    ///         OPENED.fetch_add(1, Relaxed);
    ///     }
    /// });
    /// circuit.try_acquire().unwrap().failure();
    /// assert_eq!(OPENED.load(Relaxed), 1);
    /// ```
    pub fn with_listener(
        name: impl Into<Arc<str>>,
        policy: Policy,
        listener: impl Fn(&str, &Event<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self::build(name.into(), policy, Some(Arc::new(listener)))
    }

    pub(crate) fn build(name: Arc<str>, policy: Policy, listener: Option<Arc<Listener>>) -> Self {
        Self(Arc::new(Shared {
            machine: Machine::new(policy),
            clock: Clock::new(),
            listener,
            observing: AtomicBool::new(false),
            name,
            cause: RwLock::new(None),
            counters: Counters::default(),
            state: watch::Sender::new(State::Closed),
        }))
    }

    /// Name of the circuit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the circuit does with calls at present.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.machine.state()
    }

    /// Follows the state. A slow reader misses states in between, never the last one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.0.state.subscribe()
    }

    /// Counts since the circuit was made; not a snapshot of one instant.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.stats(self.0.machine.successes_and_failures())
    }

    /// What is in the [window](Policy::window) now; nothing, where the policy has no ratio or the circuit is not closed.
    #[must_use]
    pub fn recent(&self) -> Recent {
        self.0.machine.totals(&*self.0).into()
    }

    /// Whether a call may be let through now. For a balancer that passes over open circuits: it takes no place and counts nothing.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.lets_all_pass() || self.0.machine.would_admit(&*self.0)
    }

    /// The refusal that any call would meet now, if that is certain: with the time until the next probe, and why the circuit is open. For pages and tools: it takes no
    /// place and counts nothing. `None` where a call may pass, and while [observing](Self::observe).
    #[must_use]
    pub fn peek(&self) -> Option<Open> {
        self.certain_refusal().map(|open| *open)
    }

    /// Makes a call that blocks; an `Err` of it is a failure. In asynchronous code, use [`run`](Self::run).
    ///
    /// ```
    /// use gusset_breaker::{Circuit, Policy};
    ///
    /// let circuit = Circuit::new("hosts", Policy::consecutive(5));
    /// match circuit.call(|| std::fs::read("/etc/hosts")) {
    ///     Ok(Ok(hosts)) => assert!(!hosts.is_empty()),
    ///     Ok(Err(error)) => println!("tried, and failed: {error}"),
    ///     Err(open) => println!("not even tried: {open}"),
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Open`] if the circuit lets no call through.
    pub fn call<T, E: fmt::Display>(
        &self,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<Result<T, E>, Open> {
        let permit = self.try_acquire()?;
        let result = call();
        permit.tell(&result);
        Ok(result)
    }

    /// Waits for a call; an `Err` of it is a failure. Dropping the future before its end drops the call, which counts as the
    /// crate's documentation says under *Cancellation*.
    ///
    /// # Errors
    ///
    /// [`Open`] if the circuit lets no call through; `call` is not polled then.
    pub async fn run<T, E: fmt::Display>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Open> {
        let permit = self.try_acquire()?;
        let result = call.await;
        permit.tell(&result);
        Ok(result)
    }

    /// Asks to make a call. Tell the permit how it went; beware of a `?` between the two, for dropping it without is [`Outcome::Ignored`], or
    /// [`Outcome::Failure`] after [`Policy::slow_after`] or in a panic.
    ///
    /// # Errors
    ///
    /// [`Open`] if the circuit lets no call through.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<&Self>, Open> {
        Ok(Permit::started(self, self.admit().map_err(|open| *open)?))
    }

    /// [`try_acquire`](Self::try_acquire) for a permit that outlives the reference, for instance in a spawned task.
    ///
    /// # Errors
    ///
    /// [`Open`] if the circuit lets no call through.
    pub fn try_acquire_owned(&self) -> Result<Permit, Open> {
        Ok(Permit::started(self.clone(), self.admit().map_err(|open| *open)?))
    }

    /// Refuses all calls until [`reset`](Self::reset), also while it [observes](Self::observe).
    pub fn force_open(&self) {
        self.announce(self.0.machine.force(State::ForcedOpen), None);
    }

    /// Lets all calls pass, and still counts them, until [`reset`](Self::reset).
    pub fn force_closed(&self) {
        self.announce(self.0.machine.force(State::ForcedClosed), None);
    }

    /// Lets all calls pass and measures nothing, as if there were no circuit, until [`reset`](Self::reset).
    pub fn disable(&self) {
        self.announce(self.0.machine.force(State::Disabled), None);
    }

    /// Closes the circuit and forgets the failures so far; the counters go on.
    pub fn reset(&self) {
        self.announce(self.0.machine.force(State::Closed), None);
    }

    /// While `observing`, refuses nothing but by [`force_open`](Self::force_open): the circuit goes through its states as always, tells them, and counts in
    /// [`Stats::refused`] what it would have refused. For trying a policy in production. Those calls have no say
    /// in its state, which is left to the probes. A [`reset`](Self::reset) does not end it.
    pub fn observe(&self, observing: bool) {
        self.0.observing.store(observing, Relaxed);
    }

    /// An order outweighs the wish to look on only.
    fn lets_all_pass(&self) -> bool {
        self.is_observing() && self.state() != State::ForcedOpen
    }

    /// Whether it only [observes](Self::observe).
    #[must_use]
    pub fn is_observing(&self) -> bool {
        self.0.observing.load(Relaxed)
    }

    /// `Ok(None)` for a call that only passes because the circuit observes.
    #[inline]
    pub(crate) fn admit(&self) -> Result<Option<Ticket>, Box<Open>> {
        match self.0.machine.admit(&*self.0) {
            Ok((ticket, None)) => Ok(Some(ticket)),
            Ok((ticket, transition)) => {
                self.announce(transition, None);
                Ok(Some(ticket))
            }
            Err(refused) => {
                self.count_refusal();
                if self.lets_all_pass() { Ok(None) } else { Err(self.refuse(refused)) }
            }
        }
    }

    /// The service failed without a call, for instance to become ready. Takes no place.
    pub(crate) fn fail(&self, error: &dyn fmt::Display) {
        if let Some(ticket) = self.0.machine.listening() {
            self.record(ticket, Outcome::Failure, false, Some(error));
        }
    }

    /// Counts nothing, for it is not yet sure that there will be a call.
    #[inline]
    pub(crate) fn certain_refusal(&self) -> Option<Box<Open>> {
        let refused = self.0.machine.certain_refusal(&*self.0)?;
        (!self.lets_all_pass()).then(|| self.refuse(refused))
    }

    #[cold]
    pub(crate) fn count_refusal(&self) {
        self.0.counters.refused.fetch_add(1, Relaxed);
        self.tell(|| Event::Refused);
    }

    /// Whether an operator wants something of it, which a new one would not know.
    pub(crate) fn has_order(&self) -> bool {
        self.is_observing()
            || matches!(self.state(), State::ForcedOpen | State::ForcedClosed | State::Disabled)
    }

    /// Whether someone else has it in hand.
    pub(crate) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1 || self.0.state.receiver_count() > 0
    }

    /// Whether a new one would decide the same.
    pub(crate) fn is_pristine(&self) -> bool {
        self.0.machine.is_pristine(&*self.0)
    }

    #[cold]
    fn refuse(&self, refused: Refused) -> Box<Open> {
        let mut open = Open::new(self.0.name.clone());
        if let Some(span) = refused.retry_after {
            open = open.with_retry_after(span);
        }
        if let Some((_, cause)) = &*self.0.cause.read().unwrap_or_else(PoisonError::into_inner) {
            open = open.with_cause(cause.clone());
        }
        Box::new(open)
    }

    /// `slow` is asked only where the policy cares; `error` only if the failure opens the circuit.
    #[inline]
    pub(crate) fn record(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        slow: bool,
        error: Option<&dyn fmt::Display>,
    ) {
        let recorded = self.0.machine.record(ticket, outcome, slow, &*self.0);
        let usual = outcome == Outcome::Success && recorded == Recorded::Counted(None);
        if !usual {
            self.count(outcome, recorded, error);
        }
        match recorded {
            Recorded::Counted(_) => self.tell(|| Event::Outcome(outcome)),
            Recorded::Late => self.tell(|| Event::Late),
            Recorded::Unmeasured => {}
        }
    }

    #[cold]
    fn count(&self, outcome: Outcome, recorded: Recorded, error: Option<&dyn fmt::Display>) {
        self.0.counters.count(recorded, outcome);
        if let Recorded::Counted(transition) = recorded {
            self.announce(transition, error);
        }
    }

    #[cold]
    fn announce(&self, transition: Option<Transition>, error: Option<&dyn fmt::Display>) {
        let Some(Transition { from, to, trip, began }) = transition else { return };
        // First of all, for the text of an error is user code, which may panic. The state is read again under the watch's
        // lock: of two transitions at once, the one that publishes last publishes the latest.
        self.0.state.send_modify(|state| *state = self.0.machine.state());
        let cause: Option<Arc<str>> = match (to, trip, error) {
            (State::ForcedOpen, ..) => Some("forced open".into()),
            (_, Some(trip), Some(error)) => Some(format!("{trip}, the last: {error}").into()),
            (_, Some(trip), None) => Some(trip.to_string().into()),
            (_, None, _) => None,
        };
        if let Some(cause) = &cause {
            self.set_cause(began, cause.clone());
        }
        let (name, cause) = (&*self.0.name, cause.as_deref());
        match cause {
            Some(_) => {
                tracing::warn!(circuit = name, ?from, ?to, cause, "circuit breaker transition")
            }
            None => tracing::info!(circuit = name, ?from, ?to, "circuit breaker transition"),
        }
        self.tell(|| Event::Transition { from, to, cause });
    }

    fn set_cause(&self, began: Generation, cause: Arc<str>) {
        let mut held = self.0.cause.write().unwrap_or_else(PoisonError::into_inner);
        let is_old = held.as_ref().is_some_and(|(newer, _)| newer.is_after(began));
        if !is_old {
            *held = Some((began, cause));
        }
    }

    #[inline]
    fn tell<'a>(&'a self, event: impl FnOnce() -> Event<'a>) {
        if let Some(listener) = &self.0.listener {
            listener(self.name(), &event());
        }
    }

    #[inline]
    pub(crate) fn policy(&self) -> &Policy {
        self.0.machine.policy()
    }

    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        self.0.clock.nanos()
    }
}

impl World for Shared {
    #[inline]
    fn nanos(&self) -> u64 {
        self.clock.nanos()
    }

    fn chance(&self) -> u64 {
        rand::random()
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
