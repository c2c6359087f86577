//! The order service: places orders as sagas.
//!
//! `POST /orders` asks the user service who orders and the product service what it costs, and then runs the saga: reserve
//! the stock of every line, take the money, create the order. What fails is undone in reverse. That an order was created is
//! written down with the end of its saga, and published from there.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, header},
    routing::get,
};
use gusset::{
    broker::Broker,
    call::Problem,
    observe,
    outbox::ToBroker,
    saga::{
        Definition, DefinitionError, Failure, FailureKind, Finished, Options, Orchestrator,
        Outgoing, RelayOptions, SagaError, SagaId, State as SagaState, Store,
    },
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tower::{Layer, ServiceExt};
use uuid::Uuid;

use crate::{
    api::{IdempotencyKey, Json, Path, Subject, lock, new_id, not_found, problem},
    client::{CallError, Outbound, Peer},
    event::Line,
    folder::Folder,
    kept::{Kept, Row},
    place_order::{Placing, Steps, define},
    product::Product,
    settings::Settings,
};

/// What it keeps: orders, and what the keys of users stand for.
pub(crate) const ORDER: &str = "order";
const QUOTE: &str = "quote";

/// How many different products one order may have.
const LINES: usize = 10;

/// How long an instance may be silent before others take over what it was at work on.
const LEASE: Duration = Duration::from_secs(5);

/// How often an instance looks for sagas whose instance has died.
const RECOVERY: Duration = Duration::from_secs(1);

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: Uuid,
    /// What was ordered.
    pub items: Vec<Line>,
    /// Whether it is wrapped as a gift.
    pub gift_wrap: bool,
    /// What it costs, by the prices at the time it was placed.
    pub total_cents: u64,
    /// Where it stands.
    pub status: OrderStatus,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    /// It is paid for and will be sent.
    Confirmed,
    /// It was taken back.
    Cancelled,
}

/// The store of the service, which its instances share as they would a database: orders, and the journal of their sagas.
#[derive(Clone)]
pub struct Orders {
    store: Arc<Mutex<Ledger>>,
    kept: Kept,
    journal: Arc<dyn Store>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) orders: BTreeMap<Uuid, Order>,
    /// The order that a user's key stands for, with the total that it was first placed for. A repetition must not ask for the
    /// prices again: they may have changed, and it would be another order.
    quotes: HashMap<(Uuid, String), Placing>,
}

/// What a key of a user stands for, as it is kept.
#[derive(Serialize, Deserialize)]
struct Quote {
    user: Uuid,
    key: String,
    placing: Placing,
}

#[derive(Deserialize)]
struct NewOrder {
    items: Vec<Line>,
    card: String,
    #[serde(default)]
    gift_wrap: bool,
}

#[derive(Deserialize)]
struct Validity {
    valid: bool,
    email: String,
}

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orders").finish_non_exhaustive()
    }
}

impl Orders {
    pub(crate) fn restored(folder: &mut Folder) -> io::Result<Self> {
        let mut ledger =
            Ledger { orders: folder.take(ORDER)?.into_iter().collect(), ..Ledger::default() };
        for (_, Quote { user, key, placing }) in folder.take::<String, Quote>(QUOTE)? {
            ledger.quotes.insert((user, key), placing);
        }
        let (store, journal) = (Arc::new(Mutex::new(ledger)), folder.journal.clone());
        Ok(Self { store, kept: folder.kept.clone(), journal })
    }

    /// How many sagas are in each state.
    ///
    /// # Errors
    ///
    /// If the journal cannot be read.
    pub async fn sagas(&self) -> io::Result<Vec<(SagaState, u64)>> {
        self.journal.count().await.map_err(io::Error::other)
    }

    /// The journals of its sagas.
    pub(crate) fn journal(&self) -> Arc<dyn Store> {
        self.journal.clone()
    }

    /// Orders that stand.
    #[must_use]
    pub fn confirmed(&self) -> Vec<Order> {
        let ledger = lock(&self.store);
        let stands = |order: &&Order| order.status == OrderStatus::Confirmed;
        ledger.orders.values().filter(stands).cloned().collect()
    }

    /// How many events about orders are not yet published.
    ///
    /// # Errors
    ///
    /// If the journal cannot be read.
    pub async fn untold(&self) -> io::Result<u64> {
        let pending = self.journal.pending().await;
        pending.map(|pending| pending.messages).map_err(io::Error::other)
    }

