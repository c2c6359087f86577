//! What happened to each order, one event after the other. Nothing is written over: the events are what is true, and the order in the ledger is what they add up to.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    error::Error,
    fmt,
};

use gusset::{
    call::Problem,
    saga::{Aggregate, AggregateError, Aggregates, Change, ChangeError},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    api::problem,
    ledger::{Ledger, NotKept, Page, place},
    order::{ORDER, Order, OrderStatus},
};

/// How many streams are read at once.
const PAGE: usize = 500;

/// What happens to an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Somebody asked for it.
    Placed {
        /// As it was then.
        order: Order,
    },
    /// All that it is about is set aside.
    StockReserved,
    /// Something that it is about could not be set aside.
    StockRefused {
        /// What the product service said.
        why: String,
    },
    /// The money is ours.
    PaymentTaken,
    /// The money could not be taken.
    PaymentRefused {
        /// What the payment service said.
        why: String,
        /// Whether somebody decided so; else nobody could be asked.
        decided: bool,
    },
    /// It stands.
    Confirmed,
    /// The money was given back.
    PaymentReturned,
    /// What was set aside is for sale again.
    StockReleased,
    /// It was taken back.
    Cancelled,
}

impl Event {
    /// Its name, as it is written.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Placed { .. } => "placed",
            Self::StockReserved => "stock-reserved",
            Self::StockRefused { .. } => "stock-refused",
            Self::PaymentTaken => "payment-taken",
            Self::PaymentRefused { .. } => "payment-refused",
            Self::Confirmed => "confirmed",
            Self::PaymentReturned => "payment-returned",
            Self::StockReleased => "stock-released",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the order comes to its end with it.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Confirmed | Self::Cancelled)
    }
}

/// What the events of an order add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// The order as it stands. `None` if nothing happened yet.
    pub order: Option<Order>,
    /// What went wrong, if something did.
    pub failure: Option<Event>,
    /// Names of what happened.
    happened: BTreeSet<String>,
}

impl Recalled {
    fn has(&self, event: &Event) -> bool {
        self.happened.contains(event.name())
    }

    fn status(&self) -> Option<OrderStatus> {
        self.order.as_ref().map(|order| order.status)
    }

    /// Which of these events are new, behind what they presuppose. Whoever brings them may have done so before, or be late.
    fn new_of(&self, order: &Order, events: &[Event]) -> Vec<Event> {
        let mut known = self.clone();
        let mut new = Vec::new();
        let mut take = |known: &mut Self, event: Event| {
            known.apply(&event);
            new.push(event);
        };
        if known.order.is_none() {
            let order = Order { status: OrderStatus::Pending, ..order.clone() };
            take(&mut known, Event::Placed { order });
        }
        for event in events {
            let taken_back =
                matches!(event, Event::PaymentReturned | Event::StockReleased | Event::Cancelled);
            let possible = match known.status() {
                Some(OrderStatus::Cancelled) => false,
                Some(OrderStatus::Confirmed) => taken_back,
                _ => true,
            };
            // What was never done is not undone.
            let has_cause = match event {
                Event::PaymentReturned => known.has(&Event::PaymentTaken),
                Event::StockReleased => known.has(&Event::StockReserved),
                _ => true,
            };
            if possible && has_cause && !known.has(event) {
                take(&mut known, event.clone());
            }
        }
        new
    }
}

impl Aggregate for Recalled {
    const KIND: &'static str = "order";
    const FORMAT: u32 = 1;
    type Event = Event;

    fn apply(&mut self, event: &Event) {
        self.happened.insert(event.name().to_owned());
        let mut end = |status| {
            self.order.iter_mut().for_each(|order| order.status = status);
        };
        match event {
            Event::Placed { order } => self.order = Some(order.clone()),
            Event::StockRefused { .. } | Event::PaymentRefused { .. } => {
                self.failure = Some(event.clone());
            }
            Event::Confirmed => {
                end(OrderStatus::Confirmed);
                self.failure = None;
            }
            Event::Cancelled => end(OrderStatus::Cancelled),
            Event::StockReserved
            | Event::PaymentTaken
            | Event::PaymentReturned
            | Event::StockReleased => {}
        }
    }
}

/// That something happened to an order, as the broker carries it. What it was is in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) order_id: Uuid,
}

impl Changed {
    pub(crate) const SUBJECT: &str = "order.changed";
}

/// Notes what happens to orders: first in their history, then in the row of the order.
#[derive(Clone)]
pub(crate) struct Book {
    events: Aggregates<Recalled>,
    ledger: Ledger,
    /// What is lost here is found by whoever looks.
    changes: Option<mpsc::Sender<Changed>>,
}

impl Book {
    pub(crate) const fn new(events: Aggregates<Recalled>, ledger: Ledger) -> Self {
        Self { events, ledger, changes: None }
    }

