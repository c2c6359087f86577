use std::{
    env, fmt, fs,
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Folder, comes_true, signal,
    signal::{descendants, has_ended, send},
};

type IsReady = Arc<dyn Fn() -> bool + Send + Sync>;

/// A program that runs in a folder of its own, and can be killed, paused and started again.
///
/// It is killed when this is dropped, with all below it (not what it left behind if it ended by itself), and so it is when the process that holds this ends in another way, be it by
/// `kill -9`; the folder goes with it. What the program writes to its standard output and error is kept until then, and is shown where a test
/// fails that has it.
pub struct Process {
    name: String,
    command: Command,
    folder: Folder,
    is_ready: Option<IsReady>,
    /// How it is ended with this value, if it is to clean up after itself.
    last_signal: Option<&'static str>,
    running: Option<Running>,
    /// How the last one ended that did so by itself.
    ended: Option<ExitStatus>,
    /// Where in the log the last start begins.
    started_at: u64,
}

struct Running {
    child: Child,
    /// Reads until this process is gone, and ends the child then.
    guard: Child,
}

/// The program of this test once more: it runs the test of this name only, which does something else where the environment says so.
///
/// # Panics
/// If the system does not know what program this is.
#[must_use]
pub fn again(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command
}

impl Process {
    /// A program that does not run yet. The command is made with the folder, which is there and empty.
    ///
    /// # Panics
    /// If no folder can be made.
    pub fn new(name: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        let folder = Folder::new(name);
        let command = command(&folder);
        let (name, is_ready, last_signal) = (name.to_owned(), None, None);
        Self {
            name,
            command,
            folder,
            is_ready,
            last_signal,
            running: None,
            ended: None,
            started_at: 0,
        }
    }

