//! An order that nobody conducts: each service knows what is to be done when another one has done something.
//!
//! | when this is heard | by | then | and it tells |
//! |---|---|---|---|
//! | | order | the order is placed | `order.placed` |
//! | `order.placed` | product | all stock is set aside | `stock.reserved` |
//! | | | or some is not to be had | `stock.refused` |
//! | `stock.reserved` | payment | the money is taken | `payment.taken` |
//! | | | or it is not to be had | `payment.refused` |
//! | `payment.refused` | product | the stock is given back | `stock.released` |
//! | `payment.taken` | order | the order stands | `order.created` |
//! | `stock.refused`, `stock.released` | order | the order is taken back | |
//!
//! Each step is one change of rows with its inbox and outbox (see [`Mail`]), so no message is lost, doubled or made up, whatever dies at whatever moment. The end states are those of
//! the saga. What is different: nobody waits for a service that is away, so an order stays pending until it is back, where the saga gives up; and nobody knows the whole of it.

use std::{fmt, str::FromStr, time::Duration};

use axum::Router;
use gusset::{
    broker::{Broker, Delivery, Policy, Subscription},
    call::BoxError,
    observe,
    sidecar::Sidecar,
};
use serde::{Deserialize, Serialize};
use tower::{Layer, service_fn};

use crate::{
    api::Refused,
    event::OrderCreated,
    history::{Book, Event, NotNoted},
    mail::{Letter, Mail, Sweep},
    order::{Order, OrderStatus},
    place_order::Placing,
    product::Products,
    service::App,
    till::Till,
};

const PLACED: &str = "order.placed";
pub(crate) const RESERVED: &str = "stock.reserved";
const NOT_RESERVED: &str = "stock.refused";
const RELEASED: &str = "stock.released";
pub(crate) const TAKEN: &str = "payment.taken";
pub(crate) const NOT_TAKEN: &str = "payment.refused";

/// Who listens to what. What comes while nobody does waits.
pub(crate) const GROUPS: [(&str, &str); 5] = [
    ("stock", PLACED),
    ("stock-return", NOT_TAKEN),
    ("till", RESERVED),
    ("order-stock", "stock.*"),
    ("order-payment", "payment.*"),
];

/// Who knows what is to be done about an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flow {
    /// The order service, which asks one service after the other.
    #[default]
    Orchestration,
    /// Each service its part, by the events of the others.
    Choreography,
}

impl FromStr for Flow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "orchestration" => Ok(Self::Orchestration),
            "choreography" => Ok(Self::Choreography),
            _ => Err(format!("orchestration or choreography, not '{text}'")),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orchestration => "orchestration",
            Self::Choreography => "choreography",
        })
    }
}

/// Of all groups. What fails is the store, or the broker; both come back.
pub(crate) const fn policy() -> Policy {
    Policy::new().max_attempts(50).backoff(Duration::from_millis(100), Duration::from_secs(2))
}

/// What the services tell each other: all that the next one has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    placing: Placing,
    /// Why it comes to nothing, if it does.
    refusal: Option<Event>,
}

impl Told {
    /// What was heard, by which name it is known in an inbox.
    pub(crate) fn name(&self, subject: &str) -> String {
        format!("{subject}/{}", self.placing.order.id)
    }

    pub(crate) const fn order(&self) -> &Order {
        &self.placing.order
    }

    pub(crate) fn card(&self) -> &str {
        &self.placing.card
    }

    /// The same, and why it comes to nothing.
    pub(crate) fn refused(self, why: Event) -> Self {
        Self { refusal: Some(why), ..self }
    }

    /// An order for 5 euros.
    #[cfg(test)]
    pub(crate) fn of_an_order() -> Self {
        let order = Order {
            id: crate::api::new_id(),
            user_id: crate::api::new_id(),
            items: Vec::new(),
            gift_wrap: false,
            total_cents: 500,
            status: OrderStatus::Confirmed,
        };
        let (email, card) = ("a@b".into(), "4242".into());
        Self { placing: Placing { order, email, card }, refusal: None }
    }
}

/// Listens for as long as it lives.
pub(crate) struct Consumers {
    subscriptions: Vec<Subscription>,
    _sweep: Sweep,
}

