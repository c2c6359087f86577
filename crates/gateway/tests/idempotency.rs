//! One effect, however often a request is sent.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, http::HeaderMap, routing::post};
use bytes::Bytes;
use common::*;
use gusset_gateway::{AnswersInMemory, AuthError, Gateway, Idempotency, Identity, Route, Upstream};
use gusset_registry::MemoryRegistry;
use http::{Request, Response, request::Parts};
use http_body_util::Full;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// A service that counts its payments, takes `delay` milliseconds for each, and does what the body says.
struct Bank {
    running: Running,
    payments: Arc<AtomicU32>,
    delay: Arc<AtomicU64>,
}

async fn bank() -> Bank {
    let (payments, delay) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(20)));
    let (count, span) = (payments.clone(), delay.clone());
    let pay = move |body: Bytes| {
        let number = count.fetch_add(1, SeqCst) + 1;
        let span = Duration::from_millis(span.load(SeqCst));
        async move {
            tokio::time::sleep(span).await;
            let (status, size) = match &*body {
                b"fail" => (500, 10),
                b"busy" => (429, 10),
                b"large" => (200, 100_000),
                b"wrong" => (400, 10),
                _ => (201, 10),
            };
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            (status, [("x-payment", number.to_string())], "x".repeat(size))
        }
    };
    let running = upstream(Router::new().route("/pay", post(pay.clone()).put(pay))).await;
    Bank { running, payments, delay }
}

fn sender(head: &Parts) -> Result<Identity, AuthError> {
    let name = head.headers.get("authorization").ok_or(AuthError::Missing)?;
    Ok(Identity::new(name.to_str().unwrap()))
}

async fn shop(bank: &Bank, policy: Idempotency) -> Front {
    let to = || Upstream::fixed([bank.running.address]);
    let route =
        Route::new("/pay").to(to()).idempotency(policy.clone()).timeout(Duration::from_secs(5));
    let mine = Route::new("/mine").to(to()).rewrite("/pay").authenticated().idempotency(policy);
    let builder = Gateway::builder(MemoryRegistry::default());
    front(builder.route(route).route(mine).authenticate(sender)).await
}

fn in_memory() -> Idempotency {
    Idempotency::by(AnswersInMemory::default())
}

async fn pay(front: &Front, key: &str, body: &'static str) -> Response<hyper::body::Incoming> {
    let request = Request::post(front.url("/pay")).header("idempotency-key", key);
    client().request(request.body(Full::<Bytes>::from(body)).unwrap()).await.unwrap()
}

fn payment<B>(answer: &Response<B>) -> &str {
    answer.headers()["x-payment"].to_str().unwrap()
}

#[tokio::test]
async fn a_hundred_requests_at_once_have_one_effect() {
    let bank = bank().await;
    let front = Arc::new(shop(&bank, in_memory()).await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let front = front.clone();
        clients.spawn(async move {
            let answer = pay(&front, "one", "ten").await;
            let status = answer.status().as_u16();
            if status == 409 {
                assert_eq!(answer.headers()["retry-after"], "1");
                problem(answer).await;
            } else {
                assert_eq!((status, payment(&answer)), (201, "1"));
            }
            status
        });
    }
    let statuses = clients.join_all().await;
    assert!(statuses.contains(&201), "{statuses:?}");
    assert_eq!(bank.payments.load(SeqCst), 1);
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_and_another_one_422() {
    let bank = bank().await;
    let front = shop(&bank, in_memory()).await;
    let first = pay(&front, "a", "ten").await;
    assert_eq!(first.status(), 201);
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let first = (payment(&first).to_owned(), text(first).await);

    let again = pay(&front, "\"a\"", "ten").await;
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotent-replayed"]),
        (201, &"true".parse().unwrap())
    );
    assert_eq!(again.headers()["content-length"], "10");
    assert_eq!((payment(&again).to_owned(), text(again).await), first);

    assert_eq!(pay(&front, "a", "eleven").await.status(), 422);
    let elsewhere = Request::post(front.url("/pay?x=1")).header("idempotency-key", "a");
    let elsewhere = client().request(elsewhere.body(Full::<Bytes>::from("ten")).unwrap()).await;
    assert_eq!(elsewhere.unwrap().status(), 422);
    assert_eq!(pay(&front, "b", "ten").await.status(), 201);
    assert_eq!(bank.payments.load(SeqCst), 2);
}

#[tokio::test]
async fn keys_are_each_senders_own() {
    let bank = bank().await;
    let front = shop(&bank, in_memory()).await;
    let mine = async |who: &str| {
        let request = Request::post(front.url("/mine")).header("idempotency-key", "a");
        let request = request.header("authorization", who).body(Full::<Bytes>::from("ten"));
        payment(&client().request(request.unwrap()).await.unwrap()).to_owned()
    };
    assert_eq!(
        (mine("ann").await, mine("bob").await, mine("ann").await),
        ("1".into(), "2".into(), "1".into())
    );
    assert_eq!(pay(&front, "a", "ten").await.headers()["x-payment"], "3", "another route");
}

