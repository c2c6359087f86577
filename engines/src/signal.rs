use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a process may take to stop: longer than any machine that is merely busy needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a signal, such as `"TERM"`, to the process of this id. One that has ended by itself gets nothing.
///
/// # Panics
/// If there is no `kill` to send it with.
pub fn signal(id: u32, name: &str) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).arg(id.to_string()).stderr(Stdio::null());
    if let Err(error) = kill.status() {
        panic!("cannot run kill ({error}); it is in the package procps");
    }
}

/// Stops this process and all below it, and returns when none of their threads runs any more.
///
/// The signal alone is not enough: it is sent to the process, and each thread goes on until it hears of it, long enough to answer one more call.
///
/// # Panics
/// If a thread still runs after a minute.
pub fn pause(id: u32) {
    signal(id, "STOP");
    let begin = Instant::now();
    while !stands_still(id) {
        assert!(begin.elapsed() < PATIENCE, "process {id} does not stop");
        thread::park_timeout(Duration::from_millis(1));
    }
    // A process that stands still begins no other.
    children(id).into_iter().for_each(pause);
}

/// Lets this process and all below it go on.
///
/// # Panics
/// As [`signal`].
pub fn resume(id: u32) {
    children(id).into_iter().for_each(resume);
    signal(id, "CONT");
}

/// Whether no thread of it runs, or it has ended.
fn stands_still(id: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return true };
    threads.flatten().all(|thread| match fs::read_to_string(thread.path().join("stat")) {
        // Behind the name, which may hold anything.
        Ok(stat) => {
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't', 'X', 'Z']))
        }
        Err(_) => true,
    })
}

/// The processes that this one has started and that are there.
pub(crate) fn children(id: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return Vec::new() };
    let of_each =
        threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    let all = of_each.flatten().collect::<Vec<_>>().join(" ");
    all.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}
