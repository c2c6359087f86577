//! The making of a connection.

use std::{io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{Transport, line::Place};
use crate::socket::Socket;

/// To the instance, for this version of HTTP.
pub(super) async fn dial(place: &Place, http2: bool) -> io::Result<Socket> {
    let transport = place.transport();
    let connecting = async {
        let stream = TcpStream::connect(place.address()).await?;
        stream.set_nodelay(true)?;
        secure(stream, place.authority(), transport, http2).await
    };
    // A span that no timer can hold is one without an end.
    let limit = transport.connect_timeout.min(Duration::from_secs(3600));
    timeout(limit, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(feature = "tls")]
async fn secure(
    stream: TcpStream,
    authority: &str,
    transport: &Transport,
    http2: bool,
) -> io::Result<Socket> {
    match &transport.tls {
        None => Ok(Socket::Plain(stream)),
        Some(tls) => Ok(Socket::tls(tls.connect(stream, authority, http2).await?)),
    }
}

#[cfg(not(feature = "tls"))]
async fn secure(stream: TcpStream, _: &str, _: &Transport, _: bool) -> io::Result<Socket> {
    Ok(Socket::Plain(stream))
}
