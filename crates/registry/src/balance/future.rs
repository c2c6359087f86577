use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
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
    Balance, MakeEndpoint, Pick, Protocol,
    balance::{
        connection::{AtWork, InFlight},
        service::{Choice, Shared},
    },
};

pin_project! {
    /// Future of [`Balance`].
    pub struct ResponseFuture<M, P, T, Req>
    where
        M: MakeEndpoint,
        M::Service: Service<Req>,
    {
        // Stands before the rest, so that what their own drop does cannot keep the place.
        flight: Option<InFlight>,
        balance: Balance<M, P, T>,
        // Until the endpoint is called.
        request: Option<Req>,
        #[pin]
        state: State<M::Service, <M::Service as Service<Req>>::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        Picking,
        // Boxed, for it is large and rare.
        Waiting { wait: Pin<Box<Wait>> },
        Readying { service: S },
        Calling { #[pin] future: F },
        Done,
    }
}

pin_project! {
    /// Nobody can be called.
    struct Wait {
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
{
    pub(crate) const fn new(balance: Balance<M, P, T>, request: Req) -> Self {
        Self { balance, request: Some(request), flight: None, state: State::Picking }
    }
}

impl<M, P, T, Req> ResponseFuture<M, P, T, Req>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
    <M::Service as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    T: Protocol<Req, <M::Service as Service<Req>>::Response>,
{
    /// Picking, Waiting → Readying.
    fn poll_pick(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), NoInstance>> {
        let mut this = self.project();
        loop {
            // Listens first and looks then, so that no instance arrives in between unnoticed.
            let woken = match this.state.as_mut().project() {
                StateProj::Waiting { wait } => wait.as_mut().project().changed.poll(cx).is_ready(),
                _ => false,
            };
            let choice = this.request.as_ref().map(|request| this.balance.begin(request));
            let rest = match choice {
                Some(Choice::Call(service, flight)) => {
                    *this.flight = Some(flight);
                    this.state.set(State::Readying { service });
                    return Poll::Ready(Ok(()));
                }
                Some(Choice::Rest(nanos)) => Duration::from_nanos(nanos),
                _ => Duration::MAX,
            };
            let Shared { wait: span, core, .. } = &*this.balance.shared;
            let StateProj::Waiting { wait } = this.state.as_mut().project() else {
                if span.is_zero() {
                    return Poll::Ready(Err(this.balance.refusal()));
                }
                let sleep = sleep(*span);
                let (changed, over) = (core.watch.notified(), sleep.deadline());
                let wait = Box::pin(Wait { changed, sleep, over });
                this.state.set(State::Waiting { wait });
                continue;
            };
            let mut wait = wait.as_mut().project();
            if woken {
                wait.changed.set(core.watch.notified());
                continue;
            }
            let (now, over) = (Instant::now(), *wait.over);
            if now >= over {
                return Poll::Ready(Err(this.balance.refusal()));
            }
            // The timer has milliseconds.
            let rest = rest.max(Duration::from_millis(1));
            let until = now.checked_add(rest).map_or(over, |end| end.min(over));
            if wait.sleep.deadline() != until {
                wait.sleep.as_mut().reset(until);
            }
            ready!(wait.sleep.poll(cx));
        }
    }

    /// Readying → Calling.
    fn poll_endpoint(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut this = self.project();
        let StateProj::Readying { service } = this.state.as_mut().project() else {
            return Poll::Ready(Ok(()));
        };
        let at_work = AtWork::new(this.flight);
        let ready = service.poll_ready(cx);
        if let Poll::Ready(Ok(())) = ready {
            // Taken only here.
            let future = this.request.take().map(|request| service.call(request));
            at_work.done();
            let Some(future) = future else { return Poll::Pending };
            if let Some(flight) = this.flight {
                flight.was_ready();
            }
            this.state.set(State::Calling { future });
            return Poll::Ready(Ok(()));
        }
        at_work.done();
        if ready.is_ready() {
            if let Some(flight) = this.flight {
                let core = &this.balance.shared.core;
                flight.broke();
                core.invalidate();
                core.settle(flight, true);
            }
            *this.flight = None;
        }
        ready.map_err(Into::into)
    }
}

impl<M, P, T, Req> Future for ResponseFuture<M, P, T, Req>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
    <M::Service as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    T: Protocol<Req, <M::Service as Service<Req>>::Response>,
{
    type Output = Result<<M::Service as Service<Req>>::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if matches!(self.state, State::Picking | State::Waiting { .. }) {
            if let Err(refusal) = ready!(self.as_mut().poll_pick(cx)) {
                self.project().state.set(State::Done);
                return Poll::Ready(Err(refusal.into()));
            }
        }
        if let Err(error) = ready!(self.as_mut().poll_endpoint(cx)) {
            self.project().state.set(State::Done);
            return Poll::Ready(Err(error));
        }
        let mut this = self.project();
        let StateProj::Calling { future } = this.state.as_mut().project() else {
            // Polled again after it was ready, which only a broken caller does.
            return Poll::Pending;
        };
        let at_work = AtWork::new(this.flight);
        let result = future.poll(cx);
        at_work.done();
        let result = ready!(result);
        let Shared { core, protocol, .. } = &*this.balance.shared;
        let failed = match &result {
            Ok(response) => protocol.is_failure(response),
            Err(_) => true,
        };
        if let Some(flight) = this.flight {
            core.settle(flight, failed);
        }
        *this.flight = None;
        this.state.set(State::Done);
        Poll::Ready(result.map_err(Into::into))
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
