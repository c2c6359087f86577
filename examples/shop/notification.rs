//! The notification service: mails a confirmation of every order.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use gusset::{
    broker::{Broker, Delivery, Error, Policy, Subscription},
    call::{BoxError, Problem},
    observe,
    sidecar::Sidecar,
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tower::{Layer, service_fn};
use uuid::Uuid;

use crate::{
    api::{Path, lock, not_found},
    event::OrderCreated,
    folder::Folder,
    kept::{Kept, Row},
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
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How many mails went out per order.
    mails: Mutex<HashMap<Uuid, u32>>,
    repaired: AtomicBool,
    mailing: watch::Sender<Mailing>,
    kept: Kept,
}

impl Notifications {
    /// The template is not repaired any more: it belongs to the program.
    pub(crate) fn restored(folder: &mut Folder) -> io::Result<Self> {
        let mails = Mutex::new(folder.take(MAILS)?.into_iter().collect());
        let shared = Shared { mails, kept: folder.kept.clone(), ..Shared::default() };
        Ok(Self { shared: Arc::new(shared) })
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
            notifications.clone().mail_for_good(delivery.into_body())
        });
        let trace = observe::spans(broker, sidecar.recorder());
        broker.subscribe(OrderCreated::SUBJECT).group(GROUP).handle(trace.layer(handler)).await
    }

    /// Repairs the template.
    pub fn repair(&self) {
        self.shared.repaired.store(true, Relaxed);
    }

    /// Changes how the server of mails behaves; what waits for a slow one goes on by the new way.
    pub fn set_mailing(&self, mailing: Mailing) {
        self.shared.mailing.send_replace(mailing);
    }

    /// How many mails went out about an order.
    #[must_use]
    pub fn mails_about(&self, order: Uuid) -> u32 {
        lock(&self.shared.mails).get(&order).copied().unwrap_or_default()
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new().route("/notifications/{order}", get(show)).with_state(self.clone())
    }

    fn mail(&self, order: &OrderCreated) -> Result<(), BoxError> {
        if order.email == POISON_EMAIL && !self.shared.repaired.load(Relaxed) {
            return Err(format!("template: unexpected quote in {:?}", order.email).into());
        }
        let mut mails = lock(&self.shared.mails);
        let about = mails.entry(order.order_id).or_default();
        // A message may come twice.
        if *about == 0 {
            *about = 1;
            self.shared.kept.note(|| [Row::new(MAILS, order.order_id, about)]);
        }
        Ok(())
    }

    /// Hands it to the server of mails.
    async fn sent(&self) -> Result<(), BoxError> {
        let mut mailing = self.shared.mailing.subscribe();
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
    async fn mail_for_good(self, order: OrderCreated) -> Result<(), BoxError> {
        self.sent().await?;
        self.mail(&order)?;
        Ok(self.shared.kept.written().await?)
    }
}

async fn show(
    State(notifications): State<Notifications>,
    Path(order): Path<Uuid>,
) -> Result<axum::Json<Value>, Problem> {
    match notifications.mails_about(order) {
        0 => Err(not_found("notification about order", order)),
        mails => Ok(axum::Json(json!({ "order_id": order, "mails": mails }))),
    }
}
