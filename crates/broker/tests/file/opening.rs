//! Directories that are not there, not to be used, or in use.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_on_the_directory_is_refused() {
    let dir = Dir::new();
    let first = dir.open();
    let second = FileEngine::open(&dir.0, FileOptions::new()).unwrap_err();
    let own = format!("process {}", std::process::id());
    let FileError::InUse { path, holder: Some(holder) } = second else { panic!("{second}") };
    assert!(path == dir.0 && holder.starts_with(&own), "{holder}");
    drop(first);
    dir.open();
}

#[test]
fn where_no_broker_was_a_tool_makes_none() {
    let dir = Dir::new();
    for place in [dir.0.clone(), dir.0.join("mistyped")] {
        let error = FileEngine::open(&place, FileOptions::new().existing()).unwrap_err();
        assert!(matches!(&error, FileError::NoBroker { path } if *path == place), "{error}");
    }
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0, "not even a lock");
}

#[test]
fn a_directory_that_cannot_be_is_a_clear_error() {
    let dir = Dir::new();
    let file = dir.0.join("file");
    std::fs::write(&file, "").unwrap();
    let error = FileEngine::open(file.join("dir"), FileOptions::new()).unwrap_err();
    assert!(matches!(error, FileError::Io { .. }), "{error}");
    // Nobody may write there, not even root.
    let error = FileEngine::open("/proc/sys", FileOptions::new()).unwrap_err();
    assert!(matches!(error, FileError::Io { .. }), "{error}");
}
