//! What is under way: attempts, and the pauses between them.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Sleep, sleep};

use super::attempt::{Attempt, Attempted};

pub(super) enum Happened {
    Attempted(Attempted),
    /// A pause of this step is over.
    Rested(u32),
}

#[expect(clippy::large_enum_variant, reason = "nearly all are attempts")]
enum Doing {
    Attempt(Attempt),
    Pause {
        step: u32,
        /// When it is over, by the store's clock.
        until: u64,
        sleep: Pin<Box<Sleep>>,
    },
}

impl Doing {
    const fn step(&self) -> u32 {
        match self {
            Self::Attempt(attempt) => attempt.step(),
            Self::Pause { step, .. } => *step,
        }
    }

    const fn rests_until(&self) -> Option<u64> {
        match self {
            Self::Attempt(_) => None,
            Self::Pause { until, .. } => Some(*until),
        }
    }
}

impl Future for Doing {
    type Output = Happened;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Happened> {
        match self.get_mut() {
            Self::Attempt(attempt) => attempt.poll(cx).map(Happened::Attempted),
            Self::Pause { step, sleep, .. } => {
                sleep.as_mut().poll(cx).map(|()| Happened::Rested(*step))
            }
        }
    }
}

/// At most one for each step. In a sequence, and for what is ready when it is polled first, there is no more to it than itself.
#[derive(Default)]
pub(super) struct Running {
    /// Polled by itself.
    first: Option<Doing>,
    /// Not polled yet.
    fresh: VecDeque<Doing>,
    /// Each is polled only when it was woken. None as long as there was no need for it.
    rest: Option<FuturesUnordered<Doing>>,
    /// How many of them are attempts.
    attempts: usize,
}

impl Running {
    pub(super) fn begin(&mut self, attempt: Attempt) {
        self.attempts += 1;
        self.push(Doing::Attempt(attempt));
    }

    pub(super) fn pause(&mut self, step: u32, span: Duration, now: u64) {
        let until = now.saturating_add(span.as_millis() as u64);
        self.push(Doing::Pause { step, until, sleep: Box::pin(sleep(span)) });
    }

    fn push(&mut self, doing: Doing) {
        if self.first.is_none() {
            self.first = Some(doing);
        } else {
            self.fresh.push_back(doing);
        }
    }

    /// Whether an attempt is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.attempts > 0
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.all().next().is_none()
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.all().filter_map(Doing::rests_until).min()
    }

    pub(super) fn has(&self, step: u32) -> bool {
        self.all().any(|doing| doing.step() == step)
    }

    fn all(&self) -> impl Iterator<Item = &Doing> {
        self.first.iter().chain(&self.fresh).chain(self.rest.iter().flatten())
    }

    pub(super) fn drop_step(&mut self, step: u32) {
        self.keep_only(|doing| doing.step() != step);
    }

    fn keep_only(&mut self, keep: impl Fn(&Doing) -> bool) {
        let all = std::mem::take(self);
        let all = all.first.into_iter().chain(all.fresh).chain(all.rest.into_iter().flatten());
        for doing in all.filter(keep) {
            self.attempts += usize::from(matches!(doing, Doing::Attempt(_)));
            self.push(doing);
        }
    }

    /// Ends all pauses, and tells whose.
    pub(super) fn end_pauses(&mut self) -> Vec<u32> {
        let pauses = self.all().filter(|doing| doing.rests_until().is_some());
        let steps = pauses.map(Doing::step).collect();
        self.keep_only(|doing| doing.rests_until().is_none());
        steps
    }

    /// What has happened already.
    pub(super) async fn now(&mut self) -> Option<Happened> {
        poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(happened) => Poll::Ready(Some(happened)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// What happens next; never, if nothing is under way. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Happened {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        let happened = self.poll_any(cx);
        if let Poll::Ready(Happened::Attempted(_)) = happened {
            self.attempts -= 1;
        }
        happened
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        if let Some(first) = &mut self.first {
            if let Poll::Ready(happened) = Pin::new(first).poll(cx) {
                self.first = None;
                return Poll::Ready(happened);
            }
        }
        while let Some(mut doing) = self.fresh.pop_front() {
            match Pin::new(&mut doing).poll(cx) {
                Poll::Ready(happened) => return Poll::Ready(happened),
                Poll::Pending if self.first.is_none() => self.first = Some(doing),
                // Polled once more there: only so does it know whom to wake.
                Poll::Pending => self.rest.get_or_insert_default().push(doing),
            }
        }
        match &mut self.rest {
            Some(rest) if !rest.is_empty() => match rest.poll_next_unpin(cx) {
                Poll::Ready(Some(happened)) => Poll::Ready(happened),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_does_not_happen_and_the_rest_does() {
        for polled in [false, true] {
            let mut running = Running::default();
            for step in 0..4 {
                running.pause(step, Duration::from_secs(u64::from(step)), 0);
            }
            running.drop_step(0);
            if polled {
                assert!(running.now().await.is_none());
            }
            assert_eq!((running.next_due(), running.is_busy()), (Some(1_000), false));
            running.drop_step(1);
            running.drop_step(3);
            assert!(!running.has(0) && running.has(2));
            assert!(matches!(running.next().await, Happened::Rested(2)));
            assert!(running.now().await.is_none());
        }
    }
}
