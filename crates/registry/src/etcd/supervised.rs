//! A task that must not end because of a bug in it.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::atomic::Ordering::Relaxed,
    task::Poll,
    time::Duration,
};

use tokio::time::sleep;

use super::{connector::pause, state::Meters};

/// Runs what `make` makes to its end. When that panics it is made anew, after a pause that grows: a task that is silently gone would mean an
/// instance without heartbeats, or a service that nobody follows.
pub(super) async fn supervised<F: Future<Output = ()>>(
    task: &'static str,
    meters: &Meters,
    ttl: Duration,
    make: impl Fn() -> F,
) {
    for panics in 1.. {
        let mut run = pin!(make());
        let ended = poll_fn(|cx| {
            // After a panic the future is dropped, and what it shares with others is behind locks that are whole at all times.
            match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx))) {
                Ok(poll) => poll.map(|()| true),
                Err(_) => Poll::Ready(false),
            }
        });
        if ended.await {
            return;
        }
        meters.panics.fetch_add(1, Relaxed);
        tracing::error!(task, "a task of the etcd registry panicked and is begun anew");
        sleep(pause(ttl, panics)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_begun_anew_and_counted() {
        let (meters, runs) = (Meters::default(), Cell::new(0));
        let make = || {
            runs.set(runs.get() + 1);
            let run = runs.get();
            async move {
                sleep(Duration::from_secs(1)).await;
                assert!(run > 3, "a bug");
            }
        };
        let ttl = Duration::from_secs(30);
        timeout(Duration::from_secs(5), supervised("test", &meters, ttl, make)).await.unwrap();
        assert_eq!((runs.get(), meters.panics.load(Relaxed)), (4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_it_drops_the_task() {
        let meters = Meters::default();
        let ttl = Duration::from_secs(30);
        let run = supervised("test", &meters, ttl, pending);
        assert!(timeout(Duration::from_secs(60), run).await.is_err());
        assert_eq!(meters.panics.load(Relaxed), 0);
    }
}
