//! HTTP/1.1 over a listener, with or without TLS, until it is told to end.

use std::{pin::pin, sync::Arc, time::Duration};

use gusset_registry::ConsulServer;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// At the bound further connections wait in the backlog.
const CONNECTIONS: usize = 20_000;
/// For how long a connection may say nothing between two requests.
const IDLE: Duration = Duration::from_secs(120);
/// For how long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of what is read at once: more than any request line and its headers have. Whoever shows no token can make the server hold so much of each
/// connection.
const BUFFER: usize = 64 << 10;
const LONGEST_END: Duration = Duration::from_secs(10);

/// Accepts connections, in tasks of its own. Dropping it ends them all.
pub(crate) struct Serving {
    closing: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    places: Arc<Semaphore>,
}

impl Serving {
    pub(crate) fn spawn(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        server: ConsulServer,
    ) -> Self {
        let (closing, closed) = watch::channel(false);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let accepting = tokio::spawn(accept((listener, tls), server, places.clone(), closed));
        Self { closing, accepting, places }
    }

    /// Takes no more connections, lets those that are there finish the request that they are at, and waits for
    /// them, at most 10 s.
    pub(crate) async fn close(mut self) {
        self.closing.send_replace(true);
        let ended = async {
            let _ = (&mut self.accepting).await;
            let _ = self.places.acquire_many(u32::try_from(CONNECTIONS).unwrap_or(u32::MAX)).await;
        };
        let _ = timeout(LONGEST_END, ended).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    (listener, tls): (TcpListener, Option<TlsAcceptor>),
    server: ConsulServer,
    places: Arc<Semaphore>,
    mut closed: watch::Receiver<bool>,
) {
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            _ = closed.wait_for(|closed| *closed) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                // Answers are written as a whole.
                let _ = stream.set_nodelay(true);
                let (tls, server, closed) = (tls.clone(), server.clone(), closed.clone());
                tokio::spawn(async move {
                    match tls {
                        None => connection(stream, server, closed).await,
                        Some(tls) => {
                            if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
                                connection(stream, server, closed).await;
                            }
                        }
                    }
                    drop(place);
                });
            }
            // Out of file descriptors, mostly: some connection will end.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    server: ConsulServer,
    mut closed: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(server));
    let mut connection = pin!(connection);
    tokio::select! {
        // An error is the client's: it went away, or spoke something else.
        _ = connection.as_mut() => return,
        _ = closed.wait_for(|closed| *closed) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
