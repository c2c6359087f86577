//! Processes, and programs beside them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// For a machine that is ten times slower than it should be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What `found` finds in the end.
pub(crate) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn gusset() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gusset"));
    for variable in ["GUSSET_TOKEN", "GUSSET_REGISTRY", "GUSSET_ADMIN_TOKEN", "GUSSET_LOG"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) struct Registry {
    process: Child,
    pub(crate) address: String,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let mut process = gusset()
            .args(["registry", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned();
        Self { process, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        http(self.address.parse().unwrap(), &request)
    }

    /// Instances that callers would use.
    pub(crate) fn passing(&self, service: &str) -> usize {
        let answer = self.ask("GET", &format!("/v1/health/service/{service}?passing"), "");
        answer.matches("\"Service\":{").count()
    }

    pub(crate) fn wait_for(&self, service: &str, instances: usize) {
        eventually(&format!("{instances} of {service}"), || {
            (self.passing(service) == instances).then_some(())
        });
    }

    /// A service that is there without a sidecar.
    pub(crate) fn register(&self, service: &str, address: SocketAddr) {
        let (host, port) = (address.ip(), address.port());
        let body =
            format!("{{\"Name\": \"{service}\", \"Address\": \"{host}\", \"Port\": {port}}}");
        let answer = self.ask("PUT", "/v1/agent/service/register", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) struct Sidecar {
    process: Child,
    pub(crate) inbound: SocketAddr,
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    gusset().arg("sidecar").args(args).output().unwrap()
}

impl Sidecar {
    pub(crate) fn start(
        service: &str,
        app: SocketAddr,
        registry: &Registry,
        more: &[&str],
    ) -> Self {
        let (app, registry) = (app.to_string(), registry.url());
        let least = ["--service", service, "--app", &app, "--registry", &registry];
        Self::spawn(&[&least, more].concat())
    }

    pub(crate) fn spawn(args: &[&str]) -> Self {
        let doors = ["--listen", "--outbound", "--admin"].map(|door| [door, "127.0.0.1:0"]);
        let mut process = gusset()
            .args(["sidecar", "--grace", "100ms"])
            .args(doors.concat())
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut lines, written) = (BufReader::new(process.stderr.take().unwrap()), log.clone());
        thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                written.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        let places = eventually("it says where it listens", || {
            let log = log.lock().unwrap();
            assert!(process.try_wait().unwrap().is_none(), "{log}");
            let line = log.lines().find(|line| line.contains(" in at "))?;
            let places: Vec<SocketAddr> =
                line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
            Some(places)
        });
        let [inbound, outbound, admin] = places[..] else { panic!("{places:?}") };
        Self { process, inbound, outbound, admin, log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        eventually(text, || self.log().contains(text).then_some(()));
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    pub(crate) fn ended(&mut self) -> i32 {
        let ended = eventually("it ends", || self.process.try_wait().unwrap());
        ended.code().unwrap()
    }

    /// Status and body of what the admin answers.
    pub(crate) fn admin(&self, path: &str) -> (u16, String) {
        get(self.admin, "localhost", path)
    }

    /// The answer to the app's request for that service, as soon as the service is found: the first request asks the registry, and on a busy machine that takes longer than a request
    /// waits.
    pub(crate) fn found(&self, service: &str, path: &str) -> (u16, String) {
        eventually(&format!("{service} is found"), || {
            let answer = get(self.outbound, service, path);
            (answer.0 != 503).then_some(answer)
        })
    }

    /// What `/status` says of the registration. The registry knows of an instance before the sidecar has the answer.
    pub(crate) fn wait_until_registered(&self, how: &str) {
        let says = format!("\"registered\": \"{how}\"");
        eventually(&says, || self.admin("/status").1.contains(&says).then_some(()));
    }

    pub(crate) fn wait_until_ready(&self) {
        eventually("it is ready", || (self.admin("/readyz").0 == 200).then_some(()));
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
        // The second one has it end its command at once.
        for _ in 0..1_000 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            let id = self.process.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &id]).stderr(Stdio::null()).status();
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends bytes and reads until the other side closes.
pub(crate) fn http(address: SocketAddr, request: &str) -> String {
    try_http(address, request).unwrap()
}

pub(crate) fn try_http(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    parted(&http(address, &request))
}

pub(crate) fn parted(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    (status.unwrap_or_else(|| panic!("{answer:?}")), body.to_owned())
}

/// A program that answers HTTP/1.1, one request a connection. Dropping it closes its port.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl App {
    /// `answer` makes a body of the head of a request.
    pub(crate) fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::at(0, answer)
    }

    pub(crate) fn at(port: u16, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (ends, answer) = (over.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(SeqCst) {
                    return;
                }
                let answer = answer.clone();
                thread::spawn(move || answered(stream.unwrap(), &*answer));
            }
        });
        Self { address, over }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn answered(mut stream: TcpStream, answer: &dyn Fn(&str) -> String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let body = answer(&String::from_utf8_lossy(&head));
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
}
