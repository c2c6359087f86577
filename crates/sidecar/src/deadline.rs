//! The deadline layer: layer, service, future; the headers are in `timeout`.

pub(crate) mod body;
pub(crate) mod timeout;

use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
    time::Duration,
};

use gusset_call::{BoxError, Context, Deadline, DeadlineExceeded};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use timeout::{announce, timeout_in};

/// Ends calls for whose answer nobody waits any more. Clones share nothing.
///
/// On a server ([`DeadlineLayer::server`]) it reads how long the caller waits, from `grpc-timeout` and from `x-request-timeout-ms` (or Envoy's
/// `x-envoy-expected-rq-timeout-ms`), the shortest counts; makes it a `gusset_call::Deadline`, which never is later than the one that is set here; puts it
/// into the request's extensions and into the handler's `gusset_call::Context`; and when it passes, drops the handler and
/// returns `gusset_call::DeadlineExceeded`. A header that makes no sense counts as absent.
///
/// Around a client ([`DeadlineLayer::client`]) it tells the service called how much is left of the deadline in the request's
/// extensions or in the context, and ends the call in the same way. It belongs inside of retries, so that every attempt tells what is left then.
///
/// The deadline is that of the response headers. A body that is already on its way is not cut, except by
/// [`BodyDeadlineLayer`](crate::BodyDeadlineLayer).
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer {
    side: Side,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Server { maximum: Duration, default: Duration, extension: bool },
    Client { timer: bool },
}

impl DeadlineLayer {
    /// Gives every request a deadline that is at most `maximum` from now, which also holds for those that name none.
    #[must_use]
    pub const fn server(maximum: Duration) -> Self {
        Self { side: Side::Server { maximum, default: maximum, extension: true } }
    }

    /// Passes on what is left of the present deadline. A call without one passes as it is.
    #[must_use]
    pub const fn client() -> Self {
        Self { side: Side::Client { timer: true } }
    }

    /// What a server gives a request that names no timeout, if that is not the maximum.
    #[must_use]
    pub const fn default_to(mut self, span: Duration) -> Self {
        if let Side::Server { default, .. } = &mut self.side {
            *default = span;
        }
        self
    }

    /// On a server, leaves the deadline out of the request's extensions, which costs more than all the rest: three
    /// allocations where there are no extensions yet. The context then is the only place to find it, and a layer in between that
    /// hands requests to another task, such as tower's `Buffer`, loses it.
    #[must_use]
    pub const fn only_in_context(mut self) -> Self {
        if let Side::Server { extension, .. } = &mut self.side {
            *extension = false;
        }
        self
    }

    /// Around a client, leaves the timer to a [`DeadlineLayer::server`] around it, in the same task and of the same deadline or an earlier one, which costs half of what two cost: when
    /// that timer goes off, the call is polled, and sees for itself that it is too late; so the layers in between learn that it was. Without such a layer a call that is never woken
    /// does not end.
    ///
    /// It ends when it is polled less than a millisecond before its deadline, which is as exact as timers are.
    #[must_use]
    pub const fn without_timer(mut self) -> Self {
        if let Side::Client { timer } = &mut self.side {
            *timer = false;
        }
        self
    }

    const fn has_timer(self) -> bool {
        matches!(self.side, Side::Server { .. } | Side::Client { timer: true })
    }

    /// The deadline of `request`, with what it says about it put where it belongs, and whether it has passed.
    fn deadline<B>(self, cx: Context, request: &mut Request<B>) -> Option<(Deadline, bool)> {
        match self.side {
            Side::Server { maximum, default, extension } => {
                let span = timeout_in(request.headers()).unwrap_or(default).min(maximum);
                // Read once, for that takes as long as all the rest.
                let now = Deadline::now();
                let own = now.instant().checked_add(span);
                let own = own.map_or_else(|| Deadline::after(span), Deadline::at);
                let deadline = cx.deadline().map_or(own, |around| around.min(own));
                if extension {
                    request.extensions_mut().insert(deadline);
                }
                Some((deadline, deadline <= now))
            }
            Side::Client { .. } => {
                let own = request.extensions().get::<Deadline>().copied();
                let deadline = own.into_iter().chain(cx.deadline()).min()?;
                let left = deadline.remaining();
                announce(left, request.headers_mut());
                Some((deadline, left.is_zero()))
            }
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline { inner, layer: *self }
    }
}

/// How exact timers are.
const TICK: Duration = Duration::from_millis(1);

/// Service of [`DeadlineLayer`].
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future drops the handler's, as does the deadline. A call whose deadline has passed when it arrives does not reach the
/// inner service.
#[derive(Clone, Debug)]
pub struct WithDeadline<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, B, RB> Service<Request<B>> for WithDeadline<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let cx = Context::current();
        let Some((deadline, passed)) = self.layer.deadline(cx, &mut request) else {
            let state = State::Free { future: self.inner.call(request) };
            return DeadlineFuture { state, timer: None };
        };
        if passed {
            return DeadlineFuture { state: State::Passed, timer: None };
        }
        let cx = cx.with_deadline(deadline);
        let entered = cx.enter();
        let future = self.inner.call(request);
        drop(entered);
        let timed = self.layer.has_timer();
        DeadlineFuture { state: State::Bound { future, deadline, cx, timed }, timer: None }
    }
}

pin_project! {
    /// Future of [`WithDeadline`].
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        #[pin]
        state: State<F>,
        // Armed when the call is first pending, for to arm it costs more than a quick call does. On the heap: it is as large as all the
        // rest, which moves into the futures around.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Free { #[pin] future: F },
        Bound { #[pin] future: F, deadline: Deadline, cx: Context, timed: bool },
        Passed,
        Over,
    }
}

impl<F, RB, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<RB>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.state.as_mut().project() {
            StateProj::Free { future } => {
                let result = ready!(future.poll(cx));
                this.state.set(State::Over);
                return Poll::Ready(result.map_err(Into::into));
            }
            StateProj::Bound { future, deadline, cx: scope, timed } => {
                if let Poll::Ready(result) = scope.sync_scope(|| future.poll(cx)) {
                    this.state.set(State::Over);
                    return Poll::Ready(result.map_err(Into::into));
                }
                if *timed {
                    let arm = || Box::pin(sleep_until(deadline.instant()));
                    ready!(this.timer.get_or_insert_with(arm).as_mut().poll(cx));
                } else if deadline.instant() >= Deadline::now().instant() + TICK {
                    return Poll::Pending;
                }
            }
            StateProj::Passed => {}
            // Polled again after it was ready, which only a broken caller does.
            StateProj::Over => return Poll::Pending,
        }
        // Here the handler is dropped, and with it all that it waits for.
        this.state.set(State::Over);
        Poll::Ready(Err(DeadlineExceeded.into()))
    }
}
