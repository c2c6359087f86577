//! One instance of an upstream, as a service over pooled connections.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use gusset_breaker::{Breaker, BreakerLayer, Circuit, Classify, HttpStatus, Outcome};
use gusset_call::BoxError;
use gusset_sidecar::{DeadlineLayer, Trace, TraceLayer, WithDeadline};
use http::{Request, Response, Uri, Version, header, uri};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    blame::Blame,
    body::{AttemptBody, ClientFault},
};

/// The connections of a gateway to all its upstreams.
pub(crate) type Connections = legacy::Client<HttpConnector, AttemptBody>;

/// How long an idle connection is kept. Node.js closes after 5 s, the shortest of the usual servers; a request that meets a
/// closing connection fails though nobody is at fault.
const IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept per instance.
const IDLE_CONNECTIONS: usize = 512;

/// How long a connection may take to be made. A SYN that gets lost is sent again after 1 s.
const CONNECT: Duration = Duration::from_secs(2);

/// Each connection has a task, which ends with the connection; dropping all clones ends the idle ones.
pub(crate) fn connections() -> Connections {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build(connector)
}

/// From the inside: a connection; the attempt's span; the deadline, within the circuit so that an instance which lets it pass has
/// failed, while a client that leaves says nothing; who is to blame; the circuit.
type Guarded = Breaker<Blame<WithDeadline<Trace<Connections>>>, Verdict>;

/// An instance behind its circuit.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `None` if what the registry says is no authority.
    authority: Option<uri::Authority>,
    guarded: Guarded,
}

impl Endpoint {
    pub(crate) fn new(
        authority: &str,
        connections: Connections,
        traces: &TraceLayer,
        circuit: Circuit,
    ) -> Self {
        let guard = BreakerLayer::new(circuit).classify(Verdict);
        let timed = DeadlineLayer::client().layer(traces.layer(connections));
        let guarded = guard.layer(Blame::new(timed));
        Self { authority: authority.parse().ok(), guarded }
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
        self.guarded.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<AttemptBody>) -> Self::Future {
        let mut target = uri::Parts::default();
        target.path_and_query = request.uri().path_and_query().cloned();
        target.scheme = Some(uri::Scheme::HTTP);
        target.authority = self.authority.clone();
        // Without an authority the client refuses the call, which is what becomes of an instance that cannot be reached.
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
        // The client writes the one of the target.
        request.headers_mut().remove(header::HOST);
        self.guarded.call(request)
    }
}

/// What a result says about an instance: as [`HttpStatus`], but what the client did wrong says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict;

impl<B> Classify<Response<B>, BoxError> for Verdict {
    fn classify(&self, result: &Result<Response<B>, BoxError>) -> Outcome {
        match result {
            Err(error) if ClientFault::in_error(&**error).is_some() => Outcome::Ignored,
            _ => HttpStatus.classify(result),
        }
    }
}
