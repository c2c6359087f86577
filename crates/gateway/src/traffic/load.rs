//! How many requests are under way at once, and who goes first when there are too many.

use std::{
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gusset_ratelimit::{Concurrency, ConcurrencyLimiter, Permit, Priority};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::Route;

impl Route {
    /// How many requests of this route may be under way at once, until the ends of their answers; above that they get 503. A connection
    /// that has become another protocol's ([`upgrades`](Self::upgrades)) does not count any more. Default: no limit of its own.
    #[must_use]
    pub const fn in_flight(mut self, most: NonZeroU32) -> Self {
        self.in_flight = Some(most);
        self
    }

    /// The same, with the places of `limiter`, which other routes may have as well, or the gateway that this one's took the place of.
    #[must_use]
    pub fn in_flight_of(mut self, limiter: ConcurrencyLimiter) -> Self {
        self.places = Some(limiter);
        self
    }

    /// Who is refused first where the gateway sheds load ([`Builder::shed`](crate::Builder::shed)), or the route has too many
    /// [in flight](Self::in_flight): [`Priority::Low`] may use four places of five. Default [`Priority::Normal`].
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// The places that the requests of one route need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// Of the gateway; given back with the head of the answer, whose time tells how busy it is.
    pub(crate) gateway: Option<ConcurrencyLimiter>,
    /// Of the route; given back with the end of the answer.
    pub(crate) route: Option<ConcurrencyLimiter>,
    pub(crate) priority: Priority,
}

/// Places that a request has.
#[derive(Debug, Default)]
pub(crate) struct Held {
    gateway: Option<Permit>,
    route: Option<Permit>,
}

impl Places {
    pub(crate) fn of_route(most: Option<NonZeroU32>) -> Option<ConcurrencyLimiter> {
        most.map(|most| ConcurrencyLimiter::new("route", Concurrency::fixed(most)))
    }

    /// `None` if there is none left.
    pub(crate) fn take(&self) -> Option<Held> {
        let take = |limiter: &ConcurrencyLimiter| limiter.try_acquire(self.priority).ok();
        // That of the route first: one that is full must not look busy to the whole gateway.
        let route = match &self.route {
            Some(limiter) => Some(take(limiter)?),
            None => None,
        };
        let gateway = match &self.gateway {
            Some(limiter) => Some(take(limiter)?),
            None => None,
        };
        Some(Held { gateway, route })
    }
}

impl Held {
    /// The head of the answer is there; what is left is held until its end. Without a status no upstream was asked, which says nothing of its load.
    pub(crate) fn answered(&mut self, status: Option<StatusCode>) -> Option<Permit> {
        if let Some(permit) = self.gateway.take() {
            match status {
                None => permit.ignore(),
                Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) => {
                    permit.overloaded();
                }
                Some(_) => permit.success(),
            }
        }
        self.route.take()
    }
}

pin_project! {
    /// A body that holds a place until its end.
    pub(crate) struct Placed<B> {
        #[pin]
        body: B,
        place: Option<Permit>,
    }
}

impl<B: Body> Placed<B> {
    pub(crate) fn new(body: B, place: Option<Permit>) -> Self {
        // Of a body that is empty nobody may ask for the end.
        let place = place.filter(|_| !body.is_end_stream());
        Self { body, place }
    }
}

impl<B: Body<Data = Bytes>> Body for Placed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *this.place = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
