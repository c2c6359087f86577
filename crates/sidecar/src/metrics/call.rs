//! A call that is being measured, from its start to its series.

use std::fmt;

use gusset_call::Context;
use http::{
    HeaderMap, Request, Response, header,
    uri::{self, Authority, PathAndQuery},
};

use super::{
    registry::{Lease, Metrics, Registry},
    series::{Facts, Key, Protocol, Scheme, Version},
};
use crate::{
    Route, SpanKind,
    names::{MethodName, Naming},
    watched::{End, Watch},
};

/// A call that is under way and counted as such. It is counted as over when it ends, and at the latest when it is dropped.
///
/// It is what the [`Watched`](crate::Watched) body of a measured answer holds.
pub struct ActiveCall {
    registry: Lease,
    facts: Facts,
    /// The route of a server, the upstream of a client.
    name: Option<Route>,
    /// On the heap, since few need it and all are moved with the call.
    more: Option<Box<More>>,
    /// By the registry's clock.
    started: u64,
    over: bool,
}

/// What names a call that has no better name.
struct More {
    address: Option<Authority>,
    path: Option<PathAndQuery>,
}

/// A call that is over, in the words of its request.
#[derive(Clone, Copy)]
pub(crate) struct Over<'a> {
    pub(crate) facts: Facts,
    /// The route of a server, the upstream of a client, the name of an operation.
    pub(crate) name: Option<&'a str>,
    /// Whom a client called.
    pub(crate) address: Option<&'a Authority>,
    /// Names the method of a remote procedure call, see [`rpc_path`].
    pub(crate) path: Option<&'a PathAndQuery>,
}

impl ActiveCall {
    /// A request that begins now.
    pub(crate) fn new<B>(
        metrics: &Metrics,
        kind: SpanKind,
        naming: &Naming,
        request: &Request<B>,
    ) -> Self {
        let registry = metrics.lease();
        let method = MethodName::of(request.method());
        registry.begin(kind, method);
        let protocol = Protocol::of(kind, request);
        let end = End::Complete;
        let name = naming.name(request.extensions());
        let nameless = kind == SpanKind::Client && name.is_none();
        let address = request.uri().authority().filter(|_| nameless).cloned();
        let path = rpc_path(protocol, request);
        let any = address.is_some() || path.is_some();
        Self {
            started: registry.clock.nanos(),
            facts: Facts { kind, method, status: 0, protocol, grpc_status: None, end },
            name,
            more: any.then(|| Box::new(More { address, path })),
            registry,
            over: false,
        }
    }

    pub(crate) fn answered<B>(&mut self, response: &Response<B>) {
        self.facts.status = response.status().as_u16();
        if self.facts.kind == SpanKind::Server {
            if let Some(route) = response.extensions().get::<Route>() {
                self.name = Some(route.clone());
            }
            self.facts.protocol.answered(response.headers());
        }
    }

    fn close(&mut self, end: End) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.facts.end = end;
        let registry = &*self.registry;
        let nanos = registry.clock.nanos().saturating_sub(self.started);
        let over = Over {
            facts: self.facts,
            name: self.name.as_deref(),
            address: self.more.as_ref().and_then(|more| more.address.as_ref()),
            path: self.more.as_ref().and_then(|more| more.path.as_ref()),
        };
        // Who measures runs inside of the span of the call, if there is one.
        registry.finish(&over.key(registry), nanos, || Context::current().trace());
    }
}

impl<'a> Over<'a> {
    pub(crate) fn key(self, registry: &Registry) -> Key<'a> {
        let (route, peer) = match self.facts.kind {
            SpanKind::Client => (None, self.name.or_else(|| self.address(registry))),
            _ => (self.name, None),
        };
        let method = self.path.filter(|_| self.facts.protocol.grpc);
        let route = method.map_or(route, |path| Some(self.method(path.path(), registry)));
        Key { facts: self.facts, route, peer }
    }

    fn method(self, path: &'a str, registry: &Registry) -> &'a str {
        const UNIMPLEMENTED: Option<u8> = Some(12);
        let method = path.trim_start_matches('/');
        let Facts { kind, status, grpc_status, .. } = self.facts;
        // The path is the caller's text: on a server it is a name once this process has answered to it, and not that it knows no such method.
        if kind == SpanKind::Client || status == 200 && grpc_status != UNIMPLEMENTED {
            registry.methods.admit(method)
        } else {
            registry.methods.known(method)
        }
    }

    /// Without what may stand before it: a name and a password.
    fn address(self, registry: &Registry) -> Option<&'a str> {
        let address = self.address?.as_str().rsplit('@').next()?;
        Some(registry.peers.admit(address))
    }
}

impl Protocol {
    pub(crate) fn of<B>(kind: SpanKind, request: &Request<B>) -> Self {
        let version = version(request.version());
        // A look at the headers is worth its time only where gRPC can be.
        let grpc = version == Version::Http2 && is_grpc(request.headers());
        let is_server = kind == SpanKind::Server;
        let scheme = if is_server { scheme(request.uri()) } else { Scheme::default() };
        Self { scheme, version, grpc }
    }

    /// A server's answer. Whoever does not answer in gRPC has not heard a procedure call.
    pub(crate) fn answered(&mut self, headers: &HeaderMap) {
        self.grpc = self.grpc && is_grpc(headers);
    }
}

/// The path of a remote procedure call, which costs a copy that others need not make.
pub(crate) fn rpc_path<B>(protocol: Protocol, request: &Request<B>) -> Option<PathAndQuery> {
    if protocol.grpc { request.uri().path_and_query().cloned() } else { None }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

pub(crate) fn scheme(uri: &uri::Uri) -> Scheme {
    match uri.scheme() {
        Some(scheme) if *scheme == uri::Scheme::HTTPS => Scheme::Https,
        Some(scheme) if *scheme != uri::Scheme::HTTP => Scheme::Other,
        _ => Scheme::Http,
    }
}

pub(crate) fn version(version: http::Version) -> Version {
    match version {
        http::Version::HTTP_10 => Version::Http10,
        http::Version::HTTP_11 => Version::Http11,
        http::Version::HTTP_2 => Version::Http2,
        http::Version::HTTP_3 => Version::Http3,
        _ => Version::None,
    }
}

impl Watch for ActiveCall {
    fn enter<T>(&mut self, step: impl FnOnce() -> T) -> T {
        step()
    }

    fn grpc_status(&mut self, code: u8) {
        self.facts.grpc_status = Some(code);
    }

    fn end(&mut self, end: End) {
        self.close(end);
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.close(End::of_drop());
    }
}

impl fmt::Debug for ActiveCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveCall")
            .field("method", &self.facts.method.as_str())
            .field("status", &self.facts.status)
            .finish_non_exhaustive()
    }
}
