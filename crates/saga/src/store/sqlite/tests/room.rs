//! When there is no room, and how the file is kept from growing.

use futures_util::future::join_all;

use super::kit::*;

#[tokio::test]
async fn without_room_work_is_refused_without_effect_and_goes_on_once_there_is_some() {
    let dir = Dir::new();
    let store = SqliteStore::open_bounded(dir.file(), 300_000).await.unwrap();
    let mut there = 0;
    let full = loop {
        let saga = format!("saga-{there}");
        match store.create(&begin(&saga, 3_000)).await {
            Ok(()) => there += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    assert!(there > 10, "{there} fit");
    assert_eq!(length(&store, &format!("saga-{there}")).await, None, "what was refused");
    for saga in 0..there {
        assert_eq!(length(&store, &format!("saga-{saga}")).await, Some(1), "saga {saga}");
    }

    // An end needs a few bytes, which an end has before: room that was left in pages.
    store.append(&end("saga-0", 1)).await.unwrap();
    assert_eq!(store.purge(&Retention::newest(0)).await.unwrap(), 1);
    store.create(&begin("later", 3_000)).await.unwrap();
    assert!(dir.size() <= 300_000);
}

#[tokio::test]
async fn what_does_not_fit_takes_nothing_with_it_that_does() {
    let dir = Dir::new();
    let store = SqliteStore::open_bounded(dir.file(), 300_000).await.unwrap();
    let shell = dir.shell();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    // All in one transaction, since none can begin before.
    let all: Vec<_> =
        (0..40).map(|n| begin(&n.to_string(), if n == 20 { 500_000 } else { 10 })).collect();
    let all = async { join_all(all.iter().map(|begin| store.create(begin))).await };
    let free = async {
        sleep(Duration::from_millis(50)).await;
        shell.execute_batch("COMMIT").unwrap();
    };
    let (answers, ()) = tokio::join!(all, free);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(matches!(answer, Err(StoreError::Full(_))), n == 20, "{n}: {answer:?}");
        assert_eq!(length(&store, &n.to_string()).await, (n != 20).then_some(1));
    }
}

/// The process may write no further in any file, which SQLite takes for a failing disk.
#[tokio::test]
async fn a_disk_that_takes_no_more_is_told_and_used_again_when_it_does() {
    const NAME: &str = "room::a_disk_that_takes_no_more_is_told_and_used_again_when_it_does";
    let Some(file) = told() else {
        // The signal that comes with it would end the process.
        return in_process(NAME, "trap '' XFSZ; exec \"$@\"", &Dir::new());
    };
    let store = SqliteStore::open(file).await.unwrap();
    store.create(&begin("before", 10)).await.unwrap();
    limit("400000");
    let mut there = 0;
    let full = loop {
        match store.append(&commit("before", there + 1, 1)).await {
            Ok(()) => there += 1,
            Err(error) => break error,
        }
    };
    assert!(there > 5, "{there} fit");
    assert!(matches!(cause(Err::<(), _>(full)), SqliteError::Other(_) | SqliteError::Full(_)));
    assert!(store.append(&commit("before", there + 1, 1)).await.is_err());
    assert_eq!(length(&store, "before").await, Some(there as usize + 1), "it is read all the same");
    limit("unlimited");
    store.append(&commit("before", there + 1, 1)).await.unwrap();
    assert_eq!(length(&store, "before").await, Some(there as usize + 2));
}

/// Longest file that this process may write, in bytes.
fn limit(bytes: &str) {
    let process = format!("--pid={}", std::process::id());
    let limit = format!("--fsize={bytes}:unlimited");
    let done = std::process::Command::new("prlimit").args([process, limit]).status();
    assert!(done.unwrap().success());
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_refused() {
    const NAME: &str = "room::a_file_that_cannot_be_written_is_refused";
    let Some(file) = told() else {
        let dir = Dir::new();
        drop(dir.open().await);
        dir.closed().await;
        std::process::Command::new("chmod").arg("444").arg(dir.file()).status().unwrap();
        // Root may write it nevertheless, unless it gives up that right.
        let shell = "if [ \"$(id -u)\" = 0 ]; then \
            exec setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"; fi; exec \"$@\"";
        return in_process(NAME, shell, &dir);
    };
    let refused = SqliteStore::open(file).await.unwrap_err();
    assert!(matches!(refused, SqliteError::ReadOnly(_)), "{refused:?}");
}

#[tokio::test]
async fn a_file_that_is_purged_does_not_grow_and_gives_room_back() {
    let dir = Dir::new();
    let store = dir.open().await;
    let mut sizes = Vec::new();
    for round in 0..12 {
        let sagas: Vec<_> = (0..250).map(|n| format!("{round}-{n}")).collect();
        let run = |saga: String| {
            let store = store.clone();
            async move {
                store.create(&begin(&saga, 2_000)).await.unwrap();
                store.append(&end(&saga, 1)).await.unwrap();
            }
        };
        join_all(sagas.into_iter().map(run)).await;
        store.purge(&Retention::newest(50)).await.unwrap();
        dir.shell().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        sizes.push(dir.size());
    }
    assert!(sizes[11] <= sizes[3] * 5 / 4, "{sizes:?}");
    assert_eq!(store.count().await.unwrap(), [(State::Completed, 50)]);

    store.purge(&Retention::newest(0)).await.unwrap();
    dir.shell().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert!(dir.size() < sizes[11] / 2, "{} of {sizes:?}", dir.size());
}

#[tokio::test]
async fn a_purge_forgets_more_than_one_transaction_takes_and_nothing_else() {
    let dir = Dir::new();
    let store = dir.open().await;
    let run = |n: u32| {
        let store = store.clone();
        async move {
            store.create(&begin(&n.to_string(), 10)).await.unwrap();
            if n % 2 == 0 {
                store.append(&end(&n.to_string(), 1)).await.unwrap();
            }
        }
    };
    join_all((0..1_000).map(run)).await;
    assert_eq!(store.purge(&Retention::newest(70)).await.unwrap(), 430);
    let count = store.count().await.unwrap();
    assert_eq!(count, [(State::Completed, 70), (State::Running, 500)]);
    let left: i64 =
        dir.shell().query_row("SELECT count(*) FROM journal", (), |row| row.get(0)).unwrap();
    assert_eq!(left, 500 + 2 * 70);
}
