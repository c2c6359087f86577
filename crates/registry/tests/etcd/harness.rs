//! An etcd of one's own: on free ports, in a directory of its own, ended with the value.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// One member.
pub(crate) struct Server {
    pub(crate) port: u16,
    peer_port: u16,
    name: String,
    /// All members as etcd wants to be told of them.
    cluster: String,
    directory: PathBuf,
    /// Beside the plain one, with which certificates.
    tls: Option<(u16, PathBuf)>,
    child: Option<Child>,
    /// Ends the server if this process is ended before it can.
    guard: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub(crate) fn start() -> Self {
        let [server] = Self::cluster();
        server
    }

    /// A cluster of so many members, ready for use.
    pub(crate) fn cluster<const N: usize>() -> [Self; N] {
        for _ in 0..10 {
            let mut servers = Self::down();
            for server in &mut servers {
                server.spawn();
            }
            // Another process may have taken a port meanwhile.
            if servers.iter_mut().all(Self::becomes_healthy) {
                return servers;
            }
        }
        panic!("no etcd could be started on free ports");
    }

    /// Free addresses, and nobody there.
    pub(crate) fn down<const N: usize>() -> [Self; N] {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let peer_ports: [u16; N] = std::array::from_fn(|_| free_port());
        let member = |(n, port)| format!("m{n}=http://127.0.0.1:{port}");
        let members: Vec<_> = peer_ports.iter().enumerate().map(member).collect();
        let cluster = members.join(",");
        std::array::from_fn(|n| {
            let number = NEXT.fetch_add(1, Relaxed);
            let directory = format!("gusset-etcd-{}-{number}", std::process::id());
            Self {
                port: free_port(),
                peer_port: peer_ports[n],
                name: format!("m{n}"),
                cluster: cluster.clone(),
                directory: std::env::temp_dir().join(directory),
                tls: None,
                child: None,
                guard: None,
            }
        })
    }

    /// Listens with TLS as well, and asks clients for a certificate: `ca.pem`, `etcd.pem` and `etcd.key` in that folder.
    pub(crate) fn start_with_tls(certificates: PathBuf) -> Self {
        for _ in 0..10 {
            let [mut server] = Self::down();
            server.tls = Some((free_port(), certificates.clone()));
            server.spawn();
            if server.becomes_healthy() {
                return server;
            }
        }
        panic!("no etcd could be started on free ports");
    }

    pub(crate) fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.tls.as_ref().unwrap().0)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// At the same address, with what it had written.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.becomes_healthy(), "it did not start again on port {}", self.port);
    }

    /// At the same address, with nothing of what it knew.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.directory).unwrap();
        self.restart();
    }

    pub(crate) fn spawn(&mut self) {
        std::fs::create_dir_all(&self.directory).unwrap();
        let (client, peer) = (format!("http://{}", self.address()), self.peer_port);
        let peer = format!("http://127.0.0.1:{peer}");
        let mut listen = client.clone();
        let mut command = Command::new("etcd");
        if let Some((port, folder)) = &self.tls {
            listen += &format!(",https://127.0.0.1:{port}");
            let file = |name| folder.join(name).into_os_string();
            command
                .arg("--client-cert-auth")
                .args(["--trusted-ca-file".into(), file("ca.pem")])
                .args(["--cert-file".into(), file("etcd.pem")])
                .args(["--key-file".into(), file("etcd.key")]);
        }
        command
            .args(["--name", &self.name, "--data-dir", self.directory.to_str().unwrap()])
            .args(["--listen-client-urls", &listen, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster, "--initial-cluster-state", "new"])
            // The defaults of the project, stated, so that no environment changes them.
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .args(["--log-level", "error", "--logger", "zap"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot run etcd ({error}); ./test installs it: apt-get install etcd-server")
        });
        // Reads until this process is gone.
        let end = format!("read -r _; kill -9 {} 2>/dev/null", child.id());
        let mut guard = Command::new("sh");
        guard.args(["-c", &end]).stdin(Stdio::piped());
        self.guard = Some(guard.spawn().unwrap());
        self.child = Some(child);
    }

    /// Waits until it answers with a quorum.
    fn becomes_healthy(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(30) {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            let key = r#"{"key":"YQ=="}"#;
            if self.post("/v3/kv/range", key).is_some_and(|answer| answer.contains("revision")) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        false
    }

    /// Asks the JSON gateway of etcd, a way of its own beside the one that is tested.
    pub(crate) fn post(&self, path: &str, json: &str) -> Option<String> {
        self.post_as("", path, json)
    }

    /// The same with a token.
    pub(crate) fn post_as(&self, token: &str, path: &str, json: &str) -> Option<String> {
        let length = json.len();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let authorization = match token {
            "" => String::new(),
            token => format!("Authorization: {token}\r\n"),
        };
        let request = format!(
            "POST {path} HTTP/1.0\r\n{authorization}Content-Length: {length}\r\n\r\n{json}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.0 200").then(|| body.to_owned())
    }

    pub(crate) fn json(&self, path: &str, question: &serde_json::Value) -> serde_json::Value {
        let answer = self.post(path, &question.to_string()).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    pub(crate) fn is_leader(&self) -> bool {
        let status = self.json("/v3/maintenance/status", &serde_json::json!({}));
        status["leader"] == status["header"]["member_id"]
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.kill().unwrap();
            guard.wait().unwrap();
        }
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn pause(&self) {
        gusset_engines::pause(self.id());
    }

    pub(crate) fn resume(&self) {
        gusset_engines::resume(self.id());
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }
}

/// Another process with a registry, which runs one of these tests.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(address: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "outage::as_another_process"])
            .env("GUSSET_ETCD_PROCESS", address)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
