//! A listener that bounds its clients and ends without losing requests.

mod body;
mod clients;
mod connection;
#[cfg(feature = "http2")]
mod extended;
mod http1;
mod hub;
mod listener;
mod peer;
#[cfg(feature = "tls")]
mod tls;
mod wire;

use std::{
    convert::Infallible, fmt, future::Future, io, net::ToSocketAddrs, num::NonZeroUsize,
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Request, Response};
use http_body::Body;
use tokio::net::TcpListener;
use tower_service::Service;

pub use body::ClientBody;
#[cfg(any(test, fuzzing))]
pub(crate) use http1::fuzz;
pub(crate) use hub::Held;
use hub::Hub;
pub use listener::Listeners;
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError, TlsFiles};
#[cfg(feature = "tls")]
pub(crate) use tls::{certificates, tls_error};

/// [`Server::run`] with the defaults.
///
/// ```no_run
/// # async fn example(gateway: gusset_gateway::Gateway) -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await?;
/// gusset_gateway::serve(listener, gateway, async {
///     let _ = tokio::signal::ctrl_c().await;
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`Server::run`].
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Undrained>
where
    S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Server::new().run(listener, service, shutdown).await
}

/// An HTTP server over TCP that bounds what clients may hold, and ends without losing requests. HTTP/1.1, and with the feature `http2` HTTP/2 for
/// clients that begin with its preface.
///
/// It gives every request a [`PeerAddr`](crate::PeerAddr). A connection holds at most 32 KiB and 100 lines of head, and about 256 KiB of buffers;
/// more head is answered with 431. One of HTTP/2 has at most 100 requests at once and a megabyte of what they send; it is closed when its client
/// resets requests faster than they can be begun (CVE-2023-44487), or sends heads without an end (CVE-2024-27316).
#[derive(Clone, Debug)]
pub struct Server {
    max_connections: usize,
    max_per_client: usize,
    head_timeout: Duration,
    body_timeout: Duration,
    send_timeout: Duration,
    linger: Duration,
    drain_limit: Duration,
    early_hints: bool,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_per_client: usize::MAX,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            linger: Duration::from_secs(1),
            drain_limit: Duration::from_secs(30),
            early_hints: false,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Server {
    /// With the defaults of the setters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many connections are open at once, at least 1; further ones wait in the backlog of the kernel. On several cores up to one more for each further core. Default 10,000, below
    /// the limit of open files of a usual service.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = if connections == 0 { 1 } else { connections };
        self
    }

    /// How many of them one client may have, at least 1: an address of IPv4, or a network of 64 bits of IPv6, which is what one customer gets. Further ones are
    /// closed at once. Default unlimited, for behind another proxy all have its address.
    #[must_use]
    pub fn max_connections_per_client(mut self, connections: usize) -> Self {
        self.max_per_client = if connections == 0 { 1 } else { connections };
        self
    }

    /// How long a connection may take to send a whole head, counted from its opening or from the last answer: it is the
    /// time for idling, too. Default 30 s, more than pauses between a user's clicks, and short enough that
    /// clients that dribble do not pile up.
    #[must_use]
    pub fn head_timeout(mut self, span: Duration) -> Self {
        self.head_timeout = span;
        self
    }

    /// How long a client may send nothing of a body that is waited for, before that is an error. Default 60 s, as in nginx: more than a phone in a tunnel
    /// needs. How long it may take as a whole is the matter of [`Route::timeout`](crate::Route::timeout).
    #[must_use]
    pub fn body_timeout(mut self, span: Duration) -> Self {
        self.body_timeout = span;
        self
    }

    /// How long a client may take nothing of what is sent to it, before its connection is cut. Default 60 s, as in nginx: more than a phone in a tunnel needs.
    #[must_use]
    pub fn send_timeout(mut self, span: Duration) -> Self {
        self.send_timeout = span;
        self
    }

    /// How long after the shutdown began idle connections stay open. A request that comes within is answered with
    /// `Connection: close`; to close at once would lose those that are on their way. Default 1 s, a few round trips.
    #[must_use]
    pub fn linger(mut self, span: Duration) -> Self {
        self.linger = span;
        self
    }

