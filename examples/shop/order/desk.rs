//! The HTTP interface of the order service.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response, Sse},
    routing::get,
};
use gusset::{
    call::Problem,
    saga::{Definition, Failure, FailureKind, Finished, Orchestrator, SagaError, SagaId},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::{LINES, ORDER, Order, OrderStatus};
use crate::{
    api::{IdempotencyKey, Json, Path, Subject, new_id, not_found, problem},
    choreography::{self, Flow},
    client::{CallError, Peer},
    event::Line,
    history::{Book, Event, Recalled},
    ledger::{Ledger, NotKept, place as at},
    live::{self, Live},
    mail::Mail,
    place_order::Placing,
    product::Product,
    settings::Settings,
};

/// What the keys of users stand for: the order, with the total that it was first placed for. A repetition must not ask for the prices again: they may have
/// changed, and it would be another order.
const QUOTE: &str = "quote";

/// How long one who does not wait for the end of an order waits for its beginning.
const BEGINNING: Duration = Duration::from_secs(2);

/// How long one who does waits for the end of an order that nobody conducts. The gateway waits 10 s.
const ENDING: Duration = Duration::from_secs(8);

/// What the handlers work with.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) users: Peer,
    pub(super) products: Peer,
    pub(super) ledger: Ledger,
    pub(super) definitions: Arc<[Definition<Placing, ()>]>,
    pub(super) sagas: Orchestrator,
    pub(super) settings: Settings,
    pub(super) book: Book,
    pub(super) live: Live,
    pub(super) mail: Mail,
    pub(super) flow: Flow,
    pub(super) open: watch::Sender<()>,
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
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/orders", get(list).post(place))
            .route("/orders/{id}", get(show))
            .route("/orders/{id}/history", get(history))
            .route("/orders/{id}/events", get(events))
            .with_state(self)
    }

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