/// Handles what is under way, and no more.
pub(crate) async fn end(consumers: Option<Consumers>) {
    for subscription in consumers.into_iter().flat_map(|consumers| consumers.subscriptions) {
        subscription.close().await;
    }
}

/// A service that listens.
pub(crate) fn beside(router: Router, consumers: Consumers) -> App {
    let at_last = Box::pin(end(Some(consumers)));
    App { at_last, ..App::from(router) }
}

/// Places an order, once.
pub(crate) async fn place(book: &Book, mail: &Mail, placing: Placing) -> Result<(), NotNoted> {
    let pending = Order { status: OrderStatus::Pending, ..placing.order.clone() };
    let letter = Letter::new(PLACED, &Told { placing: placing.clone(), refusal: None });
    let put = mail.put();
    // The row comes first: an order that has a history is one that goes on.
    let placed = book.write(pending, move |page, _| {
        put(page, &letter);
        letter
    });
    let placed = placed.await?;
    note(book, mail, placing, &[]).await?;
    if let Some(letter) = placed {
        mail.send(letter).await;
    }
    Ok(())
}

/// Notes what happened to an order. Whoever writes down that it stands tells of it, be it his own message that says so or one that somebody else is at.
async fn note(
    book: &Book,
    mail: &Mail,
    placing: Placing,
    events: &[Event],
) -> Result<(), NotNoted> {
    let (order, put) = (placing.order.clone(), mail.put());
    let noted = book.note_and(&order, events, move |page, now| {
        (now.status == OrderStatus::Confirmed).then(|| {
            let letter = Letter::new(OrderCreated::SUBJECT, &OrderCreated::of(placing));
            put(page, &letter);
            letter
        })
    });
    if let (_, Some(Some(letter))) = noted.await? {
        mail.send(letter).await;
    }
    Ok(())
}

/// Spawns what the product service listens with.
pub(crate) async fn products(mail: &Mail, broker: &Broker, sidecar: &Sidecar) -> Consumers {
    let listeners = Listeners::new(mail, broker, sidecar);
    let reserving = mail.clone();
    let reserve = move |_: String, told: Told, _| reserve(reserving.clone(), told);
    let releasing = mail.clone();
    let release = move |_: String, told: Told, _| release(releasing.clone(), told);
    let both = (listeners.on("stock", reserve).await, listeners.on("stock-return", release).await);
    listeners.end(both)
}

async fn reserve(mail: Mail, told: Told) -> Result<(), BoxError> {
    let places = Products::places_of(told.order());
    let reserved = mail.once(told.name(PLACED), places, move |page| {
        Ok(vec![match Products::set_aside(page, told.order()) {
            Ok(()) => Letter::new(RESERVED, &told),
            Err(Refused::Unknown(error)) => return Err(error),
            Err(Refused::No(_, why, _)) => {
                Letter::new(NOT_RESERVED, &told.refused(Event::StockRefused { why }))
            }
        }])
    });
    Ok(reserved.await?)
}

async fn release(mail: Mail, told: Told) -> Result<(), BoxError> {
    let places = Products::places_of(told.order());
    let released = mail.once(told.name(NOT_TAKEN), places, move |page| {
        Products::give_back(page, told.order())?;
        Ok(vec![Letter::new(RELEASED, &told)])
    });
    Ok(released.await?)
}

/// The name of the circuit that an instance of the payment service keeps of the bank.
pub(crate) const BANK: &str = "bank";

/// Spawns what the payment service listens with.
pub(crate) async fn payments(till: Till, broker: &Broker, sidecar: &Sidecar) -> Consumers {
    let listeners = Listeners::new(&till.mail, broker, sidecar);
    let take = move |_: String, told: Told, attempt| till.clone().take(told, attempt);
    let one = (listeners.on("till", take).await, None);
    listeners.end(one)
}

/// Spawns what the order service listens with.
pub(crate) async fn orders(
    book: &Book,
    mail: &Mail,
    broker: &Broker,
    sidecar: &Sidecar,
) -> Consumers {
    let listeners = Listeners::new(mail, broker, sidecar);
    let desk = Desk { book: book.clone(), mail: mail.clone() };
    let other = desk.clone();
    let both = (
        listeners.on("order-stock", move |of, told, _| desk.clone().hear(of, told)).await,
        listeners.on("order-payment", move |of, told, _| other.clone().hear(of, told)).await,
    );
    listeners.end(both)
}

