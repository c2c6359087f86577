//! Tokens whose keys come from elsewhere, and change.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use axum::{Router, http::StatusCode, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use common::*;
use gusset_gateway::{Gateway, Jwt, Route, Upstream};
use gusset_registry::MemoryRegistry;
use http::Request;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

/// An issuer with one key.
struct Issuer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        Self { kid, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = B64.encode(self.pair.public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x, "alg": "EdDSA", "use": "sig" })
    }

    #[expect(clippy::disallowed_methods, reason = "tokens speak of the clock on the wall")]
    /// A token for `subject` that ends in a minute, or has ended that long ago.
    fn token(&self, subject: &str, ended: bool) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let exp = if ended { now - 120 } else { now + 60 };
        let header = B64.encode(json!({ "alg": "EdDSA", "kid": self.kid }).to_string());
        let claims = json!({ "sub": subject, "exp": exp, "iss": "https://login", "aud": "shop", "scope": "a" });
        let signed = format!("{header}.{}", B64.encode(claims.to_string()));
        format!("{signed}.{}", B64.encode(self.pair.sign(signed.as_bytes())))
    }
}

fn set(issuers: &[&Issuer]) -> String {
    json!({ "keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// An address with a set of keys, which counts who asks and can be away.
struct Keys {
    running: Running,
    set: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
    away: Arc<AtomicBool>,
}

async fn keys(first: String) -> Keys {
    let set = Arc::new(Mutex::new(first));
    let (asked, away) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (shown, count, gone) = (set.clone(), asked.clone(), away.clone());
    let answer = move || {
        count.fetch_add(1, SeqCst);
        let (away, set) = (gone.load(SeqCst), shown.lock().unwrap().clone());
        async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            if away { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(set) }
        }
    };
    let running = upstream(Router::new().route("/jwks", get(answer))).await;
    Keys { running, set, asked, away }
}

/// A shop for whom `jwt` lets in, which tells whom it sees.
async fn shop(jwt: Jwt) -> (Running, Front) {
    let who =
        async |headers: http::HeaderMap| headers["x-gusset-subject"].to_str().unwrap().to_owned();
    let service = upstream(Router::new().route("/me", get(who))).await;
    let route = Route::new("/me").scopes(["a"]).to(Upstream::fixed([service.address]));
    let jwt = jwt.issuer("https://login").audience("shop");
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).authenticate(jwt);
    let front = front(gateway).await;
    (service, front)
}

async fn asked(front: &Front, token: &str) -> http::Response<hyper::body::Incoming> {
    let request = Request::get(front.url("/me")).header("authorization", format!("Bearer {token}"));
    client().request(request.body(Default::default()).unwrap()).await.unwrap()
}

async fn by_url(keys: &Keys) -> (Running, Front) {
    shop(Jwt::jwks_url(&format!("http://{}/jwks", keys.running.address)).unwrap()).await
}

#[tokio::test]
async fn a_hundred_first_tokens_wait_for_one_fetch_of_the_keys() {
    let issuer = Issuer::new("1");
    let keys = keys(set(&[&issuer])).await;
    let (_service, front) = by_url(&keys).await;
    let front = Arc::new(front);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (front, token) = (front.clone(), issuer.token(&format!("user-{number}"), false));
        clients.spawn(async move {
            let answer = asked(&front, &token).await;
            (answer.status().as_u16(), text(answer).await == format!("user-{number}"))
        });
    }
    assert!(clients.join_all().await.iter().all(|outcome| *outcome == (200, true)));
    assert_eq!(keys.asked.load(SeqCst), 1);
}

