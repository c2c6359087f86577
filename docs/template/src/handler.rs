//! The service over HTTP.

use axum::{
    Json, Router,
    extract::{MatchedPath, Path, State},
    routing::get,
};
use gusset::{
    call::Problem,
    ratelimit::{Quota, RateLimitLayer, RateLimiter},
    sidecar::{Route, Sidecar},
};
use http::{Extensions, StatusCode};
use serde::Deserialize;
use tower::ServiceBuilder;

use crate::{
    repository::Item,
    service::{Failure, Items},
};

/// The name by which traces and metrics know a request: the path with its parameters, not filled in.
pub fn route(extensions: &Extensions) -> Option<Route> {
    Some(extensions.get::<MatchedPath>()?.as_str().to_owned().into())
}

/// All of the API, with the layers of `sidecar` around it, and a limit for all clients together.
pub fn router(items: Items, sidecar: &Sidecar) -> Router {
    let layers = ServiceBuilder::new()
        .layer(sidecar.inbound())
        .layer(RateLimitLayer::new(RateLimiter::new(Quota::per_second(1_000))));
    Router::new()
        .route("/items", get(list).post(add))
        .route("/items/{name}", get(show))
        .with_state(items)
        .layer(layers)
}

#[derive(Deserialize)]
struct NewItem {
    name: String,
    price_cents: u64,
}

async fn add(
    State(items): State<Items>,
    Json(new): Json<NewItem>,
) -> Result<(StatusCode, Json<Item>), Problem> {
    let item = Item { name: new.name, price_cents: new.price_cents };
    let item = items.add(item).await.map_err(told)?;
    Ok((StatusCode::CREATED, Json(item)))
}

async fn show(State(items): State<Items>, Path(name): Path<String>) -> Result<Json<Item>, Problem> {
    items.get(&name).await.map(Json).map_err(told)
}

async fn list(State(items): State<Items>) -> Result<Json<Vec<Item>>, Problem> {
    items.all().await.map(Json).map_err(told)
}

/// A failure as clients see it.
fn told(failure: Failure) -> Problem {
    let (status, detail) = match failure {
        Failure::Taken(name) => (StatusCode::CONFLICT, format!("there is an item '{name}'")),
        Failure::Unknown(name) => (StatusCode::NOT_FOUND, format!("there is no item '{name}'")),
        Failure::Invalid(why) => (StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()),
        Failure::Unavailable => return Problem::new(StatusCode::SERVICE_UNAVAILABLE),
    };
    Problem::new(status).detail(detail)
}
