//! A gateway that lets in who has a signed token: 401 without one, 403 without the scope, and the service behind is told who it is.
//!
//! `cargo run --example gateway_jwt`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use axum::{Router, http::HeaderMap, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use gusset::{
    call::BoxError,
    gateway::{Gateway, Jwt, JwtKey, Route, Upstream, serve},
    registry::MemoryRegistry,
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use tokio::{net::TcpListener, sync::oneshot};

/// The issuer of tokens has it as well. With `Jwt::jwks_url` nobody shares a secret.
const SECRET: &str = "a secret of thirty-two bytes or more";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let orders = TcpListener::bind("127.0.0.1:0").await?;
    let upstream = Upstream::fixed([orders.local_addr()?]);
    let whose = async |headers: HeaderMap| {
        let subject = headers.get("x-gusset-subject").and_then(|name| name.to_str().ok());
        format!("orders of {}", subject.unwrap_or("nobody"))
    };
    let service = Router::new().route("/orders", get(whose));
    tokio::spawn(async move { axum::serve(orders, service).await });

    let tokens =
        Jwt::new([JwtKey::secret(SECRET)?]).issuer("https://login.example").audience("shop");
    let gateway = Gateway::builder(MemoryRegistry::default())
        .authenticate(tokens)
        .route(Route::new("/orders").scopes(["orders:read"]).to(upstream))
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/orders", listener.local_addr()?);
    let (leave, left) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, gateway, async move { drop(left.await) }));

    let good = token("ann", "orders:read", 4_102_444_800);
    for (what, token) in [
        ("no token", None),
        ("a token that has expired", Some(token("ann", "orders:read", 1_000_000_000))),
        ("a token without the scope", Some(token("ann", "cart:read", 4_102_444_800))),
        ("a token that somebody changed", Some(good.replace('.', ".x"))),
        ("a good token", Some(good)),
    ] {
        // Nobody names himself: the gateway removes what clients say there.
        let mut request = reqwest::Client::new().get(&url).header("x-gusset-subject", "bob");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await?;
        println!("{what}: {}", answer.status());
        if answer.status().is_success() {
            println!("  {}", answer.text().await?);
        }
    }
    drop(leave);
    Ok(serving.await??)
}

/// What an issuer does.
fn token(subject: &str, scope: &str, expires: u64) -> String {
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let claims = json!({ "iss": "https://login.example", "aud": "shop", "sub": subject, "scope": scope, "exp": expires });
    let signed = format!("{}.{}", part(json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let mac =
        Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).map(|mac| mac.chain_update(&signed));
    let tag = mac.map(|mac| URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
    format!("{signed}.{}", tag.unwrap_or_default())
}
