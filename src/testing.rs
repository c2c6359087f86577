//! Services that do as they are told, for tests of what calls them.
//!
//! ```
//! use gusset::testing::{Act, Scripted};
//! use tower::ServiceExt;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! let bank = Scripted::new(|call, euros: u32| match call {
//!     1 => Act::fail("connection refused"),
//!     _ => Act::answer(euros),
//! });
//! assert!(bank.clone().oneshot(42).await.is_err());
//! assert_eq!(bank.clone().oneshot(42).await.unwrap(), 42);
//! assert_eq!(bank.calls(), 2);
//! # });
//! ```
//!
//! | for | is |
//! |---|---|
//! | a dependency that fails, hangs, panics or takes its time | [`Scripted`] |
//! | faults in a share of real calls, changed while a program runs | `gusset::sidecar::FaultLayer` |
//! | every crash of a saga | `gusset::saga::testing` (its feature `testing`) |
//! | time | `#[tokio::test(start_paused = true)]`: all clocks of the family that are made within it obey |

use std::{
    fmt,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::BoxError;
use tower_service::Service;

/// What a [`Scripted`] service does with a call.
#[derive(Debug)]
pub struct Act<T> {
    after: Duration,
    end: End<T>,
}

#[derive(Debug)]
enum End<T> {
    Answer(T),
    Fail(BoxError),
    Hang,
    Panic,
}

impl<T> Act<T> {
    /// It answers.
    pub const fn answer(with: T) -> Self {
        Self { after: Duration::ZERO, end: End::Answer(with) }
    }

    /// It fails.
    pub fn fail(with: impl Into<BoxError>) -> Self {
        Self { after: Duration::ZERO, end: End::Fail(with.into()) }
    }

    /// It never ends by itself.
    #[must_use]
    pub const fn hang() -> Self {
        Self { after: Duration::ZERO, end: End::Hang }
    }

    /// It panics.
    #[must_use]
    pub const fn panic() -> Self {
        Self { after: Duration::ZERO, end: End::Panic }
    }

    /// The same, later, by tokio's clock.
    #[must_use]
    pub fn after(mut self, span: Duration) -> Self {
        self.after = span;
        self
    }
}

/// A service that asks a closure what to do, and counts. Clones share both.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// A call that is dropped before its end is counted by [`cancelled`](Self::cancelled).
pub struct Scripted<Req, Res> {
    script: Arc<Script<Req, Res>>,
    counts: Arc<Counts>,
}

type Script<Req, Res> = dyn Fn(usize, Req) -> Act<Res> + Send + Sync;

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
    cancelled: AtomicUsize,
}

impl<Req, Res> Scripted<Req, Res> {
    /// `script` is told the number of the call, from 1, and the request.
    pub fn new(script: impl Fn(usize, Req) -> Act<Res> + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), counts: Arc::default() }
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.counts.calls.load(SeqCst)
    }

    /// How many have begun and not ended.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.counts.under_way.load(SeqCst)
    }

    /// How many were under way at once, at most.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.counts.most.load(SeqCst)
    }

    /// How many were dropped before their end, or panicked.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.counts.cancelled.load(SeqCst)
    }
}

impl<Req, Res: Send + 'static> Service<Req> for Scripted<Req, Res> {
    type Response = Res;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Res, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let number = self.counts.calls.fetch_add(1, SeqCst) + 1;
        let under_way = UnderWay::begin(&self.counts);
        let act = (self.script)(number, request);
        Box::pin(async move {
            if !act.after.is_zero() {
                tokio::time::sleep(act.after).await;
            }
            let result = match act.end {
                End::Answer(answer) => Ok(answer),
                End::Fail(error) => Err(error),
                End::Hang => pending().await,
                #[allow(clippy::panic, reason = "what was asked for")]
                End::Panic => panic!("as scripted"),
            };
            under_way.end();
            result
        })
    }
}

/// Counts the end of a call, in whatever way it comes.
struct UnderWay {
    counts: Arc<Counts>,
    ended: bool,
}

impl UnderWay {
    fn begin(counts: &Arc<Counts>) -> Self {
        let now = counts.under_way.fetch_add(1, SeqCst) + 1;
        counts.most.fetch_max(now, SeqCst);
        Self { counts: counts.clone(), ended: false }
    }

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.counts.under_way.fetch_sub(1, SeqCst);
        if !self.ended {
            self.counts.cancelled.fetch_add(1, SeqCst);
        }
    }
}

impl<Req, Res> Clone for Scripted<Req, Res> {
    fn clone(&self) -> Self {
        Self { script: self.script.clone(), counts: self.counts.clone() }
    }
}

impl<Req, Res> fmt::Debug for Scripted<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("counts", &self.counts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;
    use tower::ServiceExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn every_end_of_a_call_is_counted_once() {
        let service = Scripted::new(|call, ()| match call {
            1 => Act::answer(7),
            2 => Act::fail("no"),
            3 => Act::hang(),
            4 => Act::panic().after(SECOND),
            _ => Act::answer(8).after(SECOND),
        });
        let call = || service.clone().oneshot(());
        assert_eq!(call().await.unwrap(), 7);
        assert_eq!(call().await.unwrap_err().to_string(), "no");
        assert!(timeout(SECOND, call()).await.is_err());
        assert!(tokio::spawn(call()).await.unwrap_err().is_panic());

        let (one, two) = tokio::join!(call(), call());
        assert_eq!((one.unwrap(), two.unwrap()), (8, 8));
        assert_eq!((service.calls(), service.cancelled(), service.under_way()), (6, 2, 0));
        assert_eq!(service.most_at_once(), 2);
    }

    #[tokio::test]
    async fn a_call_counts_from_its_beginning_and_not_from_its_first_poll() {
        let mut service = Scripted::new(|_, ()| Act::answer(()));
        let call = service.call(());
        assert_eq!((service.calls(), service.under_way()), (1, 1));
        drop(call);
        assert_eq!((service.cancelled(), service.under_way()), (1, 0));
    }
}