    /// The same, telling of each change.
    pub(crate) fn telling(mut self, changes: mpsc::Sender<Changed>) -> Self {
        self.changes = Some(changes);
        self
    }

    /// Notes what is new of these events. Any number of times is as once.
    pub(crate) async fn note(&self, order: &Order, events: &[Event]) -> Result<Recalled, NotNoted> {
        Ok(self.note_and(order, events, |_, _| ()).await?.0)
    }

    /// The same. If the row of the order changes by it, what `also` puts down is written with it, or not at all. It is given the order as it becomes, which may be by what somebody else
    /// has noted in the history, and has not yet written down in the row.
    pub(crate) async fn note_and<T: Send + 'static>(
        &self,
        order: &Order,
        events: &[Event],
        also: impl FnOnce(&mut Page, &Order) -> T + Send + 'static,
    ) -> Result<(Recalled, Option<T>), NotNoted> {
        let new = |known: &Recalled| Ok::<_, Infallible>(known.new_of(order, events));
        let now = self.events.change(&order.id.to_string(), "", new).await?.state;
        let written = match now.order.clone() {
            Some(order) => self.write(order, also).await?,
            None => None,
        };
        if let Some(changes) = &self.changes {
            let _ = changes.try_send(Changed { order_id: order.id });
        }
        Ok((now, written))
    }

    /// Writes the row of an order, and what belongs to it, unless it has come as far already.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        order: Order,
        also: impl FnOnce(&mut Page, &Order) -> T + Send + 'static,
    ) -> Result<Option<T>, NotKept> {
        let written = self.ledger.change([place(ORDER, order.id)], move |page| {
            let known: Option<Order> = page.get(ORDER, order.id)?;
            if known.is_some_and(|known| known.status >= order.status) {
                return Ok(None);
            }
            page.put(ORDER, order.id, &order);
            Ok(Some(also(page, &order)))
        });
        written.await
    }

    /// What a process leaves that dies, or is slow, between the two.
    #[cfg(test)]
    pub(crate) async fn note_in_history_alone(&self, order: &Order, events: &[Event]) {
        let new = |known: &Recalled| Ok::<_, Infallible>(known.new_of(order, events));
        let noted = self.events.change(&order.id.to_string(), "", new).await;
        assert!(noted.is_ok(), "it is in memory");
    }

    /// What an order has come to.
    pub(crate) async fn recall(&self, id: Uuid) -> Result<Recalled, NotNoted> {
        Ok(self.events.load(&id.to_string()).await?.state)
    }

    /// What happened after so many events, the first hundred.
    pub(crate) async fn after(
        &self,
        id: Uuid,
        version: u64,
    ) -> Result<Vec<Change<Event>>, NotNoted> {
        Ok(self.events.history(&id.to_string(), version, 100).await?)
    }

    /// Gives orders that stood before there were histories one of their own.
    pub(crate) async fn adopt(&self) -> Result<(), NotNoted> {
        let known: BTreeSet<_> = self.streams().await?.into_iter().collect();
        let orders = self.ledger.list::<Uuid, Order>(ORDER).await?;
        for (_, order) in orders.iter().filter(|(id, _)| !known.contains(&id.to_string())) {
            let end = match order.status {
                OrderStatus::Confirmed => &[Event::Confirmed][..],
                OrderStatus::Cancelled => &[Event::Cancelled],
                OrderStatus::Pending => &[],
            };
            self.note(order, end).await?;
        }
        Ok(())
    }

    /// Replays each history, and compares.
    pub(crate) async fn replay(&self) -> Result<Replay, NotNoted> {
        let orders = self.ledger.list::<Uuid, Order>(ORDER).await?;
        let mut left: BTreeMap<String, Order> =
            orders.into_iter().map(|(id, order)| (id.to_string(), order)).collect();
        let mut replay = Replay { orders: left.len() as u64, ..Replay::default() };
        for id in self.streams().await? {
            replay.histories += 1;
            let recalled = self.events.load(&id).await?.state.order;
            if recalled.is_none() || recalled != left.remove(&id) {
                replay.different.push(id);
            }
        }
        replay.different.extend(left.into_keys());
        Ok(replay)
    }

    async fn streams(&self) -> Result<Vec<String>, NotNoted> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let page = self.events.list(names.last().map(String::as_str), PAGE).await?;
            names.extend(page.iter().map(|summary| summary.stream.id().to_owned()));
            if page.len() < PAGE {
                return Ok(names);
            }
        }
    }
}

/// What the histories of all orders add up to, compared with what the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// How many histories there are.
    pub histories: u64,
    /// How many orders there are.
    pub orders: u64,
    /// The ids of those that differ, or that only one side knows.
    pub different: Vec<String>,
}

