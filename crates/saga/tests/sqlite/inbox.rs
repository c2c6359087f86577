//! Receivers whose work and inbox are one transaction: whatever is called, rolled back and killed, the ledger says what the inbox says.

use std::{
    collections::HashMap,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use gusset_saga::{
    Entry, InboxCall, InboxError, SqliteInbox,
    rusqlite::{Connection, TransactionBehavior},
};
use proptest::prelude::*;
use rand::RngExt;

use crate::dir::Dir;

fn receiver(path: &Path) -> (Connection, SqliteInbox) {
    let database = Connection::open(path).unwrap();
    database.busy_timeout(Duration::from_secs(60)).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    let inbox = SqliteInbox::new();
    inbox.prepare(&database).unwrap();
    database
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS ledger (operation TEXT NOT NULL, effect TEXT NOT NULL)",
        )
        .unwrap();
    (database, inbox)
}

/// What the receiver does; `commits` is false where it fails at the end.
fn receive(
    database: &mut Connection,
    inbox: &SqliteInbox,
    key: &str,
    epoch: u64,
    commits: bool,
) -> Result<Entry, InboxError> {
    let call = InboxCall::from_key(key, epoch)?;
    let operation = key.rsplit_once('/').unwrap().0;
    let transaction = database.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let entry = inbox.enter(&transaction, &call)?;
    let effect = "INSERT INTO ledger VALUES (?1, ?2)";
    match &entry {
        Entry::Act => {
            transaction.execute(effect, (operation, "+"))?;
            inbox.answer(&transaction, &call, &epoch)?;
        }
        Entry::Undo { .. } => {
            transaction.execute(effect, (operation, "-"))?;
        }
        _ => {}
    }
    if commits {
        transaction.commit()?;
    }
    Ok(entry)
}

/// Of each operation what is in the ledger, in order.
fn ledger(database: &Connection) -> HashMap<String, String> {
    let sql = "SELECT operation, group_concat(effect, '') FROM (SELECT * FROM ledger ORDER BY rowid) GROUP BY 1";
    let mut all = database.prepare(sql).unwrap();
    let all = all.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    all.map(Result::unwrap).collect()
}

fn past(database: &Connection) -> HashMap<String, String> {
    let sql = "SELECT operation, past FROM gusset_inbox WHERE operation <> ''";
    let mut all = database.prepare(sql).unwrap();
    let all = all.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    all.map(Result::unwrap).collect()
}

/// Effects come once, go once, and are what the inbox says.
fn balances(database: &Connection) -> usize {
    let (ledger, past) = (ledger(database), past(database));
    for (operation, past) in &past {
        let effects = ledger.get(operation).map_or("", String::as_str);
        let expected: &[&str] = match &**past {
            "acted" => &["+"],
            "undone" => &["", "+-"],
            other => panic!("{operation} is {other}"),
        };
        assert!(expected.contains(&effects), "{operation} is {past}, and {effects}");
    }
    assert!(ledger.keys().all(|operation| past.contains_key(operation)));
    past.len()
}

#[test]
fn an_answer_is_repeated_a_refusal_as_well_and_neither_twice() {
    let dir = Dir::new();
    let (mut database, inbox) = receiver(&dir.path().join("receiver.db"));
    let [act, undo] = ["s/a/do", "s/a/undo"].map(|key| InboxCall::from_key(key, 1).unwrap());
    let tx = database.transaction().unwrap();
    assert!(matches!(inbox.answer(&tx, &act, "early"), Err(InboxError::NoEntry(_))));
    assert_eq!(inbox.enter(&tx, &act).unwrap(), Entry::Act);
    inbox.answer(&tx, &act, "shelf 7").unwrap();
    assert!(matches!(inbox.answer(&tx, &act, "shelf 8"), Err(InboxError::NoEntry(_))));
    let Entry::Repeated { answer: Some(answer) } = inbox.enter(&tx, &act).unwrap() else {
        panic!()
    };
    assert_eq!(answer.decode::<String>().unwrap(), "shelf 7");
    let Entry::Undo { answer: Some(answer) } = inbox.enter(&tx, &undo).unwrap() else { panic!() };
    assert_eq!(answer.decode::<String>().unwrap(), "shelf 7");
    assert_eq!(inbox.enter(&tx, &undo).unwrap(), Entry::Repeated { answer: None });
    assert_eq!(inbox.enter(&tx, &act).unwrap(), Entry::TooLate);

    let [act, undo] = ["s/b/do", "s/b/undo"].map(|key| InboxCall::from_key(key, 5).unwrap());
    assert_eq!(inbox.enter(&tx, &act).unwrap(), Entry::Act);
    inbox.refuse(&tx, &act, "no room").unwrap();
    assert_eq!(inbox.enter(&tx, &act).unwrap(), Entry::Refused { reason: "no room".into() });
    let zombie = InboxCall::from_key("s/b/do", 4).unwrap();
    assert_eq!(inbox.enter(&tx, &zombie).unwrap(), Entry::Stale { seen: 5 });
    assert_eq!(inbox.enter(&tx, &undo).unwrap(), Entry::NothingToUndo);
    tx.commit().unwrap();
}

