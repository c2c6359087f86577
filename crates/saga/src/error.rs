use std::{error::Error, fmt, sync::Arc, time::Duration};

use gusset_call::{Overloaded, never_made, refusal_in};
use serde::{Deserialize, Serialize};

use crate::{BoxError, InvalidName, SagaId, StoreError};

/// What an attempt that did not succeed says about its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// There is no effect and never will be: the saga turns back at once.
    Rejected,
    /// There is no effect this time; another attempt may succeed.
    Transient,
    /// There may be an effect: a timeout, a lost connection, a panic, a crash. Retried under the same key; if the saga turns back,
    /// the step is undone with [`Effect::Unknown`](crate::Effect::Unknown).
    Unknown,
    /// Not an attempt's: the saga's deadline passed.
    Overdue,
    /// Not an attempt's: an operator had the saga turn back.
    Ordered,
}

/// Error of an action or undo: what went wrong, and what it says about the effect.
///
/// `?` on any error makes it the kind that is safe: unknown, unless it is a refusal of the family (an open circuit,
/// a rate limit, no instance, overload), which says that the call was not made, and so is transient.
///
/// ```
/// use gusset_saga::{FailureKind, StepError};
///
/// fn parse() -> Result<u32, StepError> {
///     Ok("seven".parse::<u32>()?)
/// }
/// assert_eq!(parse().unwrap_err().kind(), FailureKind::Unknown);
/// assert_eq!(StepError::rejected("card declined").to_string(), "card declined");
/// ```
#[derive(Debug)]
pub struct StepError {
    kind: FailureKind,
    error: BoxError,
    retry_after: Option<Duration>,
}

impl StepError {
    /// The answer is no: there is no effect, and trying again would not change that.
    pub fn rejected(error: impl Into<BoxError>) -> Self {
        Self { kind: FailureKind::Rejected, error: error.into(), retry_after: None }
    }

    /// There is certainly no effect this time, and trying again may help. Where it is not certain, use [`unknown`](Self::unknown).
    pub fn transient(error: impl Into<BoxError>) -> Self {
        Self { kind: FailureKind::Transient, error: error.into(), retry_after: None }
    }

    /// Nobody knows whether there is an effect.
    pub fn unknown(error: impl Into<BoxError>) -> Self {
        Self { kind: FailureKind::Unknown, error: error.into(), retry_after: None }
    }

    /// Error of a call through layers of the family: transient if a layer refused, so that the call was never made, and
    /// otherwise unknown. A deadline that passed is unknown too, and so is a refusal after an attempt that may have been carried out
    /// ([`PerhapsMade`](gusset_call::PerhapsMade)). Keeps the refusal's `retry_after`.
    pub fn from_call(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        let retry_after = refusal_in(&*error).and_then(|refusal| refusal.retry_after());
        let unmade = never_made(&*error).is_some();
        let it = if unmade { Self::transient(error) } else { Self::unknown(error) };
        Self { retry_after, ..it }
    }

    /// No attempt before this long from now; longer than the policy's cap means the cap.
    #[must_use]
    pub const fn retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// What it says about the effect.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }

