//! The inventory service: knows what was sold, from the events alone.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, routing::get};
use gusset::{
    broker::{Broker, Delivery, Error, Policy, Subscription},
    call::BoxError,
    observe,
    sidecar::Sidecar,
};
use tower::{Layer, service_fn};
use uuid::Uuid;

use crate::{
    api::lock,
    event::{Line, OrderCreated},
    folder::Folder,
    kept::{Kept, Row},
};

/// Its group of consumers.
pub(crate) const GROUP: &str = "inventory";

/// What it keeps: the lines of each order that was counted.
const COUNTED: &str = "counted-order";

/// Of its group: the default.
pub(crate) const fn policy() -> Policy {
    Policy::new()
}

/// The service with its store.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The lines of the orders that were counted. A message may come twice.
    counted: Arc<Mutex<HashMap<Uuid, Vec<Line>>>>,
    kept: Kept,
}

impl Inventory {
    pub(crate) fn restored(folder: &mut Folder) -> io::Result<Self> {
        let counted = folder.take(COUNTED)?.into_iter().collect();
        Ok(Self { counted: Arc::new(Mutex::new(counted)), kept: folder.kept.clone() })
    }

    /// Spawns its consumer, in the group `inventory`.
    ///
    /// # Errors
    ///
    /// If the broker is closed.
    pub async fn subscribe(
        &self,
        broker: &Broker,
        sidecar: &Sidecar,
    ) -> Result<Subscription, Error> {
        let inventory = self.clone();
        let handler = service_fn(move |delivery: Delivery<OrderCreated>| {
            inventory.clone().count_for_good(delivery.into_body())
        });
        let trace = observe::spans(broker, sidecar.recorder());
        broker.subscribe(OrderCreated::SUBJECT).group(GROUP).handle(trace.layer(handler)).await
    }

    /// How many of each product were sold.
    #[must_use]
    pub fn sold(&self) -> BTreeMap<Uuid, u64> {
        let mut sold = BTreeMap::new();
        for line in lock(&self.counted).values().flatten() {
            *sold.entry(line.product_id).or_default() += u64::from(line.quantity);
        }
        sold
    }

    /// Whether an order was counted.
    #[must_use]
    pub fn has_counted(&self, order: Uuid) -> bool {
        lock(&self.counted).contains_key(&order)
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new().route("/sold", get(sold)).with_state(self.clone())
    }

    fn count(&self, order: &OrderCreated) {
        let mut counted = lock(&self.counted);
        if counted.insert(order.order_id, order.lines.clone()).is_none() {
            self.kept.note(|| [Row::new(COUNTED, order.order_id, &order.lines)]);
        }
    }

    async fn count_for_good(self, order: OrderCreated) -> Result<(), BoxError> {
        self.count(&order);
        Ok(self.kept.written().await?)
    }
}

async fn sold(State(inventory): State<Inventory>) -> axum::Json<BTreeMap<Uuid, u64>> {
    axum::Json(inventory.sold())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Line;

    #[test]
    fn an_order_that_comes_twice_is_counted_once() {
        let (inventory, product_id) = (Inventory::default(), Uuid::now_v7());
        let order = OrderCreated {
            order_id: Uuid::now_v7(),
            user_id: Uuid::now_v7(),
            email: "a@b".into(),
            lines: vec![Line { product_id, quantity: 3 }],
            total_cents: 1,
        };
        inventory.count(&order);
        inventory.count(&order);
        assert_eq!(inventory.sold()[&product_id], 3);
    }
}
