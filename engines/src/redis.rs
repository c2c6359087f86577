use std::{net::TcpStream, process::Command};

use crate::{Port, Process, is_a_process};

/// A `redis-server` that keeps nothing on disk. What else it can do is in [`Process`].
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: Port,
}

is_a_process!(Redis);

impl Redis {
    /// On an address of its own.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these options, as `redis-server` takes them.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let mut server = Self::down(options);
        server.process.start();
        server
    }

    /// An address, and nobody there until it is started.
    #[must_use]
    pub fn down(options: &[&str]) -> Self {
        let port = Port::free();
        let number = port.number();
        let process = Process::new("redis", |folder| {
            let mut command = Command::new("redis-server");
            command
                .args(["--port", &number.to_string(), "--bind", "127.0.0.1", "--dir"])
                .arg(folder)
                .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
                .args(["--loglevel", "warning"])
                .args(options);
            command
        });
        let listens = move || TcpStream::connect(("127.0.0.1", number)).is_ok();
        Self { process: process.ready_when(listens), port }
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// As clients take it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.port.address())
    }
}