    pub(crate) const fn wanted_pause(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn line(&self) -> Arc<str> {
        error_line(&*self.error)
    }
}

/// Deliberately no `Error` of its own, which makes room for `?` on all errors.
impl<E: Error + Send + Sync + 'static> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::from_call(error)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// The error and its causes in one line, at most 2 KiB: what the journal keeps.
pub(crate) fn error_line(error: &(dyn Error + 'static)) -> Arc<str> {
    let mut line = error.to_string();
    // The bound also ends a chain that bites its tail.
    for cause in std::iter::successors(error.source(), |&cause| cause.source()).take(64) {
        let text = cause.to_string();
        // Who only passes an error on says the same.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    shortened(&line).into()
}

/// At most the first 2 KiB of a text that goes into the journal.
pub(crate) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(2_048);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Why a step, or its undo, was given up, or a saga turned back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// Name of the step; empty where it was none.
    pub step: Arc<str>,
    /// Kind of the last error.
    pub kind: FailureKind,
    /// What the attempts said, oldest first, repetitions left out; of more than 16 the first and the last 15.
    pub errors: Vec<Arc<str>>,
    /// How many attempts were made since the process last began with it.
    pub attempts: u32,
}

impl Failure {
    /// Of no step.
    pub(crate) fn of_the_saga(kind: FailureKind, what: String) -> Self {
        Self { step: "".into(), kind, errors: vec![what.into()], attempts: 0 }
    }

    /// What the last attempt said.
    #[must_use]
    pub fn error(&self) -> &str {
        self.errors.last().map_or("", |error| error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, attempts, .. } = self;
        if step.is_empty() {
            return f.write_str(self.error());
        }
        let s = if *attempts == 1 { "" } else { "s" };
        write!(f, "step {step} failed after {attempts} attempt{s}: {}", self.error())
    }
}

impl Error for Failure {}

/// Why a definition is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// A name cannot stand in an idempotency key.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Two steps have one name, and so would share their idempotency keys.
    #[error("two steps are named {0:?}")]
    DuplicateStep(Arc<str>),
    /// A step, or the result, needs a step of another definition.
    #[error("{0:?} needs a step of another definition")]
    ForeignStep(Arc<str>),
    /// There are no steps.
    #[error("a saga needs a step")]
    NoSteps,
    /// A child has a pivot. A saga has one at most, and it is not its child's.
    #[error("{0:?} is a saga with a pivot, which cannot be a step of another one")]
    ChildPivot(Arc<str>),
    /// The pivot is not the step that was defined last, or waits instead of acting.
    #[error("the pivot is not the step that was defined last")]
    PivotNotLast,
}

/// Why there is no result of a saga, or an order to it was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SagaError {
    /// The input has no JSON form, or too long a one. Nothing was begun.
    #[error("input cannot be kept in the journal")]
    Input(#[source] Arc<dyn Error + Send + Sync>),
    /// The id belongs to a saga of another definition, or with another input. Nothing was begun.
    #[error("saga {0} exists with another definition or input")]
    IdTaken(SagaId),
    /// Another definition with other steps is registered under this name and version. Nothing was begun.
    #[error(
        "{0} version {1} is registered with other steps; a change of steps needs a new version"
    )]
    DefinitionDiffers(Arc<str>, u32),
    /// The orchestrator is shutting down. Nothing was begun.
    #[error("the orchestrator is shutting down")]
    ShuttingDown(#[source] Overloaded),
    /// This process stopped working on the saga before its end: shutdown, the orchestrator was dropped, or another process took over.
    /// The journal has it, and whoever recovers it carries on.
    #[error("saga {0} was interrupted; its journal is kept")]
    Interrupted(SagaId),
    /// The saga is parked because it cannot be carried on as it is.
    #[error("saga {saga} is blocked: {reason}")]
    Blocked {
        /// The saga.
        saga: SagaId,
        /// What is in the way.
        reason: Arc<str>,
    },
    /// The steps are done, but the result is not of the type that the definition says.
    #[error("result of saga {saga} cannot be read")]
    Output {
        /// The saga.
        saga: SagaId,
        /// Why.
        source: Arc<serde_json::Error>,
    },
    /// The store knows no such saga.
    #[error("no saga {0}")]
    NoSuchSaga(SagaId),
    /// The order does not fit the state that the saga is in.
    #[error("saga {saga} {why}")]
    Refused {
        /// The saga.
        saga: SagaId,
        /// For what reason.
        why: Arc<str>,
    },
    /// The store failed.
    #[error("the saga store failed")]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use gusset_call::{DeadlineExceeded, Open, PerhapsMade};

    #[test]
    fn a_refusal_is_transient_and_a_passed_deadline_unknown() {
        let open = StepError::from(Open::new("payments").with_retry_after(Duration::from_secs(3)));
        assert_eq!(open.kind(), FailureKind::Transient);
        assert_eq!(open.wanted_pause(), Some(Duration::from_secs(3)));
        assert_eq!(StepError::from(DeadlineExceeded).kind(), FailureKind::Unknown);
        assert_eq!(StepError::from(fmt::Error).kind(), FailureKind::Unknown);
    }

    /// Retries beneath had sent it, and were refused when they tried again.
    #[test]
    fn a_refusal_after_an_attempt_that_may_have_been_carried_out_is_unknown() {
        let open = Open::new("payments").with_retry_after(Duration::from_secs(3));
        let error = StepError::from(PerhapsMade::new(open));
        assert_eq!(error.kind(), FailureKind::Unknown);
        assert_eq!(error.wanted_pause(), Some(Duration::from_secs(3)));
        assert!(error.line().ends_with(": circuit payments is open"));
    }

    #[test]
    fn the_line_tells_the_causes_and_is_bounded() {
        let invalid = DefinitionError::from(InvalidName("x".into()));
        let error = SagaError::Input(Arc::new(invalid));
        let line = StepError::unknown(error).line();
        assert!(line.starts_with("input cannot be kept in the journal: \"x\" is not"), "{line}");
        assert_eq!(StepError::rejected("ä".repeat(5_000)).line().len(), 2_048);
        assert_eq!(shortened(&format!("x{}", "ä".repeat(5_000))).len(), 2_047);
    }

    #[test]
    fn what_is_only_passed_on_is_said_once_and_a_chain_without_an_end_ends() {
        #[derive(Debug, thiserror::Error)]
        #[error("no bank")]
        struct Passed(#[source] Option<Box<Self>>);
        let passed = Passed(Some(Box::new(Passed(None))));
        assert_eq!(&*error_line(&passed), "no bank");

        #[derive(Debug)]
        struct Circle;
        impl std::fmt::Display for Circle {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a circle")
            }
        }
        impl Error for Circle {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&Circle)
            }
        }
        assert_eq!(&*error_line(&Circle), "a circle");
    }

    #[test]
    fn a_failure_reads_as_one_line() {
        let failure = Failure {
            step: "pay".into(),
            kind: FailureKind::Rejected,
            errors: vec!["timeout".into(), "declined".into()],
            attempts: 2,
        };
        assert_eq!(failure.to_string(), "step pay failed after 2 attempts: declined");
    }
}
