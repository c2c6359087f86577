//! What ends a program from outside, and what keeps it from listening.

use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
};

use tokio::signal::unix::{Signal, SignalKind};

/// Ctrl-C and SIGTERM. To be made before anybody is told that the program runs: who reads that may send one.
pub(crate) struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

pub(crate) fn signal(kind: SignalKind) -> Result<Signal, String> {
    tokio::signal::unix::signal(kind)
        .map_err(|error| format!("signals cannot be received: {error}"))
}

/// Why nothing listens there; `by` is what says where.
pub(crate) fn cannot_listen(address: SocketAddr, by: &str, error: &Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            let port = address.port();
            format!("port {port} is in use; choose another by {by}, port 0 for any free one")
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}
