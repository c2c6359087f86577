use crate::{Outcome, State};

/// What happens to a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The state changed. Events of two transitions that follow each other closely may come in either order;
    /// [`Circuit::subscribe`](crate::Circuit::subscribe) always ends with the last.
    Transition {
        /// What it was.
        from: State,
        /// What it is.
        to: State,
        /// Why the circuit opened, if it did.
        cause: Option<&'a str>,
    },
    /// A call ended, or was dropped.
    Outcome(Outcome),
    /// A call was not let through, or would not have been while the circuit observes.
    Refused,
    /// A call ended after a transition, and changed nothing.
    Late,
}

/// Is told what happens to a circuit. Closures `|circuit: &str, event: &Event|` are.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use gusset_breaker::{Circuit, Event, Policy};
///
/// static OPENED: AtomicU32 = AtomicU32::new(0);
/// let circuit = Circuit::with_listener("db", Policy::consecutive(1), |_: &str, event: &Event<'_>| {
///     if let Event::Transition { to: gusset_breaker::State::Open, .. } = event {
///         OPENED.fetch_add(1, Relaxed);
///     }
/// });
/// circuit.try_acquire().unwrap().failure();
/// assert_eq!(OPENED.load(Relaxed), 1);
/// ```
pub trait Listener: Send + Sync + 'static {
    /// `event` happened to the circuit of this name. Runs within the call, under no lock: be quick. It must not panic.
    fn event(&self, circuit: &str, event: &Event<'_>);
}

impl<F> Listener for F
where
    F: Fn(&str, &Event<'_>) + Send + Sync + 'static,
{
    fn event(&self, circuit: &str, event: &Event<'_>) {
        self(circuit, event);
    }
}
