use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::Deadline;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// Until a connection has been idle for too long.
    pub(super) struct Idle<L> {
        #[pin]
        sleep: Sleep,
        until: Instant,
        #[pin]
        leaving: L,
        left: bool,
    }
}

impl<L: Future<Output = ()>> Idle<L> {
    pub(super) fn new(span: Duration, leaving: L) -> Self {
        let until = Deadline::after(span).instant();
        Self { sleep: sleep_until(until), until, leaving, left: false }
    }

    /// The timer stays where it is: it finds out by itself that it goes on.
    pub(super) fn begin(self: Pin<&mut Self>, span: Duration) {
        *self.project().until = Deadline::after(span).instant();
    }

    /// `begun` says that a request is on its way, which is waited for though the server is leaving.
    pub(super) fn poll_over(self: Pin<&mut Self>, cx: &mut Context<'_>, begun: bool) -> Poll<()> {
        let mut this = self.project();
        *this.left = *this.left || this.leaving.as_mut().poll(cx).is_ready();
        if *this.left && !begun {
            return Poll::Ready(());
        }
        while this.sleep.as_mut().poll(cx).is_ready() {
            if *this.until <= Instant::now() {
                return Poll::Ready(());
            }
            this.sleep.as_mut().reset(*this.until);
        }
        Poll::Pending
    }
}
