//! Ends a service without losing a request.
//!
//! A service leaves in this order: it turns unready, it goes on accepting for a notice period until the balancers have
//! seen that, it stops accepting, what is under way ends or the limit passes.
//!
//! ```
//! # use std::time::Duration;
//! use gusset::shutdown::Shutdown;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! let shutdown = Shutdown::new(Duration::from_secs(2));
//! let work = shutdown.guard();
//! tokio::spawn(async move {
//!     let _held_until_the_end = work;
//!     tokio::time::sleep(Duration::from_secs(5)).await;
//! });
//!
//! shutdown.begin(); // in a program: shutdown.signalled().await
//! shutdown.finished(Duration::from_secs(10)).await.expect("all work ended in time");
//! # });
//! ```

use std::{fmt, future::Future, io, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// The end of a process, shared by all its parts: clones are one.
#[derive(Clone, Debug)]
pub struct Shutdown {
    begun: CancellationToken,
    work: TaskTracker,
    notice: Duration,
}

impl Shutdown {
    /// A shutdown that leaves balancers `notice` to see that the service is no longer ready. Zero suits services that are
    /// found through a registry, which is told; behind a prober it should span two of its intervals.
    #[must_use]
    pub fn new(notice: Duration) -> Self {
        Self { begun: CancellationToken::new(), work: TaskTracker::new(), notice }
    }

    /// Begins it. More calls change nothing.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Ends when the shutdown begins: the time to turn unready and to deregister.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + 'static {
        self.begun.clone().cancelled_owned()
    }

    /// Ends when the notice period is over: the time to stop accepting. Give it to
    /// `axum::serve(…).with_graceful_shutdown`.
    pub fn noticed(&self) -> impl Future<Output = ()> + Send + 'static {
        let (begun, notice) = (self.begun(), self.notice);
        async move {
            begun.await;
            sleep(notice).await;
        }
    }

    /// A piece of work that [`finished`](Self::finished) waits for, until it is dropped.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard { _token: self.work.token() }
    }

    /// Waits for SIGTERM or Ctrl-C and begins then. It begins as well, and returns, if someone else calls
    /// [`begin`](Self::begin). Further signals change nothing: the limit of [`finished`](Self::finished) bounds what is left.
    ///
    /// # Errors
    ///
    /// If the signals cannot be listened to.
    ///
    /// # Cancellation
    ///
    /// Nothing was begun. The signals stay caught, as tokio never gives them back.
    pub async fn signalled(&self) -> io::Result<()> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = self.begun.cancelled() => {}
            }
        }
        #[cfg(not(unix))]
        tokio::select! {
            result = tokio::signal::ctrl_c() => result?,
            () = self.begun.cancelled() => {}
        }
        self.begin();
        Ok(())
    }

    /// Waits until it has begun and then until every [`Guard`] is gone, at most `limit` from there on.
    ///
    /// # Errors
    ///
    /// [`Unfinished`] if `limit` passed first.
    ///
    /// # Cancellation
    ///
    /// Nothing changes; it can be awaited again.
    pub async fn finished(&self, limit: Duration) -> Result<(), Unfinished> {
        self.begun.cancelled().await;
        self.work.close();
        timeout(limit, self.work.wait())
            .await
            .map_err(|_| Unfinished { pieces: self.work.len(), limit })
    }
}

/// A piece of work under way. Dropping it tells that it has ended.
#[derive(Debug)]
pub struct Guard {
    _token: TaskTrackerToken,
}

/// Work was still under way when the limit of a shutdown passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pieces: usize,
    limit: Duration,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pieces of work did not end within {:?}", self.pieces, self.limit)
    }
}

impl std::error::Error for Unfinished {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;
    use tokio_test::{assert_pending, assert_ready, task};

    #[tokio::test(start_paused = true)]
    async fn balancers_have_the_notice_period_before_accepting_stops() {
        let shutdown = Shutdown::new(Duration::from_secs(3));
        let mut noticed = task::spawn(shutdown.noticed());
        assert_pending!(noticed.poll());
        shutdown.begin();
        assert!(shutdown.has_begun());
        let begun = Instant::now();
        noticed.await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_work_and_no_longer() {
        let shutdown = Shutdown::new(Duration::ZERO);
        let work = shutdown.guard();
        let mut finished = task::spawn(shutdown.finished(Duration::from_secs(10)));
        assert_pending!(finished.poll());
        shutdown.begin();
        assert_pending!(finished.poll());
        drop(work);
        assert!(finished.is_woken());
        assert_eq!(assert_ready!(finished.poll()), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_end_is_counted() {
        let shutdown = Shutdown::new(Duration::ZERO);
        let _work = (shutdown.guard(), shutdown.guard());
        shutdown.begin();
        let unfinished = shutdown.finished(Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(unfinished.to_string(), "2 pieces of work did not end within 10s");
    }

    #[tokio::test]
    async fn waiting_for_a_signal_ends_when_someone_else_begins() {
        let shutdown = Shutdown::new(Duration::ZERO);
        shutdown.begin();
        shutdown.signalled().await.unwrap();
    }
}
