use std::{collections::HashMap, time::Duration};

use gusset_registry::{ConsulPolicy, ConsulServer};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use crate::server::{Answer, Server};

const WATCHED: [&str; 9] = [
    "health/service/cart",
    "health/service/missing",
    "health/state/any",
    "health/checks/cart",
    "catalog/service/cart",
    "catalog/services",
    "catalog/nodes",
    "kv/a?",
    "kv/?recurse",
];

/// Asks for what changes after the answer.
fn watch(server: &Server, path: &str, index: u64) -> tokio::task::JoinHandle<Answer> {
    let server = server.clone();
    let mark = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{mark}index={index}");
    tokio::spawn(async move { server.get(&path).await })
}

/// Lets all tasks get to where they wait.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn no_index_is_ever_zero() {
    let (server, _ticker) = Server::start();
    for path in WATCHED {
        assert!(server.get(path).await.index() > 0, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_wakes_a_blocked_request_at_once() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    let index = server.get("health/service/cart").await.index();
    let blocked = watch(&server, "health/service/cart", index);
    settle().await;
    assert_eq!(server.0.stats().watchers, 1);
    let since = Instant::now();
    server.pass("a").await;
    let answer = blocked.await.unwrap();
    assert!(answer.index() > index && since.elapsed() < Duration::from_millis(2));
    assert_eq!(answer.json()[0]["Checks"][0]["Status"], "passing");
    assert_eq!(server.0.stats().watchers, 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_service_wakes_only_its_watchers() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    server.register("other", "b").await;
    let index = server.get("health/service/cart").await.index();
    let blocked = watch(&server, "health/service/cart", index);
    let missing = server.get("health/service/missing").await.index();
    let missing = watch(&server, "health/service/missing", missing);
    settle().await;
    server.pass("b").await;
    server.put("agent/service/deregister/b", "").await.ok();
    server.put("kv/a", "1").await.ok();
    settle().await;
    assert_eq!(server.get("health/service/cart").await.index(), index);
    assert!(!blocked.is_finished() && !missing.is_finished());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_service_that_does_not_exist_sees_it_come_and_go() {
    let (server, _ticker) = Server::start();
    let index = server.get("health/service/cart").await.index();
    let blocked = watch(&server, "health/service/cart", index);
    settle().await;
    server.register("cart", "a").await;
    let came = blocked.await.unwrap();
    assert_eq!(came.json().as_array().unwrap().len(), 1);
    let blocked =
        watch(&server, "health/service/cart", server.get("health/service/cart").await.index());
    settle().await;
    server.put("agent/service/deregister/a", "").await.ok();
    let went = blocked.await.unwrap();
    assert!(went.json().as_array().unwrap().is_empty() && went.index() > came.index());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_changes_nothing_wakes_nobody() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    server.pass("a").await;
    let before: Vec<_> = indexes(&server).await;
    for _ in 0..3 {
        server.pass("a").await;
        server.put("agent/check/pass/service:a?note=again", "").await.ok();
        server.register("cart", "a").await;
    }
    assert_eq!(indexes(&server).await, before);
}

async fn indexes(server: &Server) -> Vec<u64> {
    let mut indexes = Vec::new();
    for path in WATCHED {
        indexes.push(server.get(path).await.index());
    }
    indexes
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_same_index_after_its_span_and_at_most_a_sixteenth_more() {
    let (server, _ticker) = Server::start();
    let index = server.get("health/service/cart").await.index();
    for (wait, seconds) in [("&wait=16s", 16.0), ("", 300.0), ("&wait=1h", 600.0)] {
        let mut spans = Vec::new();
        for _ in 0..5 {
            let since = Instant::now();
            let answer = server.get(&format!("health/service/cart?index={index}{wait}")).await.ok();
            assert_eq!(answer.index(), index);
            spans.push(since.elapsed().as_secs_f64());
        }
        assert!(spans.iter().all(|span| (seconds..=seconds * 17.0 / 16.0 + 0.01).contains(span)));
        spans.dedup();
        assert!(spans.len() > 1, "no jitter: {spans:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_of_another_run_is_answered_at_once() {
    let (server, _ticker) = Server::start();
    for path in WATCHED {
        let index = server.get(path).await.index();
        for other in [1, index - 1, index + 1, u64::MAX] {
            let answer = watch(&server, path, other);
            let answer = timeout(Duration::from_millis(1), answer).await;
            assert_eq!(answer.expect(path).unwrap().index(), index, "{path} {other}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_blocks_when_it_is_asked_for_again() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    server.put("kv/a", "1").await.ok();
    for path in WATCHED {
        let index = server.get(path).await.index();
        let blocked = watch(&server, path, index);
        settle().await;
        assert!(!blocked.is_finished(), "{path} makes a busy loop");
    }
}

#[tokio::test]
async fn the_indexes_of_a_restarted_server_are_higher() {
    let (before, _ticker) = Server::start();
    before.register("cart", "a").await;
    before.pass("a").await;
    let index = before.get("health/service/cart").await.index();
    sleep(Duration::from_millis(20)).await;
    let after = Server(ConsulServer::new(ConsulPolicy::default()));
    assert!(after.get("health/service/cart").await.index() > index);
}

#[tokio::test(start_paused = true)]
async fn closing_answers_all_who_are_blocked_and_blocks_nobody_after() {
    let (server, _ticker) = Server::start();
    let index = server.get("health/service/cart").await.index();
    let blocked: Vec<_> = (0..100).map(|_| watch(&server, "health/service/cart", index)).collect();
    settle().await;
    server.0.close();
    for blocked in blocked {
        let answer = timeout(Duration::from_millis(10), blocked).await.unwrap().unwrap().ok();
        assert_eq!(answer.index(), index);
    }
    timeout(Duration::from_millis(1), watch(&server, "health/service/cart", index))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn blocked_requests_are_bounded_and_a_dropped_one_gives_its_place_back() {
    let most = std::num::NonZeroUsize::new(2).unwrap();
    let (server, _ticker) = Server::with(ConsulPolicy::default().watchers(most));
    let index = server.get("health/service/cart").await.index();
    let blocked: Vec<_> = (0..2).map(|_| watch(&server, "health/service/cart", index)).collect();
    settle().await;
    let refused = watch(&server, "health/service/cart", index).await.unwrap();
    assert_eq!((refused.status, refused.headers["retry-after"].as_bytes()), (429, &b"1"[..]));
    server.get("health/service/cart").await.ok();
    blocked[0].abort();
    settle().await;
    assert_eq!((server.0.stats().watchers, server.0.stats().refused), (1, 1));
    let third = watch(&server, "health/service/cart", index);
    settle().await;
    assert!(!third.is_finished());
}

#[tokio::test(start_paused = true)]
async fn watchers_with_different_questions_get_different_answers_for_one_change() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    server.register("cart", "b").await;
    let index = server.get("health/service/cart").await.index();
    let paths = ["health/service/cart", "health/service/cart?passing", "health/service/cart?tag=x"];
    let blocked: Vec<_> =
        paths.iter().chain(&paths).map(|path| watch(&server, path, index)).collect();
    settle().await;
    server.pass("a").await;
    let mut found = Vec::new();
    for blocked in blocked {
        found.push(blocked.await.unwrap().ok().json().as_array().unwrap().len());
    }
    assert_eq!(found, [2, 1, 0, 2, 1, 0]);
    server.put("agent/check/pass/service:a?note=new", "").await.ok();
    let output = async |path: &str| {
        let answer = server.get(path).await.json();
        answer[0]["Checks"][0]["Output"].as_str().unwrap().to_owned()
    };
    assert_eq!(output("health/service/cart").await, "new", "who does not wait sees all");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(output("health/service/cart?index=1").await, "new");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_index_or_wait_is_refused() {
    let (server, _ticker) = Server::start();
    for query in ["index=x", "index=-1", "index=1&wait=10", "index=1&wait=soon"] {
        let answer = server.get(&format!("health/service/cart?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().starts_with("Invalid "), "{}", answer.text());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_index_ever_falls_and_every_change_is_seen_by_who_waits(
        steps in prop::collection::vec((0..3_usize, 0..7_u8), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (server, _ticker) = Server::start();
            let mut seen: HashMap<&str, (u64, serde_json::Value)> = HashMap::new();
            for (id, step) in steps {
                let id = ["a", "b", "c"][id];
                match step {
                    0 => server.register("cart", id).await,
                    1 => server.register("missing", id).await,
                    2 => drop(server.put(&format!("agent/service/deregister/{id}"), "").await),
                    3 => drop(server.put(&format!("agent/check/pass/service:{id}"), "").await),
                    4 => drop(server.put(&format!("agent/check/fail/service:{id}"), "").await),
                    5 => drop(server.put(&format!("kv/{id}"), format!("{step}")).await),
                    _ => sleep(Duration::from_secs(4)).await,
                }
                for path in WATCHED {
                    let answer = server.get(path).await;
                    let index = answer.index();
                    let mut shown = match answer.status { 200 => answer.json(), _ => serde_json::Value::Null };
                    forget_ages(&mut shown);
                    if let Some((before, was)) = seen.insert(path, (index, shown.clone())) {
                        assert!(index >= before, "{path} fell from {before} to {index}");
                        assert!(index > before || shown == was, "{path}: {was} became {shown} unseen");
                    }
                }
            }
        });
    }
}

/// How long ago something was, and what a check put out, is no change.
fn forget_ages(shown: &mut serde_json::Value) {
    match shown {
        serde_json::Value::Array(items) => items.iter_mut().for_each(forget_ages),
        serde_json::Value::Object(object) => {
            object.remove("LastHeardMs");
            object.remove("Output");
            object.values_mut().for_each(forget_ages);
        }
        _ => {}
    }
}
