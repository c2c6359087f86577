//! Receivers on PostgreSQL whose work and inbox are one transaction.

use std::time::Duration;

use futures_util::future::join_all;
use gusset_saga::{
    Entry, InboxCall, InboxError, PostgresInbox,
    tokio_postgres::{Client, IsolationLevel, NoTls, error::SqlState},
};
use rand::RngExt;

use crate::harness::{Server, times};

async fn connect(server: &Server) -> Client {
    let (client, link) = gusset_saga::tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(link);
    client
}

async fn receive(
    database: &mut Client,
    inbox: &PostgresInbox,
    (key, epoch): (&str, u64),
    (level, commits): (IsolationLevel, bool),
) -> Result<Entry, InboxError> {
    let call = InboxCall::from_key(key, epoch)?;
    let operation = key.rsplit_once('/').unwrap().0;
    let transaction = database.build_transaction().isolation_level(level).start().await?;
    let entry = inbox.enter(&transaction, &call).await?;
    let effect = "INSERT INTO ledger (operation, effect) VALUES ($1, $2)";
    match &entry {
        Entry::Act => {
            transaction.execute(effect, &[&operation, &"+"]).await?;
            inbox.answer(&transaction, &call, &epoch).await?;
        }
        Entry::Undo { .. } => drop(transaction.execute(effect, &[&operation, &"-"]).await?),
        _ => {}
    }
    if commits {
        transaction.commit().await?;
    }
    Ok(entry)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_repeated_a_refusal_as_well_and_neither_twice() {
    let server = Server::start();
    let mut client = connect(&server).await;
    let inbox = PostgresInbox::new();
    inbox.prepare(&client).await.unwrap();
    let [act, undo] = ["s/a/do", "s/a/undo"].map(|key| InboxCall::from_key(key, 1).unwrap());
    let tx = client.transaction().await.unwrap();
    assert!(matches!(inbox.answer(&tx, &act, "early").await, Err(InboxError::NoEntry(_))));
    assert_eq!(inbox.enter(&tx, &act).await.unwrap(), Entry::Act);
    inbox.answer(&tx, &act, "shelf \u{0} 7").await.unwrap();
    assert!(matches!(inbox.answer(&tx, &act, "8").await, Err(InboxError::NoEntry(_))));
    let Entry::Repeated { answer: Some(answer) } = inbox.enter(&tx, &act).await.unwrap() else {
        panic!()
    };
    assert_eq!(answer.decode::<String>().unwrap(), "shelf \u{0} 7");
    let entry = inbox.enter(&tx, &undo).await.unwrap();
    assert_eq!(entry, Entry::Undo { answer: Some(answer) });
    assert_eq!(inbox.enter(&tx, &act).await.unwrap(), Entry::TooLate);
    let [act, undo] = ["s/b/do", "s/b/undo"].map(|key| InboxCall::from_key(key, 5).unwrap());
    assert_eq!(inbox.enter(&tx, &act).await.unwrap(), Entry::Act);
    inbox.refuse(&tx, &act, "no room").await.unwrap();
    assert_eq!(inbox.enter(&tx, &act).await.unwrap(), Entry::Refused { reason: "no room".into() });
    let zombie = InboxCall::from_key("s/b/do", 4).unwrap();
    assert_eq!(inbox.enter(&tx, &zombie).await.unwrap(), Entry::Stale { seen: 5 });
    assert_eq!(inbox.enter(&tx, &undo).await.unwrap(), Entry::NothingToUndo);
    // Within a transaction of the caller's, too.
    let other = PostgresInbox::named("public.other").unwrap();
    other.prepare(&tx).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!(inbox.forget(&client, Duration::from_secs(60)).await.unwrap(), 0);
    assert_eq!(inbox.forget(&client, Duration::MAX).await.unwrap(), 0);
    assert_eq!(inbox.forget(&client, Duration::ZERO).await.unwrap(), 2);
    server.psql("UPDATE gusset_inbox SET epoch = 2 WHERE operation = ''");
    assert!(matches!(inbox.prepare(&client).await, Err(InboxError::Newer(2))));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_take_turns_at_every_isolation_level() {
    let server = Server::start();
    server.psql("CREATE TABLE ledger (number int8 GENERATED ALWAYS AS IDENTITY, operation text NOT NULL, effect text NOT NULL)");
    let levels = [
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable,
    ];
    let callers = (0..8).map(async |n| {
        let mut client = connect(&server).await;
        let inbox = PostgresInbox::new();
        inbox.prepare(&client).await.unwrap();
        let level = levels[n % 3];
        let mut again = 0;
        for _ in 0..times(150, 2_000) {
            let (key, epoch, commits) = {
                let mut rng = rand::rng();
                let ends = if rng.random_ratio(1, 3) { "undo" } else { "do" };
                let key = format!("s/{}/{ends}", rng.random_range(0..30));
                (key, rng.random_range(1..4), rng.random_ratio(3, 4))
            };
            match receive(&mut client, &inbox, (&key, epoch), (level, commits)).await {
                Ok(_) => {}
                Err(InboxError::Postgres(error))
                    if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) =>
                {
                    again += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        again
    });
    join_all(callers).await;
    let wrong = "SELECT i.operation, i.past, string_agg(l.effect, '' ORDER BY l.number)
        FROM gusset_inbox i LEFT JOIN ledger l USING (operation) WHERE i.operation <> '' GROUP BY 1, 2
        HAVING NOT CASE i.past
            WHEN 'acted' THEN string_agg(l.effect, '' ORDER BY l.number) IS NOT DISTINCT FROM '+'
            WHEN 'undone' THEN coalesce(string_agg(l.effect, '' ORDER BY l.number), '+-') = '+-'
            ELSE false END";
    assert_eq!(server.psql(wrong), "");
    assert_eq!(server.psql("SELECT count(*) FROM gusset_inbox"), "31");
    let lost =
        "SELECT count(*) FROM ledger WHERE operation NOT IN (SELECT operation FROM gusset_inbox)";
    assert_eq!(server.psql(lost), "0");
}
