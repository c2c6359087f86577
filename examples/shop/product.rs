//! The product service: catalogue, stock, and reservations that are made and released under a key.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use gusset::call::Problem;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    api::{IdempotencyKey, Json, Path, Refused, new_id, not_found, problem},
    ledger::{Ledger, NotKept, Page, Place, place},
    order::Order,
    settings::{Settings, Values},
};

/// What it keeps: products, how many there were of each, and reservations by their keys.
const PRODUCT: &str = "product";
const SUPPLIED: &str = "supplied";
const RESERVATION: &str = "reservation";

/// A thing for sale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its name as it stands in keys: `desk-lamp`.
    pub sku: String,
    /// Its price in cents.
    pub price_cents: u64,
    /// How many can still be reserved.
    pub stock: u32,
}

/// The service with its store, which all its instances share.
#[derive(Clone, Debug, Default)]
pub struct Products {
    ledger: Ledger,
}

/// Stands under its key for as long as the store lives: a key that was used never takes effect again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum Reservation {
    Held {
        product_id: Uuid,
        quantity: u32,
    },
    /// Given back, or refused in advance because the release overtook the reservation.
    Released,
}

#[derive(Deserialize)]
struct NewProduct {
    name: String,
    price_cents: u64,
    stock: u32,
}

/// Asks to set `quantity` of a product aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reserve {
    /// The product.
    pub product_id: Uuid,
    /// How many.
    pub quantity: u32,
}

/// Gives a reservation back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    /// The `Idempotency-Key` under which it was made.
    pub reservation: String,
}

impl Products {
    pub(crate) const fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    /// Adds a product. The price is that of the catalogue; the [settings](crate::settings) may say another.
    ///
    /// # Errors
    ///
    /// If it cannot be kept.
    pub async fn add(&self, name: &str, price_cents: u64, stock: u32) -> Result<Product, NotKept> {
        let (name, sku) = (name.to_owned(), sku(name));
        let product = Product { id: new_id(), name, sku, price_cents, stock };
        let added = self.ledger.change([], move |page| {
            page.put(SUPPLIED, product.id, &stock);
            page.put(PRODUCT, product.id, &product);
            Ok(product)
        });
        added.await
    }

