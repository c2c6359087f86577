//! The connection: how it is opened, and what is said when it is there or gone.

use std::{
    pin::pin,
    sync::{Arc, PoisonError, Weak, atomic::Ordering::SeqCst},
};

use tokio::{task::AbortHandle, time::timeout};

use super::{
    link::Link,
    server::Inner,
    state::{RedisState, count},
};

impl Inner {
    /// The connection; waits for it if need be, through one attempt to connect.
    pub(super) async fn link(self: &Arc<Self>) -> Option<Arc<Link>> {
        let mut over = pin!(self.attempt_over.notified());
        // From here on the end of an attempt is not missed.
        over.as_mut().enable();
        if let Some(link) = self.link.load_full() {
            return Some(link);
        }
        self.start_attempt();
        over.await;
        self.link.load_full()
    }

    /// Gives up `link`, if it is still the one in use.
    pub(super) fn lost(&self, link: &Arc<Link>) {
        self.link.rcu(|current| match current {
            Some(current) if Arc::ptr_eq(current, link) => None,
            current => current.clone(),
        });
    }

    fn start_attempt(self: &Arc<Self>) {
        // Held until the handle is in its place, or a later attempt's could be overwritten, which would end it.
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        if self.connecting.swap(true, SeqCst) {
            return;
        }
        count(&self.counters.connects);
        let over = AttemptOver(Arc::downgrade(self));
        let (client, policy) = (self.client.clone(), self.policy);
        let task = tokio::spawn(async move {
            let opened =
                timeout(policy.connect_within, Link::open(&client, policy.call_within)).await;
            if let Some(inner) = over.0.upgrade() {
                match opened {
                    Ok(Ok(link)) => inner.reached(link),
                    Ok(Err(error)) => inner.unreachable(&error.to_string()),
                    Err(_) => inner.unreachable("it took too long to connect"),
                }
            }
        });
        *attempt = Some(Attempt(task.abort_handle()));
    }

    fn reached(&self, link: Link) {
        self.link.store(Some(Arc::new(link)));
        let changed = self.state.send_if_modified(|state| {
            self.gate.reached(self.now());
            std::mem::replace(state, RedisState::Connected) != RedisState::Connected
        });
        if changed {
            tracing::info!(server = %self.address(), "redis answers");
        }
    }

    fn unreachable(&self, cause: &str) {
        self.link.store(None);
        self.go_away(cause, || {
            self.gate.unreachable(self.now(), &mut rand::rng());
            true
        });
    }

    pub(super) fn failed(&self, generation: u16, silent_since: Option<u64>, cause: &str) {
        self.go_away(cause, || {
            let away = self.gate.failed(self.now(), generation, silent_since, &mut rand::rng());
            if away {
                // With all that it still owes. A new one shows whether the server or only the way to it is gone.
                self.link.store(None);
            }
            away
        });
    }

    /// Here → Away, if `decide` says so.
    fn go_away(&self, cause: &str, decide: impl FnOnce() -> bool) {
        let mut was_away = true;
        let changed = self.state.send_if_modified(|state| {
            was_away = matches!(state, RedisState::Away { .. });
            let away = RedisState::Away { cause: cause.into() };
            decide() && std::mem::replace(state, away.clone()) != away
        });
        if changed && !was_away {
            tracing::warn!(server = %self.address(), cause, "redis is away; its limits are kept by other means");
        }
    }
}

/// Ends the task that connects.
pub(super) struct Attempt(AbortHandle);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells that an attempt is over, even if its runtime was shut down in the middle of it.
struct AttemptOver(Weak<Inner>);

impl Drop for AttemptOver {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.connecting.store(false, SeqCst);
            inner.attempt_over.notify_waiters();
        }
    }
}