    /// A program that runs.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn started(name: &str, command: Command) -> Self {
        let mut process = Self::new(name, |_| command);
        process.start();
        process
    }

    /// [`start`](Self::start) waits until it is so. The default is that a process is ready when it runs.
    #[must_use]
    pub fn ready_when(mut self, is_ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.is_ready = Some(Arc::new(is_ready));
        self
    }

    /// When this is dropped it gets that signal and some seconds. The default is `kill -9` at once.
    pub(crate) fn ended_by(mut self, signal: &'static str) -> Self {
        self.last_signal = Some(signal);
        self
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    /// If it cannot be run, ends, or is not ready within a minute; with what it has written.
    pub fn start(&mut self) {
        self.spawn();
        self.becomes_ready();
    }

    /// Starts it. Where it runs already it is killed first.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn spawn(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        self.started_at = log.metadata().unwrap().len();
        self.command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // What is typed at the terminal is for the test, which ends this.
        let child = self.command.process_group(0).spawn().unwrap_or_else(|error| {
            panic!("cannot run {} ({error}); ./test installs what tests need", self.name)
        });
        let guard = guard(child.id(), self.last_signal, &self.folder);
        self.running = Some(Running { child, guard });
        self.ended = None;
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// If it ends, or is not ready within a minute; with what it has written.
    pub fn becomes_ready(&mut self) {
        let Some(is_ready) = self.is_ready.clone() else { return };
        let mut ended = None;
        let is_up = comes_true(|| {
            ended = self.has_ended();
            ended.is_some() || is_ready()
        });
        assert!(
            is_up && ended.is_none(),
            "{} is not ready ({ended:?}):\n{}",
            self.name,
            self.log()
        );
    }

    /// The id of the process.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.running.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).child.id()
    }

    /// Its folder, which it shares with what it has written.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has written since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        let Ok(mut file) = File::open(self.log_file()) else { return String::new() };
        let read = file.seek(SeekFrom::Start(self.started_at));
        let _ = read.and_then(|_| file.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a whole line with these words, and gives it from them on.
    ///
    /// # Panics
    /// If it ends without them, or does not write them within a minute; with what it has written.
    pub fn says(&mut self, words: &str) -> String {
        let mut said = None;
        comes_true(|| {
            // In this order, or its last words would be missed.
            let over = self.has_ended().is_some();
            let log = self.log();
            let mut whole = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            said = whole.find_map(|line| line.find(words).map(|at| line[at..].to_owned()));
            over || said.is_some()
        });
        said.unwrap_or_else(|| panic!("{} never said {words:?}:\n{}", self.name, self.log()))
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the system does not know.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if let Some(running) = &mut self.running {
            let ended = running.child.try_wait().unwrap()?;
            running.end_guard();
            // Its id may be another's from now on.
            self.running = None;
            self.ended = Some(ended);
        }
        self.ended
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs after a minute; with what it has written.
    pub fn ends(&mut self) -> ExitStatus {
        let mut ended = None;
        comes_true(|| {
            ended = self.has_ended();
            ended.is_some()
        });
        ended.unwrap_or_else(|| panic!("{} does not end:\n{}", self.name, self.log()))
    }

    /// Ends it in its own way, as an operator does, and waits for that.
    ///
    /// # Panics
    /// As [`ends`](Self::ends).
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let ended = self.ends();
        self.kill();
        ended
    }

    /// `kill -9`, of all that it started as well. Where it does not run, nothing happens.
    ///
    /// # Panics
    /// If that leaves anything.
    pub fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.end_guard();
        let id = running.child.id();
        if running.child.try_wait().unwrap().is_none() {
            let mut family = descendants(id);
            if !family.is_empty() {
                // Nothing may be started between this and the end.
                signal::pause(id);
                family = descendants(id);
            }
            family.push(id);
            send(&family, "KILL");
            running.child.wait().unwrap();
            // What is left would hold what the next one wants.
            let gone = comes_true(|| family.iter().all(|&id| has_ended(id)));
            assert!(gone, "{} does not end", self.name);
        }
    }

    /// [`kill`](Self::kill) and [`start`](Self::start): at the same address, with what is on its disk.
    ///
    /// # Panics
    /// As these.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// The same with nothing of what it knew: the folder `data` in its folder is removed.
    ///
    /// # Panics
    /// As [`restart`](Self::restart), or if the folder cannot be removed.
    pub fn restart_empty(&mut self) {
        self.kill();
        let data = self.folder.join("data");
        if data.exists() {
            fs::remove_dir_all(data).unwrap();
        }
        self.start();
    }

    /// No thread of it runs any more when this returns, see [`pause`](crate::pause).
    ///
    /// # Panics
    /// As [`pause`](crate::pause).
    pub fn pause(&self) {
        signal::pause(self.id());
    }

    /// It goes on.
    ///
    /// # Panics
    /// As [`signal`](crate::signal).
    pub fn resume(&self) {
        signal::resume(self.id());
    }

    /// Sends it a signal, such as `"TERM"`.
    ///
    /// # Panics
    /// As [`signal`](crate::signal).
    pub fn signal(&self, name: &str) {
        signal::signal(self.id(), name);
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Running {
    fn end_guard(&mut self) {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4_000);
            let tail = log.get(from..).unwrap_or(&log);
            eprintln!("---- {} wrote:\n{tail}\n----", self.name);
        }
        if let (Some(name), Some(running)) = (self.last_signal, &self.running) {
            signal::resume(running.child.id());
            self.signal(name);
            let begin = Instant::now();
            while self.has_ended().is_none() && begin.elapsed() < Duration::from_secs(10) {
                thread::park_timeout(Duration::from_millis(2));
            }
        }
        self.kill();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.running.as_ref().map(|running| running.child.id());
        f.debug_struct("Process").field("name", &self.name).field("id", &id).finish_non_exhaustive()
    }
}

/// Ends that process, and removes the folder, when this one is gone. It has a group of its own, so that no key at the terminal ends it.
fn guard(id: u32, last_signal: Option<&str>, folder: &Path) -> Child {
    let own_way = last_signal
        .map_or(String::new(), |signal| format!("kill -CONT {id}; kill -{signal} {id}; sleep 1; "));
    let family = format!("$(cat /proc/{id}/task/*/children)");
    let end =
        format!("{own_way}kill -STOP {id}; kill -9 {family} {id}; rm -rf '{}'", folder.display());
    when_this_process_ends(&end)
}

/// Has a shell do that when this process is gone, however it goes.
pub(crate) fn when_this_process_ends(commands: &str) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("read -r _; {commands}")]).stdin(Stdio::piped());
    shell.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap()
}
