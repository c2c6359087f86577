use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use crate::{Folder, Port, Process, is_a_process, is_root, process::when_this_process_ends, run};

/// A PostgreSQL with a cluster of its own. What else it can do is in [`Process`].
///
/// PostgreSQL refuses to be run by root: then it is run by the user `postgres`.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: Port,
}

is_a_process!(Postgres);

impl Postgres {
    /// With the settings that all get.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these settings, each as `name=value`, beyond what all get.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        let port = Port::free();
        let number = port.number();
        let process = Process::new("pg", |folder| {
            run(Command::new("cp").arg("-a").arg(template().join("data")).arg(folder.join("data")));
            Self::give(folder);
            let mut command = program("postgres");
            command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
            command.args(["-h", "127.0.0.1", "-p", &number.to_string(), "-F"]);
            let all = ["shared_buffers=16MB", "max_connections=60", "log_min_messages=panic"];
            for setting in all.iter().chain(settings) {
                command.args(["-c", setting]);
            }
            command
        });
        let url = url(process.folder(), number);
        let answers = move || ask(&url, "SELECT 1").status.success();
        // Killed, it leaves shared memory that nobody removes.
        let mut process = process.ready_when(answers).ended_by("QUIT");
        process.start();
        Self { process, port }
    }

    /// As clients take it, over the socket in its folder.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.folder(), self.port())
    }

    /// Where it listens as well, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What psql prints, without ornament: a way beside that of clients.
    ///
    /// # Panics
    /// If that goes wrong.
    #[allow(clippy::must_use_candidate, reason = "most statements are run for what they do")]
    pub fn psql(&self, sql: &str) -> String {
        let begun = Instant::now();
        let done = loop {
            let done = ask(&self.url(), sql);
            // 2: it had no connection, as when many others were asking for theirs. Nothing was done.
            if done.status.code() != Some(2) || begun.elapsed() > Duration::from_secs(20) {
                break done;
            }
            thread::park_timeout(Duration::from_millis(20));
        };
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Gives a folder and what is in it to the user that the server runs as.
    ///
    /// # Panics
    /// If there is no such user.
    pub fn give(folder: &Path) {
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder));
        }
    }
}

fn url(folder: &Path, port: u16) -> String {
    format!("host={} port={port} user=postgres dbname=postgres", folder.display())
}

fn ask(url: &str, sql: &str) -> Output {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    psql.stdin(Stdio::null()).output().unwrap()
}

/// Debian keeps the programs of each release in a folder of their own.
fn program(name: &str) -> Command {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|all| all.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    let path = folders.pop().map(|folder| folder.join(name)).filter(|path| path.exists());
    let path = path.unwrap_or_else(|| name.into());
    let mut command = Command::new(if is_root() { "setpriv".as_ref() } else { path.as_path() });
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// A fresh cluster, made once, and removed when this process ends.
fn template() -> &'static Path {
    struct Template(Folder, #[expect(dead_code, reason = "ends with this process")] Child);
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let folder = Folder::new("pg-template");
        Postgres::give(&folder);
        let mut initdb = program("initdb");
        initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres"]);
        run(initdb.arg("--no-sync").arg("-D").arg(folder.join("data")));
        let remover = when_this_process_ends(&format!("rm -rf '{}'", folder.display()));
        Template(folder, remover)
    });
    &template.0
}
