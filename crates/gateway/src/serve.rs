use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tower_service::Service;

use crate::connection::{OfPeer, accept, backlog};

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
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Server::new().run(listener, service, shutdown).await
}

/// An HTTP/1.1 server over TCP that bounds what clients may hold, and ends without losing requests.
///
/// It gives every request a [`PeerAddr`](crate::PeerAddr). A connection holds at most 32 KiB and 100 lines of head, and about 256 KiB of buffers;
/// more head is answered with 431.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    max_connections: usize,
    head_timeout: Duration,
    linger: Duration,
    drain_limit: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            head_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            drain_limit: Duration::from_secs(30),
        }
    }
}

impl Server {
    /// With the defaults of the setters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many connections are open at once, at least 1; further ones wait in the backlog of the kernel. Default 10,000, below
    /// the limit of open files of a usual service.
    #[must_use]
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = if connections == 0 { 1 } else { connections };
        self
    }

    /// How long a connection may take to send a whole head, counted from its opening or from the last answer: it is the
    /// time for idling, too. Default 30 s, more than pauses between a user's clicks, and short enough that
    /// clients that dribble do not pile up.
    #[must_use]
    pub const fn head_timeout(mut self, span: Duration) -> Self {
        self.head_timeout = span;
        self
    }

    /// How long after the shutdown began idle connections stay open. A request that comes within is answered with
    /// `Connection: close`; to close at once would lose those that are on their way. Default 1 s, a few round trips.
    #[must_use]
    pub const fn linger(mut self, span: Duration) -> Self {
        self.linger = span;
        self
    }

    /// How long the end may take. Connections still open after it are cut. Default 30 s, what Kubernetes grants.
    #[must_use]
    pub const fn drain_limit(mut self, span: Duration) -> Self {
        self.drain_limit = span;
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
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut shutdown = pin!(shutdown);
        let (stop, stopped) = watch::channel(());
        let leaving = Arc::new(AtomicBool::new(false));
        let mut connections = JoinSet::new();
        let open = |connections: &mut JoinSet<()>, stream, peer, stopped| {
            let service = OfPeer::new(service.clone(), peer, leaving.clone());
            connections.spawn(self.connection(stream, service, stopped));
        };
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_ended) = connections.join_next() => {}
                (stream, peer) = accept(&listener), if connections.len() < self.max_connections => {
                    open(&mut connections, stream, peer, stopped.clone());
                }
            }
        }
        leaving.store(true, Relaxed);
        for (stream, peer) in backlog(listener) {
            open(&mut connections, stream, peer, stopped.clone());
        }
        drop(stop);
        let drained = async { while connections.join_next().await.is_some() {} };
        match timeout(self.drain_limit, drained).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Undrained { connections: connections.len() }),
        }
    }

    async fn connection<S, B>(
        self,
        stream: TcpStream,
        service: OfPeer<S>,
        mut stopped: watch::Receiver<()>,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_headers(100)
            .max_header_size(32 * 1024)
            .max_buf_size(128 * 1024)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let lingered = async {
            // Nothing is ever sent; the sender goes when the shutdown begins.
            let _ = stopped.changed().await;
            sleep(self.linger).await;
        };
        tokio::select! {
            result = connection.as_mut() => return ended(result),
            () = lingered => {}
        }
        connection.as_mut().graceful_shutdown();
        ended(connection.await);
    }
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
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
