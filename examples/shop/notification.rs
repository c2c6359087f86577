//! The notification service: mails a confirmation of every order.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use gusset::{
    broker::{Broker, Delivery, Error, Policy, Subscription},
    call::{BoxError, Problem},
    observe,
    sidecar::Sidecar,
};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tower::{Layer, service_fn};
use uuid::Uuid;

use crate::{
    api::{Path, not_found},
    event::OrderCreated,
    ledger::{Ledger, NotKept, place},
};

/// Its group of consumers.
pub(crate) const GROUP: &str = "notification";

/// What it keeps: how many mails went out about each order.
const MAILS: &str = "mails-about-order";

/// An address that the mail template chokes on, until someone repairs it.
pub const POISON_EMAIL: &str = "bobby'); drop table mails;--@example.com";

/// Of its group: three attempts, 100 ms and 200 ms apart at most.
pub(crate) const fn policy() -> Policy {
    Policy::new().backoff(Duration::from_millis(100), Duration::from_secs(1))
}

/// How the server of mails behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mailing {
    /// It works.
    #[default]
    Up,
    /// It takes so long for each mail.
    Slow(Duration),
    /// It takes none.
    Down,
}

/// The service with its store.
#[derive(Clone, Debug, Default)]
pub struct Notifications {
    ledger: Ledger,
    repaired: Arc<AtomicBool>,
    mailing: watch::Sender<Mailing>,
}

impl Notifications {
    /// The template is not repaired any more: it belongs to the program.
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, ..Self::default() }
    }

    /// Spawns its consumer, in the group `notification`.
    ///
    /// # Errors
    ///
    /// If the broker is closed.
    pub async fn subscribe(
        &self,
        broker: &Broker,
        sidecar: &Sidecar,
    ) -> Result<Subscription, Error> {
        let notifications = self.clone();
        let handler = service_fn(move |delivery: Delivery<OrderCreated>| {
            notifications.clone().mail(delivery.into_body())
        });
        let trace = observe::spans(broker, sidecar.recorder());
        broker.subscribe(OrderCreated::SUBJECT).group(GROUP).handle(trace.layer(handler)).await
    }

    /// Repairs the template.
    pub fn repair(&self) {
        self.repaired.store(true, Relaxed);
    }

    /// Changes how the server of mails behaves; what waits for a slow one goes on by the new way.
    pub fn set_mailing(&self, mailing: Mailing) {
        self.mailing.send_replace(mailing);
    }

    /// How many mails went out about an order.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    pub async fn mails_about(&self, order: Uuid) -> Result<u32, NotKept> {
        Ok(self.ledger.get(MAILS, order).await?.unwrap_or_default())
    }

    /// The same of every order that there was a mail about.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    pub async fn mails(&self) -> Result<HashMap<Uuid, u32>, NotKept> {
        Ok(self.ledger.list(MAILS).await?.into_iter().collect())
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/notifications/{order}", get(show))
            .route("/template/repair", post(repair))
            .with_state(self.clone())
    }

    /// Hands it to the server of mails.
    async fn sent(&self) -> Result<(), BoxError> {
        let mut mailing = self.mailing.subscribe();
        loop {
            let now = *mailing.borrow_and_update();
            match now {
                Mailing::Up => return Ok(()),
                Mailing::Down => return Err("no server takes mails at present".into()),
                Mailing::Slow(span) => match timeout(span, mailing.changed()).await {
                    Err(_) => return Ok(()),
                    Ok(changed) => changed?,
                },
            }
        }
    }

    /// Whoever dies between the mail and its note sends it again.
    async fn mail(self, order: OrderCreated) -> Result<(), BoxError> {
        self.sent().await?;
        if order.email == POISON_EMAIL && !self.repaired.load(Relaxed) {
            return Err(format!("template: unexpected quote in {:?}", order.email).into());
        }
        let id = order.order_id;
        let noted = self.ledger.change([place(MAILS, id)], move |page| {
            // A message may come twice.
            if page.get::<u32>(MAILS, id)?.is_none() {
                page.put(MAILS, id, &1_u32);
            }
            Ok::<_, NotKept>(())
        });
        Ok(noted.await?)
    }
}

/// No gateway leads there.
async fn repair(State(notifications): State<Notifications>) -> StatusCode {
    notifications.repair();
    StatusCode::NO_CONTENT
}

async fn show(
    State(notifications): State<Notifications>,
    Path(order): Path<Uuid>,
) -> Result<axum::Json<Value>, Problem> {
    match notifications.mails_about(order).await? {
        0 => Err(not_found("notification about order", order)),
        mails => Ok(axum::Json(json!({ "order_id": order, "mails": mails }))),
    }
}