    /// Its HTTP interface, for one instance, and how that leaves: what is under way is free for others at once. Until then tasks take over the sagas of
    /// instances that died, and publish what sagas have to tell; dropping the future ends them as a crash would.
    ///
    /// # Errors
    ///
    /// If the sagas are not defined well, which only a change of this file can bring about.
    pub fn spawn_router(
        &self,
        outbound: &Outbound,
        broker: &Broker,
        settings: Settings,
    ) -> Result<(Router, impl Future<Output = ()> + Send + use<>), DefinitionError> {
        let options = Options::default().lease(LEASE);
        let sagas = Orchestrator::with(self.journal.clone(), options);
        let steps = Arc::new(Steps {
            products: outbound.to("product-service"),
            payments: outbound.to("payment-service"),
            store: self.store.clone(),
            kept: self.kept.clone(),
        });
        let definitions = (1..=LINES).map(|lines| define(&steps, lines));
        let definitions: Vec<_> = definitions.collect::<Result<_, _>>()?;
        for definition in &definitions {
            // They are all different, and this orchestrator is new.
            let _ = sagas.register(definition);
        }
        let trace = observe::spans(broker, outbound.sidecar().recorder());
        let publisher = trace.layer(broker.publisher());
        let target = move |outgoing: Outgoing| {
            let (publisher, message) = (publisher.clone(), ToBroker::message(&outgoing));
            async move { publisher.oneshot(message?).await.map(drop) }
        };
        let relay = sagas.spawn_relay(target, RelayOptions::default().lease(LEASE));
        let recovery = sagas.spawn_recovery(RECOVERY);
        let leaving = sagas.clone();
        let leave = async move {
            drop(recovery);
            leaving.shutdown().await;
            relay.stop().await;
        };
        let desk = Desk {
            users: outbound.to("user-service"),
            products: steps.products.clone(),
            store: self.store.clone(),
            kept: self.kept.clone(),
            definitions: definitions.into(),
            sagas,
            settings,
        };
        let router = Router::new()
            .route("/orders", get(list).post(place))
            .route("/orders/{id}", get(show))
            .with_state(desk);
        Ok((router, leave))
    }
}

/// What the handlers work with.
#[derive(Clone)]
struct Desk {
    users: Peer,
    products: Peer,
    store: Arc<Mutex<Ledger>>,
    kept: Kept,
    definitions: Arc<[Definition<Placing, ()>]>,
    sagas: Orchestrator,
    settings: Settings,
}

async fn list(State(desk): State<Desk>, Subject(user): Subject) -> axum::Json<Vec<Order>> {
    let ledger = lock(&desk.store);
    axum::Json(ledger.orders.values().filter(|order| order.user_id == user).cloned().collect())
}

async fn show(
    State(desk): State<Desk>,
    Subject(user): Subject,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<Order>, Problem> {
    let order = lock(&desk.store).orders.get(&id).cloned();
    // Whose order it is is nobody else's business, not even that it exists.
    let order = order.filter(|order| order.user_id == user);
    order.map(axum::Json).ok_or_else(|| not_found("order", id))
}

async fn place(
    State(desk): State<Desk>,
    Subject(user): Subject,
    key: IdempotencyKey,
    Json(new): Json<NewOrder>,
) -> Result<(StatusCode, [(HeaderName, String); 1], axum::Json<Order>), Problem> {
    check(&new.items)?;
    desk.kept.ready()?;
    let placing = desk.quote(user, key, new).await?;
    let (id, order) = (placing.order.id, placing.order.clone());
    let definition = &desk.definitions[order.items.len() - 1];
    let saga: SagaId = format!("order/{id}").parse().map_err(|_| broken())?;
    match desk.sagas.run_as(definition, saga, placing).await {
        Ok(Finished::Completed(())) => {
            let location = [(header::LOCATION, format!("/api/orders/{id}"))];
            Ok((StatusCode::CREATED, location, axum::Json(order)))
        }
        Ok(Finished::Compensated { failure, .. }) => Err(explain(&failure)),
        Ok(Finished::Stuck { failure, .. }) => Err(explain(&failure).with("stuck", true)),
        Ok(Finished::Closed(_)) => {
            Err(problem(StatusCode::CONFLICT, "this order was closed by an operator"))
        }
        Err(SagaError::IdTaken(_)) => Err(another_order()),
        Err(SagaError::Input(_)) => {
            Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "this order is too long"))
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, order = %id, "saga");
            Err(problem(StatusCode::SERVICE_UNAVAILABLE, "orders cannot be placed at present"))
        }
    }
}

