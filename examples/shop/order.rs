//! The order service: places orders as sagas.
//!
//! `POST /orders` asks the user service who orders and the product service what it costs, and then runs the saga: reserve
//! the stock of every line, take the money, create the order. What fails is undone in reverse. That an order was created is
//! written down with the end of its saga, and published from there. With [`Flow::Choreography`] there is no saga, and services follow each other's events.
//!
//! The answer is that of the end. Who sends `Prefer: respond-async` (RFC 7240) gets 202 as soon as the order is there, and follows it: `GET /orders/{id}/events` tells
//! what happens to it as server-sent events until it has ended, `GET /orders/{id}/history` what happened so far.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response, Sse},
    routing::get,
};
use gusset::{
    broker::Broker,
    call::Problem,
    observe,
    outbox::ToBroker,
    saga::{
        Aggregates, Definition, DefinitionError, Failure, FailureKind, Finished, Options,
        Orchestrator, Outgoing, RelayOptions, SagaError, SagaId, State as SagaState, Store,
    },
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tower::{Layer, ServiceExt};
use uuid::Uuid;

use crate::{
    api::{IdempotencyKey, Json, Path, Subject, new_id, not_found, problem},
    choreography::{self, Flow},
    client::{CallError, Outbound, Peer},
    event::Line,
    folder::Folder,
    history::{Book, Event, Recalled, Replay},
    ledger::{Ledger, NotKept, place as at},
    live::{self, Live},
    mail::{self, Mail},
    place_order::{Placing, Steps, define},
    product::Product,
    service::App,
    settings::Settings,
};

/// What it keeps: orders, and what the keys of users stand for: the order, with the total that it was first placed for. A repetition must not ask for the
/// prices again: they may have changed, and it would be another order.
pub(crate) const ORDER: &str = "order";
const QUOTE: &str = "quote";

/// How many different products one order may have.
const LINES: usize = 10;

/// How long an instance may be silent before others take over what it was at work on.
const LEASE: Duration = Duration::from_secs(5);

/// How often an instance looks for sagas whose instance has died.
const RECOVERY: Duration = Duration::from_secs(1);

/// How long one who does not wait for the end of an order waits for its beginning.
const BEGINNING: Duration = Duration::from_secs(2);

/// How long one who does waits for the end of an order that nobody conducts. The gateway waits 10 s.
const ENDING: Duration = Duration::from_secs(8);

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

/// Where an order stands. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    /// It is being worked on.
    Pending,
    /// It is paid for and will be sent.
    Confirmed,
    /// It was taken back.
    Cancelled,
}

/// The store of the service, which its instances share as they would a database: orders, and the journal of their sagas.
#[derive(Clone)]
pub struct Orders {
    ledger: Ledger,
    journal: Arc<dyn Store>,
    book: Book,
    flow: Flow,
    /// Whether others may tell what becomes of an order. Who opens a folder ends what was begun there, in whichever way.
    listens: bool,
    /// Changes when the shop closes, which ends all that follows orders.
    open: watch::Sender<()>,
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
    pub(crate) fn new(folder: &Folder, flow: Flow) -> Self {
        let (ledger, journal) = (folder.ledger.clone(), folder.journal.clone());
        let book = Book::new(Aggregates::with(folder.events.clone()), ledger.clone());
        let listens = flow == Flow::Choreography || folder.keeps;
        Self { ledger, journal, book, flow, listens, open: watch::Sender::new(()) }
    }

    pub(crate) const fn flow(&self) -> Flow {
        self.flow
    }

    pub(crate) const fn listens(&self) -> bool {
        self.listens
    }

    /// Gives orders that an earlier release has left a history.
    pub(crate) async fn adopt(&self) -> io::Result<()> {
        self.book.adopt().await.map_err(io::Error::other)
    }

    /// Ends the streams of events that are being read.
    pub(crate) fn close(&self) {
        self.open.send_replace(());
    }

