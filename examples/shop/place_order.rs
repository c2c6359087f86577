//! The saga that places an order: reserve the stock of every line, take the money, create the order. That it was created is told to everybody.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset::{
    call::BoxError,
    saga::{Definition, DefinitionError, Effect, Policy, Saga, StepContext, StepError},
};
use serde::{Deserialize, Serialize};

use crate::{
    api::lock,
    client::{CallError, Peer},
    event::{Line, OrderCreated},
    kept::{Kept, Row},
    order::{Ledger, ORDER, Order, OrderStatus},
    payment::{Charge, Refund},
    product::{Release, Reserve},
};

/// What a saga is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Placing {
    pub(crate) order: Order,
    pub(crate) email: String,
    pub(crate) card: String,
}

/// What the steps of a saga work with.
pub(crate) struct Steps {
    pub(crate) products: Peer,
    pub(crate) payments: Peer,
    pub(crate) store: Arc<Mutex<Ledger>>,
    pub(crate) kept: Kept,
}

/// The saga of an order with so many lines.
pub(crate) fn define(
    steps: &Arc<Steps>,
    lines: usize,
) -> Result<Definition<Placing, ()>, DefinitionError> {
    // The client waits, and the calls within an attempt are retried already.
    let patience = Policy::step().timeout(Duration::from_secs(3)).attempts(1);
    let mut saga = Saga::define(format!("place-order-{lines}"), 1);
    for place in 0..lines {
        let (act, undo) = (steps.clone(), steps.clone());
        saga.step(format!("reserve-stock-{}", place + 1))
            .policy(patience)
            .run(move |cx, placing: Placing| act.clone().reserve(cx, placing, place))
            .undo(move |cx, _, _: Effect<()>| undo.clone().release(cx));
    }
    let (act, undo) = (steps.clone(), steps.clone());
    saga.step("process-payment")
        .policy(patience)
        .run(move |cx, placing| act.clone().charge(cx, placing))
        .undo(move |cx, _, _: Effect<()>| undo.clone().refund(cx));
    let (act, undo) = (steps.clone(), steps.clone());
    saga.step("create-order")
        .run(move |cx, placing| act.clone().create(cx, placing))
        .undo(move |_, placing: Placing, _: Effect<()>| undo.clone().cancel(placing.order));
    saga.finish(())
}

impl Steps {
    async fn reserve(
        self: Arc<Self>,
        cx: StepContext,
        placing: Placing,
        place: usize,
    ) -> Result<(), StepError> {
        let Line { product_id, quantity } = placing.order.items[place];
        let wanted = Reserve { product_id, quantity };
        let key = cx.idempotency_key();
        self.products.post("/products/reserve", &key, &wanted).await.map_err(step_error)
    }

    async fn release(self: Arc<Self>, cx: StepContext) -> Result<(), StepError> {
        let release = Release { reservation: cx.action_key() };
        let key = cx.idempotency_key();
        self.products.post("/products/release", &key, &release).await.map_err(step_error)
    }

    async fn charge(self: Arc<Self>, cx: StepContext, placing: Placing) -> Result<(), StepError> {
        let Placing { order, card, .. } = placing;
        let charge = Charge { order_id: order.id, amount_cents: order.total_cents, card };
        let key = cx.idempotency_key();
        self.payments.post("/payments", &key, &charge).await.map_err(step_error)
    }

    async fn refund(self: Arc<Self>, cx: StepContext) -> Result<(), StepError> {
        let refund = Refund { payment: cx.action_key() };
        let key = cx.idempotency_key();
        self.payments.post("/payments/refund", &key, &refund).await.map_err(step_error)
    }

    async fn write(self: Arc<Self>, order: Order) -> Result<(), StepError> {
        {
            let mut ledger = lock(&self.store);
            self.kept.note(|| [Row::new(ORDER, order.id, &order)]);
            ledger.orders.insert(order.id, order);
        }
        self.kept.written().await.map_err(StepError::unknown)
    }

    async fn cancel(self: Arc<Self>, order: Order) -> Result<(), StepError> {
        self.write(Order { status: OrderStatus::Cancelled, ..order }).await
    }

    /// The event is in the journal with the end of the saga, or not at all.
    async fn create(self: Arc<Self>, cx: StepContext, placing: Placing) -> Result<(), StepError> {
        let Placing { order, email, .. } = placing;
        let event = OrderCreated {
            order_id: order.id,
            user_id: order.user_id,
            email,
            lines: order.items.clone(),
            total_cents: order.total_cents,
        };
        cx.emit(OrderCreated::SUBJECT, &event).map_err(StepError::rejected)?;
        self.write(order).await
    }
}

/// A 4xx is a decision. All else may have had its effect before it failed.
fn step_error(error: CallError) -> StepError {
    match error {
        CallError::Refused { status, detail } if status.is_client_error() => {
            StepError::rejected(detail)
        }
        CallError::Refused { detail, .. } => StepError::unknown(BoxError::from(detail)),
        CallError::Failed(error) => StepError::from_call(error),
    }
}
