//! Disks that are full or cannot be written.

use std::process::Command;

use super::*;

const TOLD: &str = "GUSSET_BROKER_DIR";

/// Runs the test `name` of this file in a process of its own, begun by `shell` as `"$@"`, which is told of `dir`.
fn in_process(name: &str, shell: &str, dir: &Dir) {
    let mut process = Command::new("sh");
    process.args(["-c", shell, "sh"]).arg(std::env::current_exe().unwrap());
    let name = format!("room::{name}");
    process.args(["--exact", &name, "--nocapture", "--test-threads=1"]);
    let ended = process.env(TOLD, &dir.0).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

/// The directory that this process was told of, if it is one of [`in_process`].
fn told() -> Option<PathBuf> {
    std::env::var_os(TOLD).map(Into::into)
}

/// Longest file that this process may write, in bytes.
fn limit(bytes: &str) {
    let process = format!("--pid={}", std::process::id());
    let limit = format!("--fsize={bytes}:unlimited");
    assert!(Command::new("prlimit").args([process, limit]).status().unwrap().success());
}

/// As a full disk does, but without one: the system takes a part of a write, and then no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_more_is_told_and_used_again_when_it_does() {
    let Some(dir) = told() else {
        // The signal that comes with it would end the process.
        let shell = "trap '' XFSZ; exec \"$@\"";
        let name = "a_disk_that_takes_no_more_is_told_and_used_again_when_it_does";
        return in_process(name, shell, &Dir::new());
    };
    let broker = open(&dir, FileOptions::new());
    broker.declare("mails", ">", Policy::new().capacity(10_000)).await.unwrap();
    limit("400000");
    let publish = async |n: u32| {
        let message = Message::json("a", &n).unwrap().with_header("k", "v".repeat(3_000));
        broker.publish_message(message).await
    };
    let mut there = 0;
    let error = loop {
        match publish(there).await {
            Ok(_) => there += 1,
            Err(error) => break error,
        }
    };
    assert!((100..140).contains(&there), "{there} fit");
    let Error::Engine(error) = error else { panic!("{error}") };
    let Some(FileError::Io { .. }) = error.downcast_ref() else { panic!("{error}") };
    assert!(publish(there).await.is_err());
    // A delivery whose attempt cannot be written waits.
    let (subscription, seen) = listen(&broker, "mails").await;
    sleep(Duration::from_millis(300)).await;
    assert!(seen.lock().unwrap().is_empty());
    limit("unlimited");
    until("it is used again", async || publish(there + 1).await.is_ok()).await;
    // That of the failed publish may be among them.
    let taken: Vec<_> = (0..there).chain([there + 1]).map(|n| (n, 1)).collect();
    let all_seen = async || {
        let seen = seen.lock().unwrap();
        taken.iter().all(|one| seen.contains(one))
    };
    until("all that was acknowledged is seen", all_seen).await;
    subscription.close().await;
    broker.close(soon()).await;
    let broker = open(&dir, FileOptions::new());
    assert_eq!(broker.stats().groups.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_may_only_be_read_is_refused() {
    let Some(dir) = told() else {
        let dir = Dir::new();
        drop(dir.open());
        let mode = |mode: &str| {
            let files = std::fs::read_dir(&dir.0).unwrap().map(|file| file.unwrap().path());
            let all = files.chain([dir.0.clone()]);
            assert!(Command::new("chmod").arg(mode).args(all).status().unwrap().success());
        };
        mode("a-w");
        // Root may write there nevertheless, unless it gives up that right.
        let shell = "if [ \"$(id -u)\" = 0 ]; then \
            exec setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"; fi; exec \"$@\"";
        in_process("a_directory_that_may_only_be_read_is_refused", shell, &dir);
        return mode("u+w");
    };
    let error = FileEngine::open(&dir, FileOptions::new()).unwrap_err();
    let FileError::Io { path, source } = &error else { panic!("{error}") };
    assert!(path.starts_with(&dir), "{error}");
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
}
