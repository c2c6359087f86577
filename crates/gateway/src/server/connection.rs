use std::{
    future::Future,
    io,
    pin::{Pin, pin},
};

use super::{
    Served, Server,
    http1::{self, Ended},
    peer::OfPeer,
    wire::Wire,
};
use crate::{PeerCertificate, socket::Socket};
use bytes::Bytes;
use gusset_call::BoxError;
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

/// Serves one client, until it goes or the server ends.
pub(super) async fn serve_connection<S, B>(
    server: Server,
    stream: TcpStream,
    mut service: OfPeer<S>,
    mut stopped: watch::Receiver<bool>,
) where
    S: Served<B>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let begun = tokio::select! {
        begun = timeout(server.head_timeout, begin(&server, stream)) => begun,
        // It has said nothing.
        () = lingered(&server, &mut stopped) => return,
    };
    let too_slow = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing"));
    let Begun { wire, http2: speaks_http2, certificate, secure } =
        match begun.unwrap_or_else(too_slow) {
            Ok(begun) => begun,
            Err(error) => return ended(&error),
        };
    (service.certificate, service.secure) = (certificate, secure);
    if speaks_http2 {
        #[cfg(feature = "http2")]
        {
            let (io, service) = (TokioIo::new(wire), TowerToHyperService::new(service));
            let connection = http2(&server).serve_connection(io, service);
            // Boxed, as below: connections that are only HTTP/1.1 have no room for it.
            Box::pin(drive(connection, &server, stopped)).await;
        }
        return;
    }
    let leaving = lingered(&server, &mut stopped);
    let manner = http1::Manner { head_timeout: server.head_timeout, hints: server.early_hints };
    match http1::serve(wire, service.clone(), manner, leaving).await {
        Ok(Ended::Closed) => {}
        Ok(Ended::Upgrade(wire)) => {
            let (io, service) = (TokioIo::new(wire), TowerToHyperService::new(service));
            let connection = with_upgrades(&server).serve_connection(io, service).with_upgrades();
            Box::pin(drive(connection, &server, stopped)).await;
        }
        Err(error) => ended(&error),
    }
}

/// A client that has said something.
struct Begun {
    wire: Wire<Socket>,
    http2: bool,
    certificate: Option<PeerCertificate>,
    secure: bool,
}

async fn begin(server: &Server, stream: TcpStream) -> io::Result<Begun> {
    #[cfg(feature = "tls")]
    let stream = match &server.tls {
        Some(tls) => Socket::tls(tls.acceptor().accept(stream).await?),
        None => Socket::Plain(stream),
    };
    #[cfg(not(feature = "tls"))]
    let stream = Socket::Plain(stream);
    let (agreed, certificate) = (stream.agreed_on_http2(), stream.certificate()?);
    let secure = stream.is_encrypted();
    let mut wire = Wire::new(stream, server.send_timeout);
    let http2 = match agreed {
        Some(http2) => http2,
        None => wire.begins_as_http2().await?,
    };
    Ok(Begun { wire, http2, certificate, secure })
}

/// For connections that may become another protocol's, which is between hyper and those who know it.
fn with_upgrades(server: &Server) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(server.head_timeout)
        .max_headers(100)
        .max_header_size(32 * 1024)
        .max_buf_size(128 * 1024);
    builder
}

#[cfg(feature = "http2")]
fn http2(server: &Server) -> hyper::server::conn::http2::Builder<hyper_util::rt::TokioExecutor> {
    let executor = hyper_util::rt::TokioExecutor::new();
    let mut builder = hyper::server::conn::http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(32 * 1024)
        .max_concurrent_streams(100)
        .enable_connect_protocol()
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(128 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(100))
        // Who is gone without a word is found out.
        .keep_alive_interval(server.head_timeout)
        .keep_alive_timeout(server.head_timeout.min(std::time::Duration::from_secs(20)));
    builder
}

/// Serves until the client goes; after the shutdown began, until it has its answers.
async fn drive(connection: impl Ending, server: &Server, mut stopped: watch::Receiver<bool>) {
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = lingered(server, &mut stopped) => {
            connection.as_mut().end();
            connection.await
        }
    };
    if let Err(error) = result {
        ended(&error);
    }
}

/// Until idle connections are to go.
async fn lingered(server: &Server, stopped: &mut watch::Receiver<bool>) {
    // It errs only without a sender, and then the server has gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
    sleep(server.linger).await;
}

fn ended(error: &(dyn std::error::Error + 'static)) {
    tracing::debug!(error, "connection ended");
}

/// A connection of hyper's that can be told to end.
trait Ending: Future<Output = hyper::Result<()>> {
    /// After the requests under way.
    fn end(self: Pin<&mut Self>);
}

impl<I, S, B> Ending for hyper::server::conn::http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

#[cfg(feature = "http2")]
impl<I, S, B, E> Ending for hyper::server::conn::http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