fn check(items: &[Line]) -> Result<(), Problem> {
    let unprocessable = |detail: String| Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
    if !(1..=LINES).contains(&items.len()) {
        return unprocessable(format!(
            "items: an order has 1 to {LINES} products, not {}",
            items.len()
        ));
    }
    for (place, line) in items.iter().enumerate() {
        if line.quantity == 0 {
            return unprocessable(format!("items[{place}].quantity: must be at least 1"));
        }
        if items[..place].iter().any(|other| other.product_id == line.product_id) {
            return unprocessable(format!(
                "items[{place}].product_id: this product is named twice"
            ));
        }
    }
    Ok(())
}

impl Desk {
    /// Who orders, and what it costs. The same key of the same user is the same order, for the same total.
    async fn quote(
        &self,
        user: Uuid,
        IdempotencyKey(key): IdempotencyKey,
        new: NewOrder,
    ) -> Result<Placing, Problem> {
        let Some(key) = key else { return self.fresh_quote(user, new).await };
        let known = lock(&self.store).quotes.get(&(user, key.clone())).cloned();
        let asked = (new.items.clone(), new.card.clone(), new.gift_wrap);
        let placing = match known {
            Some(placing) => placing,
            None => {
                let fresh = self.fresh_quote(user, new).await?;
                self.quoted(user, key, fresh)
            }
        };
        // Before the saga begins: a key whose order is under way must not be forgotten.
        self.kept.written().await?;
        let Placing { order, card, .. } = &placing;
        if (&order.items, card, order.gift_wrap) != (&asked.0, &asked.1, asked.2) {
            return Err(another_order());
        }
        Ok(placing)
    }

    /// Of two that come at once the first decides.
    fn quoted(&self, user: Uuid, key: String, fresh: Placing) -> Placing {
        let mut ledger = lock(&self.store);
        match ledger.quotes.entry((user, key)) {
            Entry::Occupied(first) => first.get().clone(),
            Entry::Vacant(place) => {
                let key = place.key().1.clone();
                let quote = Quote { user, key, placing: fresh.clone() };
                let name = format!("{user}/{}", quote.key);
                self.kept.note(|| [Row::new(QUOTE, name, &quote)]);
                place.insert(fresh).clone()
            }
        }
    }

    async fn fresh_quote(&self, user: Uuid, new: NewOrder) -> Result<Placing, Problem> {
        let NewOrder { items, card, gift_wrap } = new;
        let account: Validity = self.users.get(&format!("/users/{user}/validate")).await?;
        if !account.valid {
            return Err(problem(StatusCode::FORBIDDEN, "this account may not order"));
        }
        let mut total_cents = 0_u64;
        for line in &items {
            let id = line.product_id;
            let product: Product = match self.products.get(&format!("/products/{id}")).await {
                Err(CallError::Refused { status: StatusCode::NOT_FOUND, detail }) => {
                    return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
                }
                answer => answer?,
            };
            let price = product.price_cents.saturating_mul(line.quantity.into());
            total_cents = total_cents.saturating_add(price);
        }
        if gift_wrap {
            let detail = "gift_wrap: orders are not wrapped at present";
            let cents = self.settings.values().gift_wrap();
            let cents = cents.ok_or_else(|| problem(StatusCode::UNPROCESSABLE_ENTITY, detail))?;
            total_cents = total_cents.saturating_add(cents);
        }
        let (id, status) = (new_id(), OrderStatus::Confirmed);
        let order = Order { id, user_id: user, items, gift_wrap, total_cents, status };
        Ok(Placing { order, email: account.email, card })
    }
}

fn another_order() -> Problem {
    problem(StatusCode::UNPROCESSABLE_ENTITY, "this Idempotency-Key was used for another order")
}

/// What the client is told when its order was undone.
///
/// A service behind this one that cannot be reached makes it 424 and not 503: this service is well, has decided the order for good, and
/// has taken everything back. To say 503 would make the gateway retry what is settled and open the circuit of
/// this service, through which orders could then not even be looked at.
fn explain(failure: &Failure) -> Problem {
    let status = match failure.kind {
        FailureKind::Rejected if failure.step.starts_with("reserve") => StatusCode::CONFLICT,
        FailureKind::Rejected => StatusCode::PAYMENT_REQUIRED,
        _ => StatusCode::FAILED_DEPENDENCY,
    };
    problem(status, failure.error()).with("step", &*failure.step)
}

fn broken() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR)
}
