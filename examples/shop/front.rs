//! The gateway of the shop.

use std::sync::Arc;

use gusset::{
    breaker,
    gateway::{AuthError, BuildError, Builder, Gateway, Identity, Route, Split},
    ratelimit::Quota,
    registry::Registry,
    sidecar::Recorder,
};
use http::{HeaderMap, Method, header};
use uuid::Uuid;

use crate::{Quotas, page, token::Tokens};

/// What the front door goes by.
#[derive(Clone, Debug)]
pub struct Door {
    /// By which it knows who has logged in.
    pub tokens: Tokens,
    /// Where it counts what clients may. What they read of the catalogue it counts by itself.
    pub quotas: Quotas,
    /// When it leaves an instance alone.
    pub breaker: breaker::Policy,
}

/// Orders per user: 100 a minute.
#[must_use]
pub fn order_quota() -> Quota {
    Quota::per_minute(100)
}

/// Looks at the cart and changes of it, per user: 50 a minute.
#[must_use]
pub fn cart_quota() -> Quota {
    Quota::per_minute(50)
}

/// Looks at the catalogue, per user, or per address of those who are not logged in: 600 a minute.
#[must_use]
pub fn catalogue_quota() -> Quota {
    Quota::per_minute(600)
}

/// The front door of the shop.
///
/// # Errors
///
/// If a route is not well formed, which only a change of this file can bring about.
pub fn gateway(
    registry: Arc<dyn Registry>,
    door: &Door,
    recorder: Recorder,
    products: &Split,
) -> Result<Gateway, BuildError> {
    let (login, catalogue) = (door.tokens.clone(), door.tokens.clone());
    let catalogue = move |path: &str| {
        let tokens = catalogue.clone();
        Route::new(path)
            .methods([Method::GET])
            .split(products.clone())
            .strip_prefix("/api")
            .quota_by(catalogue_quota(), move |client| {
                match bearer(&client.head.headers).map(|token| tokens.verify(token)) {
                    Some(Ok(user)) => user.to_string(),
                    _ => client.address.map(|address| address.to_string()).unwrap_or_default(),
                }
            })
    };
    let open = |path: &str, method| {
        Route::new(path).methods([method]).to("user-service").strip_prefix("/api")
    };
    let cart = |path: &str, methods: &[Method]| {
        let route = Route::new(path).methods(methods.iter().cloned()).to("cart-service");
        door.quotas.limit(route.strip_prefix("/api").authenticated(), path, cart_quota())
    };
    let order = |path: &str, methods: &[Method]| {
        let route = Route::new(path).methods(methods.iter().cloned()).to("order-service");
        door.quotas.limit(route.strip_prefix("/api").authenticated(), path, order_quota())
    };
    let builder = page::routes().fold(Gateway::builder(registry), Builder::route);
    builder
        .breaker(door.breaker)
        .recorder(recorder)
        .authenticate(move |head: &http::request::Parts| identify(&login, &head.headers))
        .route(open("/api/users", Method::POST))
        .route(open("/api/login", Method::POST))
        .route(open("/api/users/{id}", Method::GET).authenticated())
        .route(catalogue("/api/products"))
        .route(catalogue("/api/products/{id}"))
        .route(cart("/api/cart", &[Method::GET, Method::DELETE]))
        .route(cart("/api/cart/items/{product}", &[Method::PUT, Method::DELETE]))
        .route(order("/api/orders", &[Method::GET, Method::POST]))
        .route(order("/api/orders/{id}", &[Method::GET]))
        .route(order("/api/orders/{id}/history", &[Method::GET]))
        .route(order("/api/orders/{id}/events", &[Method::GET]))
        .build()
}

fn identify(tokens: &Tokens, headers: &HeaderMap) -> Result<Identity, AuthError> {
    let token = bearer(headers).ok_or(AuthError::Missing)?;
    let user: Uuid = tokens.verify(token).map_err(|_| AuthError::Invalid)?;
    Ok(Identity::new(user.to_string()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
