//! Who sends a request, what they may, and what upstreams are told of it.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::time::{Duration, SystemTime};

use axum::{Json, Router, routing::any};
use bytes::Bytes;
use common::*;
use gusset_gateway::{
    ApiKey, ApiKeys, AuthError, Authenticate, Authenticating, BuildError, Builder, ByCertificate,
    Gateway, Identity, IdentityHeaders, PeerCertificate, Route, Upstream,
};
use gusset_ratelimit::Quota;
use gusset_registry::MemoryRegistry;
use http::{HeaderMap, HeaderName, Request, Response, Uri, request::Parts};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::ServiceExt;

/// A service that answers with the fields and the target that it saw.
async fn mirror() -> Running {
    let seen = async |uri: Uri, headers: HeaderMap| {
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let fields: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Json(json!({ "target": uri.to_string(), "fields": fields }))
    };
    upstream(Router::new().route("/{*all}", any(seen))).await
}

fn before(service: &Running, route: Route) -> Builder {
    let to = Upstream::fixed([service.address]);
    Gateway::builder(MemoryRegistry::default()).route(route.to(to))
}

/// The values of a field that the service saw.
async fn seen<B>(answer: Response<B>, name: &str) -> Vec<String>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    assert_eq!(answer.status(), 200);
    let seen: Value = serde_json::from_str(&text(answer).await).unwrap();
    let fields = seen["fields"].as_array().unwrap().iter();
    let of_name = fields.filter(|field| field[0] == name);
    of_name.map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

