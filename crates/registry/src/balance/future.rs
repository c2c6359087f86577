use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use gusset_call::{BoxError, NoInstance};
use pin_project_lite::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep},
};
use tower_service::Service;

use crate::{
    MakeEndpoint, Pick, Protocol,
    balance::{
        choice::Choice,
        flight::{AtWork, InFlight},
        service::Shared,
    },
};

pin_project! {
    /// Future of [`Balance`](crate::Balance).
    pub struct ResponseFuture<M, P, T, Req>
    where
        M: MakeEndpoint,
        M::Service: Service<Req>,
    {
        // Stands before the rest, so that what their own drop does cannot keep the place.
        flight: Option<InFlight>,
        #[pin]
        state: State<M, P, T, Req>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<M, P, T, Req>
    where
        M: MakeEndpoint,
        M::Service: Service<Req>,
    {
        // Boxed, for it is large and rare.
        Waiting { wait: Pin<Box<Wait<M, P, T>>>, request: Option<Req> },
        Readying { ready: Option<Readying<M::Service, T, Req>> },
        Calling { #[pin] future: <M::Service as Service<Req>>::Future, protocol: T },
        Failed { error: Option<BoxError> },
        Done,
    }
}

struct Readying<S, T, Req> {
    service: S,
    protocol: T,
    request: Req,
}

pin_project! {
    /// Nobody can be called.
    struct Wait<M: MakeEndpoint, P, T> {
        shared: Arc<Shared<M, P, T>>,
        turn: usize,
        // From the first poll on, for a timer needs a runtime.
        #[pin]
        until: Option<Until>,
    }
}

pin_project! {
    struct Until {
        #[pin]
        changed: OwnedNotified,
        #[pin]
        sleep: Sleep,
        over: Instant,
    }
}

impl<M, P, T, Req> ResponseFuture<M, P, T, Req>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
    <M::Service as Service<Req>>::Error: Into<BoxError>,
{
    /// Calls `service` if it is ready at once.
    #[inline]
    pub(crate) fn begin(flight: InFlight, service: M::Service, protocol: T, request: Req) -> Self {
        let mut flight = Some(flight);
        // Who is not ready is asked once more, by the first poll, with a waker that wakes.
        let mut cx = Context::from_waker(Waker::noop());
        let state = Readying { service, protocol, request }.step(&mut flight, &mut cx);
        Self { flight, state }
    }

    /// Waits until somebody can be called.
    #[cold]
    pub(crate) fn wait(shared: Arc<Shared<M, P, T>>, turn: usize, request: Req) -> Self {
        let wait = Box::pin(Wait { shared, turn, until: None });
        Self { flight: None, state: State::Waiting { wait, request: Some(request) } }
    }
}

impl<S, T, Req> Readying<S, T, Req>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    /// Readying → Readying, Calling, Failed.
    #[inline]
    fn step<M, P>(
        mut self,
        flight: &mut Option<InFlight>,
        cx: &mut Context<'_>,
    ) -> State<M, P, T, Req>
    where
        M: MakeEndpoint<Service = S>,
    {
        let at_work = AtWork::new(flight);
        match self.service.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                let future = self.service.call(self.request);
                at_work.done();
                if let Some(flight) = flight {
                    flight.was_ready();
                }
                State::Calling { future, protocol: self.protocol }
            }
            Poll::Ready(Err(error)) => {
                at_work.done();
                if let Some(flight) = flight.take() {
                    flight.broke();
                }
                State::Failed { error: Some(error.into()) }
            }
            Poll::Pending => {
                at_work.done();
                State::Readying { ready: Some(self) }
            }
        }
    }
}

