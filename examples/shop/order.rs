//! The order service: places orders as sagas.
//!
//! `POST /orders` asks the user service who orders and the product service what it costs, and then runs the saga: reserve
//! the stock of every line, take the money, create the order. What fails is undone in reverse. That an order was created is
//! written down with the end of its saga, and published from there. With [`Flow::Choreography`] there is no saga, and services follow each other's events.
//!
//! The answer is that of the end. Who sends `Prefer: respond-async` (RFC 7240) gets 202 as soon as the order is there, and follows it: `GET /orders/{id}/events` tells
//! what happens to it as server-sent events until it has ended, `GET /orders/{id}/history` what happened so far.

mod desk;

use std::{io, sync::Arc, time::Duration};

use gusset::{
    broker::Broker,
    observe,
    outbox::ToBroker,
    saga::{
        Aggregates, DefinitionError, Options, Orchestrator, Outgoing, RelayOptions,
        State as SagaState, Store,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tower::{Layer, ServiceExt};
use uuid::Uuid;

use self::desk::Desk;
use crate::{
    choreography::{self, Flow},
    client::Outbound,
    event::Line,
    folder::Folder,
    history::{Book, Replay},
    ledger::{Ledger, NotKept},
    live::Live,
    mail::{self, Mail},
    place_order::{Steps, define},
    service::App,
    settings::Settings,
};

/// Where it keeps orders.
pub(crate) const ORDER: &str = "order";

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
        let leaving = Box::new(move || readers.leave());
        Ok(App { router: desk.router(), leaving, at_last: Box::pin(at_last) })
    }
}
