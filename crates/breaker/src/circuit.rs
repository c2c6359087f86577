use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Open;
use tokio::{sync::watch, time::Instant};

use crate::{
    Outcome, Policy, State,
    machine::{Machine, Recorded, Refused, Ticket, Transition},
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
///         Err(_) => permit.failure(),
///     },
///     Err(open) => println!("{open}, try again in {:?}", gusset_breaker::Refusal::retry_after(&open)),
/// }
/// ```
#[derive(Clone)]
pub struct Circuit(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    machine: Machine,
    slow_after: Duration,
    epoch: Instant,
    counters: Counters,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Counters {
    successes: AtomicU64,
    failures: AtomicU64,
    ignored: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
}

/// How often what happened to a circuit, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls with [`Outcome::Success`].
    pub successes: u64,
    /// Calls with [`Outcome::Failure`], among them those dropped late or by a panic.
    pub failures: u64,
    /// Calls with [`Outcome::Ignored`], among them those dropped early.
    pub ignored: u64,
    /// Calls not let through.
    pub refused: u64,
    /// Outcomes that came after a transition and changed nothing; not counted above.
    pub late: u64,
}

impl Circuit {
    /// A closed circuit. The name appears in [`Open`] and in events.
    pub fn new(name: impl Into<Arc<str>>, policy: Policy) -> Self {
        Self(Arc::new(Shared {
            name: name.into(),
            machine: Machine::new(policy),
            slow_after: policy.slow_after,
            epoch: Instant::now(),
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
        let counters = &self.0.counters;
        Stats {
            successes: counters.successes.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            ignored: counters.ignored.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            late: counters.late.load(Relaxed),
        }
    }

    /// Whether a call may be let through now. For a balancer that passes over open circuits: it takes no place and counts nothing.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.0.machine.would_admit(|| self.elapsed())
    }

    /// Asks to make a call. Tell the permit how it went; dropping it without is [`Outcome::Ignored`], or
    /// [`Outcome::Failure`] after [`Policy::slow_after`] or in a panic.
    ///
    /// # Errors
    ///
    /// [`Open`] if the circuit lets no call through.
    pub fn try_acquire(&self) -> Result<Permit, Open> {
        let mut permit = self.acquire()?;
        permit.start_clock();
        Ok(permit)
    }

    /// Refuses all calls until [`reset`](Self::reset).
    pub fn force_open(&self) {
        self.announce(self.0.machine.force(State::ForcedOpen));
    }

    /// Lets all calls pass, and still counts them, until [`reset`](Self::reset).
    pub fn disable(&self) {
        self.announce(self.0.machine.force(State::Disabled));
    }

    /// Closes the circuit and forgets the failures so far; the counters go on.
    pub fn reset(&self) {
        self.announce(self.0.machine.force(State::Closed));
    }

    /// [`try_acquire`](Self::try_acquire) without reading the clock: who polls a future needs it only once that is pending.
    pub(crate) fn acquire(&self) -> Result<Permit, Open> {
        match self.0.machine.admit(|| self.elapsed()) {
            Ok((ticket, transition)) => {
                self.announce(transition);
                let circuit = self.clone();
                Ok(Permit { circuit, ticket, started: None, at_work: true, settled: false })
            }
            Err(refused) => {
                self.count_refusal();
                Err(self.refuse(refused))
            }
        }
    }

    /// Counts nothing, for it is not yet sure that there will be a call.
    pub(crate) fn certain_refusal(&self) -> Option<Open> {
        self.0.machine.certain_refusal(|| self.elapsed()).map(|refused| self.refuse(refused))
    }

    pub(crate) fn count_refusal(&self) {
        self.0.counters.refused.fetch_add(1, Relaxed);
    }

    /// Whether replacing this circuit by a new one would go unnoticed.
    pub(crate) fn is_disposable(&self) -> bool {
        Arc::strong_count(&self.0) == 1
            && self.0.state.receiver_count() == 0
            && self.0.machine.is_pristine()
    }

    fn refuse(&self, refused: Refused) -> Open {
        let open = Open::new(self.0.name.clone());
        match refused.retry_after {
            Some(span) => open.with_retry_after(span),
            None => open,
        }
    }

    fn record(&self, ticket: Ticket, outcome: Outcome) {
        let counters = &self.0.counters;
        let counter = match self.0.machine.record(ticket, outcome, || self.elapsed()) {
            Recorded::Late => &counters.late,
            Recorded::Counted(transition) => {
                self.announce(transition);
                match outcome {
                    Outcome::Success => &counters.successes,
                    Outcome::Failure => &counters.failures,
                    Outcome::Ignored => &counters.ignored,
                }
            }
        };
        counter.fetch_add(1, Relaxed);
    }

    fn announce(&self, transition: Option<Transition>) {
        let Some(Transition { from, to }) = transition else { return };
        // Read again under the watch's lock: of two transitions at once, the one that publishes last publishes the latest.
        self.0.state.send_modify(|state| *state = self.0.machine.state());
        let name = &*self.0.name;
        match to {
            State::Open | State::ForcedOpen => {
                tracing::warn!(circuit = name, ?from, ?to, "circuit breaker transition");
            }
            _ => tracing::info!(circuit = name, ?from, ?to, "circuit breaker transition"),
        }
    }

    fn elapsed(&self) -> Duration {
        self.0.epoch.elapsed()
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

/// A place in a circuit: the right to make one call, and the duty to tell how it went.
#[derive(Debug)]
#[must_use = "dropping it at once makes no call"]
pub struct Permit {
    circuit: Circuit,
    ticket: Ticket,
    /// When the call began, as far as it needs to be known.
    started: Option<Instant>,
    /// Whether the call runs on this thread right now. A panic is its own only then; a pending call that is dropped because its
    /// caller panics has done nothing wrong.
    at_work: bool,
    settled: bool,
}

impl Permit {
    /// The call succeeded.
    pub fn success(self) {
        self.settle(Outcome::Success);
    }

    /// The call failed.
    pub fn failure(self) {
        self.settle(Outcome::Failure);
    }

    /// The call says nothing about the service.
    pub fn ignore(self) {
        self.settle(Outcome::Ignored);
    }

    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.settled = true;
        self.circuit.record(self.ticket, outcome);
    }

    /// The call is pending: until it is polled again, nothing that happens on this thread is its doing.
    pub(crate) fn rest(&mut self) {
        self.at_work = false;
        self.start_clock();
    }

    pub(crate) const fn resume(&mut self) {
        self.at_work = true;
    }

    pub(crate) fn start_clock(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let slow =
            || self.started.is_some_and(|start| start.elapsed() >= self.circuit.0.slow_after);
        let failed = self.at_work && std::thread::panicking() || slow();
        self.circuit.record(self.ticket, if failed { Outcome::Failure } else { Outcome::Ignored });
    }
}
