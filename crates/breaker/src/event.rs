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

/// Is told what happens to the circuit of a name. Runs within the call, under no lock.
pub(crate) type Listener = dyn Fn(&str, &Event<'_>) + Send + Sync;
