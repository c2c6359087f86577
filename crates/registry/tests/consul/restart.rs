//! What a server knows after it was started again.

use std::{fs, path::PathBuf, time::Duration};

use gusset_registry::{ConsulPolicy, ConsulSaver, ConsulServer, ConsulTicker, SnapshotError};
use tokio::time::{advance, sleep};

use crate::server::Server;

const OFTEN: Duration = Duration::from_millis(10);

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gusset-consul-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        Self(std::env::temp_dir().join(name))
    }

    fn start(&self) -> (Server, ConsulTicker, ConsulSaver) {
        let (server, ticker) = Server::start();
        let saver = server.0.spawn_saver(&self.0, OFTEN).unwrap();
        (server, ticker, saver)
    }

    /// Why it does not start.
    fn refused(&self) -> SnapshotError {
        let server = ConsulServer::new(ConsulPolicy::default());
        server.spawn_saver(&self.0, OFTEN).unwrap_err()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn an_acknowledged_key_is_there_after_a_crash_with_its_indexes() {
    let folder = Folder::new();
    let (server, _ticker, saver) = folder.start();
    server.put("kv/flags/new-cart?flags=3", "on").await.ok();
    server.put("kv/flags/old", "x").await.ok();
    server.call(http::Method::DELETE, "kv/flags/old", "").await.ok();
    let before = server.get("kv/flags/new-cart").await.json();
    let index = server.get("kv/flags/?recurse").await.index();
    // No chance to save anything.
    drop(saver);

    let (server, _ticker, _saver) = folder.start();
    let after = server.get("kv/flags/?recurse").await;
    assert_eq!(after.json()[0], before[0]);
    assert_eq!(after.json().as_array().unwrap().len(), 1);
    assert!(after.index() > index);
    let modified = &before[0]["ModifyIndex"];
    let answer = server.put(&format!("kv/flags/new-cart?cas={modified}"), "off").await;
    assert_eq!(answer.json(), true);
}

#[tokio::test]
async fn writes_that_come_together_are_all_done_and_judged_one_by_one() {
    let folder = Folder::new();
    let (server, _ticker, saver) = folder.start();
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                server.put(&format!("kv/{}?cas=0", n % 50), n.to_string()).await.json() == true
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += usize::from(task.await.unwrap());
    }
    assert_eq!(won, 50, "one of four");
    drop(saver);
    let (server, _ticker, _saver) = folder.start();
    assert_eq!(server.0.stats().keys, 50);
}

#[tokio::test(start_paused = true)]
async fn instances_come_back_as_they_were_but_suspect_and_have_one_ttl() {
    let folder = Folder::new();
    let (server, _ticker, saver) = folder.start();
    for id in ["well", "silent", "ill"] {
        server.register("cart", id).await;
        server.pass(id).await;
    }
    server.put("agent/check/fail/service:ill?note=broken", "").await.ok();
    let body = r#"{"Node": "far", "Address": "10.1.1.1", "Service": {"Service": "pay"}}"#;
    server.put("catalog/register", body).await.ok();
    let before = server.get("health/service/cart").await;
    saver.close().await.unwrap();

    let (server, _ticker, _saver) = folder.start();
    let after = server.get("health/service/cart").await;
    assert!(after.index() > before.index());
    for (after, before) in
        after.json().as_array().unwrap().iter().zip(before.json().as_array().unwrap())
    {
        assert_eq!(after["Service"], before["Service"]);
        assert_eq!(after["Checks"][0]["Status"], before["Checks"][0]["Status"]);
        assert_eq!(after["Checks"][0]["Output"], before["Checks"][0]["Output"]);
        assert_eq!(after["Checks"][0]["Suspect"], after["Checks"][0]["Status"] == "passing");
    }
    assert_eq!(server.get("catalog/service/pay").await.json()[0]["Address"], "10.1.1.1");
    sleep(Duration::from_secs(9)).await;
    assert_eq!(server.passing("cart").await, ["silent", "well"]);
    server.pass("well").await;
    let checks = server.get("agent/checks").await.json();
    assert_eq!(checks["service:well"]["Suspect"], false);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(server.passing("cart").await, ["well"]);
}