async fn send(_: &Front, request: http::request::Builder) -> Response<hyper::body::Incoming> {
    client().request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

fn alice(head: &Parts) -> Result<Identity, AuthError> {
    match head.headers.get("authorization") {
        None => Err(AuthError::Missing),
        Some(_) => Ok(Identity::new("alice")
            .with_scopes(["orders:read", "orders:write"])
            .with_roles(["user"])
            .with_claim("email", "alice@shop.example")),
    }
}

#[tokio::test]
async fn upstreams_are_told_who_it_is_and_do_not_get_the_credential() {
    let service = mirror().await;
    let front =
        front(before(&service, Route::new("/{*all}").authenticated()).authenticate(alice)).await;
    let ask = || Request::get(front.url("/a")).header("authorization", "Bearer x");
    for (name, value) in [
        ("x-gusset-subject", &["alice"][..]),
        ("x-gusset-scopes", &["orders:read orders:write"]),
        ("x-gusset-roles", &["user"]),
        ("x-gusset-claim-email", &["alice@shop.example"]),
        ("authorization", &[]),
    ] {
        assert_eq!(seen(send(&front, ask()).await, name).await, value, "{name}");
    }
}

#[tokio::test]
async fn credentials_go_on_where_nobody_is_asked_for_and_where_they_are_kept() {
    let service = mirror().await;
    let to = || Upstream::fixed([service.address]);
    let front = front(
        Gateway::builder(MemoryRegistry::default())
            .route(Route::new("/public").to(to()))
            .route(Route::new("/kept").authenticated().keep_credentials().to(to()))
            .authenticate(alice),
    )
    .await;
    for path in ["/public", "/kept"] {
        let request = Request::get(front.url(path)).header("authorization", "Bearer x");
        assert_eq!(seen(send(&front, request).await, "authorization").await, ["Bearer x"]);
    }
}

#[tokio::test]
async fn identity_fields_of_a_client_never_arrive_however_they_are_spelled() {
    let service = mirror().await;
    let names = IdentityHeaders::new().subject(HeaderName::from_static("x-user"));
    let to = || Upstream::fixed([service.address]);
    let front = front(
        Gateway::builder(MemoryRegistry::default())
            .route(Route::new("/public").to(to()))
            .route(Route::new("/mine").authenticated().to(to()))
            .authenticate(alice)
            .identity_headers(names)
            .trusted_proxies(["127.0.0.0/8".parse().unwrap()]),
    )
    .await;
    let forged = [
        "x-gusset-subject",
        "x-gusset-scopes",
        "x-gusset-roles",
        "x-gusset-claim-email",
        "X_Gusset_Subject",
        "x-gusset_roles",
        "x-user",
        "x_user",
        "x-gusset-claim-anything",
    ];
    for path in ["/public", "/mine"] {
        for name in forged {
            let request = Request::get(front.url(path))
                .header("authorization", "Bearer x")
                .header("connection", "x-user, x-gusset-roles")
                .header(name, "admin");
            let answer = text(send(&front, request).await).await;
            assert!(!answer.contains("admin"), "{path} {name}: {answer}");
            assert_eq!(path == "/mine", answer.contains(r#"["x-user","alice"]"#), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_scope_or_a_role_that_is_missing_is_403_and_the_scope_is_named() {
    let service = mirror().await;
    let to = || Upstream::fixed([service.address]);
    let front = front(
        Gateway::builder(MemoryRegistry::default())
            .route(Route::new("/both").scopes(["orders:read", "orders:write"]).to(to()))
            .route(Route::new("/other").scopes(["orders:read", "users:read"]).to(to()))
            .route(Route::new("/one").any_scope(["users:read", "orders:read"]).to(to()))
            .route(Route::new("/none").any_scope(["users:read", "users:write"]).to(to()))
            .route(Route::new("/role").any_role(["admin", "user"]).to(to()))
            .route(Route::new("/admin").roles(["user", "admin"]).to(to()))
            .authenticate(alice),
    )
    .await;
    for (path, challenge) in [
        ("/both", None),
        ("/one", None),
        ("/role", None),
        ("/other", Some(r#"Bearer error="insufficient_scope", scope="orders:read users:read""#)),
        ("/none", Some(r#"Bearer error="insufficient_scope", scope="users:read users:write""#)),
        ("/admin", Some(r#"Bearer error="insufficient_scope""#)),
    ] {
        let request = Request::get(front.url(path)).header("authorization", "Bearer x");
        let answer = send(&front, request).await;
        let said = answer.headers().get("www-authenticate").map(|line| line.to_str().unwrap());
        assert_eq!((answer.status() == 403, said), (challenge.is_some(), challenge), "{path}");
    }
    let nobody = send(&front, Request::get(front.url("/admin"))).await;
    assert_eq!(nobody.status(), 401, "who it is comes before what it may");
}

#[test]
fn a_route_that_lets_nobody_pass_is_refused() {
    let route = Route::new("/a").to("shop").any_role([""; 0]);
    let built = Gateway::builder(MemoryRegistry::default()).authenticate(alice).route(route);
    assert!(matches!(built.build(), Err(BuildError::Path { .. })));
    let unauthenticated = Route::new("/a").to("shop").scopes(["a"]);
    let built = Gateway::builder(MemoryRegistry::default()).route(unauthenticated).build();
    assert!(matches!(built, Err(BuildError::NoAuthenticate { .. })));
}

#[tokio::test]
async fn api_keys_are_read_again_when_their_file_changes_and_a_bad_file_changes_nothing() {
    let hash = |secret: &str| {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(secret);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let folder = std::env::temp_dir().join(format!("gusset-api-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("keys");
    let write = |lines: &str| std::fs::write(&path, format!("gusset-api-keys {lines}")).unwrap();
    write(&format!("1\nbilling {} scopes=invoices\n", hash("old")));

    let service = mirror().await;
    let keys = ApiKeys::file(&path).unwrap();
    let route = Route::new("/{*all}").scopes(["invoices"]);
    let gateway = before(&service, route).authenticate(keys).build().unwrap();
    let status = async |key: &str| ask(&gateway, to("/a").header("x-api-key", key)).await.status();
    assert_eq!(status("old").await, 200);
    assert_eq!(status("new").await, 401);

    let becomes = async |key: &str, wanted: u16| {
        let found = async {
            while status(key).await != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.unwrap();
    };
    write(&format!("1\nbilling {} scopes=invoices\n", hash("new")));
    becomes("new", 200).await;
    assert_eq!(status("old").await, 401);

    write("1\nbilling nonsense\n");
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(status("new").await, 200);
    write(&format!("1\nbilling {} scopes=invoices\n", hash("newest")));
    becomes("newest", 200).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn several_ways_are_asked_in_turn_and_the_one_with_a_credential_decides() {
    let service = mirror().await;
    let past = SystemTime::UNIX_EPOCH;
    let keys = ApiKeys::new([
        ApiKey::new("billing", "good key").scopes(["a"]).quota_key("shared"),
        ApiKey::new("former", "old key").expires(past),
    ]);
    let front = front(
        before(&service, Route::new("/{*all}").authenticated())
            .authenticate(alice)
            .authenticate(keys),
    )
    .await;
    let with = |fields: &[(&str, &str)]| {
        let request = Request::get(front.url("/a"));
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    let good = [("x-api-key", "good key")];
    assert_eq!(seen(send(&front, with(&good)).await, "x-gusset-subject").await, ["billing"]);
    assert_eq!(seen(send(&front, with(&good)).await, "x-api-key").await, [""; 0]);

    let both = [("authorization", "Bearer x"), ("x-api-key", "bad")];
    assert_eq!(seen(send(&front, with(&both)).await, "x-gusset-subject").await, ["alice"]);
    assert_eq!(seen(send(&front, with(&both)).await, "x-api-key").await, [""; 0], "nor unread");

    for wrong in ["bad", "old key"] {
        let answer = send(&front, with(&[("x-api-key", wrong)])).await;
        assert_eq!(answer.status(), 401, "{wrong}");
        assert_eq!(answer.headers()["www-authenticate"], "ApiKey");
    }
    let none = send(&front, with(&[])).await;
    let told: Vec<_> = none.headers().get_all("www-authenticate").iter().collect();
    assert_eq!(told, ["Bearer", "ApiKey"]);
}

#[tokio::test]
async fn clients_with_one_quota_key_share_a_quota_wherever_they_come_from() {
    let service = mirror().await;
    let keys = ApiKeys::new([
        ApiKey::new("one", "1").quota_key("team"),
        ApiKey::new("two", "2").quota_key("team"),
        ApiKey::new("three", "3"),
    ]);
    let route = Route::new("/{*all}").authenticated().quota(Quota::per_minute(1));
    let gateway = before(&service, route).authenticate(keys).build().unwrap();
    let status = async |key: &str| ask(&gateway, to("/a").header("x-api-key", key)).await.status();
    assert_eq!(status("1").await, 200);
    assert_eq!(status("2").await, 429);
    assert_eq!(status("3").await, 200);
}

/// Finds out after a while.
struct Slow(Duration);

impl Authenticate for Slow {
    fn authenticate(&self, _: &Parts) -> Authenticating {
        let span = self.0;
        Authenticating::Later(Box::pin(async move {
            tokio::time::sleep(span).await;
            Ok(Identity::new("late").with_scopes(["a"]))
        }))
    }
}

#[tokio::test]
async fn who_is_found_out_later_passes_the_same_gates() {
    let service = mirror().await;
    let to_service = || Upstream::fixed([service.address]);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/a").scopes(["a"]).quota(Quota::per_minute(1)).to(to_service()))
        .route(Route::new("/b").scopes(["b"]).to(to_service()))
        .authenticate(Slow(Duration::from_millis(5)))
        .build()
        .unwrap();
    let subject = ask(&gateway, to("/a").header("authorization", "x")).await;
    assert_eq!(seen(subject, "x-gusset-subject").await, ["late"]);
    assert_eq!(ask(&gateway, to("/a")).await.status(), 429);
    assert_eq!(ask(&gateway, to("/b")).await.status(), 403);
    assert_eq!(gateway.stats().iter().map(|stats| stats.refused).collect::<Vec<_>>(), [1, 1]);
}

/// A certificate with these alternative names, with nothing in it that is not read.
fn certificate(names: &[(u8, &str)]) -> PeerCertificate {
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], content].concat()
    }
    let names: Vec<u8> = names.iter().flat_map(|(tag, name)| der(*tag, name.as_bytes())).collect();
    let names = der(0x04, &der(0x30, &names));
    let extension = der(0x30, &[der(0x06, &[0x55, 0x1d, 0x11]), names].concat());
    let extensions = der(0xa3, &der(0x30, &extension));
    let fields: Vec<u8> = (0..6).flat_map(|_| der(0x30, &[])).collect();
    let tbs = der(0x30, &[der(0xa0, &der(0x02, &[2])), fields, extensions].concat());
    PeerCertificate::from_der(der(0x30, &tbs)).unwrap()
}

#[tokio::test]
async fn a_client_certificate_names_its_sender() {
    const DNS: u8 = 0x82;
    const URI: u8 = 0x86;
    let service = mirror().await;
    let by = |way| {
        before(&service, Route::new("/{*all}").authenticated()).authenticate(way).build().unwrap()
    };
    let (any, spiffe) = (by(ByCertificate::new()), by(ByCertificate::trust_domain("shop.example")));
    let cart = (URI, "spiffe://shop.example/cart");
    for (names, by_any, by_spiffe) in [
        (&[cart, (DNS, "cart.shop")][..], Some(cart.1), Some(cart.1)),
        (&[(DNS, "cart.shop"), (DNS, "b")], Some("cart.shop"), None),
        (&[cart, (URI, "spiffe://shop.example/admin")], None, None),
        (
            &[(URI, "spiffe://shop.example.evil/cart")],
            Some("spiffe://shop.example.evil/cart"),
            None,
        ),
        (&[(URI, "spiffe://shop.example/")], Some("spiffe://shop.example/"), None),
        (&[], None, None),
    ] {
        for (gateway, expected) in [(&any, by_any), (&spiffe, by_spiffe)] {
            let request = to("/a").extension(certificate(names));
            let answer = gateway.clone().oneshot(request.body(Full::<Bytes>::default()).unwrap());
            let answer = answer.await.unwrap();
            match expected {
                Some(name) => assert_eq!(seen(answer, "x-gusset-subject").await, [name]),
                None => assert_eq!(answer.status(), 401, "{names:?}"),
            }
        }
    }
    let without = ask(&any, to("/a")).await;
    assert_eq!(without.status(), 401);
    let both = certificate(&[cart, (DNS, "cart.shop"), (DNS, "b")]);
    assert!(both.uris().eq([cart.1]) && both.dns_names().eq(["cart.shop", "b"]));
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    for bad in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00", b"text"] {
        assert!(PeerCertificate::from_der(bad).is_err(), "{bad:?}");
    }
}