    /// How many of each product there were before anything was sold.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    pub async fn supplied(&self) -> Result<BTreeMap<Uuid, u32>, NotKept> {
        Ok(self.ledger.list(SUPPLIED).await?.into_iter().collect())
    }

    /// All products, oldest first.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn all(&self) -> Result<Vec<Product>, NotKept> {
        let all = self.ledger.list::<Uuid, Product>(PRODUCT).await?;
        Ok(all.into_iter().map(|(_, product)| product).collect())
    }

    /// Its HTTP interface, for one instance with the settings that it knows. `GET /settings` shows these; no gateway leads there.
    pub fn router(&self, settings: Settings) -> Router {
        let shelf = Shelf { products: self.clone(), settings };
        Router::new()
            .route("/products", get(list).post(create))
            .route("/products/{id}", get(show))
            .route("/products/reserve", post(reserve))
            .route("/products/release", post(release))
            .route("/settings", get(settings_known))
            .with_state(shelf)
    }

    /// Checks and takes in one change, so that no schedule of callers oversells.
    pub(crate) async fn reserve(&self, key: String, wanted: Reserve) -> Result<(), Problem> {
        let Reserve { product_id: id, quantity } = wanted;
        let places = [place(RESERVATION, &key), place(PRODUCT, id)];
        let reserved = self.ledger.change(places, move |page| {
            if let Some((key, product, held)) = taken(page, &key, id, quantity)? {
                page.put(PRODUCT, id, &product);
                page.put(RESERVATION, key, &held);
            }
            Ok::<_, Refused>(())
        });
        Ok(reserved.await?)
    }

    /// The rows that an order is about: its reservations, each by its line, and their products.
    pub(crate) fn places_of(order: &Order) -> Vec<Place> {
        let lines = (0..).zip(&order.items).flat_map(|(line, item): (usize, _)| {
            [place(RESERVATION, key_of(order, line)), place(PRODUCT, item.product_id)]
        });
        lines.collect()
    }

    /// Sets aside all that an order is about, or nothing.
    pub(crate) fn set_aside(page: &mut Page, order: &Order) -> Result<(), Refused> {
        let mut changed = Vec::new();
        for (line, item) in order.items.iter().enumerate() {
            changed.extend(taken(page, &key_of(order, line), item.product_id, item.quantity)?);
        }
        for (key, product, held) in changed {
            page.put(PRODUCT, product.id, &product);
            page.put(RESERVATION, key, &held);
        }
        Ok(())
    }

    /// Gives back what was set aside for an order; what was not can never be.
    pub(crate) fn give_back(page: &mut Page, order: &Order) -> Result<(), NotKept> {
        for line in 0..order.items.len() {
            let key = key_of(order, line);
            if let Some(Reservation::Held { product_id: id, quantity }) =
                page.get(RESERVATION, &key)?
                && let Some(mut product) = page.get::<Product>(PRODUCT, id)?
            {
                product.stock += quantity;
                page.put(PRODUCT, id, &product);
            }
            page.put(RESERVATION, key, &Reservation::Released);
        }
        Ok(())
    }

    /// Takes effect once. A release that comes before its reservation forbids it.
    pub(crate) async fn release(&self, key: String) -> Result<(), NotKept> {
        // What a reservation holds says only itself, and that never changes while it is held.
        let mut known: Option<Reservation> = self.ledger.get(RESERVATION, &key).await?;
        loop {
            let held = known.as_ref().and_then(Reservation::product);
            let product = held.map(|id| place(PRODUCT, id));
            let places = [place(RESERVATION, &key)].into_iter().chain(product);
            let key = key.clone();
            let seen = self.ledger.change(places, move |page| {
                let now: Option<Reservation> = page.get(RESERVATION, &key)?;
                let product = now.as_ref().and_then(Reservation::product);
                if product.is_some() && product != held {
                    return Ok(now);
                }
                if let Some(Reservation::Held { product_id: id, quantity }) = now
                    && let Some(mut product) = page.get::<Product>(PRODUCT, id)?
                {
                    product.stock += quantity;
                    page.put(PRODUCT, id, &product);
                }
                page.put(RESERVATION, &key, &Reservation::Released);
                Ok(None)
            });
            known = seen.await?;
            if known.is_none() {
                return Ok(());
            }
        }
    }
}

/// What a reservation makes of its row and that of its product. `None` if it was made before.
fn taken(
    page: &Page,
    key: &str,
    id: Uuid,
    quantity: u32,
) -> Result<Option<(String, Product, Reservation)>, Refused> {
    match page.get(RESERVATION, key)? {
        Some(Reservation::Held { .. }) => return Ok(None),
        Some(Reservation::Released) => {
            let why = "this reservation was released already";
            return Err(Refused::no(StatusCode::CONFLICT, why));
        }
        None => {}
    }
    let product: Option<Product> = page.get(PRODUCT, id)?;
    let none = || Refused::no(StatusCode::NOT_FOUND, format!("there is no product {id}"));
    let mut product = product.ok_or_else(none)?;
    let Some(left) = product.stock.checked_sub(quantity) else {
        let why = format!("{}: {quantity} wanted, {} left", product.name, product.stock);
        return Err(Refused::No(StatusCode::CONFLICT, why, Some(product.stock)));
    };
    product.stock = left;
    Ok(Some((key.to_owned(), product, Reservation::Held { product_id: id, quantity })))
}

/// The key of a line of an order, where no step of a saga has one.
fn key_of(order: &Order, line: usize) -> String {
    format!("order/{}/line-{}", order.id, line + 1)
}

impl Reservation {
    /// What it holds.
    const fn product(&self) -> Option<Uuid> {
        match self {
            Self::Held { product_id, .. } => Some(*product_id),
            Self::Released => None,
        }
    }
}

