//! The payment service: captures money through a bank, and gives it back, each once per key.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use gusset::call::Problem;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    api::{IdempotencyKey, Json, lock, problem},
    folder::Folder,
    kept::{Kept, Row},
};

/// What it keeps: payments by their keys.
const PAYMENT: &str = "payment";

/// The card that the bank always declines.
pub const DECLINED_CARD: &str = "4000000000000002";

/// How the bank behaves; the knob of the story.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// It works.
    #[default]
    Up,
    /// It cannot be reached.
    Down,
    /// It takes calls and answers none, until it is something else.
    Silent,
}

/// Asks for money.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Charge {
    /// What it is for.
    pub order_id: Uuid,
    /// How much, in cents.
    pub amount_cents: u64,
    /// Number of the card.
    pub card: String,
}

/// Gives money back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refund {
    /// The `Idempotency-Key` under which it was captured.
    pub payment: String,
}

/// What was done under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Payment {
    /// The money is ours.
    Captured {
        /// What for.
        order_id: Uuid,
        /// How much, in cents.
        amount_cents: u64,
    },
    /// It was ours and was given back.
    Refunded {
        /// What it had been for.
        order_id: Uuid,
        /// How much, in cents.
        amount_cents: u64,
    },
    /// The refund came before the capture, which can no longer happen.
    Void,
}

/// Sums over all payments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Payments ever captured.
    pub captured: u64,
    /// Of those, given back.
    pub refunded: u64,
    /// Cents that are ours now.
    pub balance_cents: u64,
}

/// The service with its store.
#[derive(Clone, Debug, Default)]
pub struct Payments {
    store: Arc<Mutex<Store>>,
    bank: watch::Sender<Bank>,
    kept: Kept,
}

#[derive(Debug, Default)]
struct Store {
    payments: HashMap<String, Payment>,
}

impl Payments {
    pub(crate) fn restored(folder: &mut Folder) -> io::Result<Self> {
        let payments = folder.take(PAYMENT)?.into_iter().collect();
        let store = Arc::new(Mutex::new(Store { payments }));
        Ok(Self { store, kept: folder.kept.clone(), ..Self::default() })
    }

    /// Changes how the bank behaves.
    pub fn set_bank(&self, bank: Bank) {
        self.bank.send_replace(bank);
    }

    /// Sums over all payments.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let store = lock(&self.store);
        let mut totals = Totals::default();
        for payment in store.payments.values() {
            match payment {
                Payment::Captured { amount_cents, .. } => {
                    totals.captured += 1;
                    totals.balance_cents += amount_cents;
                }
                Payment::Refunded { .. } => {
                    totals.captured += 1;
                    totals.refunded += 1;
                }
                Payment::Void => {}
            }
        }
        totals
    }

    /// What was captured for each order and not given back: how often, and how many cents.
    #[must_use]
    pub fn kept(&self) -> HashMap<Uuid, (u32, u64)> {
        let mut kept: HashMap<Uuid, (u32, u64)> = HashMap::new();
        for payment in lock(&self.store).payments.values() {
            if let Payment::Captured { order_id, amount_cents } = payment {
                let (times, cents) = kept.entry(*order_id).or_default();
                *times += 1;
                *cents += amount_cents;
            }
        }
        kept
    }

    /// Its HTTP interface. `PUT /bank` is the knob; no gateway leads there.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/payments", post(charge))
            .route("/payments/refund", post(refund))
            .route("/payments/totals", get(totals))
            .route("/bank", get(bank).put(set_bank))
            .with_state(self.clone())
    }

    fn charge(&self, key: String, charge: &Charge) -> Result<Payment, Problem> {
        let mut store = lock(&self.store);
        match store.payments.get(&key) {
            Some(payment @ Payment::Captured { .. }) => return Ok(payment.clone()),
            Some(Payment::Refunded { .. } | Payment::Void) => {
                return Err(problem(StatusCode::CONFLICT, "this payment was given back already"));
            }
            None => {}
        }
        if *self.bank.borrow() == Bank::Down {
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the bank cannot be reached"));
        }
        if charge.card == DECLINED_CARD {
            return Err(problem(StatusCode::PAYMENT_REQUIRED, "the bank declined the card"));
        }
        let Charge { order_id, amount_cents, .. } = *charge;
        let payment = Payment::Captured { order_id, amount_cents };
        self.kept.note(|| [Row::new(PAYMENT, &key, &payment)]);
        store.payments.insert(key, payment.clone());
        Ok(payment)
    }

    fn refund(&self, key: String) -> Payment {
        let mut store = lock(&self.store);
        let given_back = match store.payments.get(&key) {
            Some(&Payment::Captured { order_id, amount_cents }) => {
                Payment::Refunded { order_id, amount_cents }
            }
            Some(settled) => settled.clone(),
            None => Payment::Void,
        };
        self.kept.note(|| [Row::new(PAYMENT, &key, &given_back)]);
        store.payments.insert(key, given_back.clone());
        given_back
    }
}