    /// What the history of each order adds up to, compared with the order.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn replay(&self) -> io::Result<Replay> {
        self.book.replay().await.map_err(io::Error::other)
    }

    /// How many orders have not come to their end.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn pending(&self) -> Result<usize, NotKept> {
        let orders = self.ledger.list::<Uuid, Order>(ORDER).await?;
        Ok(orders.iter().filter(|(_, order)| order.status == OrderStatus::Pending).count())
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

    /// Orders that stand, oldest first.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn confirmed(&self) -> Result<Vec<Order>, NotKept> {
        let orders = self.ledger.list::<Uuid, Order>(ORDER).await?.into_iter();
        let orders = orders.map(|(_, order)| order);
        Ok(orders.filter(|order| order.status == OrderStatus::Confirmed).collect())
    }

    /// How many events about orders are not yet published.
    ///
    /// # Errors
    ///
    /// If the journal cannot be read.
    pub async fn untold(&self) -> io::Result<u64> {
        let emitted = self.journal.pending().await.map_err(io::Error::other)?.messages;
        let unsent = if self.listens { mail::unsent(&self.ledger).await? } else { 0 };
        Ok(emitted + unsent as u64)
    }

    /// Its HTTP interface, for one instance, and how that leaves: what is under way is free for others at once. Until then tasks take over the sagas of
    /// instances that died, and publish what sagas and histories have to tell; dropping it ends them as a crash would.
    ///
    /// # Errors
    ///
    /// If the sagas are not defined well, which only a change of this file can bring about.
    pub(crate) async fn spawn_router(
        &self,
        outbound: &Outbound,
        broker: &Broker,
        settings: Settings,
    ) -> Result<App, DefinitionError> {
        let (live, changes, following) = Live::spawn(broker).await;
        let book = self.book.clone().telling(changes);
        let mail = Mail::new(&self.ledger, broker, outbound.sidecar(), "order");
        let consumers = match self.listens {
            true => Some(choreography::orders(&book, &mail, broker, outbound.sidecar()).await),
            false => None,
        };
        let options = Options::default().lease(LEASE);
        let sagas = Orchestrator::with(self.journal.clone(), options);
        let steps = Arc::new(Steps {
            products: outbound.to("product-service"),
            payments: outbound.to_payments(),
            book: book.clone(),
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
        let at_last = async move {
            drop(recovery);
            leaving.shutdown().await;
            relay.close().await;
            choreography::end(consumers).await;
            drop(following);
        };
        let readers = live.clone();
        let desk = Desk {
            users: outbound.to("user-service"),
            products: steps.products.clone(),
            ledger: self.ledger.clone(),
            definitions: definitions.into(),
            sagas,
            settings,
            book,
            live,
            mail,
            flow: self.flow,
            open: self.open.clone(),
        };
        let router = Router::new()
            .route("/orders", get(list).post(place))
            .route("/orders/{id}", get(show))
            .route("/orders/{id}/history", get(history))
            .route("/orders/{id}/events", get(events))
            .with_state(desk);
        let leaving = Box::new(move || readers.leave());
        Ok(App { router, leaving, at_last: Box::pin(at_last) })
    }
}

/// What the handlers work with.
#[derive(Clone)]
struct Desk {
    users: Peer,
    products: Peer,
    ledger: Ledger,
    definitions: Arc<[Definition<Placing, ()>]>,
    sagas: Orchestrator,
    settings: Settings,
    book: Book,
    live: Live,
    mail: Mail,
    flow: Flow,
    open: watch::Sender<()>,
}

async fn list(
    State(desk): State<Desk>,
    Subject(user): Subject,
) -> Result<axum::Json<Vec<Order>>, Problem> {
    let orders = desk.ledger.list::<Uuid, Order>(ORDER).await?.into_iter();
    let orders = orders.map(|(_, order)| order);
    Ok(axum::Json(orders.filter(|order| order.user_id == user).collect()))
}

async fn show(
    State(desk): State<Desk>,
    Subject(user): Subject,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<Order>, Problem> {
    desk.find(user, id).await.map(axum::Json)
}

async fn history(
    State(desk): State<Desk>,
    Subject(user): Subject,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<Vec<Value>>, Problem> {
    desk.find(user, id).await?;
    let events = desk.book.after(id, 0).await?;
    Ok(axum::Json(events.iter().map(live::shown).collect()))
}

async fn events(
    State(desk): State<Desk>,
    Subject(user): Subject,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let order = desk.find(user, id).await?;
    let known = headers.get("last-event-id").and_then(|known| known.to_str().ok()?.parse().ok());
    let known: u64 = known.unwrap_or(0);
    if order.status != OrderStatus::Pending && desk.book.after(id, known).await?.is_empty() {
        // By which a browser knows not to ask again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let events = desk.live.follow(desk.book.clone(), id, known, desk.open.subscribe());
    let full =
        || problem(StatusCode::SERVICE_UNAVAILABLE, "too many orders are followed at present");
    let events = events.ok_or_else(full)?;
    Ok(Sse::new(events).keep_alive(live::keep_alive()).into_response())
}

async fn place(
    State(desk): State<Desk>,
    Subject(user): Subject,
    key: IdempotencyKey,
    headers: HeaderMap,
    Json(new): Json<NewOrder>,
) -> Result<Response, Problem> {
    check(&new.items)?;
    let placing = desk.quote(user, key, new).await?;
    if responds_async(&headers) {
        let order = desk.begin(placing).await?;
        let applied = [("preference-applied", "respond-async")];
        return Ok((applied, accepted(order)).into_response());
    }
    let order = match desk.flow {
        Flow::Orchestration => desk.conduct(placing).await?,
        Flow::Choreography => desk.watch(placing).await?,
    };
    if order.status == OrderStatus::Pending {
        return Ok(accepted(order));
    }
    Ok((StatusCode::CREATED, location(order.id), axum::Json(order)).into_response())
}

fn responds_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = preferences.flat_map(|value| value.split(','));
    preferences.any(|one| one.trim().eq_ignore_ascii_case("respond-async"))
}

fn accepted(order: Order) -> Response {
    (StatusCode::ACCEPTED, location(order.id), axum::Json(order)).into_response()
}

fn location(order: Uuid) -> [(HeaderName, String); 1] {
    [(header::LOCATION, format!("/api/orders/{order}"))]
}

/// What came of an order, in a saga.
fn told(order: Order, ended: Result<Finished<()>, SagaError>) -> Result<Order, Problem> {
    match ended {
        Ok(Finished::Completed(())) => Ok(order),
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
            tracing::error!(error = &error as &dyn std::error::Error, order = %order.id, "saga");
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

/// What came of an order, by its history.
fn recalled(known: Recalled) -> Result<Order, Problem> {
    let order = known.order.ok_or_else(broken)?;
    if order.status != OrderStatus::Cancelled {
        return Ok(order);
    }
    Err(match known.failure {
        Some(Event::StockRefused { why }) => {
            problem(StatusCode::CONFLICT, why).with("step", "reserve-stock")
        }
        Some(Event::PaymentRefused { why, decided }) => {
            let status =
                if decided { StatusCode::PAYMENT_REQUIRED } else { StatusCode::FAILED_DEPENDENCY };
            problem(status, why).with("step", "process-payment")
        }
        _ => problem(StatusCode::CONFLICT, "this order was taken back"),
    })
}

impl Desk {
    /// An order of this user.
    async fn find(&self, user: Uuid, id: Uuid) -> Result<Order, Problem> {
        let order: Option<Order> = self.ledger.get(ORDER, id).await?;
        // Whose order it is is nobody else's business, not even that it exists.
        let order = order.filter(|order| order.user_id == user);
        order.ok_or_else(|| not_found("order", id))
    }

    /// Carries an order to its end, as a saga.
    async fn conduct(&self, placing: Placing) -> Result<Order, Problem> {
        let (definition, saga) = self.saga(&placing.order)?;
        let order = placing.order.clone();
        told(order, self.sagas.run_as(definition, saga, placing).await)
    }

    /// Places an order, and watches until the others have brought it to its end, or it has been too long.
    async fn watch(&self, placing: Placing) -> Result<Order, Problem> {
        let id = placing.order.id;
        let mut waiting = self.live.wait_for(id);
        choreography::place(&self.book, &self.mail, placing).await?;
        let ended = |order: &Order| order.status != OrderStatus::Pending;
        live::until(ENDING, &mut waiting, || self.is(id, ended)).await;
        recalled(self.book.recall(id).await?)
    }

    /// Begins an order, and answers what it is then.
    async fn begin(&self, placing: Placing) -> Result<Order, Problem> {
        let order = placing.order.clone();
        let mut waiting = self.live.wait_for(order.id);
        match self.flow {
            Flow::Orchestration => {
                let (definition, saga) = self.saga(&order)?;
                if let Err(error) = self.sagas.start(definition, saga, placing).await {
                    return told(order, Err(error));
                }
            }
            Flow::Choreography => choreography::place(&self.book, &self.mail, placing).await?,
        }
        live::until(BEGINNING, &mut waiting, || self.is(order.id, |_| true)).await;
        let known = self.ledger.get(ORDER, order.id).await?;
        Ok(known.unwrap_or(Order { status: OrderStatus::Pending, ..order }))
    }

    /// Whether there is such an order.
    async fn is(&self, id: Uuid, such: fn(&Order) -> bool) -> bool {
        let order: Result<Option<Order>, _> = self.ledger.get(ORDER, id).await;
        order.is_ok_and(|order| order.as_ref().is_some_and(such))
    }

    fn saga(&self, order: &Order) -> Result<(&Definition<Placing, ()>, SagaId), Problem> {
        let id = format!("order/{}", order.id).parse().map_err(|_| broken())?;
        Ok((&self.definitions[order.items.len() - 1], id))
    }

    /// Who orders, and what it costs. The same key of the same user is the same order, for the same total.
    async fn quote(
        &self,
        user: Uuid,
        IdempotencyKey(key): IdempotencyKey,
        new: NewOrder,
    ) -> Result<Placing, Problem> {
        let Some(key) = key else { return self.fresh_quote(user, new).await };
        let known: Option<Quote> = self.ledger.get(QUOTE, quote_of(user, &key)).await?;
        let asked = (new.items.clone(), new.card.clone(), new.gift_wrap);
        let placing = match known {
            Some(known) => known.placing,
            None => {
                let fresh = self.fresh_quote(user, new).await?;
                // Before the saga begins: a key whose order is under way must not be forgotten.
                self.quoted(user, key, fresh).await?
            }
        };
        let Placing { order, card, .. } = &placing;
        if (&order.items, card, order.gift_wrap) != (&asked.0, &asked.1, asked.2) {
            return Err(another_order());
        }
        Ok(placing)
    }

    /// Of two that come at once the first decides.
    async fn quoted(&self, user: Uuid, key: String, placing: Placing) -> Result<Placing, NotKept> {
        let name = quote_of(user, &key);
        let quoted = self.ledger.change([at(QUOTE, &name)], move |page| {
            if let Some(first) = page.get::<Quote>(QUOTE, &name)? {
                return Ok(first.placing);
            }
            let quote = Quote { user, key, placing };
            page.put(QUOTE, &name, &quote);
            Ok(quote.placing)
        });
        quoted.await
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

fn quote_of(user: Uuid, key: &str) -> String {
    format!("{user}/{key}")
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