#[tokio::test]
async fn a_key_may_be_required_and_must_be_one() {
    let bank = bank().await;
    let front = shop(&bank, in_memory().required()).await;
    let without =
        client().request(Request::post(front.url("/pay")).body(Full::<Bytes>::default()).unwrap());
    let without = without.await.unwrap();
    assert_eq!(without.status(), 400);
    assert!(problem(without).await["detail"].as_str().unwrap().contains("required"));
    assert_eq!(pay(&front, "a b", "ten").await.status(), 400);
    let put = Request::put(front.url("/pay")).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(client().request(put).await.unwrap().status(), 201, "idempotent by itself");
}

#[tokio::test]
async fn failures_leave_the_key_free_and_answers_of_4xx_stay() {
    let bank = bank().await;
    let front = shop(&bank, in_memory()).await;
    for (body, status, payments) in
        [("fail", 500, ["1", "2"]), ("busy", 429, ["3", "4"]), ("wrong", 400, ["5", "5"])]
    {
        for number in payments {
            let answer = pay(&front, body, body).await;
            assert_eq!((answer.status().as_u16(), payment(&answer)), (status, number));
        }
    }
    let front = shop(&bank, in_memory().keep_server_errors()).await;
    for _ in 0..2 {
        assert_eq!(payment(&pay(&front, "a", "fail").await), "6");
    }
}

#[tokio::test]
async fn an_instance_that_breaks_off_leaves_the_key_free() {
    let (broken, mut requests) =
        canned("HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nhalf").await;
    let route = Route::new("/pay").to(Upstream::fixed([broken])).idempotency(in_memory());
    let front = front(Gateway::builder(MemoryRegistry::default()).route(route)).await;
    for _ in 0..2 {
        assert_eq!(pay(&front, "a", "ten").await.status(), 502);
        assert!(requests.recv().await.is_some(), "it is tried anew");
    }
}

#[tokio::test]
async fn a_client_that_leaves_finds_its_answer_when_it_comes_back() {
    let bank = bank().await;
    bank.delay.store(300, SeqCst);
    let front = shop(&bank, in_memory()).await;
    let mut left = TcpStream::connect(front.address).await.unwrap();
    let request =
        "POST /pay HTTP/1.1\r\nHost: a\r\nIdempotency-Key: a\r\nContent-Length: 3\r\n\r\nten";
    left.write_all(request.as_bytes()).await.unwrap();
    while bank.payments.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(left);
    let back = async {
        loop {
            let answer = pay(&front, "a", "ten").await;
            if answer.status() != 409 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), back).await.unwrap();
    // The other client has another `Host`, which is no part of the request's fingerprint.
    assert_eq!((answer.status().as_u16(), payment(&answer)), (201, "1"));
    assert_eq!(answer.headers()["idempotent-replayed"], "true");
    assert_eq!(bank.payments.load(SeqCst), 1);
}

#[tokio::test]
async fn a_request_that_was_never_whole_leaves_the_key_free() {
    let bank = bank().await;
    let front = shop(&bank, in_memory()).await;
    let mut left = TcpStream::connect(front.address).await.unwrap();
    let half = "POST /pay HTTP/1.1\r\nHost: a\r\nIdempotency-Key: a\r\nContent-Length: 3\r\n\r\nte";
    left.write_all(half.as_bytes()).await.unwrap();
    let held = async {
        while pay(&front, "a", "ten").await.status() != 409 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Whoever comes first has the key; the answer tells which.
    let _ = tokio::time::timeout(Duration::from_millis(200), held).await;
    drop(left);
    let free = async {
        while pay(&front, "a", "ten").await.status() != 201 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), free).await.unwrap();
    assert_eq!(bank.payments.load(SeqCst), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_streamed_and_its_request_not_made_again() {
    let bank = bank().await;
    let front = shop(&bank, in_memory()).await;
    let first = pay(&front, "a", "large").await;
    assert_eq!(first.status(), 200);
    assert_eq!(text(first).await.len(), 100_000);
    let again = pay(&front, "a", "large").await;
    assert_eq!(again.status(), 409);
    assert!(!again.headers().contains_key("retry-after"), "it will not be there later");
    assert_eq!(bank.payments.load(SeqCst), 1);
}

#[tokio::test]
async fn stored_answers_have_the_fields_of_the_page_that_asks() {
    let bank = bank().await;
    let cors = gusset_gateway::Cors::origins(["https://a.example", "https://b.example"]);
    let route = Route::new("/pay").to(Upstream::fixed([bank.running.address])).cors(cors);
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route.idempotency(in_memory()));
    let front = front(gateway).await;
    for origin in ["https://a.example", "https://b.example"] {
        let request = Request::post(front.url("/pay")).header("idempotency-key", "a");
        let request = request.header("origin", origin).body(Full::<Bytes>::from("ten")).unwrap();
        let answer = client().request(request).await.unwrap();
        let headers: &HeaderMap = answer.headers();
        assert_eq!(
            (payment(&answer), &headers["access-control-allow-origin"]),
            ("1", &origin.parse().unwrap())
        );
    }
}
