//! Settings of upstreams and of the server, out of a file.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use axum::{Router, extract::Request, http::StatusCode, routing::any};
use gusset_gateway::{
    Gateway, PeerAddr,
    config::{Config, Resources},
};
use gusset_registry::{Health, Instance, MemoryRegistry, Registry};
use tokio::sync::Notify;

use crate::{
    built,
    common::{certs::Folder, *},
};

/// An instance that answers with its name.
async fn named(name: &'static str) -> Running {
    upstream(Router::new().route("/{*all}", any(async move || name))).await
}

fn to_all(addresses: &[SocketAddr], of_upstream: &str) -> Gateway {
    let addresses: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let addresses = addresses.join(", ");
    let text = format!(
        "[upstreams.shop]\naddresses = [{addresses}]\n{of_upstream}\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\ntimeout = \"2m\"\n"
    );
    built(&text, &Resources::default())
}

async fn said(gateway: &Gateway) -> String {
    text(ask(gateway, to("/a")).await).await
}

#[tokio::test]
async fn who_has_no_instance_is_waited_for_as_long_as_the_file_says() {
    let resources = Resources::default().registry(MemoryRegistry::default());
    let text = "[upstreams.shop]\nservice = \"shop\"\nwait = \"0s\"\n[[routes]]\npath = \"/a\"\nto = \"shop\"\n";
    let gateway = built(text, &resources);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(ask(&gateway, to("/a")).await.status(), 503);
    assert!(begun.elapsed().as_millis() < 50, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn names_of_hosts_are_looked_up_and_go_on_over_reloads() {
    let service = named("a").await;
    let resources = Resources::default();
    let text_of = |route: &str| {
        format!(
            "[upstreams.shop]\naddresses = [\"localhost:{}\"]\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\n{route}",
            service.address.port()
        )
    };
    let first = built(&text_of(""), &resources);
    assert_eq!(said(&first).await, "a");
    first.breakers()[0].circuit.force_open();
    let second = built(&text_of("timeout = \"3s\""), &resources);
    drop(first);
    assert!(!second.breakers()[0].circuit.is_eligible(), "it is the same upstream");
    second.breakers()[0].circuit.reset();
    assert_eq!(said(&second).await, "a");
}

#[tokio::test]
async fn instances_are_picked_as_the_file_says() {
    let (a, b) = (named("a").await, named("b").await);
    let both = [a.address, b.address];
    let by_user = to_all(&both, "pick = \"header:x-user\"");
    let by_cookie = to_all(&both, "pick = \"cookie:user\"");
    let mut seen = BTreeSet::new();
    for user in 0..32 {
        let mut answers = BTreeSet::new();
        for _ in 0..4 {
            answers.insert(text(ask(&by_user, to("/a").header("x-user", user)).await).await);
        }
        assert_eq!(answers.len(), 1, "{user}");
        seen.extend(answers);
        let cookie = || to("/a").header("cookie", format!("a=1; user={user}"));
        let first = text(ask(&by_cookie, cookie()).await).await;
        assert_eq!(text(ask(&by_cookie, cookie()).await).await, first);
    }
    assert_eq!(seen.len(), 2, "one in 2^31 has them all at one instance");
    let in_turn = to_all(&both, "pick = \"round-robin\"");
    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(said(&in_turn).await);
    }
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
    for pick in ["least-loaded", "peak-ewma", "weighted", "random"] {
        let gateway = to_all(&both, &format!("pick = \"{pick}\""));
        let answer = said(&gateway).await;
        assert!(["a", "b"].contains(&&*answer), "{pick}: {answer}");
    }
}

#[tokio::test]
async fn connections_are_as_many_and_as_old_as_the_file_says() {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, waits) = (asked.clone(), go.clone());
    let answer = async move |request: Request| {
        if request.uri().path() == "/slow" {
            told.notify_one();
            waits.notified().await;
        }
        request.extensions().get::<PeerAddr>().unwrap().0.port().to_string()
    };
    let running = upstream(Router::new().route("/{*all}", any(answer))).await;
    let kept = to_all(&[running.address], "");
    assert_eq!(said(&kept).await, said(&kept).await);
    let fresh = to_all(&[running.address], "connections = { max_requests = 1 }");
    assert_ne!(said(&fresh).await, said(&fresh).await);

    let one = "connections = { max = 1, waiting = 0 }\nretry = { retries = 0 }";
    let gateway = to_all(&[running.address], one);
    let slow = tokio::spawn({
        let gateway = gateway.clone();
        async move { ask(&gateway, to("/slow")).await.status() }
    });
    asked.notified().await;
    assert_eq!(ask(&gateway, to("/a")).await.status(), 503);
    go.notify_one();
    assert_eq!(slow.await.unwrap(), 200);
}

