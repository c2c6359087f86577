//! What several gateways share by their files: quotas, answers, splits.

use axum::{Router, routing::any};
use gusset_gateway::config::{Config, Resources};

use crate::{built, common::*};

fn errors(text: &str) -> String {
    let config = Config::parse("g.toml", text);
    let built = config.and_then(|config| config.build(&Resources::default()).map(drop));
    built.unwrap_err().to_string()
}

async fn shop() -> Running {
    upstream(Router::new().route("/{*rest}", any(async || "ok"))).await
}

#[tokio::test]
async fn routes_share_a_split_by_its_name_and_operators_change_it_for_all() {
    let named = async |name: &'static str| {
        upstream(Router::new().route("/{*rest}", any(async move || name))).await
    };
    let (blue, green) = (named("blue").await, named("green").await);
    let file = |of_routes: &str| {
        format!(
            "[upstreams.blue]\naddresses = [\"{}\"]\n[upstreams.green]\naddresses = [\"{}\"]\n\
             [splits.side]\nvariants = [{{ to = \"blue\", weight = 1 }}, {{ to = \"green\", weight = 0 }}]\n\
             [[routes]]\npath = \"/a/{{*rest}}\"\nname = \"a\"\nsplit = \"side\"\n\
             [[routes]]\npath = \"/b/{{*rest}}\"\nsplit = \"side\"\n{of_routes}",
            blue.address, green.address
        )
    };
    let resources = Resources::default();
    let gateway = built(&file(""), &resources);
    for path in ["/a/1", "/b/1"] {
        assert_eq!(text(ask(&gateway, to(path)).await).await, "blue");
    }
    let admin = gusset_gateway::Admin::builder(gusset_gateway::Live::new(gateway.clone())).build();
    let order = http::Request::post("http://localhost/splits/a/promote?variant=green");
    let answer = tower::ServiceExt::oneshot(
        admin,
        order.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap(),
    );
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200, "{}", text(answer).await);
    for path in ["/a/1", "/b/1"] {
        assert_eq!(text(ask(&gateway, to(path)).await).await, "green");
    }
    let later = built(&file("timeout = \"3s\"\n"), &resources);
    assert_eq!(text(ask(&later, to("/b/1")).await).await, "green", "over a reload");
    let names: Vec<_> = later.stats().iter().map(|route| route.name.clone()).collect();
    assert_eq!(names, [Some("a".into()), None]);
}

#[test]
fn what_is_shared_must_be_there() {
    let with = |of_file: &str, of_route: &str| {
        format!(
            "{of_file}[upstreams.s]\naddresses = [\"10.0.0.1:80\"]\n[[routes]]\npath = \"/a\"\n{of_route}\n"
        )
    };
    let shared = "to = \"s\"\nquota = { rate = \"1/s\", shared = true }";
    let once = "to = \"s\"\nidempotency = { shared = true }";
    let split = "[splits.side]\nvariants = [{ to = \"s\", weight = 1 }]\n";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    for (text, expected) in [
        (with("", shared), "quota.shared: there is no Redis to share it by; add [redis]"),
        (with("", once), "idempotency.shared: there is no Redis to share it by; add [redis]"),
        (with("", "split = \"side\""), "split: there is no split \"side\"; add [splits.side]"),
        (
            with(&split.replace("to = \"s\"", "to = \"t\""), "to = \"s\""),
            "splits.side.variants[0].to: there is no upstream \"t\"",
        ),
        (with(split, "split = \"site\""), "there is no split \"site\"; \"side\" is meant?"),
        (
            with(split, "split = \"side\"\nrollout = { variant = \"s\" }"),
            "rollout: it is of the split of that name; write it there",
        ),
        (
            with("[redis]\nurl = \"redis://me:secret@10.0.0.1\"\n", shared),
            "redis.url: a password does not stand in the file",
        ),
        (
            with("[redis]\nurl = \"redis://h\"\naway = \"open\"\ngateways = 3\n", shared),
            "redis.gateways: it is for away = \"local\"",
        ),
        (
            with(
                "",
                "name = \"x\"\nto = \"s\"\n[[routes]]\npath = \"/b\"\nname = \"x\"\nto = \"s\"",
            ),
            "routes[1].name: an earlier route has this name already",
        ),
        (
            with("[registry]\netcd = [\"h:1\"]\ntoken = { env = \"PATH\" }\n", "to = \"s\""),
            "registry.token: it is for url, which is not there",
        ),
        (
            with("[registry]\netcd = [\"h:1\"]\nuser = \"u\"\n", "to = \"s\""),
            "registry.user: user and password go together; one of them is missing",
        ),
        (
            with("[registry]\netcd = [\"h:1\"]\nurl = \"http://h:1\"\n", "to = \"s\""),
            "only one of url, etcd can be",
        ),
    ] {
        let told = errors(&text);
        assert!(told.contains(expected), "{told}\n{text}");
        assert!(!told.contains("secret@"), "{told}");
    }
    #[cfg(not(feature = "redis"))]
    assert!(
        errors(&with("[redis]\nurl = \"redis://h\"\n", shared))
            .contains("build it with the feature redis")
    );
    #[cfg(not(feature = "etcd"))]
    assert!(
        errors(&with("[registry]\netcd = [\"h:1\"]\n", "to = \"s\""))
            .contains("build it with the feature etcd")
    );
}

