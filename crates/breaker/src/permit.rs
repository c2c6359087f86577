use std::{borrow::Borrow, fmt, num::NonZeroU64, time::Duration};

use crate::{Circuit, Outcome, machine::Ticket};

/// A place in a circuit: the right to make one call, and the duty to tell how it went.
///
/// Dropping it gives the place back. That is a failure if the call had been running for
/// [`Policy::slow_after`](crate::Policy::slow_after) or if it panicked, and otherwise says nothing about the service.
#[must_use = "dropping it at once makes no call"]
pub struct Permit<C: Borrow<Circuit> = Circuit> {
    circuit: C,
    /// None once it is settled, or if the call passed only because the circuit observes.
    ticket: Option<Ticket>,
    /// The nanosecond after that in which the call began, as far as that needs to be known.
    started: Option<NonZeroU64>,
    /// Whether the call runs on this thread right now. A panic is its own only then; a pending call that is dropped because its
    /// caller panics has done nothing wrong.
    at_work: bool,
}

impl<C: Borrow<Circuit>> Permit<C> {
    /// The call succeeded.
    #[inline]
    pub fn success(mut self) {
        self.settle(Outcome::Success, None);
    }

    /// The call failed.
    pub fn failure(mut self) {
        self.settle(Outcome::Failure, None);
    }

    /// The call failed with `error`, which [`Open::cause`](gusset_call::Open::cause) will tell if this failure opens the
    /// circuit. Its text is made only then.
    pub fn failure_with(mut self, error: impl fmt::Display) {
        self.settle(Outcome::Failure, Some(&error));
    }

    /// An `Err` is a failure.
    pub(crate) fn tell<T, E: fmt::Display>(mut self, result: &Result<T, E>) {
        match result {
            Ok(_) => self.settle(Outcome::Success, None),
            Err(error) => self.settle(Outcome::Failure, Some(error)),
        }
    }

    /// The call says nothing about the service.
    pub fn ignore(mut self) {
        self.settle(Outcome::Ignored, None);
    }

    #[inline]
    pub(crate) fn started(circuit: C, ticket: Option<Ticket>) -> Self {
        let mut permit = Self { circuit, ticket, started: None, at_work: true };
        permit.start_clock();
        permit
    }

    /// Of a future that is polled at once: unless slow calls matter, its clock need not be read before it is pending.
    #[inline]
    pub(crate) fn called(circuit: C, ticket: Option<Ticket>) -> Self {
        let mut permit = Self { circuit, ticket, started: None, at_work: true };
        if permit.judges_slowness() {
            permit.start_clock();
        }
        permit
    }

    #[inline]
    pub(crate) fn settle(&mut self, outcome: Outcome, error: Option<&dyn fmt::Display>) {
        if let Some(ticket) = self.ticket.take() {
            let slow = self.judges_slowness() && self.is_slow();
            self.circuit.borrow().record(ticket, outcome, slow, error);
        }
    }

    /// The call is pending: until it is polled again, nothing that happens on this thread is its doing.
    #[inline]
    pub(crate) fn rest(&mut self) {
        self.at_work = false;
        self.start_clock();
    }

    #[inline]
    pub(crate) const fn resume(&mut self) {
        self.at_work = true;
    }

    #[inline]
    fn start_clock(&mut self) {
        if self.started.is_none() {
            self.started = NonZeroU64::new(self.circuit.borrow().nanos() + 1);
        }
    }

    #[inline]
    fn judges_slowness(&self) -> bool {
        self.circuit.borrow().policy().slow_ratio.is_some()
    }

    fn is_slow(&self) -> bool {
        let circuit = self.circuit.borrow();
        self.started.is_some_and(|started| {
            Duration::from_nanos((circuit.nanos() + 1).saturating_sub(started.get()))
                >= circuit.policy().slow_after
        })
    }

    #[cold]
    fn abandon(&mut self) {
        let panicked = self.at_work && std::thread::panicking();
        let outcome = if panicked || self.is_slow() { Outcome::Failure } else { Outcome::Ignored };
        let error: Option<&dyn fmt::Display> = match outcome {
            Outcome::Failure if panicked => Some(&"panic"),
            Outcome::Failure => Some(&"given up by its caller"),
            _ => None,
        };
        self.settle(outcome, error);
    }
}

impl<C: Borrow<Circuit>> Drop for Permit<C> {
    #[inline]
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.abandon();
        }
    }
}

impl<C: Borrow<Circuit>> fmt::Debug for Permit<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("circuit", self.circuit.borrow()).finish_non_exhaustive()
    }
}
