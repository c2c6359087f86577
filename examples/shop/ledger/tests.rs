//! One suite for all engines.

#![allow(clippy::unwrap_used, reason = "a test")]

use tokio::task::JoinSet;

use super::*;

/// What holds on every engine. `again` is another connection to the same rows, as another process would have it.
async fn holds(ledger: &Ledger, again: &Ledger) {
    rows_are_found_by_kind_and_key(ledger, again).await;
    a_change_that_is_refused_writes_nothing(ledger).await;
    changes_of_a_row_come_one_after_the_other(ledger, again).await;
    of_many_who_write_first_one_does(ledger, again).await;
    changes_of_the_same_rows_in_any_order_do_not_wait_for_each_other(ledger, again).await;
    keys_and_values_may_be_any_text(ledger, again).await;
    the_last_word_about_a_place_counts(ledger, again).await;
}

async fn rows_are_found_by_kind_and_key(ledger: &Ledger, again: &Ledger) {
    for (kind, key, value) in [("a", 2, 20), ("a", 1, 10), ("b", 1, 7), ("a", 2, 21)] {
        ledger.put(kind, key, &value).await.unwrap();
    }
    for ledger in [ledger, again] {
        assert_eq!(ledger.list::<u32, u32>("a").await, Ok(vec![(1, 10), (2, 21)]));
        assert_eq!(ledger.get::<u32>("b", 1).await, Ok(Some(7)));
        assert_eq!(ledger.get::<u32>("b", 2).await, Ok(None));
        assert_eq!(ledger.list::<u32, u32>("c").await, Ok(vec![]));
    }
    assert_eq!(ledger.get::<Vec<u32>>("b", 1).await, Err(NotKept), "it is no list");
}

async fn a_change_that_is_refused_writes_nothing(ledger: &Ledger) {
    let refused = ledger.change([place("refused", 1)], |page| {
        page.put("refused", 1, &1);
        Err::<(), _>(NotKept)
    });
    assert_eq!(refused.await, Err(NotKept));
    assert_eq!(ledger.get::<u32>("refused", 1).await, Ok(None));
}

async fn add(ledger: Ledger, kind: &'static str, keys: [u32; 2]) {
    let places = keys.map(|key| place(kind, key));
    let added = ledger.change(places, move |page| {
        for key in keys {
            let before: u32 = page.get(kind, key)?.unwrap_or_default();
            page.put(kind, key, &(before + 1));
        }
        Ok::<_, NotKept>(())
    });
    added.await.unwrap();
}

async fn changes_of_a_row_come_one_after_the_other(ledger: &Ledger, again: &Ledger) {
    let mut callers = JoinSet::new();
    for n in 0..100 {
        let ledger = if n % 2 == 0 { ledger } else { again }.clone();
        callers.spawn(add(ledger, "count", [1, 1]));
    }
    callers.join_all().await;
    // It is read once and put twice, so it counts one.
    assert_eq!(again.get::<u32>("count", 1).await, Ok(Some(100)));
}

async fn of_many_who_write_first_one_does(ledger: &Ledger, again: &Ledger) {
    let mut callers = JoinSet::new();
    for n in 0..20 {
        let ledger = if n % 2 == 0 { ledger } else { again }.clone();
        callers.spawn(async move {
            let first = ledger.change([place("first", "key")], move |page| {
                if let Some(first) = page.get::<u32>("first", "key")? {
                    return Ok::<_, NotKept>(first);
                }
                page.put("first", "key", &n);
                Ok(n)
            });
            first.await.unwrap()
        });
    }
    let told = callers.join_all().await;
    assert!(told.iter().all(|first| *first == told[0]), "{told:?}");
}

async fn changes_of_the_same_rows_in_any_order_do_not_wait_for_each_other(
    ledger: &Ledger,
    again: &Ledger,
) {
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        callers.spawn(add(ledger.clone(), "pair", [1, 2]));
        callers.spawn(add(again.clone(), "pair", [2, 1]));
    }
    callers.join_all().await;
    assert_eq!(ledger.list::<u32, u32>("pair").await, Ok(vec![(1, 40), (2, 40)]));
}

async fn keys_and_values_may_be_any_text(ledger: &Ledger, again: &Ledger) {
    let odd = "bobby'); drop table kept;-- \"ü\" \\ \n\u{1f41f}".to_owned();
    ledger.put("odd", &odd, &odd).await.unwrap();
    assert_eq!(again.get::<String>("odd", &odd).await, Ok(Some(odd.clone())));
    assert_eq!(again.list::<String, String>("odd").await, Ok(vec![(odd.clone(), odd)]));
}

async fn the_last_word_about_a_place_counts(ledger: &Ledger, again: &Ledger) {
    ledger.put("last", 1, &1).await.unwrap();
    let changed = ledger.change([], |page| {
        page.remove("last", 1);
        page.put("last", 2, &1);
        page.put("last", 2, &2);
        page.put("last", 3, &3);
        page.remove("last", 3);
        Ok::<_, NotKept>(())
    });
    changed.await.unwrap();
    assert_eq!(again.list::<u32, u32>("last").await, Ok(vec![(2, 2)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_all_of_it_holds() {
    let ledger = Ledger::default();
    holds(&ledger, &ledger).await;
}

#[cfg(feature = "files")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_file_all_of_it_holds() {
    let folder = gusset_engines::Folder::new("ledger");
    for (name, sync) in [("full", sqlite::Sync::Full), ("process", sqlite::Sync::Process)] {
        let open = || sqlite::open(&folder.join(name), sync).unwrap();
        holds(&open(), &open()).await;
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_database_all_of_it_holds() {
    let server = gusset_engines::Postgres::start();
    let (url, other) = (server.url(), server.url());
    let (ledger, again) = tokio::join!(postgres::connect(&url), postgres::connect(&other));
    holds(&ledger.unwrap(), &again.unwrap()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_away_is_used_again_and_has_what_was_written() {
    let mut server = gusset_engines::Postgres::start();
    let ledger = postgres::connect(&server.url()).await.unwrap();
    ledger.put("a", 1, &1).await.unwrap();
    server.kill();
    assert_eq!(ledger.put("a", 2, &2).await, Err(NotKept));
    server.start();
    // Each connection that broke is noticed once.
    let found = async {
        while ledger.get::<u32>("a", 1).await != Ok(Some(1)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), found).await.unwrap();
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_newer_shop_are_refused() {
    let server = gusset_engines::Postgres::start();
    drop(postgres::connect(&server.url()).await.unwrap());
    server.psql("UPDATE gusset_shop.format SET number = 2");
    let why = postgres::connect(&server.url()).await.unwrap_err().to_string();
    assert!(why.contains("format 2, this one knows up to 1"), "{why}");
}
