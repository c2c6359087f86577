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
    balance::{connection::InFlight, service::Choice},
};

pin_project! {
    /// Future of [`Balance`].
    pub struct ResponseFuture<M, P, T, Req>
    where
        M: MakeEndpoint,
        M::Service: Service<Req>,
    {
        // Stands before the rest, so that what their own drop does cannot keep the place.
        flight: Option<InFlight<M::Service>>,
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
        Waiting { #[pin] changed: OwnedNotified, #[pin] sleep: Sleep, over: Instant },
        Readying { service: S },
        Calling { #[pin] future: F },
        Done,
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
                StateProj::Waiting { changed, .. } => changed.poll(cx).is_ready(),
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
            let (span, watch) = (this.balance.shared.wait, &this.balance.shared.core.watch);
            let StateProj::Waiting { mut changed, mut sleep, over } = this.state.as_mut().project()
            else {
                if span.is_zero() {
                    return Poll::Ready(Err(this.balance.refusal()));
                }
                let sleep = sleep(span);
                let (changed, over) = (watch.notified(), sleep.deadline());
                this.state.set(State::Waiting { changed, sleep, over });
                continue;
            };
            if woken {
                changed.set(watch.notified());
                continue;
            }
            let (now, over) = (Instant::now(), *over);
            if now >= over {
                return Poll::Ready(Err(this.balance.refusal()));
            }
            // The timer has milliseconds.
            let rest = rest.max(Duration::from_millis(1));
            let until = now.checked_add(rest).map_or(over, |end| end.min(over));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.poll(cx));
        }
    }

    /// Readying → Calling.
    fn poll_endpoint(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut this = self.project();
        let StateProj::Readying { service } = this.state.as_mut().project() else {
            return Poll::Ready(Ok(()));
        };
        // Taken out while user code runs: should that panic, the unwinding gives it back at once, even where
        // someone catches the panic before this future is dropped.
        let flight = this.flight.take().map(|flight| flight.at_work(true));
        match service.poll_ready(cx) {
            Poll::Pending => {
                *this.flight = flight.map(|flight| flight.at_work(false));
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => {
                if let Some(flight) = flight {
                    let core = &this.balance.shared.core;
                    core.broke(flight.connection());
                    core.settle(flight, true);
                }
                return Poll::Ready(Err(error.into()));
            }
            Poll::Ready(Ok(())) => {}
        }
        if let Some(flight) = &flight {
            flight.connection().was_ready();
        }
        let Some(request) = this.request.take() else { return Poll::Pending };
        let future = service.call(request);
        *this.flight = flight.map(|flight| flight.at_work(false));
        this.state.set(State::Calling { future });
        Poll::Ready(Ok(()))
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
        let flight = this.flight.take().map(|flight| flight.at_work(true));
        let Poll::Ready(result) = future.poll(cx) else {
            *this.flight = flight.map(|flight| flight.at_work(false));
            return Poll::Pending;
        };
        let failed = match &result {
            Ok(response) => this.balance.shared.protocol.is_failure(response),
            Err(_) => true,
        };
        if let Some(flight) = flight {
            this.balance.shared.core.settle(flight, failed);
        }
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