/// What the handlers of one instance work with.
#[derive(Clone)]
struct Shelf {
    products: Products,
    settings: Settings,
}

impl Shelf {
    /// The products with the prices that hold now.
    fn priced(&self, products: impl IntoIterator<Item = Product>) -> Vec<Product> {
        let values = self.settings.values();
        let priced = |product: Product| {
            let price_cents = values.price(&product.sku).unwrap_or(product.price_cents);
            Product { price_cents, ..product }
        };
        products.into_iter().map(priced).collect()
    }
}

fn sku(name: &str) -> String {
    let words: Vec<_> = name.split_whitespace().map(str::to_lowercase).collect();
    words.join("-")
}

async fn list(State(shelf): State<Shelf>) -> Result<axum::Json<Vec<Product>>, Problem> {
    Ok(axum::Json(shelf.priced(shelf.products.all().await?)))
}

async fn show(
    State(shelf): State<Shelf>,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<Product>, Problem> {
    let product: Option<Product> = shelf.products.ledger.get(PRODUCT, id).await?;
    let mut priced = shelf.priced(product);
    priced.pop().map(axum::Json).ok_or_else(|| not_found("product", id))
}

async fn settings_known(State(shelf): State<Shelf>) -> axum::Json<Values> {
    axum::Json(Values::clone(&shelf.settings.values()))
}

async fn create(
    State(Shelf { products, .. }): State<Shelf>,
    Json(new): Json<NewProduct>,
) -> Result<(StatusCode, axum::Json<Product>), Problem> {
    if new.name.trim().is_empty() {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "name: must not be empty"));
    }
    let product = products.add(&new.name, new.price_cents, new.stock).await?;
    Ok((StatusCode::CREATED, axum::Json(product)))
}

async fn reserve(
    State(Shelf { products, .. }): State<Shelf>,
    key: IdempotencyKey,
    Json(wanted): Json<Reserve>,
) -> Result<StatusCode, Problem> {
    if wanted.quantity == 0 {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "quantity: must be at least 1"));
    }
    products.reserve(key.required()?, wanted).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn release(
    State(Shelf { products, .. }): State<Shelf>,
    Json(release): Json<Release>,
) -> Result<StatusCode, Problem> {
    products.release(release.reservation).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn one(stock: u32) -> (Products, Reserve) {
        let products = Products::default();
        let product = products.add("lamp", 1_000, stock).await.unwrap();
        (products, Reserve { product_id: product.id, quantity: 1 })
    }

    async fn stock(products: &Products) -> u32 {
        products.all().await.unwrap()[0].stock
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn callers_together_never_oversell() {
        let (products, wanted) = one(10).await;
        let mut buyers = tokio::task::JoinSet::new();
        for buyer in 0..4 {
            let (products, wanted) = (products.clone(), wanted.clone());
            buyers.spawn(async move {
                let mut bought = 0;
                for n in 0..250 {
                    let reserved = products.reserve(format!("{buyer}-{n}"), wanted.clone()).await;
                    bought += usize::from(reserved.is_ok());
                }
                bought
            });
        }
        let sold: usize = buyers.join_all().await.into_iter().sum();
        assert_eq!((sold, stock(&products).await), (10, 0));
    }

    #[tokio::test]
    async fn a_reservation_and_its_release_take_effect_once() {
        let (products, wanted) = one(10).await;
        for _ in 0..3 {
            products.reserve("a".into(), wanted.clone()).await.unwrap();
        }
        assert_eq!(stock(&products).await, 9);
        for _ in 0..3 {
            products.release("a".into()).await.unwrap();
        }
        assert_eq!(stock(&products).await, 10);
    }

    #[tokio::test]
    async fn a_release_that_overtakes_its_reservation_forbids_it() {
        let (products, wanted) = one(10).await;
        products.release("a".into()).await.unwrap();
        assert_eq!(products.reserve("a".into(), wanted).await.unwrap_err().status(), 409);
        assert_eq!(stock(&products).await, 10);
    }
}
