//! A way through that can change while requests are on it.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use tower_service::Service;

/// What `of` finds in the present `W`. A request goes to its end as it began.
///
/// # Readiness
///
/// That of the present one.
///
/// # Cancellation
///
/// As there.
pub(super) struct Way<W, S> {
    ways: Arc<ArcSwap<W>>,
    of: fn(&W) -> &S,
    /// What was polled ready.
    ready: Option<S>,
}

impl<W, S: Clone> Way<W, S> {
    pub(super) const fn new(ways: Arc<ArcSwap<W>>, of: fn(&W) -> &S) -> Self {
        Self { ways, of, ready: None }
    }

    pub(super) fn present(&self) -> S {
        (self.of)(&self.ways.load()).clone()
    }
}

/// It has yet to be polled ready.
impl<W, S> Clone for Way<W, S> {
    fn clone(&self) -> Self {
        Self { ways: self.ways.clone(), of: self.of, ready: None }
    }
}

impl<W, S, R> Service<R> for Way<W, S>
where
    S: Service<R, Error = Infallible> + Clone,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let mut present = self.ready.take().unwrap_or_else(|| self.present());
        let polled = present.poll_ready(cx);
        self.ready = Some(present);
        polled
    }

    fn call(&mut self, request: R) -> S::Future {
        let mut present = self.ready.take().unwrap_or_else(|| self.present());
        present.call(request)
    }
}
