//! A PostgreSQL of one's own: in a directory of its own, reached over a socket in it, ended with the value.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gusset_saga::{PostgresOptions, PostgresStore};

pub(crate) struct Server {
    folder: PathBuf,
    /// Beyond what all servers get.
    settings: Vec<String>,
    child: Option<Child>,
    /// Ends the server if this process is ended before it can.
    guard: Option<Child>,
}

pub(crate) fn root() -> bool {
    let own = Command::new("id").arg("-u").output().unwrap();
    own.stdout.trim_ascii() == b"0"
}

/// PostgreSQL refuses to be run by root: then it is run by the user that its package makes.
fn program(name: &str) -> Command {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|all| all.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    let path = folders.pop().map(|folder| folder.join(name)).filter(|path| path.exists());
    let path = path.unwrap_or_else(|| name.into());
    let mut command = if root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

pub(crate) fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| {
        panic!("cannot run {command:?} ({error}); ./test installs it: apt-get install postgresql")
    });
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn folder(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("gusset-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder).unwrap();
    folder
}

pub(crate) fn give_to_postgres(folder: &Path) {
    if root() {
        run(Command::new("chown").arg("postgres:postgres").arg(folder));
    }
}

/// A fresh cluster, made once, and removed when this process ends.
fn template() -> &'static Path {
    struct Template(PathBuf, #[expect(dead_code, reason = "ends with this process")] Child);
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let folder = folder("pg-template");
        give_to_postgres(&folder);
        let mut initdb = program("initdb");
        initdb.args([
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--username=postgres",
            "--no-sync",
        ]);
        run(initdb.arg("-D").arg(folder.join("data")));
        let end = format!("read -r _; rm -rf '{}'", folder.display());
        let mut remover = Command::new("sh");
        remover.args(["-c", &end]).stdin(Stdio::piped()).process_group(0);
        let remover = remover.spawn().unwrap();
        Template(folder, remover)
    });
    &template.0
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let folder = folder("pg");
        Self::start_in(folder, settings)
    }

    /// In that folder, which ends with the server.
    pub(crate) fn start_in(folder: PathBuf, settings: &[&str]) -> Self {
        let from = template().join("data");
        run(Command::new("cp").arg("-a").arg(from).arg(folder.join("data")));
        give_to_postgres(&folder);
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Self { folder, settings, child: None, guard: None };
        server.spawn();
        server.answers();
        server
    }

    pub(crate) fn spawn(&mut self) {
        let mut command = program("postgres");
        command.arg("-D").arg(self.folder.join("data")).arg("-k").arg(&self.folder);
        command.args(["-h", "", "-F"]);
        for setting in ["shared_buffers=16MB", "max_connections=60", "log_min_messages=panic"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        command.stdout(Stdio::null()).stderr(log.unwrap());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot run postgres ({error}); ./test installs it: apt-get install postgresql")
        });
        let (id, folder) = (child.id(), self.folder.display());
        let end = format!(
            "read -r _; kill -CONT {id}; kill -QUIT {id}; sleep 1; kill -9 {id}; rm -rf '{folder}'"
        );
        let mut guard = Command::new("sh");
        guard.args(["-c", &end]).stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        self.guard = Some(guard.spawn().unwrap());
        self.child = Some(child);
    }

    /// As psql takes it.
    pub(crate) fn url(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.display())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions::new(&self.url()).unwrap()
    }

    pub(crate) async fn store(&self) -> PostgresStore {
        PostgresStore::connect(self.options()).await.unwrap()
    }

    /// What psql prints, without ornament: a way of its own beside the one that is tested.
    pub(crate) fn psql(&self, sql: &str) -> String {
        let done = self.ask_psql(sql);
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn ask_psql(&self, sql: &str) -> std::process::Output {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(), "-c", sql]);
        psql.stdin(Stdio::null()).output().unwrap()
    }

    fn answers(&mut self) {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            if self.ask_psql("SELECT 1").status.success() {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("it does not answer: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The server and the processes of its connections.
    fn family(&self) -> Vec<u32> {
        let id = self.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().map(|id| id.parse().unwrap());
        std::iter::once(id).chain(children).collect()
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn pause(&self) {
        gusset_engines::pause(self.id());
    }

    pub(crate) fn resume(&self) {
        gusset_engines::resume(self.id());
    }

    /// `kill -9` of all of it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.kill().unwrap();
            guard.wait().unwrap();
        }
        if self.child.is_some() {
            let family = self.family();
            family.iter().for_each(|&id| gusset_engines::signal(id, "KILL"));
            self.child.take().unwrap().wait().unwrap();
            // One that is left would hold the memory that the next one wants.
            let begin = Instant::now();
            while family.iter().any(|id| fs::exists(format!("/proc/{id}/exe")).unwrap_or(false)) {
                assert!(begin.elapsed() < Duration::from_secs(10), "they do not end");
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.answers();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `short`, or `long` in a deep run of `./test`.
pub(crate) fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("GUSSET_DEEP").is_some() { long } else { short }
}
