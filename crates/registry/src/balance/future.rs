use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use gusset_call::BoxError;
use pin_project_lite::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Sleep, sleep},
};
use tower_service::Service;

use crate::{Balance, MakeEndpoint, Pick, Protocol, balance::endpoints::InFlight};

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
        Waiting { #[pin] changed: OwnedNotified, #[pin] over: Sleep },
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

impl<M, P, T, Req> Future for ResponseFuture<M, P, T, Req>
where
    M: MakeEndpoint,
    M::Service: Service<Req>,
    <M::Service as Service<Req>>::Error: Into<BoxError>,
    P: Pick<Req>,
    T: Protocol<Req, <M::Service as Service<Req>>::Response>,
{
    type Output = Result<<M::Service as Service<Req>>::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Picking => {
                    let picked =
                        this.request.as_ref().and_then(|request| this.balance.begin(request));
                    match picked {
                        Some((service, flight)) => {
                            *this.flight = Some(flight);
                            this.state.set(State::Readying { service });
                        }
                        None if this.balance.span().is_zero() => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(this.balance.refusal().into()));
                        }
                        None => {
                            let changed = this.balance.changed();
                            let over = sleep(this.balance.span());
                            this.state.set(State::Waiting { changed, over });
                        }
                    }
                }
                StateProj::Waiting { mut changed, over } => {
                    // Listens first and looks then, so that no instance arrives in between unnoticed.
                    let woken = changed.as_mut().poll(cx).is_ready();
                    let picked =
                        this.request.as_ref().and_then(|request| this.balance.begin(request));
                    if let Some((service, flight)) = picked {
                        *this.flight = Some(flight);
                        this.state.set(State::Readying { service });
                    } else if woken {
                        changed.set(this.balance.changed());
                    } else {
                        ready!(over.poll(cx));
                        this.state.set(State::Done);
                        return Poll::Ready(Err(this.balance.refusal().into()));
                    }
                }
                StateProj::Readying { service } => {
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
                                flight.broke();
                                this.balance.note_broken();
                            }
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error.into()));
                        }
                        Poll::Ready(Ok(())) => {
                            let Some(request) = this.request.take() else { return Poll::Pending };
                            let future = service.call(request);
                            *this.flight = flight.map(|flight| flight.at_work(false));
                            this.state.set(State::Calling { future });
                        }
                    }
                }
                StateProj::Calling { future } => {
                    let flight = this.flight.take().map(|flight| flight.at_work(true));
                    let Poll::Ready(result) = future.poll(cx) else {
                        *this.flight = flight.map(|flight| flight.at_work(false));
                        return Poll::Pending;
                    };
                    let failed = match &result {
                        Ok(response) => this.balance.protocol_ref().is_failure(response),
                        Err(_) => true,
                    };
                    if let Some(flight) = flight {
                        flight.settle(failed);
                    }
                    this.state.set(State::Done);
                    return Poll::Ready(result.map_err(Into::into));
                }
                // Polled again after it was ready, which only a broken caller does.
                StateProj::Done => return Poll::Pending,
            }
        }
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
