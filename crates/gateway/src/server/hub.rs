use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http_body::Body;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Served, Server, Undrained,
    clients::{Clients, OfClient},
    connection::serve_connection,
    listener::{accept, backlog},
    peer::OfPeer,
};

/// What all threads of a server share.
#[derive(Clone, Debug)]
pub(super) struct Hub {
    pub(super) server: Server,
    /// One for each connection that may be open.
    places: Arc<Semaphore>,
    most: u32,
    clients: Option<Arc<Clients>>,
    pub(super) leaving: Arc<AtomicBool>,
    /// Whether the shutdown has begun.
    stop: watch::Sender<bool>,
    /// Its sender is dropped when the server has ended.
    over: watch::Receiver<()>,
}

/// A connection's place; of whatever goes on after it, as well.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    place: Arc<OfConnection>,
    over: watch::Receiver<()>,
}

#[derive(Debug)]
struct OfConnection {
    _permit: OwnedSemaphorePermit,
    _of_client: Option<OfClient>,
    stopped: watch::Receiver<bool>,
    linger: Duration,
}

impl Held {
    /// Until what is idle is to go.
    pub(crate) async fn leaving(&self) {
        let mut stopped = self.place.stopped.clone();
        // It errs only without a sender, and then the server has gone.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        sleep(self.place.linger).await;
    }

    /// Until the server has ended, and what it could not wait for is cut.
    pub(crate) async fn over(&mut self) {
        while self.over.changed().await.is_ok() {}
    }
}

impl Hub {
    /// And what holds it all up: dropped, everything ends.
    pub(super) fn new(server: Server, cores: usize) -> (Self, watch::Sender<()>) {
        // Each core holds a place for the connection that it waits for.
        let most = server.max_connections.saturating_add(cores - 1);
        let most = u32::try_from(most.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let (holds, over) = watch::channel(());
        let hub = Self {
            places: Arc::new(Semaphore::new(most as usize)),
            most,
            clients: Clients::new(server.max_per_client),
            server,
            leaving: Arc::default(),
            stop: watch::Sender::new(false),
            over,
        };
        (hub, holds)
    }

    /// Runs `served` until `shutdown` ends, and then as long as the drain may take.
    pub(super) async fn until(
        &self,
        shutdown: impl Future<Output = ()>,
        served: impl Future<Output = ()>,
    ) -> Result<(), Undrained> {
        let mut served = pin!(served);
        let serves = tokio::select! {
            () = shutdown => true,
            () = self.follow_files() => true,
            // Only if its threads have ended, by a panic.
            () = &mut served => false,
        };
        self.leaving.store(true, Relaxed);
        self.stop.send_replace(true);
        let drained = async {
            if serves {
                served.await;
            }
            // What goes on after its connection, as a tunnel, has its place still.
            let _ = self.places.acquire_many(self.most).await;
        };
        match timeout(self.server.drain_limit, drained).await {
            Ok(()) => Ok(()),
            Err(_) => {
                let connections = self.most as usize - self.places.available_permits();
                Err(Undrained { connections })
            }
        }
    }

    /// Never ends.
    async fn follow_files(&self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.server.tls {
            tls.follow().await;
        }
        std::future::pending().await
    }

    /// Takes connections until the shutdown begins, and returns when all have ended.
    pub(super) async fn serve<S, B>(self, listener: TcpListener, service: S)
    where
        S: Served<B>,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let mut stopped = self.stop.subscribe();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                Some(_ended) = connections.join_next() => {}
                (accepted, place) = self.accept(&listener) => {
                    self.open(&mut connections, accepted, place, &service);
                }
            }
        }
        for accepted in backlog(listener) {
            // They were the kernel's already, and do not wait for a place.
            let place = self.places.clone().try_acquire_owned().ok();
            self.open(&mut connections, accepted, place, &service);
        }
        while connections.join_next().await.is_some() {}
    }

    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> ((TcpStream, SocketAddr), Option<OwnedSemaphorePermit>) {
        // It is never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        (accept(listener).await, place)
    }

    fn open<S, B>(
        &self,
        connections: &mut JoinSet<()>,
        (stream, peer): (TcpStream, SocketAddr),
        place: Option<OwnedSemaphorePermit>,
        service: &S,
    ) where
        S: Served<B>,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let of_client = match &self.clients {
            None => None,
            Some(clients) => match clients.take(peer.ip()) {
                Some(of_client) => Some(of_client),
                None => {
                    tracing::debug!(%peer, "a client has too many connections");
                    return;
                }
            },
        };
        let held = place.map(|permit| {
            let (stopped, linger) = (self.stop.subscribe(), self.server.linger);
            let place = OfConnection { _permit: permit, _of_client: of_client, stopped, linger };
            Held { place: Arc::new(place), over: self.over.clone() }
        });
        let service = OfPeer::new(
            service.clone(),
            peer,
            self.leaving.clone(),
            held,
            self.server.body_timeout,
        );
        let stopped = self.stop.subscribe();
        connections.spawn(serve_connection(self.server.clone(), stream, service, stopped));
    }

    /// Serves by a thread for each listener. The future ends when all connections have.
    pub(super) fn spread<S, B>(
        &self,
        listeners: Vec<std::net::TcpListener>,
        service: &S,
    ) -> io::Result<impl Future<Output = ()> + use<S, B>>
    where
        S: Served<B>,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let mut ends = Vec::new();
        for (core, listener) in listeners.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (hub, service, mut over) = (self.clone(), service.clone(), self.over.clone());
            let (ended, end) = oneshot::channel::<()>();
            let listener = {
                let _entered = runtime.enter();
                TcpListener::from_std(listener)?
            };
            thread::Builder::new().name(format!("gateway-{core}")).spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        () = hub.serve(listener, service) => {
                            // Tunnels and what services have spawned may still go on.
                            drop(ended);
                            let _ = over.changed().await;
                        }
                        _ = over.changed() => {}
                    }
                });
            })?;
            ends.push(end);
        }
        Ok(async move {
            for end in ends {
                let _ = end.await;
            }
        })
    }
}
