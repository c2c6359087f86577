use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Port, Process, is_a_process};

/// A NATS server, `nats-server` of the search path or what `GUSSET_NATS_SERVER` names. What else it can do is in [`Process`].
#[derive(Debug)]
pub struct Nats {
    process: Process,
    port: Port,
    /// Where others of its cluster find it.
    route: Option<Port>,
}

is_a_process!(Nats);

impl Nats {
    /// With JetStream.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&["-js"])
    }

    /// With these arguments beside its address and its folder.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut server = Self::down(arguments);
        server.start();
        server
    }

    /// With JetStream and this in the file of its configuration.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn configured(configuration: &str) -> Self {
        let mut server = Self::new(|folder, command| {
            let file = folder.join("server.conf");
            fs::write(&file, configuration).unwrap();
            command.args(["-js", "-c"]).arg(file);
        });
        server.start();
        server
    }

    /// An address, and nobody there until it is started.
    #[must_use]
    pub fn down(arguments: &[&str]) -> Self {
        Self::new(|_, command| {
            command.args(arguments);
        })
    }

    /// Three that know each other.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn cluster() -> [Self; 3] {
        let routes = [(); 3].map(|()| Port::free());
        let urls = routes.each_ref().map(|port| format!("nats://{}", port.address()));
        let (all, mut number) = (urls.join(","), 0);
        routes.map(|route| {
            let (url, name) = (&urls[number], format!("n{}", number + 1));
            number += 1;
            let place = ["-js", "--name", &name, "--cluster_name", "three"];
            let mut server =
                Self::down(&[&place[..], &["--cluster", url, "--routes", &all]].concat());
            server.route = Some(route);
            server.start();
            server
        })
    }

    fn new(more: impl FnOnce(&Path, &mut Command)) -> Self {
        let port = Port::free();
        let number = port.number();
        let process = Process::new("nats", |folder| {
            let program = env::var_os("GUSSET_NATS_SERVER").unwrap_or("nats-server".into());
            let mut command = Command::new(program);
            command
                .args(["-a", "127.0.0.1", "-p", &number.to_string(), "-sd"])
                .arg(folder.join("data"));
            more(folder, &mut command);
            command
        });
        Self {
            process: process.ready_when(move || greets(number).unwrap_or(false)),
            port,
            route: None,
        }
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// As clients take it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.port.address())
    }

    /// Where it keeps the streams of the account without a name.
    #[must_use]
    pub fn streams(&self) -> PathBuf {
        self.folder().join("data/jetstream/$G/streams")
    }
}

/// It says who it is, and answers.
fn greets(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut line = || lines.next().unwrap_or(Ok(String::new()));
    let greeting = line()?;
    if greeting.contains("\"tls_required\":true") {
        return Ok(true);
    }
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    Ok(greeting.starts_with("INFO") && line()?.starts_with(['P', '-']))
}
