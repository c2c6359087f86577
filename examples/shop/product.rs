//! The product service: catalogue, stock, and reservations that are made and released under a key.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
};

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
    api::{IdempotencyKey, Json, Path, lock, new_id, not_found, problem},
    folder::Folder,
    kept::{Kept, Row},
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

/// The service with its store. All its instances share the store, as they would a database.
#[derive(Clone, Debug, Default)]
pub struct Products {
    store: Arc<Mutex<Store>>,
    kept: Kept,
}

#[derive(Debug, Default)]
struct Store {
    products: BTreeMap<Uuid, Product>,
    /// How many of each there were before anything was sold.
    supplied: BTreeMap<Uuid, u32>,
    /// By key, for as long as the store lives: a key that was used never takes effect again.
    reservations: HashMap<String, Reservation>,
}

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
    pub(crate) fn restored(folder: &mut Folder) -> io::Result<Self> {
        let store = Store {
            products: folder.take(PRODUCT)?.into_iter().collect(),
            supplied: folder.take(SUPPLIED)?.into_iter().collect(),
            reservations: folder.take(RESERVATION)?.into_iter().collect(),
        };
        Ok(Self { store: Arc::new(Mutex::new(store)), kept: folder.kept.clone() })
    }

    /// Adds a product. The price is that of the catalogue; the [settings](crate::settings) may say another.
    #[must_use]
    pub fn add(&self, name: &str, price_cents: u64, stock: u32) -> Product {
        let (name, sku) = (name.to_owned(), sku(name));
        let product = Product { id: new_id(), name, sku, price_cents, stock };
        let mut store = lock(&self.store);
        store.supplied.insert(product.id, stock);
        store.products.insert(product.id, product.clone());
        let supplied = Row::new(SUPPLIED, product.id, &stock);
        self.kept.note(|| [Row::new(PRODUCT, product.id, &product), supplied]);
        product
    }

    /// How many of each product there were before anything was sold.
    #[must_use]
    pub fn supplied(&self) -> BTreeMap<Uuid, u32> {
        lock(&self.store).supplied.clone()
    }

    /// All products, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Product> {
        lock(&self.store).products.values().cloned().collect()
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

    /// Checks and takes under one lock, so that no schedule of callers oversells.
    fn reserve(&self, key: String, wanted: &Reserve) -> Result<(), Problem> {
        let mut store = lock(&self.store);
        match store.reservations.get(&key) {
            Some(Reservation::Held { .. }) => return Ok(()),
            Some(Reservation::Released) => {
                return Err(problem(StatusCode::CONFLICT, "this reservation was released already"));
            }
            None => {}
        }
        let id = wanted.product_id;
        let product = store.products.get_mut(&id).ok_or_else(|| not_found("product", id))?;
        let Some(left) = product.stock.checked_sub(wanted.quantity) else {
            let detail =
                format!("{}: {} wanted, {} left", product.name, wanted.quantity, product.stock);
            return Err(problem(StatusCode::CONFLICT, detail).with("available", product.stock));
        };
        product.stock = left;
        let held = Reservation::Held { product_id: id, quantity: wanted.quantity };
        let rows = || [Row::new(PRODUCT, id, product), Row::new(RESERVATION, &key, &held)];
        self.kept.note(rows);
        store.reservations.insert(key, held);
        Ok(())
    }

    /// Takes effect once. A release that comes before its reservation forbids it.
    fn release(&self, key: String) {
        let mut store = lock(&self.store);
        let released = Row::new(RESERVATION, &key, &Reservation::Released);
        let mut rows = vec![released];
        if let Some(Reservation::Held { product_id, quantity }) =
            store.reservations.insert(key, Reservation::Released)
            && let Some(product) = store.products.get_mut(&product_id)
        {
            product.stock += quantity;
            rows.push(Row::new(PRODUCT, product_id, product));
        }
        self.kept.note(|| rows);
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

async fn list(State(shelf): State<Shelf>) -> axum::Json<Vec<Product>> {
    axum::Json(shelf.priced(shelf.products.all()))
}

async fn show(
    State(shelf): State<Shelf>,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<Product>, Problem> {
    let product = lock(&shelf.products.store).products.get(&id).cloned();
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
    products.kept.ready()?;
    let product = products.add(&new.name, new.price_cents, new.stock);
    products.kept.written().await?;
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
    products.kept.ready()?;
    let reserved = products.reserve(key.required()?, &wanted);
    products.kept.written().await?;
    reserved.map(|()| StatusCode::NO_CONTENT)
}

async fn release(
    State(Shelf { products, .. }): State<Shelf>,
    Json(release): Json<Release>,
) -> Result<StatusCode, Problem> {
    products.release(release.reservation);
    products.kept.written().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(stock: u32) -> (Products, Reserve) {
        let products = Products::default();
        let product = products.add("lamp", 1_000, stock);
        (products, Reserve { product_id: product.id, quantity: 1 })
    }

    fn stock(products: &Products) -> u32 {
        products.all()[0].stock
    }

    #[test]
    fn threads_together_never_oversell() {
        let (products, wanted) = one(10);
        let sold: usize = std::thread::scope(|scope| {
            let buyers: Vec<_> = (0..4)
                .map(|buyer| {
                    let (products, wanted) = (&products, &wanted);
                    scope.spawn(move || {
                        (0..250)
                            .filter(|n| products.reserve(format!("{buyer}-{n}"), wanted).is_ok())
                            .count()
                    })
                })
                .collect();
            buyers.into_iter().map(|buyer| buyer.join().unwrap()).sum()
        });
        assert_eq!((sold, stock(&products)), (10, 0));
    }

    #[test]
    fn a_reservation_and_its_release_take_effect_once() {
        let (products, wanted) = one(10);
        for _ in 0..3 {
            products.reserve("a".into(), &wanted).unwrap();
        }
        assert_eq!(stock(&products), 9);
        for _ in 0..3 {
            products.release("a".into());
        }
        assert_eq!(stock(&products), 10);
    }

    #[test]
    fn a_release_that_overtakes_its_reservation_forbids_it() {
        let (products, wanted) = one(10);
        products.release("a".into());
        assert_eq!(products.reserve("a".into(), &wanted).unwrap_err().status(), 409);
        assert_eq!(stock(&products), 10);
    }
}
