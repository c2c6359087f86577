//! A process that is paused does nothing at all.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const FOLDER: &str = "GUSSET_ENGINES_WRITES_TO";

/// A process whose threads, and whose children, never stop writing.
struct Busy {
    child: Child,
    folder: PathBuf,
}

impl Busy {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("gusset-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "as_a_busy_process"]).env(FOLDER, &folder).stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), folder }
    }

    fn written(&self) -> Vec<u64> {
        let mut files: Vec<_> = fs::read_dir(&self.folder).unwrap().map(Result::unwrap).collect();
        files.sort_by_key(fs::DirEntry::file_name);
        files.iter().map(|file| file.metadata().unwrap().len()).collect()
    }

    /// Of its own threads, the first of which only waits for the others.
    fn states(&self) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let stat = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("stat")).unwrap();
        let state = |stat: String| stat.rsplit(") ").next().unwrap()[..1].to_owned();
        threads.map(|thread| state(stat(thread.unwrap()))).collect()
    }

    /// Waits until all have written something since then.
    fn goes_on(&self, since: &[u64]) {
        let begin = Instant::now();
        let more = || self.written().iter().zip(since).filter(|(now, then)| now > then).count();
        while more() < since.len() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", self.written());
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Its child ends with it, unless it stands still.
        gusset_engines::resume(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn write_for_ever(file: &Path) {
    let mut file = fs::File::create(file).unwrap();
    // Until the folder goes.
    while file.write_all(b".").is_ok() && file.metadata().is_ok_and(|file| file.len() < 1 << 24) {}
}

#[test]
fn as_a_busy_process() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    thread::scope(|scope| {
        for number in 0..8 {
            let file = folder.join(format!("thread-{number}"));
            scope.spawn(move || write_for_ever(&file));
        }
        let script = "while kill -0 $PPID; do echo; done >child";
        Command::new("sh")
            .args(["-c", script])
            .current_dir(&folder)
            .stderr(Stdio::null())
            .status()
            .unwrap();
    });
}

#[test]
fn when_a_pause_returns_no_thread_and_no_child_runs_and_all_go_on_after_it() {
    let busy = Busy::start("pause");
    busy.goes_on(&[0; 9]);
    for _ in 0..20 {
        gusset_engines::pause(busy.child.id());
        assert_eq!(busy.states(), ["T"; 10]);
        let then = busy.written();
        thread::park_timeout(Duration::from_millis(5));
        assert_eq!(busy.written(), then);
        gusset_engines::resume(busy.child.id());
        busy.goes_on(&then);
    }
}

#[test]
fn a_process_that_has_ended_is_paused_at_once() {
    let mut child = Command::new("true").spawn().unwrap();
    let id = child.id();
    // A zombie until it is waited for.
    gusset_engines::pause(id);
    gusset_engines::resume(id);
    child.wait().unwrap();
}