#[tokio::test(start_paused = true)]
async fn who_still_waits_with_an_index_from_before_is_answered_at_once() {
    let folder = Folder::new();
    let (server, _ticker, saver) = folder.start();
    server.register("cart", "a").await;
    server.put("kv/a", "1").await.ok();
    let paths = ["health/service/cart?", "health/service/none?", "kv/a?", "catalog/services?"];
    let mut indexes = Vec::new();
    for path in paths {
        indexes.push(server.get(path).await.index());
    }
    saver.close().await.unwrap();
    let (server, _ticker, _saver) = folder.start();
    for (path, index) in paths.iter().zip(indexes) {
        let path = format!("{path}index={index}&wait=10m");
        let answer = tokio::time::timeout(Duration::from_secs(1), server.get(&path)).await;
        let now = answer.expect(&path).index();
        assert!(now > index, "{path}");
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_set_back_the_index() {
    let folder = Folder::new();
    fs::create_dir(&folder.0).unwrap();
    let far = u64::MAX / 2;
    let saved = format!(r#"{{"format": 1, "index": {far}, "nodes": []}}"#);
    fs::write(folder.0.join("catalog.json"), saved).unwrap();
    let (server, _ticker, _saver) = folder.start();
    for path in ["health/service/cart", "catalog/services", "kv/a"] {
        assert!(server.get(path).await.index() > far, "{path}");
    }
}

#[tokio::test]
async fn the_own_node_may_have_another_name_after_a_restart() {
    let folder = Folder::new();
    let (server, _ticker, saver) = folder.start();
    server.register("cart", "a").await;
    saver.close().await.unwrap();
    let (server, _ticker) = Server::with(ConsulPolicy::default().node("renamed", "10.0.0.9"));
    let _saver = server.0.spawn_saver(&folder.0, OFTEN).unwrap();
    server.pass("a").await;
    assert_eq!(server.passing("cart").await, ["a"]);
    let nodes = server.get("catalog/nodes").await.json();
    assert_eq!(nodes.as_array().unwrap().len(), 1);
    assert_eq!(nodes[0]["Node"], "renamed");
}

#[tokio::test]
async fn a_newer_or_damaged_file_keeps_it_from_starting_and_is_left_alone() {
    let folder = Folder::new();
    fs::create_dir(&folder.0).unwrap();
    let (catalog, keys) = (folder.0.join("catalog.json"), folder.0.join("kv.log"));
    for (file, content) in [(&catalog, r#"{"format": 2}"#), (&keys, "{\"format\":2}\n")] {
        fs::write(file, content).unwrap();
        let error = folder.refused();
        assert!(matches!(error, SnapshotError::Newer { format: 2, .. }), "{error}");
        assert_eq!(fs::read_to_string(file).unwrap(), content);
        fs::remove_file(file).unwrap();
    }
    fs::write(&keys, "{\"format\":1}\n0000000000000000 []\n0000000000000000 []\n").unwrap();
    let error = folder.refused();
    assert_eq!(error.to_string(), format!("line 2 of {} is damaged", keys.display()));
    fs::remove_file(&keys).unwrap();
    fs::write(&catalog, "no JSON").unwrap();
    let error = folder.refused();
    assert!(matches!(error, SnapshotError::Unreadable { .. }), "{error}");
    assert!(folder.0.join("catalog.json.unreadable-1").exists());
    drop(folder.start());
}

#[tokio::test]
async fn a_file_of_this_format_is_read_by_every_later_release() {
    let folder = Folder::new();
    fs::create_dir(&folder.0).unwrap();
    for file in ["catalog.json", "kv.log"] {
        let fixture = format!("{}/tests/fixtures/consul-1-{file}", env!("CARGO_MANIFEST_DIR"));
        fs::copy(fixture, folder.0.join(file)).unwrap();
    }
    let (server, _ticker, _saver) = folder.start();
    assert_eq!(server.passing("cart").await, ["cart-1"]);
    assert_eq!(server.get("kv/flags/new-cart?raw").await.text(), "on");
    assert_eq!(server.0.stats().keys, 1);
}

#[tokio::test]
async fn once_the_saver_is_closed_no_key_is_written_that_would_be_lost() {
    let folder = Folder::new();
    let (server, _ticker, saver) = folder.start();
    server.put("kv/a", "1").await.ok();
    saver.close().await.unwrap();
    let late = server.put("kv/a", "2").await;
    assert_eq!((late.status, late.text()), (503, "this server is ending\n"));
    assert_eq!(server.get("kv/a?raw").await.text(), "1", "what was not kept nobody sees");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_write_nothing_to_the_disk() {
    let folder = Folder::new();
    let (server, _ticker, _saver) = folder.start();
    server.register("cart", "a").await;
    server.pass("a").await;
    let modified = || fs::metadata(folder.0.join("catalog.json")).and_then(|file| file.modified());
    while modified().is_err() {
        sleep(OFTEN).await;
    }
    sleep(Duration::from_millis(200)).await;
    let before = modified().unwrap();
    for _ in 0..20 {
        advance(Duration::from_millis(100)).await;
        server.pass("a").await;
    }
    assert_eq!(modified().unwrap(), before);
}

#[tokio::test]
async fn a_folder_is_for_one_server_at_a_time() {
    let folder = Folder::new();
    let (_server, _ticker, saver) = folder.start();
    let second = ConsulServer::new(ConsulPolicy::default());
    let refused = second.spawn_saver(&folder.0, OFTEN).unwrap_err();
    let lock = folder.0.join("lock");
    assert_eq!(refused.to_string(), format!("{} is in use by another registry", lock.display()));
    saver.close().await.unwrap();
    second.spawn_saver(&folder.0, OFTEN).unwrap().close().await.unwrap();
}
