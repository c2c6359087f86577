//! What a worker waits for, between messages.

use std::{future::poll_fn, task::Poll, time::Duration};

use gusset_call::BoxError;
use tokio::sync::watch;
use tower_service::Service;

use super::{Mode, PANIC, Worker};
use crate::{Delivery, IntoReply, attempt::contain};

impl<S, T> Worker<S, T>
where
    S: Service<Delivery<T>> + Clone,
    S::Response: IntoReply,
    S::Error: Into<BoxError>,
{
    /// Waits until there may be work. False if there never will be again.
    pub(super) async fn work(&mut self) -> bool {
        let source = &mut self.source;
        tokio::select! {
            more = poll_fn(|cx| source.poll_work(cx)) => more,
            () = told(&mut self.mode) => true,
        }
    }

    /// Waits out a pause. False when it is time to go.
    pub(super) async fn may_work(&mut self) -> bool {
        loop {
            match self.mode.has_changed() {
                Err(_) => return false,
                Ok(false) if self.runs => return true,
                Ok(_) => {}
            }
            let mode = *self.mode.borrow_and_update();
            self.runs = mode == Mode::Running;
            match mode {
                Mode::Running => {}
                Mode::Closing => return false,
                Mode::Paused => {
                    self.start_afresh();
                    // Whoever was called and is paused lets another go.
                    self.source.rest();
                    told(&mut self.mode).await;
                }
            }
        }
    }

    /// Waits until the handler may be ready, or this is told something. No message is held meanwhile: another member may be ready sooner.
    pub(super) async fn ready(&mut self) {
        self.source.rest();
        let service = &mut self.service;
        // What comes of it is seen when it is asked again.
        let ready = poll_fn(|cx| match contain(|| service.poll_ready(cx)) {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(Ok(()))) => Poll::Ready(None),
            Some(Poll::Ready(Err(error))) => {
                Poll::Ready(Some(contain(|| error.into().to_string()).unwrap_or_default()))
            }
            None => Poll::Ready(Some(PANIC.to_owned())),
        });
        let broken = tokio::select! {
            biased;
            broken = ready => broken,
            () = told(&mut self.mode) => None,
        };
        if let Some(error) = broken {
            self.recover(error).await;
        }
    }

    pub(super) async fn recover(&mut self, error: String) {
        let group = &*self.group.name;
        tracing::warn!(group, error, "handler is not ready; tried again in 1 s");
        self.start_afresh();
        self.source.rest();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = told(&mut self.mode) => {}
        }
    }

    pub(super) fn start_afresh(&mut self) {
        contain(|| self.service = self.pristine.clone());
    }
}

/// Ready when there is something new, or nobody to tell any more; leaves the reading of it to [`Worker::may_work`].
async fn told(mode: &mut watch::Receiver<Mode>) {
    if mode.changed().await.is_ok() {
        mode.mark_changed();
    }
}
