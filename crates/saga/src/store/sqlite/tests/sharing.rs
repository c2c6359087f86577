//! Many callers, handles and processes.

use futures_util::future::join_all;

use super::kit::*;

/// How many transactions are in the log.
fn commits(dir: &Dir) -> usize {
    let log = std::fs::read(dir.file().with_extension("db-wal")).unwrap();
    // A header, then frames that say how large the file is if they end a transaction.
    let frames = log[32..].chunks(24 + 4_096);
    frames.filter(|frame| frame[4..8] != [0; 4] && frame[8..16] == log[16..24]).count()
}

#[tokio::test]
async fn who_waits_at_once_shares_a_transaction_and_each_has_an_answer_of_its_own() {
    let dir = Dir::new();
    let store = dir.open().await;
    for n in 0..50 {
        store.create(&begin(&n.to_string(), 10)).await.unwrap();
    }
    let before = commits(&dir);
    let shell = dir.shell();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let fenced = Commit { epoch: 9, ..commit("0", 1, 1) };
    let (late, nowhere) = (commit("1", 5, 1), commit("nowhere", 1, 1));
    let mut all: Vec<_> = (0..50).map(|n| commit(&n.to_string(), 1, 2)).collect();
    all.splice(10..10, [fenced, late, nowhere]);
    let all = async { join_all(all.iter().map(|commit| store.append(commit))).await };
    let free = async {
        sleep(Duration::from_millis(50)).await;
        shell.execute_batch("COMMIT").unwrap();
    };
    let (answers, ()) = tokio::join!(all, free);
    assert!(matches!(answers[10], Err(StoreError::Fenced { epoch: 9, .. })), "{:?}", answers[10]);
    // Its saga had its own append before, in the same transaction.
    assert!(matches!(answers[11], Err(StoreError::Conflict { next: 3, .. })), "{:?}", answers[11]);
    assert!(matches!(answers[12], Err(StoreError::NoSuchSaga(_))), "{:?}", answers[12]);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 50);
    // One that found the thread idle, and all others.
    let took = commits(&dir) - before;
    assert!(took <= 2, "{took} transactions");
    for n in 0..50 {
        assert_eq!(length(&store, &n.to_string()).await, Some(3));
    }
}

#[tokio::test]
async fn a_file_that_somebody_holds_is_told_as_such_and_read_all_the_same() {
    let dir = Dir::new();
    let store = dir.open().await;
    store.create(&begin("a", 10)).await.unwrap();
    let shell = dir.shell();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (first, second) = (commit("a", 1, 1), begin("b", 10));
    let (first, second) = tokio::join!(store.append(&first), store.create(&second));
    assert!(matches!(cause(first), SqliteError::Locked(_)));
    assert!(matches!(cause(second), SqliteError::Locked(_)));
    assert_eq!(length(&store, "a").await, Some(1));
    shell.execute_batch("COMMIT").unwrap();
    store.append(&commit("a", 1, 1)).await.unwrap();
    assert_eq!(length(&store, "a").await, Some(2));
}

#[tokio::test]
async fn an_append_whose_future_is_dropped_is_done_wholly() {
    let dir = Dir::new();
    let store = dir.open().await;
    for n in 0..100 {
        let saga = n.to_string();
        store.create(&begin(&saga, 10)).await.unwrap();
        let commit = commit(&saga, 1, 3);
        // Polled once.
        drop(store.append(&commit).now_or_never());
    }
    // Comes after them.
    store.create(&begin("last", 10)).await.unwrap();
    for n in 0..100 {
        assert_eq!(length(&store, &n.to_string()).await, Some(4));
    }
}

#[tokio::test]
async fn what_waits_is_done_after_the_last_handle_is_dropped_and_then_the_file_is_closed() {
    let dir = Dir::new();
    let store = dir.open().await;
    store.create(&begin("a", 10)).await.unwrap();
    let clone = store.clone();
    drop(store);
    let commit = commit("a", 1, 1);
    // Polled once.
    drop(clone.append(&commit).now_or_never());
    drop(clone);
    dir.closed().await;
    assert_eq!(length(&dir.open().await, "a").await, Some(2));
}

#[tokio::test]
async fn more_callers_than_the_queue_has_places_are_all_answered() {
    let dir = Dir::new();
    let store = dir.open().await;
    let all: Vec<_> = (0..3_000).map(|n| begin(&n.to_string(), 10)).collect();
    let answers = join_all(all.iter().map(|begin| store.create(begin))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(store.count().await.unwrap(), [(State::Running, 3_000)]);
}

#[tokio::test]
async fn two_processes_take_turns() {
    const NAME: &str = "sharing::two_processes_take_turns";
    async fn write(store: SqliteStore, who: &str) {
        let all: Vec<_> = (0..8).map(|n| format!("{who}-{n}")).collect();
        let write = |saga: &String| {
            let (store, saga) = (store.clone(), saga.clone());
            async move {
                store.create(&begin(&saga, 10)).await.unwrap();
                for sequence in 1..100 {
                    store.append(&commit(&saga, sequence, 1)).await.unwrap();
                }
            }
        };
        join_all(all.iter().map(write)).await;
        for saga in all {
            assert_eq!(length(&store, &saga).await, Some(100));
        }
    }
    if let Some(file) = told() {
        return write(SqliteStore::open(file).await.unwrap(), "child").await;
    }
    let dir = Arc::new(Dir::new());
    let child = tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || in_process(NAME, "exec \"$@\"", &dir)
    });
    let store = dir.open().await;
    write(store.clone(), "parent").await;
    child.await.unwrap();
    assert_eq!(store.count().await.unwrap(), [(State::Running, 16)]);
}
