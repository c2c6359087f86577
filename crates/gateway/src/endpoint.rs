//! One instance of an upstream, as a service over pooled connections.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use gusset_breaker::{Breaker, BreakerLayer, Circuit, Classify, GrpcStatus, Outcome};
use gusset_call::{BoxError, Overloaded};
use gusset_sidecar::{DeadlineLayer, Trace, TraceLayer, WithDeadline};
use http::{Request, Response, Uri, Version, header, uri};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    blame::Blame,
    body::{AttemptBody, ClientFault},
    routes::HostAs,
    transport::{HostHeader, Line, Pool, Transport, TransportError},
};

/// From the inside: a connection; the attempt's span; the deadline, within the circuit so that an instance which lets it pass has
/// failed, while a client that leaves says nothing; who is to blame; the circuit.
type Guarded = Breaker<Blame<WithDeadline<Trace<Line>>>, Verdict>;

/// An instance behind its circuit.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    aim: Arc<Aim>,
    guarded: Guarded,
}

/// How requests name the instance. In one place, since every call makes a clone.
#[derive(Debug)]
struct Aim {
    /// `None` if what the registry says is no authority.
    authority: Option<uri::Authority>,
    transport: Arc<Transport>,
}

impl Endpoint {
    /// At `address`, which goes by `authority`.
    pub(crate) fn new(
        (authority, address): (&str, &str),
        (pool, transport): (Pool, Arc<Transport>),
        traces: &TraceLayer,
        circuit: Circuit,
    ) -> Self {
        let guard = BreakerLayer::new(circuit).classify(Verdict);
        let line = Line::at(pool, (authority, address), transport.clone());
        // The timer of the call, which is around all attempts, wakes this one as well.
        let timed = DeadlineLayer::client().without_timer().layer(traces.layer(line));
        let guarded = guard.layer(Blame::new(timed));
        let aim = Arc::new(Aim { authority: authority.parse().ok(), transport });
        Self { aim, guarded }
    }

    pub(crate) fn circuit(&self) -> &Circuit {
        self.guarded.circuit()
    }
}

impl Service<Request<AttemptBody>> for Endpoint {
    type Response = <Guarded as Service<Request<AttemptBody>>>::Response;
    type Error = BoxError;
    type Future = <Guarded as Service<Request<AttemptBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Request<AttemptBody>>::poll_ready(&mut self.guarded, cx)
    }

    fn call(&mut self, mut request: Request<AttemptBody>) -> Self::Future {
        let mut target = uri::Parts::default();
        target.path_and_query = request.uri().path_and_query().cloned();
        let Aim { authority, transport } = &*self.aim;
        let tls = transport.is_tls();
        target.scheme = Some(if tls { uri::Scheme::HTTPS } else { uri::Scheme::HTTP });
        target.authority = authority.clone();
        // Without an authority the client refuses the call, which is what becomes of an instance that cannot be reached.
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
        if let Some(HostAs(host)) = request.extensions().get() {
            let host = host.clone();
            request.headers_mut().insert(header::HOST, host);
            return self.guarded.call(request);
        }
        let headers = request.headers_mut();
        match &transport.host {
            // The client writes the one of the target.
            HostHeader::Instance => drop(headers.remove(header::HOST)),
            HostHeader::Client => {}
            HostHeader::Fixed(host) => drop(headers.insert(header::HOST, host.clone())),
        }
        self.guarded.call(request)
    }
}

/// What a result says about an instance: as [`GrpcStatus`], which takes an answer without a gRPC code by its HTTP status, but what the client did wrong says nothing, nor does a connection that had been closed while it was idle: if the instance
/// has gone, the next connection cannot be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict;

impl<B> Classify<Response<B>, BoxError> for Verdict {
    fn classify(&self, result: &Result<Response<B>, BoxError>) -> Outcome {
        match result {
            Err(error) if ClientFault::in_error(&**error).is_some() => Outcome::Ignored,
            Err(error) if matches!(error.downcast_ref(), Some(TransportError::Stale(_))) => {
                Outcome::Ignored
            }
            // It has too much to do, or too few connections are allowed.
            Err(error) if error.is::<Overloaded>() => Outcome::Ignored,
            _ => GrpcStatus.classify(result),
        }
    }
}
