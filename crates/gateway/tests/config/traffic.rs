//! Splits, mirrors and limits of what is under way, out of a file and over its changes.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::any};
use gusset_gateway::{
    Admin, Gateway,
    config::{Reloading, Resources},
};
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::{File, built, common::*};

/// An instance that answers with its name.
async fn named(name: &'static str) -> Running {
    upstream(Router::new().route("/{*all}", any(async move || name))).await
}

/// Two upstreams, and a route with these fields.
fn two(blue: SocketAddr, green: SocketAddr, of_route: &str) -> String {
    format!(
        "[upstreams.blue]\naddresses = [\"{blue}\"]\n[upstreams.green]\naddresses = [\"{green}\"]\n\
         [[routes]]\npath = \"/{{*rest}}\"\n{of_route}\n"
    )
}

async fn said(reloading: &Reloading) -> String {
    text(ask(&reloading.live().current(), to("/a")).await).await
}

async fn operator(reloading: &Reloading, method: &str, path: &str) -> (u16, Value) {
    let admin = Admin::builder(reloading.live().clone()).build();
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let (head, body) = admin.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
}

fn weights(split: &Value) -> Vec<u64> {
    let variants = split["variants"].as_array().unwrap();
    variants.iter().map(|variant| variant["weight"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn weights_that_an_operator_has_set_go_on_until_the_file_says_otherwise() {
    let (blue, green) = (named("blue").await, named("green").await);
    let split = |weight: u32| {
        let split = format!(
            "split = [{{ to = \"blue\", weight = {weight} }}, {{ name = \"next\", to = \"green\", weight = 0 }}]"
        );
        two(blue.address, green.address, &split)
    };
    let on_disk = File::new("weights", &split(1));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    assert_eq!(said(&reloading).await, "blue");
    let (_, splits) = operator(&reloading, "GET", "/splits").await;
    assert_eq!(splits[0]["route"], "/{*rest}");
    assert_eq!(splits[0]["variants"][1]["name"], "next");
    assert_eq!(splits[0]["variants"][0]["calls"], 1);
    let at = splits[0]["at"].as_str().unwrap().to_owned();
    assert_eq!(at, "/splits/%7B%2Arest%7D");

    let (status, after) = operator(&reloading, "POST", &format!("{at}/weights?next=3")).await;
    assert_eq!((status, weights(&after)), (200, vec![0, 3]));
    assert_eq!(said(&reloading).await, "green");
    on_disk.write(&format!("# another line\n{}", split(1)));
    reloading.reload().unwrap();
    assert_eq!(said(&reloading).await, "green");
    let (_, splits) = operator(&reloading, "GET", "/splits").await;
    assert_eq!(splits[0]["variants"][1]["calls"], 2, "what was counted goes on");

    on_disk.write(&split(2));
    reloading.reload().unwrap();
    assert_eq!(said(&reloading).await, "blue", "it is described otherwise");
    for (order, status) in [
        ("weights", 422),
        ("weights?next=a", 422),
        ("weights?other=1", 422),
        ("weights?next=1&next=2", 422),
        ("weights?next=0", 422),
        ("promote", 422),
        ("promote?variant=other", 422),
        ("abort", 409),
        ("turn", 404),
    ] {
        assert_eq!(
            operator(&reloading, "POST", &format!("{at}/{order}")).await.0,
            status,
            "{order}"
        );
    }
    assert_eq!(operator(&reloading, "POST", "/splits/none/revert").await.0, 404);
    assert_eq!(operator(&reloading, "GET", &format!("{at}/revert")).await.0, 405);
    assert_eq!(operator(&reloading, "POST", "/splits").await.0, 405);
    assert_eq!(said(&reloading).await, "blue", "what was refused has changed nothing");
    let (_, after) = operator(&reloading, "POST", &format!("{at}/promote?variant=next")).await;
    assert_eq!(weights(&after), [0, 1]);
    let (_, after) = operator(&reloading, "POST", &format!("{at}/revert")).await;
    assert_eq!(weights(&after), [2, 0]);
    operator(&reloading, "POST", &format!("{at}/promote?variant=next")).await;
    for text in [two(blue.address, green.address, "to = \"blue\""), split(2)] {
        on_disk.write(&text);
        reloading.reload().unwrap();
        assert_eq!(said(&reloading).await, "blue", "one that was gone begins as the file says");
    }
}

#[tokio::test]
async fn a_rollout_begins_with_its_file_and_what_became_of_it_outlives_reloads() {
    let (blue, green) = (named("blue").await, named("green").await);
    let rollout = |first: u8| {
        let of_route = format!(
            "split = [{{ to = \"blue\", weight = 1 }}, {{ to = \"green\", weight = 0 }}]\n\
             rollout = {{ variant = \"green\", steps = [{first}, 100], hold = \"1h\", calls = 1000, errors = 0.02, slower = false }}"
        );
        two(blue.address, green.address, &of_route)
    };
    let on_disk = File::new("rollout", &rollout(50));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let split = async || operator(&reloading, "GET", "/splits").await.1[0].clone();
    assert_eq!(weights(&split().await), [1, 1]);
    assert_eq!(split().await["rollout"]["state"], "running");
    let order = async |order: &str| {
        operator(&reloading, "POST", &format!("/splits/{{*rest}}/{order}")).await
    };
    let (status, after) = order("abort").await;
    assert_eq!((status, weights(&after), &after["rollout"]), (200, vec![1, 0], &Value::Null));
    assert_eq!(order("abort").await.0, 409, "the second order does not take the first one back");
    on_disk.write(&format!("# another line\n{}", rollout(50)));
    reloading.reload().unwrap();
    assert_eq!(weights(&split().await), [1, 0], "what an operator has ended does not begin again");

    on_disk.write(&rollout(20));
    reloading.reload().unwrap();
    assert_eq!(weights(&split().await), [4, 1], "another rollout begins anew");
    on_disk.write(&format!("{}timeout = \"9s\"", rollout(20)));
    reloading.reload().unwrap();
    assert_eq!(split().await["rollout"]["percent"], 20);
    let (_, after) = order("promote").await;
    assert_eq!(weights(&after), [0, 1]);
    assert_eq!(said(&reloading).await, "green");
}

#[tokio::test]
async fn clients_stay_where_the_file_says_so_and_it_may_change_how() {
    let (blue, green) = (named("blue").await, named("green").await);
    let sticky = |by: &str| {
        let of_route = format!(
            "split = [{{ to = \"blue\", weight = 1 }}, {{ to = \"green\", weight = 1 }}]\n{by}"
        );
        two(blue.address, green.address, &of_route)
    };
    let on_disk = File::new("sticky", &sticky("sticky = { cookie = \"side\" }"));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let answer = ask(&reloading.live().current(), to("/a")).await;
    assert!(answer.headers()["set-cookie"].to_str().unwrap().starts_with("side="));
    on_disk.write(&sticky("sticky = { header = \"x-user\" }"));
    reloading.reload().unwrap();
    let mut sides = std::collections::BTreeMap::<_, Vec<_>>::new();
    for number in 0..128 {
        let user = number % 16;
        let request = to("/a").header("x-user", user);
        let answer = ask(&reloading.live().current(), request).await;
        assert!(!answer.headers().contains_key("set-cookie"));
        sides.entry(user).or_default().push(text(answer).await);
    }
    assert!(sides.values().all(|said| said.iter().all(|side| *side == said[0])), "{sides:?}");
}

#[tokio::test]
async fn a_mirror_goes_on_and_counts_on() {
    let (blue, seen) = (named("blue").await, Arc::new(AtomicU32::new(0)));
    let copies = seen.clone();
    let copied = async move || {
        copies.fetch_add(1, SeqCst);
        "green"
    };
    let green = upstream(Router::new().route("/{*all}", any(copied))).await;
    let of_route =
        "to = \"blue\"\nmirror = { to = \"green\", share = 1, body_limit = \"1KiB\", at_once = 8 }";
    let text = two(blue.address, green.address, of_route);
    let on_disk = File::new("mirror", &text);
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let wait = async |copies| {
        while seen.load(SeqCst) < copies {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(said(&reloading).await, "blue");
    wait(1).await;
    on_disk.write(&format!("{text}timeout = \"9s\""));
    reloading.reload().unwrap();
    assert_eq!(said(&reloading).await, "blue");
    wait(2).await;
    let (_, routes) = operator(&reloading, "GET", "/routes").await;
    assert_eq!(routes[0]["mirror"]["sent"], 2);
    assert_eq!(routes[0]["mirror"]["to"], green.address.to_string());
}

/// A service whose answers wait for `go`, and that tells when it is asked.
async fn slow() -> (Running, Arc<Notify>, Arc<Notify>) {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, waits) = (asked.clone(), go.clone());
    let answer = async move || {
        told.notify_one();
        waits.notified().await;
        "done"
    };
    (upstream(Router::new().route("/{*all}", any(answer))).await, asked, go)
}

#[tokio::test]
async fn a_copy_under_way_is_finished_over_a_reload() {
    let (blue, (green, asked, go)) = (named("blue").await, slow().await);
    let of_route = "to = \"blue\"\nmirror = { to = \"green\", at_once = 1 }";
    let text = two(blue.address, green.address, of_route);
    let on_disk = File::new("copy", &text);
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let mirror = async || operator(&reloading, "GET", "/routes").await.1[0]["mirror"].clone();
    assert_eq!(said(&reloading).await, "blue");
    asked.notified().await;
    on_disk.write(&format!("{text}timeout = \"9s\""));
    reloading.reload().unwrap();
    assert_eq!(said(&reloading).await, "blue");
    let copies = mirror().await;
    assert_eq!((&copies["no_place"], &copies["failed"]), (&json!(1), &json!(0)));
    go.notify_one();
    while mirror().await["sent"] == 1 {
        assert_eq!(said(&reloading).await, "blue");
        tokio::task::yield_now().await;
    }
    assert_eq!(mirror().await["failed"], 0);
}

#[tokio::test]
async fn what_is_in_flight_counts_on_over_a_reload() {
    for (of_all, of_route) in
        [("", "in_flight = 1"), ("[defaults]\nshed = { fixed = 1 }\n", "priority = \"low\"")]
    {
        let (running, asked, go) = slow().await;
        let address = running.address;
        let text = format!(
            "{of_all}[upstreams.shop]\naddresses = [\"{address}\"]\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\n{of_route}\n"
        );
        let on_disk = File::new("in-flight", &text);
        let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
        let first = tokio::spawn({
            let gateway = reloading.live().current();
            async move { text_of(&gateway).await }
        });
        asked.notified().await;
        on_disk.write(&format!("{text}timeout = \"60s\""));
        reloading.reload().unwrap();
        let refused = ask(&reloading.live().current(), to("/a")).await;
        assert_eq!(refused.status(), 503, "{of_route}");
        go.notify_one();
        assert_eq!(first.await.unwrap(), "done");
        go.notify_one();
        assert_eq!(text_of(&reloading.live().current()).await, "done", "{of_route}");
    }
}

async fn text_of(gateway: &Gateway) -> String {
    text(ask(gateway, to("/a")).await).await
}

#[tokio::test]
async fn a_slow_request_is_made_a_second_time_where_the_file_says_so() {
    let hanging = Arc::new(AtomicU32::new(0));
    let seen = hanging.clone();
    let answer = async move |request: axum::extract::Request| {
        // The first one of this path never gets an answer.
        if request.uri().path() == "/slow" && seen.fetch_add(1, SeqCst) == 0 {
            pending::<()>().await;
        }
        "quick"
    };
    let running = upstream(Router::new().route("/{*all}", any(answer))).await;
    let address = running.address;
    let gateway = built(
        &format!(
            "[upstreams.shop]\naddresses = [\"{address}\"]\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\n\
             timeout = \"5m\"\nhedge = {{ percentile = 90, min_samples = 10, floor = \"2ms\", bearable_percent = 100 }}\n"
        ),
        &Resources::default(),
    );
    for _ in 0..100 {
        assert_eq!(text_of(&gateway).await, "quick");
    }
    let asked = ask(&gateway, to("/slow"));
    let answer = tokio::time::timeout(Duration::from_secs(120), asked).await.unwrap();
    assert_eq!(text(answer).await, "quick");
    assert_eq!(hanging.load(SeqCst), 2);
}

#[test]
fn splits_of_one_path_have_names_of_their_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let route = |fields: &str| {
            format!("[[routes]]\npath = \"/a\"\nsplit = [{{ to = \"s\", weight = 1 }}]\n{fields}\n")
        };
        let text = format!(
            "[upstreams.s]\naddresses = [\"10.0.0.1:80\"]\n{}{}{}{}",
            route("methods = [\"GET\"]"),
            route("methods = [\"POST\"]"),
            route("host = \"shop.example\""),
            route("").replace("/a", "/shop.example/a")
        );
        let on_disk = File::new("names", &text);
        let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
        let (_, splits) = operator(&reloading, "GET", "/splits").await;
        let names: Vec<_> =
            splits.as_array().unwrap().iter().map(|split| split["route"].clone()).collect();
        assert_eq!(
            names,
            [json!("/a"), json!("/a~2"), json!("shop.example/a"), json!("/shop.example/a~2")]
        );
        for name in ["a", "a~2", "shop.example/a", "shop.example/a~2"] {
            let order = format!("/splits/{name}/weights?s=7");
            assert_eq!(operator(&reloading, "POST", &order).await.0, 200, "{name}");
        }
        let (_, splits) = operator(&reloading, "GET", "/splits").await;
        assert!(splits.as_array().unwrap().iter().all(|split| weights(split) == [7]));
    });
}