async fn charge(
    State(payments): State<Payments>,
    key: IdempotencyKey,
    Json(form): Json<Charge>,
) -> Result<(StatusCode, axum::Json<Payment>), Problem> {
    if form.amount_cents == 0 {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "amount_cents: must be at least 1"));
    }
    let key = key.required()?;
    // The sender is in our hands, so this ends when the bank speaks.
    let _ = payments.bank.subscribe().wait_for(|bank| *bank != Bank::Silent).await;
    payments.kept.ready()?;
    let payment = payments.charge(key, &form);
    payments.kept.written().await?;
    Ok((StatusCode::CREATED, axum::Json(payment?)))
}

async fn refund(
    State(payments): State<Payments>,
    Json(form): Json<Refund>,
) -> Result<axum::Json<Payment>, Problem> {
    let payment = payments.refund(form.payment);
    payments.kept.written().await?;
    Ok(axum::Json(payment))
}

async fn totals(State(payments): State<Payments>) -> axum::Json<Totals> {
    axum::Json(payments.totals())
}

async fn bank(State(payments): State<Payments>) -> axum::Json<Bank> {
    axum::Json(*payments.bank.borrow())
}

async fn set_bank(State(payments): State<Payments>, Json(bank): Json<Bank>) -> axum::Json<Bank> {
    payments.set_bank(bank);
    axum::Json(bank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(card: &str) -> Charge {
        Charge { order_id: Uuid::now_v7(), amount_cents: 500, card: card.into() }
    }

    #[test]
    fn the_same_key_is_charged_and_refunded_once() {
        let (payments, form) = (Payments::default(), form("4242424242424242"));
        for _ in 0..3 {
            payments.charge("k".into(), &form).unwrap();
        }
        assert_eq!(payments.totals().balance_cents, 500);
        for _ in 0..3 {
            payments.refund("k".into());
        }
        let totals = payments.totals();
        assert_eq!((totals.captured, totals.refunded, totals.balance_cents), (1, 1, 0));
        assert_eq!(payments.charge("k".into(), &form).unwrap_err().status(), 409);
    }

    #[test]
    fn a_refund_that_overtakes_its_charge_forbids_it() {
        let payments = Payments::default();
        assert_eq!(payments.refund("k".into()), Payment::Void);
        assert_eq!(payments.charge("k".into(), &form("4242")).unwrap_err().status(), 409);
        assert_eq!(payments.totals(), Totals::default());
    }

    #[test]
    fn the_bank_declines_and_the_bank_is_down_are_different_answers() {
        let payments = Payments::default();
        assert_eq!(payments.charge("a".into(), &form(DECLINED_CARD)).unwrap_err().status(), 402);
        payments.set_bank(Bank::Down);
        assert_eq!(payments.charge("b".into(), &form("4242")).unwrap_err().status(), 503);
        payments.set_bank(Bank::Up);
        payments.charge("b".into(), &form("4242")).unwrap();
    }
}