#[tokio::test]
async fn tls_of_both_sides_and_certificates_of_clients_are_as_the_file_says() {
    let folder = Folder::new("config-tls");
    folder.certificate("shop", "shop.internal");
    folder.certificate("front", "spiffe://shop.example/front");
    let at = |name: &str| folder.file(name).display().to_string();
    let inner = upstream(Router::new().route("/{*all}", any(async || "inner"))).await;
    let behind = format!(
        "[[server.tls]]\ncertificates = \"{}\"\nkey = \"{}\"\n[server.clients]\nauthorities = \"{}\"\nrequired = true\n\
         [certificates]\ntrust_domain = \"shop.example\"\n\
         [upstreams.inner]\naddresses = [\"{}\"]\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"inner\"\nauthenticated = true\n",
        at("shop.pem"),
        at("shop.key"),
        at("ca.pem"),
        inner.address
    );
    let config = Config::parse("behind.toml", behind).unwrap();
    assert!(config.has_tls());
    let gateway = config.build(&Resources::default()).unwrap();
    let front = front_by(config.server().unwrap(), gateway).await;
    let own = format!("certificate = \"{}\", key = \"{}\"", at("front.pem"), at("front.key"));
    for (tls, status) in [
        (format!("name = \"shop.internal\", {own}"), 200),
        (format!("name = \"stock.internal\", {own}"), 502),
        ("name = \"shop.internal\"".to_owned(), 502),
    ] {
        let tls = format!(
            "tls = {{ authorities = \"{}\", {tls} }}\nconnect_timeout = \"60s\"\nretry = {{ retries = 0 }}",
            at("ca.pem")
        );
        let gateway = to_all(&[front.address], &tls);
        assert_eq!(ask(&gateway, to("/a")).await.status(), status, "{tls}");
    }
    let errors = config_errors(&format!(
        "[[server.tls]]\ncertificates = \"{}\"\nkey = \"{}\"\n",
        at("shop.pem"),
        at("ca.key")
    ));
    assert!(errors.starts_with("g.toml:1:1: server.tls: "), "{errors}");
}

fn config_errors(text: &str) -> String {
    Config::parse("g.toml", text).unwrap().server().unwrap_err().to_string()
}

#[tokio::test]
async fn an_upstream_is_the_part_of_a_service_that_the_file_says() {
    let (old, new) = (named("old").await, named("new").await);
    let registry = MemoryRegistry::default();
    let instance = |running: &Running, version: &str| {
        Instance::at("shop", running.address).with_version(version).with_health(Health::Healthy)
    };
    let old_one = instance(&old, "1").with_zone("eu-1");
    registry.register(old_one).await.unwrap();
    let new_one = instance(&new, "2").with_tag("canary").with_metadata("side", "green");
    registry.register(new_one.with_zone("eu-2")).await.unwrap();
    for (part, expected) in [
        ("tags = [\"canary\"]", "new"),
        ("without_tags = [\"canary\"]", "old"),
        ("version = \"2\"", "new"),
        ("metadata = { side = \"green\" }", "new"),
        ("zone = \"eu-1\"", "old"),
        ("zone = \"eu-2\"", "new"),
        ("tags = [\"canary\"]\nversion = \"1\"", "503"),
    ] {
        for (of_all, of_upstream) in [("", part), ("[defaults]\nzone = \"eu-1\"\n", part)] {
            let text = format!(
                "{of_all}[upstreams.shop]\nservice = \"shop\"\n{of_upstream}\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\n"
            );
            let gateway = built(&text, &Resources::default().registry(registry.clone()));
            // Where there is nobody, each call waits for somebody.
            for _ in 0..if expected == "503" { 1 } else { 8 } {
                let answer = ask(&gateway, to("/a")).await;
                let said = match answer.status() {
                    StatusCode::OK => text_of(answer).await,
                    status => status.as_u16().to_string(),
                };
                assert_eq!(said, expected, "{part}");
            }
        }
    }
    // All instances, unless the defaults have a zone.
    let text = |of_all: &str| {
        format!(
            "{of_all}[upstreams.shop]\nservice = \"shop\"\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\n"
        )
    };
    let resources = Resources::default().registry(registry);
    let gateway = built(&text(""), &resources);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        seen.insert(said(&gateway).await);
    }
    assert_eq!(seen.len(), 2);
    let gateway = built(&text("[defaults]\nzone = \"eu-2\"\n"), &resources);
    for _ in 0..20 {
        assert_eq!(said(&gateway).await, "new");
    }
}

async fn text_of(answer: http::Response<gusset_gateway::GatewayBody>) -> String {
    text(answer).await
}

#[tokio::test]
async fn who_fails_is_left_out_as_the_file_says() {
    let good = named("good").await;
    let bad = async || StatusCode::INTERNAL_SERVER_ERROR;
    let bad = upstream(Router::new().route("/{*all}", any(bad))).await;
    let ejected = async |eject: &str| {
        let of_upstream = format!(
            "{eject}\npick = \"round-robin\"\nbreaker = {{ failures_in_a_row = 1000 }}\nretry = {{ retries = 0 }}"
        );
        let gateway = to_all(&[good.address, bad.address], &of_upstream);
        for _ in 0..8 {
            ask(&gateway, to("/a")).await;
        }
        let breakers = gateway.breakers();
        breakers.iter().filter(|breaker| breaker.endpoint.ejected.is_some()).count()
    };
    let one = "eject = { failures_in_a_row = 2, base = \"1h\", longest = \"2h\", share = 0.5, min_instances = 2 }";
    assert_eq!(ejected(one).await, 1);
    assert_eq!(ejected("eject = false").await, 0);
    assert_eq!(ejected("").await, 0, "the breaker judges by failures in a row");
}