/// What happened to an order could not be noted, or not be read.
#[derive(Debug)]
pub(crate) enum NotNoted {
    /// Its history is out of reach, or damaged.
    History(AggregateError),
    /// The order could not be written.
    Order(NotKept),
}

impl From<AggregateError> for NotNoted {
    fn from(error: AggregateError) -> Self {
        Self::History(error)
    }
}

impl From<ChangeError<Infallible>> for NotNoted {
    fn from(error: ChangeError<Infallible>) -> Self {
        match error {
            ChangeError::Refused(never) => match never {},
            ChangeError::Aggregate(error) => Self::History(error),
        }
    }
}

impl From<NotKept> for NotNoted {
    fn from(error: NotKept) -> Self {
        Self::Order(error)
    }
}

impl fmt::Display for NotNoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what happened to an order could not be noted or read")
    }
}

impl Error for NotNoted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(match self {
            Self::History(error) => error,
            Self::Order(error) => error,
        })
    }
}

/// 503: whether it was noted is not known.
impl From<NotNoted> for Problem {
    fn from(error: NotNoted) -> Self {
        tracing::error!(error = &error as &dyn Error, "history");
        problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use gusset::saga::MemoryStore;

    use super::*;

    fn order() -> Order {
        let id = Uuid::now_v7();
        let status = OrderStatus::Confirmed;
        Order { id, user_id: id, items: vec![], gift_wrap: false, total_cents: 1, status }
    }

    fn book() -> (Book, Ledger) {
        let ledger = Ledger::default();
        (Book::new(Aggregates::new(MemoryStore::new()), ledger.clone()), ledger)
    }

    async fn live(ledger: &Ledger, order: &Order) -> Order {
        ledger.get(ORDER, order.id).await.unwrap().unwrap()
    }

    async fn names(book: &Book, order: &Order) -> Vec<&'static str> {
        let events = book.after(order.id, 0).await.unwrap();
        events.iter().map(|change| change.event.name()).collect()
    }

    #[tokio::test]
    async fn what_is_noted_again_or_late_happened_once() {
        let ((book, ledger), order) = (book(), order());
        for _ in 0..2 {
            book.note(&order, &[]).await.unwrap();
            book.note(&order, &[Event::StockReserved, Event::PaymentTaken]).await.unwrap();
            book.note(&order, &[Event::Confirmed]).await.unwrap();
        }
        book.note(&order, &[Event::StockRefused { why: "late".into() }]).await.unwrap();
        let expected = ["placed", "stock-reserved", "payment-taken", "confirmed"];
        assert_eq!(names(&book, &order).await, expected);
        assert_eq!(live(&ledger, &order).await, order);
        assert_eq!(
            book.replay().await.unwrap(),
            Replay { histories: 1, orders: 1, different: vec![] }
        );
    }

    #[tokio::test]
    async fn what_was_not_done_is_not_undone_and_nothing_follows_the_undo() {
        let ((book, ledger), order) = (book(), order());
        let no = Event::StockRefused { why: "none left".into() };
        let undo = [Event::PaymentReturned, Event::StockReleased, Event::Cancelled];
        book.note(&order, std::slice::from_ref(&no)).await.unwrap();
        let now = book.note(&order, &undo).await.unwrap();
        assert_eq!(now.failure, Some(no));
        book.note(&order, &[Event::StockReserved, Event::Confirmed]).await.unwrap();
        assert_eq!(names(&book, &order).await, ["placed", "stock-refused", "cancelled"]);
        assert_eq!(live(&ledger, &order).await.status, OrderStatus::Cancelled);
    }

    #[tokio::test]
    async fn an_order_that_is_not_what_its_history_says_is_found() {
        let ((book, ledger), order) = (book(), order());
        book.note(&order, &[]).await.unwrap();
        ledger.put(ORDER, order.id, &order).await.unwrap();
        let other = self::order();
        ledger.put(ORDER, other.id, &other).await.unwrap();
        let mut different = book.replay().await.unwrap().different;
        different.sort_unstable();
        let mut expected = [order.id.to_string(), other.id.to_string()];
        expected.sort_unstable();
        assert_eq!(different, expected);
        // One that stood before there were histories gets one.
        book.adopt().await.unwrap();
        assert_eq!(names(&book, &other).await, ["placed", "confirmed"]);
        assert_eq!(book.replay().await.unwrap().different, [order.id.to_string()]);
    }

    #[tokio::test]
    async fn a_late_note_does_not_bring_an_ended_order_back() {
        let ((book, ledger), order) = (book(), order());
        book.note(&order, &[Event::Confirmed]).await.unwrap();
        let before = Order { status: OrderStatus::Pending, ..order.clone() };
        assert_eq!(book.write(before, |_, _| ()).await, Ok(None));
        assert_eq!(live(&ledger, &order).await, order);
    }
}
