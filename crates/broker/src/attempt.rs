use std::{
    any::Any,
    borrow::Cow,
    fmt::Write as _,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::{BoxError, refusal_in};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{FailureKind, IntoReply, Reply};

/// What came of one delivery.
#[derive(Debug)]
pub(crate) enum Outcome {
    Replied(Reply),
    Failed {
        kind: FailureKind,
        error: Cow<'static, str>,
        /// The handler's error says how long it is of no use to come back.
        not_before: Duration,
    },
    Undecodable(String),
}

impl Outcome {
    /// Reads all that it needs from the error, whose `Display` is foreign code.
    pub(crate) fn of_error(error: &BoxError) -> Self {
        let retry_after = refusal_in(&**error).and_then(|refusal| refusal.retry_after());
        Self::Failed {
            kind: FailureKind::Error,
            error: chain(&**error).into(),
            not_before: retry_after.unwrap_or_default(),
        }
    }

    fn panicked(panic: Box<dyn Any + Send>) -> Self {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("panic without a message");
        let error = shortened(text).into();
        contain(|| drop(panic));
        Self::Failed { kind: FailureKind::Panic, error, not_before: Duration::ZERO }
    }

    pub(crate) fn timed_out(after: Duration) -> Self {
        let error = format!("no reply within {after:?}").into();
        Self::Failed { kind: FailureKind::Timeout, error, not_before: Duration::ZERO }
    }
}

/// What holds for one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// What the handler runs in.
    pub(crate) context: gusset_call::Context,
    pub(crate) timeout: Duration,
    pub(crate) ends: Instant,
}

pin_project! {
    /// Runs a handler's futures to their [`Outcome`]s, whatever they do, one after the other in the same place: a worker moves each of them once.
    pub(crate) struct Attempting<F> {
        #[pin]
        future: Option<F>,
        // Made once it is needed: a handler that is ready at once costs no timer.
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl<F, R, E> Attempting<F>
where
    F: Future<Output = Result<R, E>>,
    R: IntoReply,
    E: Into<BoxError>,
{
    pub(crate) const fn idle() -> Self {
        Self { future: None, sleep: None }
    }

    /// Makes the future and polls it: `Ok` if it says [`Reply::Ack`], as it mostly does, which is less to move than an outcome. Everything foreign happens within `terms`, and where a panic is caught.
    pub(crate) fn begin(
        self: Pin<&mut Self>,
        terms: &Terms,
        cx: &mut Context<'_>,
        make: impl FnOnce() -> Result<F, Outcome>,
    ) -> Poll<Result<(), Box<Outcome>>> {
        self.run(terms, cx, Some(make))
    }

    /// Goes on with what was begun. When this is ready, the future has been dropped.
    pub(crate) fn poll(
        self: Pin<&mut Self>,
        terms: &Terms,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Box<Outcome>>> {
        self.run(terms, cx, None::<fn() -> Result<F, Outcome>>)
    }

    fn run(
        self: Pin<&mut Self>,
        terms: &Terms,
        cx: &mut Context<'_>,
        make: Option<impl FnOnce() -> Result<F, Outcome>>,
    ) -> Poll<Result<(), Box<Outcome>>> {
        let mut this = self.project();
        let mut place = this.future.as_mut();
        let foreign = || {
            match make.map(|make| make()).transpose() {
                Ok(None) => {}
                Ok(future) => place.set(future),
                Err(outcome) => return Poll::Ready(Err(outcome.into())),
            }
            let Some(future) = place.as_pin_mut() else { return Poll::Pending };
            future.poll(cx).map(|result| match result.map(IntoReply::into_reply) {
                Ok(Reply::Ack) => Ok(()),
                Ok(reply) => Err(Outcome::Replied(reply).into()),
                Err(error) => Err(Outcome::of_error(&error.into()).into()),
            })
        };
        let polled = catch_unwind(AssertUnwindSafe(|| terms.context.sync_scope(foreign)));
        let outcome = match polled {
            Ok(Poll::Ready(outcome)) => outcome,
            Err(panic) => Err(Outcome::panicked(panic).into()),
            Ok(Poll::Pending) => {
                if this.sleep.is_none() {
                    this.sleep.set(Some(sleep_until(terms.ends)));
                }
                match this.sleep.as_mut().as_pin_mut().map(|sleep| sleep.poll(cx)) {
                    Some(Poll::Ready(())) => Err(Outcome::timed_out(terms.timeout).into()),
                    _ => return Poll::Pending,
                }
            }
        };
        contain(|| this.future.set(None));
        if this.sleep.is_some() {
            this.sleep.set(None);
        }
        Poll::Ready(outcome)
    }
}

/// Runs foreign code whose panic shall end nothing.
pub(crate) fn contain<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(panic) => {
            // What was thrown may itself panic when dropped, and so on without end.
            std::mem::forget(panic);
            None
        }
    }
}

/// Drops what may have a payload in it, whose owner may panic when it goes: nobody who handles other messages shall end by that.
pub(crate) fn discard<T>(what: T) {
    contain(|| drop(what));
}

const LONGEST: usize = 1_024;
const SOURCES: usize = 64;

/// An error and its sources.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    // The bound also ends a chain that bites its tail.
    let sources = std::iter::successors(error.source(), |&source| source.source()).take(SOURCES);
    for source in sources {
        let more = source.to_string();
        // Who only passes an error on says the same.
        if !text.ends_with(&more) && text.len() <= LONGEST {
            let _ = write!(text, ": {more}");
        }
    }
    shortened(&text)
}

/// The text as far as it is kept in memory.
pub(crate) fn shortened(text: &str) -> String {
    let end = (0..=LONGEST.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gusset_call::Open;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let umlauts = "ü".repeat(1_000);
        assert_eq!(shortened(&format!("x{umlauts}")).len(), 1_023);
        assert_eq!(shortened(&umlauts).len(), 1_024);
    }

    #[test]
    fn a_refusal_inside_an_error_says_when_to_come_back() {
        let error: BoxError = Open::new("db").with_retry_after(Duration::from_secs(7)).into();
        let Outcome::Failed { error, not_before, .. } = Outcome::of_error(&error) else { panic!() };
        assert_eq!((&*error, not_before.as_secs()), ("circuit db is open", 7));
    }

    #[derive(Debug)]
    struct Serpent;

    impl std::fmt::Display for Serpent {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("hiss")
        }
    }

    impl std::error::Error for Serpent {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&Serpent)
        }
    }

    #[test]
    fn an_error_that_is_its_own_source_ends() {
        let text = chain(&Serpent);
        assert_eq!(text, "hiss");
    }
}
