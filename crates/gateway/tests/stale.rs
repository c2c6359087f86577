//! An upstream that closes idle connections without a word, as they are about to be used.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::*;
use gusset_breaker::Policy;
use gusset_gateway::{Connections, Gateway, Route, Transport, Upstream, UpstreamPolicy};
use gusset_registry::MemoryRegistry;
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};
use tower::ServiceExt;

/// How often each request was executed, by its path.
type Executed = Arc<Mutex<HashMap<String, u32>>>;

/// From 0 to `most` µs, the same in each run.
fn pause(seed: u64, most: u64) -> Duration {
    Duration::from_micros((seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % most)
}

/// Answers, and closes what was idle for 0.5 to 6 ms.
async fn flaky(executed: Executed) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let executed = executed.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                for turn in 0.. {
                    let idle = Duration::from_micros(500) + pause(number * 1000 + turn, 5500);
                    let idle = if turn == 0 { Duration::from_secs(60) } else { idle };
                    let Ok(Ok(length @ 1..)) = timeout(idle, stream.read(&mut buffer)).await else {
                        return;
                    };
                    let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    *executed.lock().unwrap().entry(path).or_default() += 1;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// How many of the requests were not answered with 200, and how often each was executed.
async fn failures(method: &str, connections: Connections) -> (usize, usize, HashMap<String, u32>) {
    // By hand with more: GUSSET_STALE_REQUESTS=26000 cargo test --release …
    let requests = std::env::var("GUSSET_STALE_REQUESTS").map_or(1_600, |n| n.parse().unwrap());
    let executed = Executed::default();
    let to = Upstream::fixed([flaky(executed.clone()).await]);
    let transport = Transport::http1().connections(connections);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .breaker(Policy::consecutive(u32::MAX))
        .upstream(to.clone(), UpstreamPolicy::new().transport(transport).eject(None))
        .route(Route::new("/{*rest}").to(to).timeout(Duration::from_secs(60)))
        .build()
        .unwrap();
    let clients: Vec<_> = (0..16_usize)
        .map(|client| {
            let (gateway, method) = (gateway.clone(), method.to_owned());
            tokio::spawn(async move {
                let mut failed = 0;
                for turn in 0..requests / 16 {
                    sleep(pause((client * 100_000 + turn) as u64, 6000)).await;
                    let request = Request::builder()
                        .method(&*method)
                        .uri(format!("http://gateway/{client}/{turn}"))
                        .body(Full::<bytes::Bytes>::default())
                        .unwrap();
                    let answer = gateway.clone().oneshot(request).await.unwrap();
                    match answer.status().as_u16() {
                        200 => assert_eq!(text(answer).await, "ok"),
                        502 => failed += 1,
                        other => assert_eq!(other, 502),
                    }
                }
                failed
            })
        })
        .collect();
    let mut failed = 0;
    for client in clients {
        failed += client.await.unwrap();
    }
    let executed = executed.lock().unwrap().clone();
    (requests / 16 * 16, failed, executed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_repeated_never_fails_by_a_connection_that_its_instance_closes() {
    let (asked, failed, _) = failures("GET", Connections::new()).await;
    println!("GET: {failed} of {asked}");
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_repeated_is_executed_once_or_told_as_failed() {
    let (asked, failed, executed) = failures("POST", Connections::new()).await;
    println!("POST: {failed} of {asked}");
    assert!(executed.values().all(|times| *times == 1));
    assert!(executed.len() + failed >= asked, "none is answered that was not executed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_fresh_connections_everything_is_executed_exactly_once() {
    let fresh = Connections::new().fresh_for_unsafe(true);
    let (asked, failed, executed) = failures("POST", fresh).await;
    println!("POST by fresh connections: {failed} of {asked}");
    assert_eq!((failed, executed.len()), (0, asked));
    assert!(executed.values().all(|times| *times == 1));
}
