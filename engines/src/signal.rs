use std::{
    fs,
    process::{Command, Stdio},
};

use crate::comes_true;

/// Sends a signal, such as `"TERM"`, to the process of this id. One that has ended by itself gets nothing.
///
/// # Panics
/// If there is no `kill` to send it with.
pub fn signal(id: u32, name: &str) {
    send(&[id], name);
}

pub(crate) fn send(ids: &[u32], name: &str) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).args(ids.iter().map(u32::to_string)).stderr(Stdio::null());
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
    assert!(comes_true(|| stands_still(id)), "process {id} does not stop");
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
        Ok(stat) => state_in(&stat).is_some_and(|state| "TtXZ".contains(state)),
        Err(_) => true,
    })
}

/// It stands behind the name, which may hold anything.
fn state_in(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether it is no more, but for what it leaves to who waits for it.
pub(crate) fn has_ended(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"));
    stat.is_err()
        || stat.is_ok_and(|stat| state_in(&stat).is_some_and(|state| "XZ".contains(state)))
}

/// All below this process.
pub(crate) fn descendants(id: u32) -> Vec<u32> {
    let mut all = children(id);
    let mut next = 0;
    while let Some(&id) = all.get(next) {
        all.extend(children(id));
        next += 1;
    }
    all
}

/// The processes that this one has started and that are there.
fn children(id: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return Vec::new() };
    let of_each =
        threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    let all = of_each.flatten().collect::<Vec<_>>().join(" ");
    all.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}
