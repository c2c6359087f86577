//! Routes whose answer is made here, of the answers of others, and not passed on.
//!
//! A `FanOut` asks several upstreams at once (`fan`), each at an address made of the request's (`address`); of each answer it takes a value
//! (`select`), and writes them into one object (`merge`).

#[cfg(feature = "compose")]
mod address;
#[cfg(feature = "compose")]
mod branch;
#[cfg(feature = "compose")]
mod fan;
#[cfg(feature = "compose")]
mod fan_out;
#[cfg(feature = "compose")]
mod merge;
#[cfg(feature = "compose")]
mod select;

#[cfg(feature = "compose")]
pub use {
    branch::{Branch, BranchStats},
    fan_out::FanOut,
};

use std::{future::Future, pin::Pin, time::Duration};

use http::{Request, Response};

use crate::{
    Route, Upstream, answer::Answer, body::RequestBody, forward::AnyBody, upstream::Caller,
};

/// What a route does instead of passing on. Without the features there is nothing.
#[derive(Clone, Debug)]
pub(crate) enum Composition {
    #[cfg(feature = "compose")]
    FanOut(FanOut),
}

/// The same, checked.
pub(crate) enum Composed {
    #[cfg(feature = "compose")]
    FanOut(std::sync::Arc<fan::Fan>),
}

/// The call of an upstream within a limit, with the retries of the route.
pub(crate) type MakeCaller<'m> = dyn FnMut(&Upstream, Duration) -> Caller + 'm;

/// An answer under way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, Answer>> + Send>>;

impl Composition {
    /// # Errors
    ///
    /// Why `route` cannot be composed in this way.
    pub(crate) fn compile(
        &self,
        route: &Route,
        make_caller: &mut MakeCaller<'_>,
    ) -> Result<Composed, String> {
        let _ = (route, &make_caller);
        match *self {
            #[cfg(feature = "compose")]
            Self::FanOut(ref of) => {
                let fan = fan::Fan::compile(route, of, make_caller)?;
                Ok(Composed::FanOut(std::sync::Arc::new(fan)))
            }
        }
    }
}

impl Composed {
    pub(crate) fn answer(&self, request: Request<RequestBody>) -> Answering {
        let _ = &request;
        match *self {
            #[cfg(feature = "compose")]
            Self::FanOut(ref fan) => Box::pin(fan.clone().answer(request.into_parts().0)),
        }
    }

    /// What became of its calls.
    #[cfg(feature = "compose")]
    pub(crate) fn branches(&self) -> Vec<BranchStats> {
        match self {
            Self::FanOut(fan) => fan.stats(),
        }
    }
}