#[cfg(feature = "redis")]
mod redis {
    use gusset_engines::Redis;

    use super::*;

    fn file(redis: &Redis, shop: &Running, of_route: &str) -> String {
        format!(
            "[redis]\nurl = \"{}\"\nname = \"front\"\naway = \"closed\"\nwait = \"10s\"\n\
             [upstreams.shop]\naddresses = [\"{}\"]\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\n\
             quota = {{ rate = \"4/d\", by = \"header:x-tenant\", shared = true }}\nidempotency = {{ shared = true }}\n{of_route}",
            redis.url(),
            shop.address
        )
    }

    #[tokio::test]
    async fn gateways_of_one_file_have_quotas_and_answers_together_also_over_reloads() {
        let (redis, shop) = (Redis::start(), shop().await);
        let (one, other) = (Resources::default(), Resources::default());
        let text_of = |of_route| file(&redis, &shop, of_route);
        let gateways = [built(&text_of(""), &one), built(&text_of(""), &other)];
        let by = |tenant: &str| to("/a").header("x-tenant", tenant);
        for number in 0..4 {
            assert_eq!(ask(&gateways[number % 2], by("t")).await.status(), 200);
        }
        assert_eq!(ask(&gateways[0], by("u")).await.status(), 200, "another one");
        let later = built(&text_of("timeout = \"3s\"\n"), &one);
        for gateway in gateways.iter().chain([&later]) {
            assert_eq!(ask(gateway, by("t")).await.status(), 429);
        }
        let order = |gateway: &gusset_gateway::Gateway| {
            let request = http::Request::post("http://gateway/pay").header("x-tenant", "v");
            let request = request.header("idempotency-key", "1");
            let body = http_body_util::Full::<bytes::Bytes>::from("ten");
            tower::ServiceExt::oneshot(gateway.clone(), request.body(body).unwrap())
        };
        assert!(!order(&gateways[0]).await.unwrap().headers().contains_key("idempotent-replayed"));
        let again = order(&gateways[1]).await.unwrap();
        assert_eq!(again.headers()["idempotent-replayed"], "true");
    }
}

#[cfg(feature = "etcd")]
mod etcd {
    use std::time::Duration;

    use gusset_engines::Etcd;
    use gusset_registry::{EtcdPolicy, EtcdRegistry, Instance, Registration};
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test]
    async fn services_are_found_in_etcd() {
        let (etcd, shop) = (Etcd::start(), shop().await);
        let policy = EtcdPolicy::default().prefix("/shop");
        let registry = EtcdRegistry::spawn([etcd.address()], policy).unwrap();
        let host = shop.address.ip().to_string();
        let instance = Instance::new("orders", host, shop.address.port());
        let registration = Registration::spawn(registry.clone(), instance);
        registration.registered().await.unwrap();
        let text = format!(
            "[registry]\netcd = [\"{}\"]\nprefix = \"/shop\"\n\
             [upstreams.orders]\nservice = \"orders\"\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"orders\"\n",
            etcd.address()
        );
        let gateway = built(&text, &Resources::default());
        let begun = Instant::now();
        while ask(&gateway, to("/a")).await.status() != 200 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it is never found");
            sleep(Duration::from_millis(10)).await;
        }
    }
}