    /// How long the end may take. Connections still open after it are cut. Default 30 s, what Kubernetes grants.
    #[must_use]
    pub fn drain_limit(mut self, span: Duration) -> Self {
        self.drain_limit = span;
        self
    }

    /// Tells clients of HTTP/1.1 what instances say before their answers: early hints (103), with their `Link` and `Content-Security-Policy`, up to 16 KiB. Default no, for
    /// some clients take such a head for the answer (RFC 8297, 3), and browsers ask for it over HTTP/2 alone, which has no place for it here. Those of HTTP/1.0 never get one. Costs
    /// each request two places on the heap.
    #[must_use]
    pub const fn early_hints(mut self) -> Self {
        self.early_hints = true;
        self
    }

    /// Serves over TLS. Default: in the clear. A handshake has the time of [`head_timeout`](Self::head_timeout).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Serves until `shutdown` ends. It then takes in what waits in the backlog, closes the listener, and
    /// returns once every connection has its answers. Each connection runs in a task.
    ///
    /// The kernel resets a connection that is made in the moment between the last look into the backlog and the closing, some
    /// microseconds; whoever cannot bear that takes the gateway out of rotation first.
    ///
    /// # Errors
    ///
    /// [`Undrained`] if [`drain_limit`](Self::drain_limit) passed first. Errors of accepting are logged and waited out.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cuts all connections.
    pub async fn run<S, B>(
        self,
        listener: TcpListener,
        service: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Undrained>
    where
        S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (hub, _holds) = Hub::new(self, 1);
        let served = hub.clone().serve(listener, service);
        hub.until(shutdown, served).await
    }

    /// The same on `cores` threads, each with a runtime and a listener of its own (`SO_REUSEPORT`), among which the kernel spreads the
    /// connections, so that nothing passes from one core to another. Where a system has no such listeners, the threads share one.
    ///
    /// Services run on these threads, so what blocks them blocks their connections; what they spawn runs there as well, and ends with the server.
    ///
    /// # Errors
    ///
    /// [`ServeError::Bind`] at once if the address cannot be listened at, or no thread can be had; [`ServeError::Undrained`] as [`run`](Self::run).
    ///
    /// # Cancellation
    ///
    /// Dropping the future cuts all connections; the threads end by themselves.
    pub async fn run_on_cores<S, B>(
        self,
        cores: NonZeroUsize,
        address: impl ToSocketAddrs,
        service: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let listeners = Listeners::bind(address, cores).map_err(ServeError::Bind)?;
        self.run_on(listeners, service, shutdown).await
    }

    /// The same with listeners that are there already, so that their address is known before.
    ///
    /// # Errors
    ///
    /// [`ServeError::Bind`] at once if no thread can be had; [`ServeError::Undrained`] as [`run`](Self::run).
    ///
    /// # Cancellation
    ///
    /// As [`run_on_cores`](Self::run_on_cores).
    pub async fn run_on<S, B>(
        self,
        listeners: Listeners,
        service: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (hub, _holds) = Hub::new(self, listeners.0.len());
        let ended = hub.spread(listeners.0, &service).map_err(ServeError::Bind)?;
        hub.until(shutdown, ended).await.map_err(ServeError::Undrained)
    }
}

/// What a server serves by.
trait Served<B>:
    Service<Request<ClientBody>, Response = Response<B>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<S, B> Served<B> for S where
    S: Service<
            Request<ClientBody>,
            Response = Response<B>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

/// Requests were still under way when a [`Server`] had to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undrained {
    connections: usize,
}

impl Undrained {
    /// How many connections were cut.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.connections
    }
}

impl fmt::Display for Undrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections did not end in time and were cut", self.connections)
    }
}

impl std::error::Error for Undrained {}

/// Why a [`Server`] that listens by itself did not end well.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// It could not begin: the address is taken, say, or not this machine's.
    Bind(io::Error),
    /// Requests were still under way.
    Undrained(Undrained),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(_) => f.write_str("the server cannot listen"),
            Self::Undrained(undrained) => undrained.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(error) => Some(error),
            Self::Undrained(_) => None,
        }
    }
}
