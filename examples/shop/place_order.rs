//! The saga that places an order: reserve the stock of every line, take the money, create the order. That it was created is told to everybody.

use std::{sync::Arc, time::Duration};

use gusset::{
    call::BoxError,
    saga::{Definition, DefinitionError, Effect, Policy, Saga, StepContext, StepError},
};
use serde::{Deserialize, Serialize};

use crate::{
    client::{CallError, Peer},
    event::{Line, OrderCreated},
    history::{Book, Event},
    order::Order,
    payment::{Charge, Refund},
    product::{Release, Reserve},
    rpc::{CallFailed, PaymentsClient},
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
    pub(crate) payments: PaymentsClient,
    pub(crate) book: Book,
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
            .undo(move |cx, placing, _: Effect<()>| undo.clone().release(cx, placing, place));
    }
    let (act, undo) = (steps.clone(), steps.clone());
    saga.step("process-payment")
        .policy(patience)
        .run(move |cx, placing| act.clone().charge(cx, placing))
        .undo(move |cx, placing, _: Effect<()>| undo.clone().refund(cx, placing));
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
        let order = &placing.order;
        if place == 0 {
            self.note(order, &[]).await?;
        }
        let Line { product_id, quantity } = order.items[place];
        let wanted = Reserve { product_id, quantity };
        let key = cx.idempotency_key();
        match self.products.post("/products/reserve", &key, &wanted).await {
            Ok(()) if place + 1 == order.items.len() => {
                self.note(order, &[Event::StockReserved]).await
            }
            Ok(()) => Ok(()),
            Err(error) => {
                let refused = Event::StockRefused { why: error.to_string() };
                // Of the first one there is nothing to be undone, unless it may have had its effect.
                let is_end = place == 0 && error.is_decision();
                let events = [refused, Event::Cancelled];
                self.note(order, &events[..1 + usize::from(is_end)]).await?;
                Err(step_error(error))
            }
        }
    }

    async fn release(
        self: Arc<Self>,
        cx: StepContext,
        placing: Placing,
        place: usize,
    ) -> Result<(), StepError> {
        let release = Release { reservation: cx.action_key() };
        let key = cx.idempotency_key();
        self.products.post("/products/release", &key, &release).await.map_err(step_error)?;
        if place == 0 {
            // It was the first, so it is the last to be undone.
            self.note(&placing.order, &[Event::StockReleased, Event::Cancelled]).await?;
        }
        Ok(())
    }

    async fn charge(self: Arc<Self>, cx: StepContext, placing: Placing) -> Result<(), StepError> {
        let Placing { order, card, .. } = placing;
        let charge = Charge { order_id: order.id, amount_cents: order.total_cents, card };
        let key = cx.idempotency_key();
        let charged = self.payments.charge(&key, &charge).await;
        match charged {
            Ok(()) => self.note(&order, &[Event::PaymentTaken]).await,
            Err(error) => {
                let (why, decided) = (error.to_string(), error.is_decision());
                self.note(&order, &[Event::PaymentRefused { why, decided }]).await?;
                Err(error.into_step())
            }
        }
    }

    async fn refund(self: Arc<Self>, cx: StepContext, placing: Placing) -> Result<(), StepError> {
        let refund = Refund { payment: cx.action_key() };
        let key = cx.idempotency_key();
        let refunded = self.payments.refund(&key, &refund).await;
        refunded.map_err(CallFailed::into_step)?;
        self.note(&placing.order, &[Event::PaymentReturned]).await
    }

    /// What was done for it is yet to be undone; that notes the end.
    async fn cancel(self: Arc<Self>, order: Order) -> Result<(), StepError> {
        self.note(&order, &[]).await
    }

    async fn note(&self, order: &Order, events: &[Event]) -> Result<(), StepError> {
        self.book.note(order, events).await.map(drop).map_err(StepError::unknown)
    }

    /// The event is in the journal with the end of the saga, or not at all.
    async fn create(self: Arc<Self>, cx: StepContext, placing: Placing) -> Result<(), StepError> {
        let order = placing.order.clone();
        let event = OrderCreated::of(placing);
        cx.emit(OrderCreated::SUBJECT, &event).map_err(StepError::rejected)?;
        self.note(&order, &[Event::Confirmed]).await
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
