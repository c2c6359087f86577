use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    num::NonZeroUsize,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// Connections that the kernel makes before anybody accepts them.
const BACKLOG: u32 = 4096;

/// A listener for each core ([`Server::run_on`](crate::Server::run_on)). Connections that are made before somebody serves wait for it.
#[derive(Debug)]
pub struct Listeners(pub(super) Vec<std::net::TcpListener>);

impl Listeners {
    /// Listens at `address`, with port 0 at any free one, by as many sockets as there are `cores` (`SO_REUSEPORT`), among which the kernel spreads the connections.
    /// Where a system has no such listeners, one is shared.
    ///
    /// Another process of the same user that does the same may listen at the address already, as in a restart without a gap: then the kernel spreads connections
    /// over both, which is logged as a warning.
    ///
    /// # Errors
    ///
    /// The last address's, if it cannot listen at any of them.
    pub fn bind(address: impl ToSocketAddrs, cores: NonZeroUsize) -> io::Result<Self> {
        let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in address.to_socket_addrs()? {
            match bind_all(address, cores) {
                Ok(listeners) => return Ok(Self(listeners)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Where they listen.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.first().map_or_else(|| Err(io::ErrorKind::NotConnected.into()), |l| l.local_addr())
    }
}

fn bind_all(address: SocketAddr, cores: NonZeroUsize) -> io::Result<Vec<std::net::TcpListener>> {
    if is_taken(address) {
        tracing::warn!(%address, "another process listens here too, and takes a part of the connections");
    }
    let first = listen(address)?;
    // Where the port was to be chosen, all take the one that was.
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..cores.get() {
        listeners.push(if cfg!(unix) { listen(address)? } else { listeners[0].try_clone()? });
    }
    Ok(listeners)
}

/// Whether somebody listens at `address`: one who does not share it cannot have it.
fn is_taken(address: SocketAddr) -> bool {
    let tried = socket(address).and_then(|socket| socket.bind(&address.into()));
    tried.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn socket(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    // Restarts need not wait for connections that linger in the kernel.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Waits out errors: most are of the one connection, the others (no file descriptor left) pass when connections end.
pub(super) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The connections that the kernel has made and nobody has accepted; closing the listener would reset them.
pub(super) fn backlog(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Asked directly, because tokio may not know of the newest yet.
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    std::iter::from_fn(|| listener.accept().ok())
        .filter_map(|(stream, peer)| {
            stream.set_nonblocking(true).ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        })
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn who_listens_at_the_same_address_is_noticed_and_shares_it() {
        let one = Listeners::bind("127.0.0.1:0", NonZeroUsize::MIN).unwrap();
        let address = one.local_addr().unwrap();
        assert!(is_taken(address));
        assert!(Listeners::bind(address, NonZeroUsize::MIN).is_ok());
        assert!(!is_taken(SocketAddr::from(([127, 0, 0, 1], 0))));
    }
}
