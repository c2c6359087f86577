use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{Inadmissible, Limited, ServiceLimit};

/// Tower's boxed error.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// What every refusal of the family knows.
///
/// A refusal is a decision of a layer not to make a call: the service behind it was not asked. [`DeadlineExceeded`] is the
/// exception, for the time may pass at any point; whoever retries must not take it for "never sent".
pub trait Refusal: Error + Send + Sync + 'static {
    /// How long the caller should wait before it tries again; `None` where nobody knows.
    fn retry_after(&self) -> Option<Duration>;

    /// HTTP status code of the answer (RFC 9110).
    fn status(&self) -> u16;

    /// gRPC status code of the answer.
    fn grpc_code(&self) -> u8;

    /// What the caller is told of the quotas that took part; only [`Limited`] may know of some.
    fn limits(&self) -> &[ServiceLimit] {
        &[]
    }
}

/// Finds a refusal in `error` or in one of its sources.
#[must_use]
pub fn refusal_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a dyn Refusal> {
    fn as_refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a dyn Refusal> {
        fn cast<'a, R: Refusal>(error: &'a (dyn Error + 'static)) -> Option<&'a dyn Refusal> {
            error.downcast_ref::<R>().map(|refusal| refusal as &dyn Refusal)
        }
        cast::<Open>(error)
            .or_else(|| cast::<Limited>(error))
            .or_else(|| cast::<Inadmissible>(error))
            .or_else(|| cast::<NoInstance>(error))
            .or_else(|| cast::<Overloaded>(error))
            .or_else(|| cast::<DeadlineExceeded>(error))
    }
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = as_refusal(error) {
            return Some(refusal);
        }
        next = error.source();
    }
    None
}

/// The refusal in `error`, if it says that the call was not made at all: none of [`DeadlineExceeded`], nor of what is behind [`PerhapsMade`].
#[must_use]
pub fn never_made<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a dyn Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<PerhapsMade>() || error.is::<DeadlineExceeded>() {
            return None;
        }
        next = error.source();
    }
    refusal_in(error)
}

/// The call was refused in the end, but an attempt before that may have reached the service, and had its effect: whoever retries or undoes must not take
/// the refusal for "never sent". Its source is the refusal, which [`refusal_in`] finds, so the caller is answered as by that.
#[derive(Debug)]
pub struct PerhapsMade {
    refusal: BoxError,
}

impl PerhapsMade {
    /// What the last attempt came to.
    pub fn new(refusal: impl Into<BoxError>) -> Self {
        Self { refusal: refusal.into() }
    }
}

impl fmt::Display for PerhapsMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused after an attempt that may have been carried out")
    }
}

impl Error for PerhapsMade {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.refusal)
    }
}

/// A circuit breaker lets no call through at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    circuit: Arc<str>,
    retry_after: Option<Duration>,
    cause: Option<Arc<str>>,
}

impl Open {
    /// The circuit of this name is open.
    pub fn new(circuit: impl Into<Arc<str>>) -> Self {
        Self { circuit: circuit.into(), retry_after: None, cause: None }
    }

    /// A probe may pass this long from now.
    #[must_use]
    pub const fn with_retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// It is open for this reason.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<Arc<str>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Name of the circuit.
    #[must_use]
    pub fn circuit(&self) -> &str {
        &self.circuit
    }

    /// How long until a probe may pass, if that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What opened the circuit, for instance `5 failures in a row, the last: connection refused`. It is for logs: it may
    /// hold the text of an inner error, and is therefore neither in the `Display` nor in answers to clients.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit {} is open", self.circuit)
    }
}

/// No instance of a service can take the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoInstance {
    service: Arc<str>,
}

impl NoInstance {
    /// The service of this name has none.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self { service: service.into() }
    }

    /// Name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }
}

impl fmt::Display for NoInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no healthy instance of {}", self.service)
    }
}

/// A concurrency limit or a queue is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overloaded {
    what: Arc<str>,
    retry_after: Option<Duration>,
}

impl Overloaded {
    /// `what` takes no more.
    pub fn new(what: impl Into<Arc<str>>) -> Self {
        Self { what: what.into(), retry_after: None }
    }

    /// There will be room this long from now.
    #[must_use]
    pub const fn with_retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// What takes no more: the name of a limit or of a queue.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// How long until there is room, if that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is overloaded", self.what)
    }
}

/// The caller's deadline passed before there was an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadlineExceeded;

impl fmt::Display for DeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline exceeded")
    }
}

macro_rules! refusals {
    ($($name:ident => $status:literal, $grpc:literal, |$this:ident| $retry_after:expr $(, $limits:expr)?;)*) => {$(
        impl Error for $name {}

        impl Refusal for $name {
            fn retry_after(&self) -> Option<Duration> {
                let $this = self;
                $retry_after
            }

            fn status(&self) -> u16 {
                $status
            }

            fn grpc_code(&self) -> u8 {
                $grpc
            }

            $(fn limits(&self) -> &[ServiceLimit] {
                let $this = self;
                $limits
            })?
        }
    )*};
}

refusals! {
    Open => 503, 14, |this| this.retry_after;
    Limited => 429, 8, |this| this.retry_after(), this.told();
    Inadmissible => 403, 7, |_this| None;
    NoInstance => 503, 14, |_this| None;
    Overloaded => 503, 14, |this| this.retry_after;
    DeadlineExceeded => 504, 4, |_this| None;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(BoxError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("call failed")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn a_refusal_is_found_through_wrapping_errors() {
        let wrapped = Outer(Box::new(Outer(Limited::new(Duration::from_secs(2)).into())));
        let found = refusal_in(&wrapped).unwrap();
        assert_eq!((found.status(), found.grpc_code()), (429, 8));
        assert_eq!(found.retry_after(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_is_refused_after_an_attempt_is_a_refusal_and_no_proof_that_nothing_was_sent() {
        let open = || Open::new("c").with_retry_after(Duration::from_secs(2));
        assert!(never_made(&Outer(open().into())).is_some());
        let perhaps = Outer(PerhapsMade::new(Outer(open().into())).into());
        assert!(never_made(&perhaps).is_none());
        let found = refusal_in(&perhaps).unwrap();
        assert_eq!((found.status(), found.retry_after()), (503, Some(Duration::from_secs(2))));
        assert!(never_made(&Outer(DeadlineExceeded.into())).is_none());
        assert!(never_made(&fmt::Error).is_none());
    }

    #[test]
    fn other_errors_are_no_refusals() {
        assert!(refusal_in(&Outer(fmt::Error.into())).is_none());
    }

    #[test]
    fn every_refusal_has_the_answers_of_the_table() {
        let all: [(&dyn Refusal, u16, u8); 6] = [
            (&Open::new("c"), 503, 14),
            (&Limited::new(Duration::ZERO), 429, 8),
            (&Inadmissible::new("no key"), 403, 7),
            (&NoInstance::new("s"), 503, 14),
            (&Overloaded::new("q"), 503, 14),
            (&DeadlineExceeded, 504, 4),
        ];
        for (refusal, status, grpc) in all {
            assert_eq!((refusal.status(), refusal.grpc_code()), (status, grpc), "{refusal}");
        }
    }
}
