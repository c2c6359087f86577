use std::time::Duration;

use http::HeaderValue;

#[cfg(feature = "tls")]
use super::tls::UpstreamTls;

/// How the instances of an upstream are spoken to.
///
/// ```
/// use gusset_gateway::{HostHeader, Transport};
///
/// let transport = Transport::http1().host(HostHeader::Client);
/// ```
#[derive(Clone, Debug)]
pub struct Transport {
    #[cfg(feature = "http2")]
    pub(crate) http2: bool,
    pub(crate) host: HostHeader,
    pub(crate) connect_timeout: Duration,
    pub(crate) answer_idle: Option<Duration>,
    pub(crate) connections: Connections,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<UpstreamTls>,
}

impl Transport {
    /// HTTP/1.1, a connection for each call under way. Calls of gRPC (`content-type: application/grpc…`) go by HTTP/2 all the same, if the crate has its feature
    /// `http2`, for they mean nothing else. The default.
    #[must_use]
    pub const fn http1() -> Self {
        Self {
            #[cfg(feature = "http2")]
            http2: false,
            host: HostHeader::Instance,
            connect_timeout: Duration::from_secs(2),
            answer_idle: Some(Duration::from_secs(300)),
            connections: Connections::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// HTTP/2, many calls by each connection. In the clear by prior knowledge, over TLS by ALPN; an instance that does not speak it cannot be reached. Only requests that ask for
    /// another protocol, as WebSocket, go by HTTP/1.1.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2() -> Self {
        Self { http2: true, ..Self::http1() }
    }

    /// What the instances see as `Host`, or `:authority`. Default [`HostHeader::Instance`].
    #[must_use]
    pub fn host(mut self, host: HostHeader) -> Self {
        self.host = host;
        self
    }

    /// How long a connection may take to be made, with its TLS. Default 2 s: a SYN that gets lost is sent again after 1 s.
    #[must_use]
    pub const fn connect_timeout(mut self, span: Duration) -> Self {
        self.connect_timeout = span;
        self
    }

    /// How long nothing of an answer's body may come; then it breaks off. `None` is for ever. Default 5 min, as in Envoy: nobody whose instance has vanished is held for
    /// longer, and streams that say less send a sign of life as a rule. Until the head of the answer [`Route::timeout`](crate::Route::timeout) holds.
    #[must_use]
    pub fn answer_idle(mut self, span: impl Into<Option<Duration>>) -> Self {
        self.answer_idle = span.into();
        self
    }

    /// How many connections there are, and how long. Default [`Connections::new`].
    #[must_use]
    pub const fn connections(mut self, connections: Connections) -> Self {
        self.connections = connections;
        self
    }

    /// TLS towards the instances. Default none. Feature `tls`.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: UpstreamTls) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) const fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}

impl Default for Transport {
    fn default() -> Self {
        Self::http1()
    }
}

/// What an instance sees as the host of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostHeader {
    /// Its own address, as the registry has it. What the client asked for is in `X-Forwarded-Host`. The default: a server that tells sites apart by `Host` does not take one for
    /// another because of what a client wrote.
    #[default]
    Instance,
    /// What the client asked for.
    Client,
    /// This one, a host with a port if need be.
    Fixed(HeaderValue),
}

/// How many connections there are to an instance, and how long.
///
/// HTTP/1.1 has a connection for each call under way. One that waits for the next call is idle. HTTP/2 has at most 8 connections for each instance and thread, opened when the
/// others have 128 streams, or as many as the instance takes; of these settings only [`max_age`](Self::max_age) means something to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    pub(crate) max: Option<usize>,
    pub(crate) waiting: usize,
    pub(crate) max_idle: usize,
    pub(crate) idle: Duration,
    pub(crate) max_age: Duration,
    pub(crate) max_requests: u64,
    pub(crate) fresh_for_unsafe: bool,
}

impl Connections {
    /// With the defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: None,
            waiting: 1024,
            max_idle: 512,
            idle: Duration::from_secs(4),
            max_age: Duration::from_secs(3600),
            max_requests: u64::MAX,
            fresh_for_unsafe: false,
        }
    }

    /// How many may be open to an instance, from all threads together, at least 1. Calls above that wait in the order they came, at most [`waiting`](Self::waiting) of them;
    /// what is too many is answered with 503, or goes to another instance. Default no limit but that of the clients: a limit
    /// costs each call a place that all threads share.
    #[must_use]
    pub const fn max(mut self, connections: usize) -> Self {
        self.max = Some(if connections == 0 { 1 } else { connections });
        self
    }

    /// How many calls may wait for a connection to an instance at once. Default 1,024.
    #[must_use]
    pub const fn waiting(mut self, calls: usize) -> Self {
        self.waiting = calls;
        self
    }

    /// How many idle ones are kept for each instance and thread. Above that the one that was idle longest is closed. Default 512. None with 0.
    #[must_use]
    pub const fn max_idle(mut self, connections: usize) -> Self {
        self.max_idle = connections;
        self
    }

    /// How long an idle one is kept. Default 4 s, for Node.js closes after 5 s, the shortest of the usual servers, and a call that meets a closing connection fails though nobody is at
    /// fault. What an instance says by `Keep-Alive: timeout=…` counts if it is less, with a second for the way of a request.
    #[must_use]
    pub const fn idle(mut self, span: Duration) -> Self {
        self.idle = span;
        self
    }

    /// How old one may become before it is given no more calls. Default 1 h: a name that leads to other addresses by now is asked again, and
    /// certificates that have changed are shown.
    #[must_use]
    pub const fn max_age(mut self, span: Duration) -> Self {
        self.max_age = span;
        self
    }

    /// How many calls one serves at most, at least 1. Default no limit.
    #[must_use]
    pub const fn max_requests(mut self, calls: u64) -> Self {
        self.max_requests = calls;
        self
    }

    /// Whether calls that must not be sent twice (neither idempotent by their method nor with an `Idempotency-Key`) get a connection that was never used before, so that
    /// none of them meets one that its instance is closing. Default no: it costs each of them the making of a connection, with TLS several times more than the call itself.
    #[must_use]
    pub const fn fresh_for_unsafe(mut self, fresh: bool) -> Self {
        self.fresh_for_unsafe = fresh;
        self
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::new()
    }
}
