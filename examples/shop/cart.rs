//! The cart service: what a user means to buy, for half an hour. Carts promise nothing, so they are in memory only and end with the process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use gusset::call::Problem;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    api::{Json, Path, Subject, lock, not_found, problem},
    event::Line,
};

/// How long a cart outlives its last change.
const TTL: Duration = Duration::from_secs(30 * 60);

/// How many different products one cart holds.
const LINES: usize = 100;

/// How many carts there are at most; the one that was left alone the longest makes room.
const CARTS: usize = 100_000;

/// The service with its store.
#[derive(Clone, Debug, Default)]
pub struct Carts {
    store: Arc<Mutex<HashMap<Uuid, Cart>>>,
}

#[derive(Debug)]
struct Cart {
    lines: BTreeMap<Uuid, u32>,
    changed: Instant,
}

/// The content of a cart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its lines.
    pub items: Vec<Line>,
}

#[derive(Deserialize)]
struct Quantity {
    quantity: u32,
}

impl Carts {
    /// Its HTTP interface. Every path is about the cart of the authenticated user.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/cart", get(show).delete(empty))
            .route("/cart/items/{product}", axum::routing::put(set).delete(remove))
            .with_state(self.clone())
    }

    fn content(&self, user: Uuid) -> Content {
        let carts = lock(&self.store);
        let cart = carts.get(&user).filter(|cart| cart.changed.elapsed() < TTL);
        let lines = cart.into_iter().flat_map(|cart| &cart.lines);
        let items = lines.map(|(&product_id, &quantity)| Line { product_id, quantity }).collect();
        Content { items }
    }

    fn set(&self, user: Uuid, product: Uuid, quantity: u32) -> Result<(), Problem> {
        let mut carts = lock(&self.store);
        if carts.len() >= CARTS && !carts.contains_key(&user) {
            make_room(&mut carts);
        }
        let new = || Cart { lines: BTreeMap::new(), changed: Instant::now() };
        let cart = carts.entry(user).or_insert_with(new);
        if cart.changed.elapsed() >= TTL {
            cart.lines.clear();
        }
        if cart.lines.len() >= LINES && !cart.lines.contains_key(&product) {
            let detail = format!("a cart holds at most {LINES} products");
            return Err(problem(StatusCode::CONFLICT, detail));
        }
        cart.lines.insert(product, quantity);
        cart.changed = Instant::now();
        Ok(())
    }
}

fn make_room(carts: &mut HashMap<Uuid, Cart>) {
    carts.retain(|_, cart| cart.changed.elapsed() < TTL);
    if carts.len() >= CARTS {
        let oldest = carts.iter().min_by_key(|(_, cart)| cart.changed).map(|(user, _)| *user);
        oldest.map(|user| carts.remove(&user));
    }
}

async fn show(State(carts): State<Carts>, Subject(user): Subject) -> axum::Json<Content> {
    axum::Json(carts.content(user))
}

async fn set(
    State(carts): State<Carts>,
    Subject(user): Subject,
    Path(product): Path<Uuid>,
    Json(Quantity { quantity }): Json<Quantity>,
) -> Result<axum::Json<Content>, Problem> {
    if quantity == 0 {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "quantity: must be at least 1"));
    }
    carts.set(user, product, quantity)?;
    Ok(axum::Json(carts.content(user)))
}

async fn remove(
    State(carts): State<Carts>,
    Subject(user): Subject,
    Path(product): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    let removed = lock(&carts.store).get_mut(&user).and_then(|cart| cart.lines.remove(&product));
    removed.map(|_| StatusCode::NO_CONTENT).ok_or_else(|| not_found("cart line", product))
}

async fn empty(State(carts): State<Carts>, Subject(user): Subject) -> StatusCode {
    lock(&carts.store).remove(&user);
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cart_expires_half_an_hour_after_its_last_change() {
        let (carts, user, product) = (Carts::default(), Uuid::now_v7(), Uuid::now_v7());
        carts.set(user, product, 2).unwrap();
        tokio::time::advance(TTL - Duration::from_secs(1)).await;
        assert_eq!(carts.content(user).items, [Line { product_id: product, quantity: 2 }]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(carts.content(user).items, []);
    }

    #[test]
    fn carts_of_different_users_are_different() {
        let (carts, product) = (Carts::default(), Uuid::now_v7());
        carts.set(Uuid::now_v7(), product, 2).unwrap();
        assert_eq!(carts.content(Uuid::now_v7()).items, []);
    }
}
