use std::num::NonZeroUsize;

use gusset_registry::ConsulPolicy;
use http::Method;
use serde_json::json;

use crate::server::Server;

#[tokio::test(start_paused = true)]
async fn a_value_comes_back_as_it_was_with_flags_and_index() {
    let (server, _ticker) = Server::start();
    assert_eq!(server.get("kv/flags/new-cart").await.status, 404);
    let put = server.put("kv/flags/new-cart?flags=42", "on").await.ok();
    assert_eq!(put.text(), "true");
    let answer = server.get("kv/flags/new-cart").await.ok();
    let pair = &answer.json()[0];
    assert_eq!(
        (&pair["Key"], &pair["Value"], &pair["Flags"]),
        (&json!("flags/new-cart"), &json!("b24="), &json!(42))
    );
    assert_eq!(pair["ModifyIndex"], answer.index());
    assert_eq!(server.get("kv/flags/new-cart?raw").await.text(), "on");
    let empty = server.put("kv/empty", "").await.ok();
    assert_eq!(empty.text(), "true");
    assert!(server.get("kv/empty").await.json()[0]["Value"].is_null());
}

#[tokio::test(start_paused = true)]
async fn of_two_writers_with_the_same_index_one_writes() {
    let (server, _ticker) = Server::start();
    assert_eq!(server.put("kv/a?cas=0", "1").await.text(), "true");
    assert_eq!(server.put("kv/a?cas=0", "2").await.text(), "false");
    let index = server.get("kv/a").await.index();
    assert_eq!(server.put(&format!("kv/a?cas={index}"), "3").await.text(), "true");
    assert_eq!(server.put(&format!("kv/a?cas={index}"), "4").await.text(), "false");
    assert_eq!(server.get("kv/a?raw").await.text(), "3");
    let answer = server.call(Method::DELETE, &format!("kv/a?cas={index}"), "").await.ok();
    assert_eq!(answer.text(), "false");
}

#[tokio::test(start_paused = true)]
async fn what_all_keys_and_values_take_is_bounded() {
    let most = NonZeroUsize::new(1_000).unwrap();
    let (server, _ticker) = Server::with(ConsulPolicy::default().kv_bytes(most));
    server.put("kv/a", "x".repeat(600)).await.ok();
    assert_eq!(server.put("kv/b", "x".repeat(600)).await.status, 507);
    assert_eq!(server.get("kv/b").await.status, 404);
    // What takes the place of another needs no room beside it.
    server.put("kv/a", "y".repeat(700)).await.ok();
    server.put("kv/a", "").await.ok();
    server.put("kv/b", "x".repeat(600)).await.ok();
}

#[tokio::test(start_paused = true)]
async fn prefixes_are_listed_and_deleted_as_a_whole() {
    let (server, _ticker) = Server::start();
    for key in ["a/b", "a/c/d", "a/c/e", "ab"] {
        server.put(&format!("kv/{key}"), key).await.ok();
    }
    let pairs = server.get("kv/a/?recurse").await.json();
    assert_eq!(pairs.as_array().unwrap().len(), 3);
    let keys = server.get("kv/a/?keys&separator=/").await.json();
    assert_eq!(keys, json!(["a/b", "a/c/"]));
    let before = server.get("kv/a/?recurse").await.index();
    server.call(Method::DELETE, "kv/a/?recurse", "").await.ok();
    let gone = server.get("kv/a/?recurse").await;
    assert!(gone.status == 404 && gone.index() > before);
    assert_eq!(server.get("kv/?keys").await.json(), json!(["ab"]));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_read_of_a_prefix_wakes_for_what_is_under_it_and_for_nothing_else() {
    let (server, _ticker) = Server::start();
    server.put("kv/a/b", "1").await.ok();
    let index = server.get("kv/a/?recurse").await.index();
    let blocked = {
        let server = server.clone();
        tokio::spawn(async move { server.get(&format!("kv/a/?recurse&index={index}")).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    server.put("kv/ab", "1").await.ok();
    server.put("kv/a/b", "1").await.ok();
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert!(!blocked.is_finished());
    server.call(Method::DELETE, "kv/a/b", "").await.ok();
    assert_eq!(blocked.await.unwrap().status, 404);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_or_not_served_is_refused() {
    let (server, _ticker) = Server::start();
    let put = async |path: &str, length| server.put(path, vec![b'v'; length]).await.status;
    assert_eq!(put("kv/a", 512 << 10).await, 200);
    assert_eq!(put("kv/a", (512 << 10) + 1).await, 413);
    assert_eq!(put(&format!("kv/{}", "k".repeat(513)), 1).await, 400);
    assert_eq!(put("kv/", 1).await, 400);
    assert_eq!(put("kv/a?acquire=1", 1).await, 400);
    assert_eq!(put("kv/a?cas=x", 1).await, 400);
    assert_eq!(server.call(Method::DELETE, "kv/", "").await.status, 400);
}