#[tokio::test]
async fn a_new_key_is_fetched_when_the_first_token_names_it_and_a_flood_of_unknown_names_is_not() {
    let (old, new, stranger) = (Issuer::new("old"), Issuer::new("new"), Issuer::new("strange"));
    let keys = keys(set(&[&old])).await;
    let (_service, front) = by_url(&keys).await;
    assert_eq!(asked(&front, &old.token("ann", false)).await.status(), 200);
    for _ in 0..50 {
        let refused = asked(&front, &stranger.token("eve", false)).await;
        assert_eq!(refused.status(), 401);
        let challenge = refused.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.starts_with(r#"Bearer error="invalid_token""#), "{challenge}");
    }
    assert!(keys.asked.load(SeqCst) <= 2, "at most every ten seconds");

    *keys.set.lock().unwrap() = set(&[&new]);
    let taken = async {
        while asked(&front, &new.token("bob", false)).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), taken).await.unwrap();
    let withdrawn = asked(&front, &old.token("ann", false)).await;
    assert_eq!(withdrawn.status(), 401, "what was verified with the old key is dropped");
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_503_and_the_last_ones_go_on() {
    let issuer = Issuer::new("1");
    let keys = keys(set(&[&issuer])).await;
    keys.away.store(true, SeqCst);
    let (_service, front) = by_url(&keys).await;
    let token = issuer.token("ann", false);
    let begun = tokio::time::Instant::now();
    for _ in 0..10 {
        let answer = asked(&front, &token).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"] == "1"),
            (503, true)
        );
    }
    let (asked_for, most) = (keys.asked.load(SeqCst), 1 + begun.elapsed().as_secs());
    assert!(u64::from(asked_for) <= most, "{asked_for}: it is not asked again within a second");

    keys.away.store(false, SeqCst);
    let back = async {
        while asked(&front, &token).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.unwrap();
    drop(keys);
    let stranger = Issuer::new("2");
    assert_eq!(asked(&front, &stranger.token("eve", false)).await.status(), 401);
    assert_eq!(
        asked(&front, &issuer.token("bob", false)).await.status(),
        200,
        "from the last keys"
    );
}

#[tokio::test]
async fn a_key_file_is_read_again_when_a_token_names_a_new_key() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let path = std::env::temp_dir().join(format!("gusset-jwks-{}", std::process::id()));
    std::fs::write(&path, set(&[&old])).unwrap();
    let (_service, front) = shop(Jwt::jwks_file(&path).unwrap()).await;
    assert_eq!(asked(&front, &old.token("ann", false)).await.status(), 200);
    std::fs::write(&path, "{").unwrap();
    assert_eq!(asked(&front, &new.token("bob", false)).await.status(), 401);
    assert_eq!(asked(&front, &old.token("ann", false)).await.status(), 200);
    std::fs::write(&path, set(&[&new])).unwrap();
    let taken = async {
        while asked(&front, &new.token("bob", false)).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), taken).await.unwrap();
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn an_expired_token_is_told_so_and_a_forged_one_learns_nothing() {
    let (issuer, forger) = (Issuer::new("1"), Issuer::new("1"));
    let keys = keys(set(&[&issuer])).await;
    let (_service, front) = by_url(&keys).await;
    let challenge = async |token: String| {
        let answer = asked(&front, &token).await;
        assert_eq!(answer.status(), 401);
        answer.headers()["www-authenticate"].to_str().unwrap().to_owned()
    };
    assert!(challenge(issuer.token("ann", true)).await.contains("expired"));
    let forged = challenge(forger.token("ann", true)).await;
    assert_eq!(
        forged,
        r#"Bearer error="invalid_token", error_description="the token is not valid""#
    );
    assert_eq!(challenge("nonsense".into()).await, forged);
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    for bad in
        ["", "shop", "ftp://shop/jwks", "http://", "http://me@shop/", "https://shop/jwks", "/jwks"]
    {
        assert!(Jwt::jwks_url(bad).is_err(), "{bad}");
    }
}

#[cfg(feature = "tls")]
mod over_tls {
    use std::fs;

    use gusset_gateway::Server;
    use tokio::net::TcpListener;

    use super::{common::certs::Folder, *};

    /// The status of a request whose token is signed by keys at `https://localhost`, which shows that certificate.
    async fn status(folder: &Folder, shown: &str, authorities: &Folder) -> StatusCode {
        let issuer = Issuer::new("1");
        let keys = set(&[&issuer]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/jwks", get(async move || keys));
        let server = Server::new().tls(folder.files(shown).read().unwrap());
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(server.run(listener, router, std::future::pending()));
        let authorities = fs::read(authorities.file("ca.pem")).unwrap();
        let url = format!("https://localhost:{port}/jwks");
        let (_service, front) = shop(Jwt::jwks_url_tls(&url, authorities).unwrap()).await;
        asked(&front, &issuer.token("ann", false)).await.status()
    }

    #[tokio::test]
    async fn keys_come_from_whom_the_certificate_says_or_not_at_all() {
        let (folder, stranger) = (Folder::new("jwks"), Folder::new("jwks-stranger"));
        folder.certificate("right", "localhost");
        folder.certificate("wrong", "login.example");
        assert_eq!(status(&folder, "right", &folder).await, 200);
        assert_eq!(status(&folder, "wrong", &folder).await, 503);
        assert_eq!(status(&folder, "right", &stranger).await, 503);
    }
}
