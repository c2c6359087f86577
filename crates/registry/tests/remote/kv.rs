//! The keys.

use gusset_registry::{ConsulPolicy, Error, KvWatch, RemoteKv};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{
    eventually,
    harness::{Process, Server},
    ms, policy,
};

fn kv_at(address: &str) -> RemoteKv {
    RemoteKv::new(address, policy()).unwrap()
}

fn shown(watch: &KvWatch) -> String {
    let snapshot = watch.snapshot();
    let pair = |entry: &gusset_registry::KvEntry| {
        format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))
    };
    snapshot.entries().iter().map(pair).collect::<Vec<_>>().join(" ")
}

async fn shows(watch: &KvWatch, wanted: &str) {
    eventually(&format!("{wanted:?}"), async || shown(watch) == wanted).await;
}

#[tokio::test]
async fn what_is_put_is_read_listed_and_gone_once_deleted() {
    let server = Server::start().await;
    let kv = kv_at(&server.address());
    assert_eq!(kv.get("shop/a").await.unwrap(), None);
    assert!(kv.list("").await.unwrap().is_empty());
    for (key, value) in [("shop/b", &[0, 255][..]), ("shop/a \u{e4}%", b"1"), ("other", b"")] {
        kv.put(key, value).await.unwrap();
    }
    let listed = kv.list("shop/").await.unwrap();
    let keys: Vec<_> = listed.iter().map(|entry| (&*entry.key, &entry.value[..])).collect();
    assert_eq!(keys, [("shop/a \u{e4}%", &b"1"[..]), ("shop/b", &[0, 255])]);
    assert_eq!(kv.get("other").await.unwrap().unwrap().value, "");
    kv.delete("shop/b").await.unwrap();
    kv.delete("shop/b").await.unwrap();
    assert_eq!(kv.get("shop/b").await.unwrap(), None);
}

