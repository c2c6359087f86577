//! The inventory service: knows what was sold, from the events alone.

use std::{
    collections::{BTreeMap, HashSet},
    future::ready,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, routing::get};
use gusset::{
    broker::{Broker, Delivery, Error, Subscription},
    call::BoxError,
    sidecar::Sidecar,
};
use tower::service_fn;
use uuid::Uuid;

use crate::{api::lock, event::OrderCreated};

/// The service with its store.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    store: Arc<Mutex<Store>>,
}

#[derive(Debug, Default)]
struct Store {
    sold: BTreeMap<Uuid, u64>,
    /// Orders that were counted: a message may come twice.
    counted: HashSet<Uuid>,
}

impl Inventory {
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
        let (inventory, sidecar) = (self.clone(), sidecar.clone());
        broker
            .subscribe(OrderCreated::SUBJECT)
            .group("inventory")
            .handle(service_fn(move |delivery: Delivery<OrderCreated>| {
                inventory.count(delivery.body());
                sidecar.intercept(OrderCreated::SUBJECT, ready(Ok::<_, BoxError>(())))
            }))
            .await
    }

    /// How many of each product were sold.
    #[must_use]
    pub fn sold(&self) -> BTreeMap<Uuid, u64> {
        lock(&self.store).sold.clone()
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new().route("/sold", get(sold)).with_state(self.clone())
    }

    fn count(&self, order: &OrderCreated) {
        let mut store = lock(&self.store);
        if store.counted.insert(order.order_id) {
            for line in &order.lines {
                *store.sold.entry(line.product_id).or_default() += u64::from(line.quantity);
            }
        }
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
