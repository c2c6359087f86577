//! What is in the file.

use rusqlite::Connection;

use super::kit::*;

#[test]
fn the_sqlite_that_is_built_in_does_not_damage_a_file_whose_log_is_reset() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[tokio::test]
async fn a_newer_format_is_refused_and_not_touched() {
    let dir = Dir::new();
    drop(dir.open().await);
    dir.closed().await;
    dir.shell().pragma_update(None, "user_version", 3).unwrap();
    dir.closed().await;
    let before = std::fs::read(dir.file()).unwrap();
    let refused = SqliteStore::open(dir.file()).await.unwrap_err();
    assert!(matches!(refused, SqliteError::Newer(3)), "{refused:?}");
    assert_eq!(refused.to_string(), "file is of format 3, this release knows up to 2");
    dir.closed().await;
    assert!(std::fs::read(dir.file()).unwrap() == before);
}

#[tokio::test]
async fn the_database_of_another_program_is_refused_and_not_touched() {
    let dir = Dir::new();
    dir.shell().execute_batch("CREATE TABLE saga (id)").unwrap();
    let before = std::fs::read(dir.file()).unwrap();
    let refused = SqliteStore::open(dir.file()).await.unwrap_err();
    assert!(matches!(refused, SqliteError::Foreign), "{refused:?}");
    assert!(std::fs::read(dir.file()).unwrap() == before);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_not_touched() {
    let dir = Dir::new();
    let before = "not a database ".repeat(1_000);
    std::fs::write(dir.file(), &before).unwrap();
    let refused = SqliteStore::open(dir.file()).await.unwrap_err();
    assert!(matches!(refused, SqliteError::Damaged(_)), "{refused:?}");
    assert_eq!(std::fs::read_to_string(dir.file()).unwrap(), before);
}

#[tokio::test]
async fn a_place_without_a_log_or_without_a_directory_is_refused() {
    let memory = SqliteStore::open(":memory:").await.unwrap_err();
    assert!(matches!(memory, SqliteError::NoLog(_)), "{memory:?}");
    let dir = Dir::new();
    let nowhere = SqliteStore::open(dir.file().join("nowhere")).await.unwrap_err();
    assert!(matches!(nowhere, SqliteError::ReadOnly(_)), "{nowhere:?}");
}

#[tokio::test]
async fn who_opens_what_is_there_makes_and_changes_nothing() {
    let dir = Dir::new();
    let open = async || SqliteStore::open_existing(dir.file()).await;
    assert!(matches!(open().await.unwrap_err(), SqliteError::Missing));
    assert!(!dir.file().exists());
    dir.shell().execute_batch(FORMAT_1).unwrap();
    assert!(matches!(open().await.unwrap_err(), SqliteError::Older(1)));
    drop(dir.open().await);
    open().await.unwrap();
}

/// As the first release wrote it: a running saga with mail, a note and a message, and a finished one.
const FORMAT_1: &str = include_str!("format-1.sql");

#[tokio::test]
async fn a_file_of_format_1_is_read_and_carried_on() {
    let dir = Dir::new();
    dir.shell().execute_batch(FORMAT_1).unwrap();
    let store = dir.open().await;
    let journal = store.claim(&due()).await.unwrap().pop().unwrap();
    assert_eq!((journal.saga.as_str(), journal.epoch, journal.crashes), ("order-1", 3, 1));
    assert_eq!(journal.records.unwrap(), [record(1, 0, 3), record(2, 1, 10)]);
    assert_eq!(journal.note, Some(Json::encode("noted").unwrap()));
    assert_eq!((journal.mail_taken, journal.mail.len()), (0, 1));
    assert_eq!((&*journal.mail[0].key, journal.mail[0].body.get()), ("key", "\"\\u0000\""));
    store.append(&Commit { epoch: 3, ..end("order-1", 2) }).await.unwrap();
    assert_eq!(store.count().await.unwrap(), [(State::Completed, 2)]);
    let pending = store.pending().await.unwrap();
    assert_eq!(pending.messages, 1);
    assert!(pending.oldest.unwrap() < Duration::from_secs(60), "as old as the update");
    let relay = Relay { node: "one".into(), lease: LEASE, after: None, sagas: 9, messages: 9 };
    let messages = store.outbox(&relay).await.unwrap().pop().unwrap().messages.unwrap();
    assert_eq!(messages[0].id.to_string(), "order-1/1/0");
    assert_eq!(&*messages[0].message.topic, "orders");
    let said = "SELECT value, (SELECT user_version FROM pragma_user_version) FROM meta WHERE key = 'format'";
    assert_eq!(shell(&dir.shell(), said), [["2", "2"]]);
    drop(store);
    let whole = "SELECT integrity_check FROM pragma_integrity_check";
    assert_eq!(shell(&dir.shell(), whole), [["ok"]]);
}

#[tokio::test]
async fn the_queries_of_the_documentation_are_answered_while_the_file_is_in_use() {
    let dir = Dir::new();
    let store = dir.open().await;
    store.create(&begin("order-4711", 3)).await.unwrap();
    store.append(&Commit { state: State::Stuck, ..commit("order-4711", 1, 1) }).await.unwrap();
    let docs = include_str!("../../sqlite.rs").replace("\n///     ", " ");
    let queries = docs.lines().filter_map(|line| {
        line.strip_prefix("/// sqlite3 -readonly sagas.db \"")?.strip_suffix('"')
    });
    let found: Vec<_> = queries.map(|query| shell(&dir.shell(), query)).collect();
    assert_eq!(found[0], [["stuck", "1"]]);
    assert_eq!(found[1][0][..2], ["order-4711", "test"]);
    assert_eq!(found[2][1], ["1", r#"{"done":{"step":0,"output":"xxxxxxxxxx"}}"#]);
    assert_eq!(found.len(), 3);
}

fn shell(connection: &Connection, query: &str) -> Vec<Vec<String>> {
    use rusqlite::types::ValueRef::{Integer, Text};
    let mut statement = connection.prepare(query).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map((), |row| {
        let column = |index| match row.get_ref(index)? {
            Integer(number) => Ok(number.to_string()),
            Text(text) => Ok(String::from_utf8(text.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        };
        (0..columns).map(column).collect()
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Of four sagas one has bytes that are no text, one text that is no record, and one a page that is gone.
#[tokio::test]
async fn a_damaged_journal_is_told_as_such_and_blocks_no_other() {
    let dir = Dir::new();
    let store = dir.open().await;
    for saga in ["good", "bytes", "text", "page"] {
        let bytes = if saga == "page" { 20_000 } else { 10 };
        store.create(&Begin { lease: Duration::ZERO, ..begin(saga, bytes) }).await.unwrap();
        let note = Json::encode(&format!("mark-{saga}")).unwrap();
        let event = Event::Done { step: 0, output: note };
        let records = Arc::new([Record::new(1, 1, 1_000, event)]);
        let hold = Hold::Park { due: Some(0), note: None };
        store.append(&Commit { records, hold, ..commit(saga, 1, 1) }).await.unwrap();
    }
    drop(store);
    dir.closed().await;
    let mut file = std::fs::read(dir.file()).unwrap();
    let find = |file: &[u8], what: &str| {
        file.windows(what.len()).position(|window| window == what.as_bytes()).unwrap()
    };
    // Wherever it stands: a page that was split has the bytes of what went to the other half.
    for (what, wrong) in [("mark-bytes", 0xff), ("\"mark-text\"", b'x')] {
        while file.windows(what.len()).any(|window| window == what.as_bytes()) {
            let at = find(&file, what);
            file[at] = wrong;
        }
    }
    // In the middle of the long record, whose chain of pages ends there.
    let page = find(&file, &"x".repeat(4_000)) / 4_096 * 4_096 + 2 * 4_096;
    assert!(file[page + 100..page + 200].iter().all(|byte| *byte == b'x'));
    file[page..page + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    std::fs::write(dir.file(), file).unwrap();

    let store = dir.open().await;
    let claimed = store.claim(&due()).await.unwrap();
    let mut claimed: Vec<_> =
        claimed.iter().map(|journal| (journal.saga.as_str(), journal.records.is_ok())).collect();
    claimed.sort_unstable();
    assert_eq!(claimed, [("bytes", false), ("good", true), ("page", false), ("text", false)]);
    let damaged = store.load(&id("page")).await.unwrap().unwrap().records.unwrap_err();
    assert!(matches!(damaged, crate::Unreadable::Damaged(_)), "{damaged:?}");
    store.append(&Commit { epoch: 2, ..end("good", 2) }).await.unwrap();
}
