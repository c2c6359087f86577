//! Routes whose answer is made here, of the answers of others, and not passed on.
//!
//! A `FanOut` asks several upstreams at once (`fan`), each at an address made of the request's (`address`); of each answer it takes a value
//! (`select`), and writes them into one object (`merge`).
//!
//! A `GrpcMethod` is asked in the name of a client that sends JSON (`transcoder`): path, query and body become the fields of a message (`fields`), the messages of the
//! answer JSON (`shape`), one or a stream of them (`frames`, `json_stream`), its status one of HTTP (`status`). What stands for a method may be said by its annotation
//! (`descriptors`, `http_rule`).

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

#[cfg(all(any(test, fuzzing), feature = "grpc-json"))]
pub(crate) mod fuzz;

#[cfg(feature = "grpc-json")]
mod descriptors;
#[cfg(feature = "grpc-json")]
mod fields;
#[cfg(feature = "grpc-json")]
mod frames;
#[cfg(feature = "grpc-json")]
mod grpc_method;
#[cfg(feature = "grpc-json")]
mod http_rule;
#[cfg(feature = "grpc-json")]
mod json_stream;
#[cfg(feature = "grpc-json")]
mod shape;
#[cfg(feature = "grpc-json")]
mod status;
#[cfg(feature = "grpc-json")]
mod transcoder;

#[cfg(feature = "compose")]
pub use {
    branch::{Branch, BranchStats},
    fan_out::FanOut,
};
#[cfg(feature = "grpc-json")]
pub use {
    descriptors::{Descriptors, DescriptorsError},
    grpc_method::GrpcMethod,
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
    #[cfg(feature = "grpc-json")]
    Grpc(GrpcMethod),
}

/// The same, checked.
pub(crate) enum Composed {
    #[cfg(feature = "compose")]
    FanOut(std::sync::Arc<fan::Fan>),
    #[cfg(feature = "grpc-json")]
    Grpc(std::sync::Arc<transcoder::Transcoder>),
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
            #[cfg(feature = "grpc-json")]
            Self::Grpc(ref of) => {
                let transcoder = transcoder::Transcoder::compile(route, of)?;
                Ok(Composed::Grpc(std::sync::Arc::new(transcoder)))
            }
        }
    }
}

impl Composed {
    /// The answer to `request`; `caller` leads to the upstream of the route, if it has one itself.
    pub(crate) fn answer(
        &self,
        caller: Option<&Caller>,
        request: Request<RequestBody>,
    ) -> Answering {
        let _ = (caller, &request);
        match *self {
            #[cfg(feature = "compose")]
            Self::FanOut(ref fan) => Box::pin(fan.clone().answer(request.into_parts().0)),
            #[cfg(feature = "grpc-json")]
            Self::Grpc(ref transcoder) => match caller {
                Some(caller) => Box::pin(transcoder.clone().answer(caller.clone(), request)),
                // None is built without an upstream.
                None => Box::pin(std::future::ready(Err(Answer::NotFound))),
            },
        }
    }

    /// What became of its calls.
    #[cfg(feature = "compose")]
    pub(crate) fn branches(&self) -> Vec<BranchStats> {
        match self {
            Self::FanOut(fan) => fan.stats(),
            #[cfg(feature = "grpc-json")]
            Self::Grpc(_) => Vec::new(),
        }
    }
}
