use std::{
    array,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{Port, Process, is_a_process};

/// A member of an etcd cluster, mostly its only one. What else it can do is in [`Process`].
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    port: Port,
    /// Where others of its cluster find it.
    _peer_port: Port,
    tls_port: Option<Port>,
}

is_a_process!(Etcd);

impl Etcd {
    /// One that is a cluster of its own.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start() -> Self {
        let [server] = Self::cluster();
        server
    }

    /// A cluster of so many members, ready for use.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn cluster<const N: usize>() -> [Self; N] {
        let mut servers = Self::down();
        // A member is ready when there is a quorum, so all have to run first.
        servers.iter_mut().for_each(|server: &mut Self| server.spawn());
        servers.iter_mut().for_each(|server| server.becomes_ready());
        servers
    }

    /// Listens with TLS as well, and asks clients for a certificate: `ca.pem`, `etcd.pem` and `etcd.key` in that folder.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start_with_tls(certificates: &Path) -> Self {
        let peer_port = Port::free();
        let cluster = member(0, &peer_port);
        let mut server = Self::new(0, peer_port, &cluster, Some(certificates));
        server.start();
        server
    }

    /// The addresses of such a cluster, and nobody there until they are started.
    #[must_use]
    pub fn down<const N: usize>() -> [Self; N] {
        let mut ports: Vec<_> = (0..N).map(|_| Port::free()).collect();
        let members: Vec<_> = ports.iter().enumerate().map(|(n, port)| member(n, port)).collect();
        let cluster = members.join(",");
        array::from_fn(|n| Self::new(n, ports.remove(0), &cluster, None))
    }

    fn new(n: usize, peer_port: Port, cluster: &str, certificates: Option<&Path>) -> Self {
        let (port, tls_port) = (Port::free(), certificates.map(|_| Port::free()));
        let client = format!("http://{}", port.address());
        let peer = format!("http://{}", peer_port.address());
        let process = Process::new("etcd", |folder| {
            let mut command = Command::new("etcd");
            let mut listen = client.clone();
            if let (Some(port), Some(folder)) = (&tls_port, certificates) {
                listen += &format!(",https://{}", port.address());
                command
                    .arg("--client-cert-auth")
                    .arg("--trusted-ca-file")
                    .arg(folder.join("ca.pem"));
                command.arg("--cert-file").arg(folder.join("etcd.pem"));
                command.arg("--key-file").arg(folder.join("etcd.key"));
            }
            command
                .args(["--name", &format!("m{n}"), "--data-dir"])
                .arg(folder.join("data"))
                .args(["--listen-client-urls", &listen, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", cluster, "--initial-cluster-state", "new"])
                // The defaults of the project, stated, so that no environment changes them.
                .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
                .args(["--log-level", "error", "--logger", "zap"]);
            command
        });
        let number = port.number();
        let is_ready = move || {
            let answer = ask(number, "", "/v3/kv/range", r#"{"key":"YQ=="}"#);
            answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.contains("revision")))
        };
        Self { process: process.ready_when(is_ready), port, _peer_port: peer_port, tls_port }
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Host and port of the listener with TLS.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn tls_address(&self) -> String {
        self.tls_port.as_ref().unwrap().address()
    }

    /// Asks the JSON gateway of etcd, a way beside that of clients; `None` if it does not answer with 200.
    #[must_use]
    pub fn post(&self, path: &str, json: &str) -> Option<String> {
        self.post_as("", path, json)
    }

    /// The same with a token.
    #[must_use]
    pub fn post_as(&self, token: &str, path: &str, json: &str) -> Option<String> {
        ask(self.port(), token, path, json).ok().flatten()
    }
}

fn member(n: usize, peer_port: &Port) -> String {
    format!("m{n}=http://{}", peer_port.address())
}

fn ask(port: u16, token: &str, path: &str, json: &str) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let authorization =
        if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
    let length = json.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\n{authorization}Content-Length: {length}\r\n\r\n{json}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let answer = answer.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.0 200"));
    Ok(answer.map(|(_, body)| body.to_owned()))
}
