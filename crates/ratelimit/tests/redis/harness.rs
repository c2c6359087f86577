//! A Redis server of one's own: on a free port, in a directory of its own, ended with the value.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

pub(crate) struct Server {
    pub(crate) port: u16,
    directory: PathBuf,
    options: Vec<String>,
    child: Option<Child>,
    /// Ends the server if this process is ended before it can.
    guard: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        for _ in 0..10 {
            let mut server = Self::down(options);
            // Another process may have taken the port meanwhile.
            if server.try_start() {
                return server;
            }
        }
        panic!("no redis-server could be started on a free port");
    }

    /// A free address, and nobody there.
    pub(crate) fn down(options: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("gusset-redis-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let options = options.iter().map(|option| String::from(*option)).collect();
        Self { port, directory, options, child: None, guard: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// At the same address, with nothing of what it knew.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        assert!(self.try_start(), "it did not start again on port {}", self.port);
    }

    fn try_start(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--dir", self.directory.to_str().unwrap(), "--loglevel", "warning"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot run redis-server ({error}); ./test installs it: apt-get install redis-server")
        });
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                // Reads until this process is gone.
                let end = format!("read -r _; kill -9 {} 2>/dev/null", child.id());
                let mut guard = Command::new("sh");
                guard.args(["-c", &end]).stdin(Stdio::piped());
                self.guard = Some(guard.spawn().unwrap());
                self.child = Some(child);
                return true;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        false
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

    /// As `systemctl stop` does it.
    pub(crate) fn stop(&mut self) {
        gusset_engines::signal(self.id(), "TERM");
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        self.kill();
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

    /// A connection beside that of the limiter.
    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
