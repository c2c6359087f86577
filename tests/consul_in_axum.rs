//! The registry's HTTP API beside the routes of an axum program, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{future::IntoFuture, time::Duration};

use axum::{Router, routing::get};
use gusset::registry::{ConsulPolicy, ConsulServer, Instance, Registration};
use reqwest::Client;
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

const LONG: Duration = Duration::from_secs(20);

/// Address and port of a program that serves `/hello`, all of the API, and the API once more under `/registry`.
async fn serve(server: ConsulServer) -> (String, oneshot::Sender<()>, impl Future<Output = ()>) {
    let routes = Router::new()
        .route("/hello", get(async || "hello"))
        .nest_service("/registry", server.clone())
        .fallback_service(server.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (end, ended) = oneshot::channel::<()>();
    let serving = axum::serve(listener, routes).with_graceful_shutdown(async move {
        let _ = ended.await;
        server.close();
    });
    let serving = tokio::spawn(serving.into_future());
    (address, end, async { serving.await.unwrap().unwrap() })
}

#[tokio::test]
async fn it_stands_beside_own_routes_and_is_one_registry_with_who_embeds_it() {
    let server = ConsulServer::new(ConsulPolicy::default());
    let _ticker = server.spawn_ticker();
    let cart = Registration::spawn(server.clone(), Instance::new("cart", "10.0.0.7", 80));
    cart.registered().await.unwrap();
    let (address, end, served) = serve(server).await;
    let client = Client::new();
    let ask = async |path: &str| {
        let answer = client.get(format!("{address}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(ask("/hello").await, (200, "hello".into()));
    for path in ["/v1/health/service/cart?passing", "/registry/v1/health/service/cart?passing"] {
        let (status, body) = ask(path).await;
        let entries: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &entries[0]["Service"]["Address"]),
            (200, &"10.0.0.7".into()),
            "{path}"
        );
    }
    assert_eq!(ask("/nowhere").await.0, 404);
    drop(client);
    end.send(()).unwrap();
    timeout(LONG, served).await.unwrap();
}

#[tokio::test]
async fn a_graceful_end_answers_who_is_blocked_and_waits_for_nobody() {
    let server = ConsulServer::new(ConsulPolicy::default());
    let (address, end, served) = serve(server.clone()).await;
    let client = Client::new();
    client.put(format!("{address}/v1/kv/a")).body("1").send().await.unwrap();
    let first = client.get(format!("{address}/v1/kv/a?raw")).send().await.unwrap();
    let index = first.headers()["x-consul-index"].to_str().unwrap().to_owned();
    let blocked = client.get(format!("{address}/v1/kv/a?raw&wait=10m&index={index}"));
    let blocked = tokio::spawn(blocked.send());
    timeout(LONG, async {
        while server.stats().watchers == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();

    drop(client);
    end.send(()).unwrap();
    let answer = timeout(LONG, blocked).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "1");
    timeout(LONG, served).await.unwrap();
}
