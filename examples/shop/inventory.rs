//! The inventory service: knows what was sold, from the events alone.

use std::collections::BTreeMap;

use axum::{Router, extract::State, routing::get};
use gusset::{
    broker::{Broker, Delivery, Error, Policy, Subscription},
    call::{BoxError, Problem},
    observe,
    sidecar::Sidecar,
};
use tower::{Layer, service_fn};
use uuid::Uuid;

use crate::{
    event::{Line, OrderCreated},
    ledger::{Ledger, NotKept, place},
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
    ledger: Ledger,
}

impl Inventory {
    pub(crate) const fn new(ledger: Ledger) -> Self {
        Self { ledger }
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
            inventory.clone().count(delivery.into_body())
        });
        let trace = observe::spans(broker, sidecar.recorder());
        broker.subscribe(OrderCreated::SUBJECT).group(GROUP).handle(trace.layer(handler)).await
    }

    /// The lines of the orders that were counted.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn counted(&self) -> Result<BTreeMap<Uuid, Vec<Line>>, NotKept> {
        Ok(self.ledger.list(COUNTED).await?.into_iter().collect())
    }

    /// How many of each product were sold.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    pub async fn sold(&self) -> Result<BTreeMap<Uuid, u64>, NotKept> {
        let mut sold = BTreeMap::new();
        for line in self.counted().await?.values().flatten() {
            *sold.entry(line.product_id).or_default() += u64::from(line.quantity);
        }
        Ok(sold)
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new().route("/sold", get(sold)).with_state(self.clone())
    }

    /// A message may come twice.
    async fn count(self, order: OrderCreated) -> Result<(), BoxError> {
        let OrderCreated { order_id, lines, .. } = order;
        let counted = self.ledger.change([place(COUNTED, order_id)], move |page| {
            if page.get::<Vec<Line>>(COUNTED, order_id)?.is_none() {
                page.put(COUNTED, order_id, &lines);
            }
            Ok::<_, NotKept>(())
        });
        Ok(counted.await?)
    }
}

async fn sold(
    State(inventory): State<Inventory>,
) -> Result<axum::Json<BTreeMap<Uuid, u64>>, Problem> {
    Ok(axum::Json(inventory.sold().await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Line;

    #[tokio::test]
    async fn an_order_that_comes_twice_is_counted_once() {
        let (inventory, product_id) = (Inventory::default(), Uuid::now_v7());
        let order = OrderCreated {
            order_id: Uuid::now_v7(),
            user_id: Uuid::now_v7(),
            email: "a@b".into(),
            lines: vec![Line { product_id, quantity: 3 }],
            total_cents: 1,
        };
        inventory.clone().count(order.clone()).await.unwrap();
        inventory.clone().count(order).await.unwrap();
        assert_eq!(inventory.sold().await.unwrap()[&product_id], 3);
    }
}