#[test]
fn what_is_old_is_forgotten_and_a_newer_format_refused() {
    let dir = Dir::new();
    let (mut database, inbox) = receiver(&dir.path().join("receiver.db"));
    let entry = receive(&mut database, &inbox, "s/a/do", 1, true).unwrap();
    assert_eq!(entry, Entry::Act);
    assert_eq!(inbox.forget(&database, Duration::from_secs(60)).unwrap(), 0);
    assert_eq!(inbox.forget(&database, Duration::MAX).unwrap(), 0);
    assert_eq!(inbox.forget(&database, Duration::ZERO).unwrap(), 1);
    inbox.prepare(&database).unwrap();
    database.execute("UPDATE gusset_inbox SET epoch = 2 WHERE operation = ''", ()).unwrap();
    assert!(matches!(inbox.prepare(&database), Err(InboxError::Newer(2))));
    let other = SqliteInbox::named("other").unwrap();
    other.prepare(&database).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Three operations, called in any order from any epoch, one of four times rolled back at the end.
    #[test]
    fn ledger_and_inbox_agree_whatever_is_called_and_rolled_back(
        calls in prop::collection::vec((0..3, any::<bool>(), 1_u64..4, 0..4), 1..60),
    ) {
        let dir = Dir::new();
        let (mut database, inbox) = receiver(&dir.path().join("receiver.db"));
        database.pragma_update(None, "synchronous", "OFF").unwrap();
        let mut answers = HashMap::new();
        for (operation, undo, epoch, luck) in calls {
            let key = format!("s/{operation}/{}", if undo { "undo" } else { "do" });
            let entry = receive(&mut database, &inbox, &key, epoch, luck > 0).unwrap();
            if let Entry::Repeated { answer: Some(answer) } = &entry {
                prop_assert_eq!(answer.decode::<u64>().unwrap(), answers[&operation]);
            }
            if entry == Entry::Act && luck > 0 {
                prop_assert!(answers.insert(operation, epoch).is_none(), "done twice");
            }
            balances(&database);
        }
    }
}

#[test]
fn callers_at_once_take_turns() {
    let dir = Dir::new();
    let path = dir.path().join("receiver.db");
    let _first = receiver(&path);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| call_at_random(&path, 300));
        }
    });
    assert_eq!(balances(&receiver(&path).0), 40);
}

/// Of forty operations any, in any direction and from any epoch.
fn call_at_random(path: &Path, calls: u32) {
    let (mut database, inbox) = receiver(path);
    for _ in 0..calls {
        let mut rng = rand::rng();
        let ends = if rng.random_ratio(1, 3) { "undo" } else { "do" };
        let key = format!("s/{}/{ends}", rng.random_range(0..40));
        let (epoch, commits) = (rng.random_range(1..4), rng.random_ratio(3, 4));
        drop(receive(&mut database, &inbox, &key, epoch, commits).unwrap());
    }
}

const TOLD: &str = "GUSSET_SAGA_RECEIVES_IN";

#[test]
fn ledger_and_inbox_agree_whenever_the_receiver_is_killed() {
    if let Some(path) = std::env::var_os(TOLD) {
        return call_at_random(Path::new(&path), u32::MAX);
    }
    let dir = Dir::new();
    let path = dir.path().join("receiver.db");
    let rounds = if std::env::var_os("GUSSET_DEEP").is_some() { 200 } else { 20 };
    for _ in 0..rounds {
        let mut process = Command::new(std::env::current_exe().unwrap());
        let name = "inbox::ledger_and_inbox_agree_whenever_the_receiver_is_killed";
        process.args(["--exact", name, "--nocapture"]).env(TOLD, &path);
        let mut process = process.stdout(Stdio::null()).spawn().unwrap();
        thread::park_timeout(Duration::from_millis(rand::rng().random_range(10..100)));
        assert!(process.try_wait().unwrap().is_none(), "it ended by itself");
        process.kill().unwrap();
        process.wait().unwrap();
        balances(&receiver(&path).0);
    }
    assert_eq!(balances(&receiver(&path).0), 40);
}