#[tokio::test]
async fn of_two_that_swap_from_one_index_one_succeeds() {
    let server = Server::start().await;
    let kv = kv_at(&server.address());
    assert!(kv.cas("lock", "a", 0).await.unwrap());
    assert!(!kv.cas("lock", "b", 0).await.unwrap());
    let index = kv.get("lock").await.unwrap().unwrap().index;
    let (one, other) = tokio::join!(kv.cas("lock", "c", index), kv.cas("lock", "d", index));
    assert_ne!(one.unwrap(), other.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_dropped_midway_is_not_answered_to_the_next() {
    let server = Server::start().await;
    let few = policy().connections(1.try_into().unwrap());
    let kv = RemoteKv::new(&server.address(), few).unwrap();
    for key in ["a", "b"] {
        kv.put(key, key.repeat(100_000)).await.unwrap();
    }
    let mut dropped = 0;
    for n in 0..200 {
        let span = std::time::Duration::from_micros(n * 10);
        dropped += usize::from(timeout(span, kv.get("a")).await.is_err());
        assert_eq!(&*kv.get("b").await.unwrap().unwrap().key, "b");
    }
    assert!(dropped > 0);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_place() {
    let server = Server::with(ConsulPolicy::default().token("right")).await;
    let wrong = RemoteKv::new(&server.address(), policy().token("wrong")).unwrap();
    let error = wrong.get("a").await.unwrap_err();
    assert!(matches!(&error, Error::Refused(_)) && error.is_refusal(), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    let url = format!("http://{}/v1/kv/a", server.address());
    assert_eq!(
        cause,
        format!("GET {url}: 403 Forbidden: ACL not found: that is not the token of this server")
    );
    let right = RemoteKv::new(&server.address(), policy().token("right")).unwrap();
    right.put("a", "1").await.unwrap();

    let large = right.put("a", vec![0; (512 << 10) + 1]).await.unwrap_err().to_string();
    assert_eq!(large, "key \"a\" has a value of more than 512 KiB");
    let nobody = kv_at("127.0.0.1:1").get("a").await.unwrap_err();
    let cause = std::error::Error::source(&nobody).unwrap().to_string();
    assert_eq!(cause, "GET http://127.0.0.1:1/v1/kv/a: cannot connect");
    assert!(matches!(nobody, Error::Unavailable(_)));
}

#[tokio::test]
async fn a_watch_tells_of_the_last_state_and_only_of_its_prefix() {
    let server = Server::start().await;
    let kv = kv_at(&server.address());
    let mut watch = kv.watch("flags/").unwrap();
    assert!(!watch.snapshot().is_known());
    let first = watch.known().await;
    assert!(first.is_known() && first.entries().is_empty());
    watch.changed().await;
    for n in 0..30 {
        kv.put("flags/a", n.to_string()).await.unwrap();
    }
    shows(&watch, "flags/a=29").await;
    assert_eq!(watch.snapshot().text("flags/a"), Some("29"));
    let seen = watch.changed().await;
    assert!(seen.version() > first.version());
    kv.put("other", "1").await.unwrap();
    assert!(timeout(ms(100), watch.changed()).await.is_err());
    kv.delete("flags/a").await.unwrap();
    shows(&watch, "").await;
}

#[tokio::test]
async fn a_dropped_watch_ends_its_question() {
    let server = Server::start().await;
    let kv = kv_at(&server.address());
    let watch = kv.watch("").unwrap();
    let clone = watch.clone();
    watch.known().await;
    eventually("blocked", async || server.consul.stats().watchers == 1).await;
    drop(watch);
    assert_eq!(server.consul.stats().watchers, 1);
    drop(clone);
    eventually("given up", async || server.consul.stats().watchers == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_an_outage_a_watch_keeps_the_last_values_and_then_tells_what_it_missed() {
    let mut server = Server::start().await;
    let kv = kv_at(&server.address());
    kv.put("price", "1").await.unwrap();
    let watch = kv.watch("").unwrap();
    shows(&watch, "price=1").await;
    server.kill().await;
    eventually("suspect", async || watch.snapshot().is_suspect()).await;
    assert_eq!(shown(&watch), "price=1");
    assert!(kv.state().is_away() && kv.get("price").await.is_err());
    server.restart().await;
    eventually("kept", async || !watch.snapshot().is_suspect()).await;
    kv.put("price", "2").await.unwrap();
    shows(&watch, "price=2").await;
    assert!(!kv.state().is_away());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_is_believed_only_after_a_ttl() {
    let mut server = Process::start();
    let kv = kv_at(&server.address());
    kv.put("price", "1").await.unwrap();
    let watch = kv.watch("").unwrap();
    shows(&watch, "price=1").await;
    let begin = std::time::Instant::now();
    server.restart();
    eventually("it answers", async || kv.get("price").await.is_ok()).await;
    eventually("doubted", async || watch.snapshot().is_suspect()).await;
    assert_eq!(shown(&watch), "price=1");
    shows(&watch, "").await;
    assert!(begin.elapsed() > ms(3_000), "{:?}", begin.elapsed());
    assert!(!watch.snapshot().is_suspect());

    kv.put("price", "2").await.unwrap();
    shows(&watch, "price=2").await;
    server.restart();
    eventually("written again", async || kv.put("price", "3").await.is_ok()).await;
    shows(&watch, "price=3").await;
}

/// Answers each request with these bytes, whatever it is, and closes the connection.
pub(crate) async fn answers(
    bytes: &'static str,
) -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut buffer = [0; 4_096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
    });
    (address, asked)
}

#[tokio::test]
async fn nonsense_is_no_answer_and_no_reason_to_ask_again_at_once() {
    for nonsense in [
        "",
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 5\r\n\r\n[{]}]",
        "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 45\r\n\r\n[{\"Key\":\"a\",\"Value\":\"%%%\",\"ModifyIndex\":1 }]",
        "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops",
    ] {
        let (address, asked) = answers(nonsense).await;
        let kv = kv_at(&address);
        let watch = kv.watch("").unwrap();
        assert!(kv.get("a").await.is_err(), "{nonsense}");
        let known = timeout(ms(300), watch.known()).await;
        assert!(known.is_err(), "{nonsense}: {known:?}");
        let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
        assert!(asked < 20, "{asked} times in 300 ms: {nonsense}");
    }
}

#[tokio::test]
async fn a_server_without_indexes_is_asked_again_and_again_but_not_in_a_busy_loop() {
    let body = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]";
    let (address, asked) = answers(body).await;
    let watch = kv_at(&address).watch("").unwrap();
    watch.known().await;
    tokio::time::sleep(ms(500)).await;
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((2..20).contains(&asked), "{asked}");
}