#[derive(Clone)]
struct Desk {
    book: Book,
    mail: Mail,
}

impl Desk {
    /// Two groups bring what is heard, so it may come out of order: what each presupposes is noted with it.
    async fn hear(self, subject: String, told: Told) -> Result<(), BoxError> {
        let refusal = told.refusal.clone();
        let mut events = match &*subject {
            NOT_RESERVED => vec![],
            _ => vec![Event::StockReserved],
        };
        events.extend(refusal);
        match &*subject {
            TAKEN => events.extend([Event::PaymentTaken, Event::Confirmed]),
            NOT_RESERVED => events.push(Event::Cancelled),
            RELEASED => events.extend([Event::StockReleased, Event::Cancelled]),
            _ => {}
        }
        Ok(note(&self.book, &self.mail, told.placing, &events).await?)
    }
}

/// Makes the subscriptions of one instance.
struct Listeners<'a> {
    broker: &'a Broker,
    sidecar: &'a Sidecar,
    sweep: Sweep,
}

impl<'a> Listeners<'a> {
    fn new(mail: &Mail, broker: &'a Broker, sidecar: &'a Sidecar) -> Self {
        Self { broker, sidecar, sweep: mail.spawn_sweep() }
    }

    /// `handle` is given the subject, what was told, and the number of the attempt.
    async fn on<F>(
        &self,
        group: &'static str,
        handle: impl Fn(String, Told, u32) -> F + Clone + Send + 'static,
    ) -> Option<Subscription>
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let pattern = GROUPS.iter().find(|(name, _)| *name == group).map_or(group, |(_, of)| *of);
        let handler = service_fn(move |delivery: Delivery<Told>| {
            let (subject, attempt) =
                (delivery.subject().as_str().to_owned(), delivery.attempt().number());
            handle(subject, delivery.into_body(), attempt)
        });
        let trace = observe::spans(self.broker, self.sidecar.recorder());
        let made = self.broker.subscribe(pattern).group(group).handle(trace.layer(handler)).await;
        if let Err(error) = &made {
            // Other instances listen; and what nobody hears waits.
            tracing::error!(error = error as &dyn std::error::Error, group, "does not listen");
        }
        made.ok()
    }

    fn end(self, made: (Option<Subscription>, Option<Subscription>)) -> Consumers {
        let subscriptions = made.0.into_iter().chain(made.1).collect();
        Consumers { subscriptions, _sweep: self.sweep }
    }
}

#[cfg(test)]
mod tests {
    use gusset::saga::{Aggregates, MemoryStore};

    use super::*;
    use crate::{ledger::Ledger, mail};

    #[tokio::test]
    async fn an_order_that_stands_by_the_note_of_another_is_told_of_by_whoever_writes_it_down() {
        for subject in [RESERVED, TAKEN] {
            let ledger = Ledger::default();
            let book = Book::new(Aggregates::new(MemoryStore::new()), ledger.clone());
            let broker = Broker::new();
            let group = broker.subscribe(OrderCreated::SUBJECT).group("g");
            let mut heard = group.policy(Policy::new()).pull::<OrderCreated>().await.unwrap();
            let mail = Mail::new(&ledger, &broker, &Sidecar::new("order"), "order");
            let told = Told::of_an_order();
            // Who was told of the payment has come half of the way, and the one that was told of the stock overtakes.
            let noted = [Event::StockReserved, Event::PaymentTaken, Event::Confirmed];
            book.note_in_history_alone(told.order(), &noted).await;
            let desk = Desk { book: book.clone(), mail: mail.clone() };
            for subject in [subject, TAKEN, RESERVED] {
                desk.clone().hear(subject.to_owned(), told.clone()).await.unwrap();
            }
            let told_of = tokio::time::timeout(Duration::from_secs(30), heard.next()).await;
            assert_eq!(told_of.unwrap().unwrap().body().order_id, told.order().id);
            assert_eq!(broker.stats().groups[0].published, 1, "once: {subject}");
            assert_eq!(mail::unsent(&ledger).await.unwrap(), 0);
            assert_eq!(book.replay().await.unwrap().different, [""; 0]);
        }
    }
}
