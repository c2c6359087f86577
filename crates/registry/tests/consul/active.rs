//! Checks that the server makes, of what really listens; so time is real here.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_registry::{ActiveChecks, ConsulPolicy, ConsulTicker};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::server::Server;

const SOON: Duration = Duration::from_secs(20);

/// Answers every request with a status.
struct Site {
    port: u16,
    status: Arc<AtomicU16>,
    /// The head of the last request.
    asked: Arc<Mutex<String>>,
    most: Arc<AtomicUsize>,
}

impl Site {
    async fn start(takes: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (status, asked, most): (Arc<AtomicU16>, Arc<Mutex<String>>, Arc<AtomicUsize>) =
            Default::default();
        status.store(200, SeqCst);
        let site = Self { port, status: status.clone(), asked: asked.clone(), most: most.clone() };
        let now = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (status, asked, most, now) =
                    (status.clone(), asked.clone(), most.clone(), now.clone());
                tokio::spawn(async move {
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    let mut head = vec![0; 4_096];
                    let length = stream.read(&mut head).await.unwrap_or(0);
                    *asked.lock().unwrap() = String::from_utf8_lossy(&head[..length]).into();
                    sleep(takes).await;
                    now.fetch_sub(1, SeqCst);
                    let status = status.load(SeqCst);
                    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 6\r\n\r\nsecret");
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        site
    }
}

fn start(checks: ActiveChecks) -> (Server, ConsulTicker) {
    Server::with(ConsulPolicy::default().active_checks(checks))
}

async fn register(server: &Server, address: &str, check: Value) -> (u16, String) {
    let body = json!({"Name": "cart", "Address": address, "Port": 80, "Check": check});
    let answer = server.put("agent/service/register", body.to_string()).await;
    (answer.status, answer.text().to_owned())
}

/// Waits until the check has that status, and returns its output.
async fn becomes(server: &Server, status: &str) -> String {
    let seen = async {
        loop {
            let check = server.get("agent/checks").await.json()["service:cart"].clone();
            if check["Status"] == status && check["Output"] != "" {
                return check["Output"].as_str().unwrap().to_owned();
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, seen).await.unwrap_or_else(|_| panic!("never {status}"))
}

#[tokio::test]
async fn an_http_check_asks_as_it_was_told_and_shows_no_more_than_a_status() {
    let site = Site::start(Duration::ZERO).await;
    let (server, _ticker) = start(ActiveChecks::OfInstance);
    let url = format!("http://localhost:{}/ready?all", site.port);
    let check = json!({
        "HTTP": url, "Interval": "1s", "Timeout": "5s", "Method": "HEAD",
        "Header": {"X-Key": ["a", "b"], "Host": ["shop"]},
    });
    assert_eq!(register(&server, "127.0.0.1", check).await.0, 200);
    assert_eq!(becomes(&server, "passing").await, format!("HTTP HEAD {url}: success"));
    let asked = site.asked.lock().unwrap().clone();
    assert!(asked.starts_with("HEAD /ready?all HTTP/1.1\r\n"), "{asked}");
    for header in ["\r\nx-key: a\r\n", "\r\nx-key: b\r\n", "\r\nhost: shop\r\n"] {
        assert!(asked.contains(header), "{asked}");
    }
    assert!(!asked.contains("localhost"), "{asked}");
    assert_eq!(server.passing("cart").await, ["cart"]);

    site.status.store(429, SeqCst);
    assert!(becomes(&server, "warning").await.ends_with("answered with status 429"));
    site.status.store(500, SeqCst);
    assert!(becomes(&server, "critical").await.ends_with("answered with status 500"));
    site.status.store(200, SeqCst);
    becomes(&server, "passing").await;
    let shown = server.get("agent/checks").await;
    assert!(!shown.text().contains("secret"));
    let check = &shown.json()["service:cart"];
    assert_eq!((&check["Type"], &check["Definition"]["HTTP"]), (&"http".into(), &url.into()));
}

#[tokio::test]
async fn a_tcp_check_connects_and_a_grpc_check_asks_for_a_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (server, _ticker) = start(ActiveChecks::OfInstance);
    let check = json!({"TCP": address, "Interval": "1s"});
    assert_eq!(register(&server, "127.0.0.1", check).await.0, 200);
    becomes(&server, "passing").await;
    drop(listener);
    assert!(becomes(&server, "critical").await.contains("cannot connect"));

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("cart", tonic_health::ServingStatus::Serving).await;
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap());
    let incoming = incoming.unwrap();
    let address = incoming.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming),
    );
    let check = json!({"GRPC": format!("{address}/cart"), "Interval": "1s"});
    assert_eq!(register(&server, "127.0.0.1", check).await.0, 200);
    becomes(&server, "passing").await;
    reporter.set_service_status("cart", tonic_health::ServingStatus::NotServing).await;
    assert!(becomes(&server, "critical").await.contains("serving status"));
}