impl<M: MakeEndpoint, P, T> Wait<M, P, T> {
    /// Waiting → Readying.
    fn poll_choose<Req, Res>(
        self: Pin<&mut Self>,
        request: &Req,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(M::Service, InFlight), NoInstance>>
    where
        P: Pick<Req>,
        T: Protocol<Req, Res>,
    {
        let mut this = self.project();
        let Shared { wait: span, core, .. } = &**this.shared;
        loop {
            // Listens first and looks then, so that no instance arrives in between unnoticed.
            let woken = match this.until.as_mut().as_pin_mut() {
                Some(until) => until.project().changed.poll(cx).is_ready(),
                None => false,
            };
            let rest = match this.shared.choose::<Req, Res>(*this.turn, request) {
                Choice::Call(service, flight) => return Poll::Ready(Ok((service, flight))),
                Choice::Rest(nanos) => Duration::from_nanos(nanos),
                Choice::Nobody => Duration::MAX,
            };
            let Some(until) = this.until.as_mut().as_pin_mut() else {
                if span.is_zero() {
                    return Poll::Ready(Err(this.shared.refusal()));
                }
                let sleep = sleep(*span);
                let (changed, over) = (core.watch.notified(), sleep.deadline());
                this.until.set(Some(Until { changed, sleep, over }));
                continue;
            };
            let mut until = until.project();
            if woken {
                until.changed.set(core.watch.notified());
                continue;
            }
            let (now, over) = (Instant::now(), *until.over);
            if now >= over {
                return Poll::Ready(Err(this.shared.refusal()));
            }
            // The timer has milliseconds.
            let rest = rest.max(Duration::from_millis(1));
            let soonest = now.checked_add(rest).map_or(over, |end| end.min(over));
            if until.sleep.deadline() != soonest {
                until.sleep.as_mut().reset(soonest);
            }
            ready!(until.sleep.poll(cx));
        }
    }
}

impl<M, P, T, Req> Future for ResponseFuture<M, P, T, Req>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
    <M::Service as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    T: Protocol<Req, <M::Service as Service<Req>>::Response> + Clone,
{
    type Output = Result<<M::Service as Service<Req>>::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StateProj::Waiting { wait, request: place } = this.state.as_mut().project() {
            let Some(request) = place.take() else { return Poll::Pending };
            match wait.as_mut().poll_choose(&request, cx) {
                Poll::Ready(Ok((service, flight))) => {
                    *this.flight = Some(flight);
                    let protocol = wait.shared.protocol.clone();
                    let ready = Some(Readying { service, protocol, request });
                    this.state.set(State::Readying { ready });
                }
                Poll::Ready(Err(refusal)) => {
                    this.state.set(State::Done);
                    return Poll::Ready(Err(refusal.into()));
                }
                Poll::Pending => {
                    *place = Some(request);
                    return Poll::Pending;
                }
            }
        }
        if let StateProj::Readying { ready } = this.state.as_mut().project() {
            let Some(ready) = ready.take() else { return Poll::Pending };
            let next = ready.step(this.flight, cx);
            this.state.set(next);
        }
        let (answer, failed) = match this.state.as_mut().project() {
            StateProj::Calling { future, protocol } => {
                let at_work = AtWork::new(this.flight);
                let answer = future.poll(cx);
                at_work.done();
                // One by one: an answer that is moved as a whole, whatever it is, is read before it is written out.
                match answer {
                    Poll::Ready(Ok(response)) => {
                        let failed = protocol.is_failure(&response);
                        (Ok(response), failed)
                    }
                    Poll::Ready(Err(error)) => (Err(error.into()), true),
                    Poll::Pending => return Poll::Pending,
                }
            }
            StateProj::Failed { error } => match error.take() {
                Some(error) => (Err(error), true),
                None => return Poll::Pending,
            },
            // Not ready yet; or polled again after it was, which only a broken caller does.
            _ => return Poll::Pending,
        };
        // Of a service that broke, it was taken already.
        if let Some(flight) = this.flight {
            flight.settle(failed);
        }
        *this.flight = None;
        this.state.set(State::Done);
        Poll::Ready(answer)
    }
}

impl<M, P, T, Req> fmt::Debug for ResponseFuture<M, P, T, Req>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
