//! What the services tell each other through the broker.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::place_order::Placing;

/// One product in an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub product_id: Uuid,
    /// How many of it.
    pub quantity: u32,
}

/// An order was confirmed. Published as `order.created`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCreated {
    /// The order.
    pub order_id: Uuid,
    /// Who ordered.
    pub user_id: Uuid,
    /// Where the confirmation goes.
    pub email: String,
    /// What was ordered.
    pub lines: Vec<Line>,
    /// What it cost.
    pub total_cents: u64,
}

impl OrderCreated {
    /// What is told of an order.
    pub(crate) fn of(placing: Placing) -> Self {
        let Placing { order, email, .. } = placing;
        Self {
            order_id: order.id,
            user_id: order.user_id,
            email,
            lines: order.items,
            total_cents: order.total_cents,
        }
    }

    /// The subject it is published on.
    pub const SUBJECT: &str = "order.created";
}