#[tokio::test]
async fn only_the_instance_itself_is_asked_and_no_metadata_service() {
    let (server, _ticker) = start(ActiveChecks::OfInstance);
    let elsewhere = json!({"HTTP": "http://169.254.169.254/latest", "Interval": "1s"});
    let (status, said) = register(&server, "10.0.0.7", elsewhere.clone()).await;
    assert_eq!(status, 400);
    assert_eq!(
        said.trim(),
        r#"HTTP: "169.254.169.254" is not the address of the instance ("10.0.0.7"), and no other is asked here"#
    );
    // Who says that it lives there is not asked either.
    assert_eq!(register(&server, "169.254.169.254", elsewhere).await.0, 200);
    assert!(becomes(&server, "critical").await.ends_with("no address that may be asked"));

    let late = json!({"Name": "late", "ServiceID": "cart", "TCP": "10.0.0.9:1", "Interval": "1s"});
    assert_eq!(server.put("agent/check/register", late.to_string()).await.status, 400);
}

#[tokio::test]
async fn no_more_than_64_attempts_are_made_at_once_and_a_slow_one_holds_up_nobody() {
    let site = Site::start(Duration::from_millis(300)).await;
    let (server, _ticker) = start(ActiveChecks::Anywhere);
    for n in 0..150 {
        let check = json!({"HTTP": format!("http://127.0.0.1:{}/", site.port), "Interval": "10s"});
        let body = json!({"Name": format!("s{n}"), "Check": check});
        server.put("agent/service/register", body.to_string()).await.ok();
    }
    let passing = async {
        loop {
            let passing = server.get("health/state/passing").await.json();
            if passing.as_array().unwrap().len() == 150 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, passing).await.unwrap();
    let most = site.most.load(SeqCst);
    assert!((20..=64).contains(&most), "{most}");
}

#[tokio::test]
async fn a_check_that_was_under_way_when_the_ticker_ended_is_made_by_the_next_one() {
    let site = Site::start(Duration::from_secs(60)).await;
    let (server, ticker) = start(ActiveChecks::OfInstance);
    let url = format!("http://127.0.0.1:{}/", site.port);
    let check = json!({"HTTP": url, "Interval": "1s", "Timeout": "50s"});
    assert_eq!(register(&server, "127.0.0.1", check).await.0, 200);
    let asked = async |times| {
        let all = async {
            while site.most.load(SeqCst) < times {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, all).await.is_ok()
    };
    assert!(asked(1).await);
    drop(ticker);
    let _ticker = server.0.spawn_ticker();
    assert!(asked(2).await, "never again");
}

#[tokio::test]
async fn a_header_that_says_something_false_of_the_request_ends_no_checks() {
    let site = Site::start(Duration::ZERO).await;
    let (server, _ticker) = start(ActiveChecks::OfInstance);
    let url = format!("http://127.0.0.1:{}/", site.port);
    for (name, value) in [
        ("Content-Length", "100"),
        ("Content-Length", "x"),
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "gzip"),
        ("Connection", "upgrade"),
        ("Expect", "100-continue"),
        ("Host", ""),
    ] {
        let check = json!({
            "HTTP": url, "Interval": "1s", "Timeout": "2s", "Header": {name: [value]},
            "Method": "GET", "Status": "critical",
        });
        assert_eq!(register(&server, "127.0.0.1", check).await.0, 200);
        let before = server.get("agent/checks").await.json();
        assert_eq!(before["service:cart"]["Status"], "critical", "{name}: {value}");
        let judged = async {
            while server.get("agent/checks").await.json()["service:cart"]["Output"] == "" {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, judged).await.unwrap_or_else(|_| panic!("never judged: {name}: {value}"));
        server.put("agent/service/deregister/cart", "").await.ok();
    }
}
