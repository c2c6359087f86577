//! The payment service: captures money through a bank, and gives it back, each once per key.

use std::{collections::HashMap, fmt, time::Duration};

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use gusset::call::Problem;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use crate::{
    api::{IdempotencyKey, Json, problem},
    ledger::{Ledger, NotKept, Page, Place, place},
    rpc,
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

/// Why no money was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCharge {
    Amount,
    GivenBack,
    BankAway,
    Declined,
    NotKept,
}

impl NoCharge {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Amount => StatusCode::UNPROCESSABLE_ENTITY,
            Self::GivenBack => StatusCode::CONFLICT,
            Self::Declined => StatusCode::PAYMENT_REQUIRED,
            Self::BankAway | Self::NotKept => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for NoCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount => f.write_str("amount_cents: must be at least 1"),
            Self::GivenBack => f.write_str("this payment was given back already"),
            Self::BankAway => f.write_str("the bank cannot be reached"),
            Self::Declined => f.write_str("the bank declined the card"),
            Self::NotKept => NotKept.fmt(f),
        }
    }
}

impl From<NotKept> for NoCharge {
    fn from(_: NotKept) -> Self {
        Self::NotKept
    }
}

impl From<NoCharge> for Problem {
    fn from(why: NoCharge) -> Self {
        problem(why.status(), why.to_string())
    }
}

/// The service with its store.
#[derive(Clone, Debug, Default)]
pub struct Payments {
    ledger: Ledger,
    bank: watch::Sender<Bank>,
}

impl Payments {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, ..Self::default() }
    }

    /// Changes how the bank behaves.
    pub fn set_bank(&self, bank: Bank) {
        self.bank.send_replace(bank);
    }

    /// Sums over all payments.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub async fn totals(&self) -> Result<Totals, NotKept> {
        let mut totals = Totals::default();
        for (_, payment) in self.all().await? {
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
        Ok(totals)
    }

    /// What was captured for each order and not given back: how often, and how many cents.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    pub async fn kept(&self) -> Result<HashMap<Uuid, (u32, u64)>, NotKept> {
        let mut kept: HashMap<Uuid, (u32, u64)> = HashMap::new();
        for (_, payment) in self.all().await? {
            if let Payment::Captured { order_id, amount_cents } = payment {
                let (times, cents) = kept.entry(order_id).or_default();
                *times += 1;
                *cents += amount_cents;
            }
        }
        Ok(kept)
    }

    async fn all(&self) -> Result<Vec<(String, Payment)>, NotKept> {
        self.ledger.list(PAYMENT).await
    }

    /// Its interface: HTTP, and gRPC on the same socket. `PUT /bank` is the knob; no gateway leads there.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/payments", post(charge))
            .route("/payments/refund", post(refund))
            .route("/payments/totals", get(totals))
            .route("/bank", get(bank).put(set_bank))
            .with_state(self.clone())
            .merge(rpc::router(self))
    }

    /// Waits while the bank is silent.
    pub(crate) async fn charge(&self, key: String, charge: Charge) -> Result<Payment, NoCharge> {
        if charge.amount_cents == 0 {
            return Err(NoCharge::Amount);
        }
        // The sender is in our hands, so this ends when the bank speaks.
        let _ = self.bank.subscribe().wait_for(|bank| *bank != Bank::Silent).await;
        let bank = *self.bank.borrow();
        let charged = self
            .ledger
            .change([place(PAYMENT, &key)], move |page| Self::capture(page, &key, &charge, bank));
        charged.await
    }

    /// The row of a payment.
    pub(crate) fn place_of(key: &str) -> Place {
        place(PAYMENT, key)
    }

    /// What the bank says to a charge.
    pub(crate) fn capture(
        page: &mut Page,
        key: &str,
        charge: &Charge,
        bank: Bank,
    ) -> Result<Payment, NoCharge> {
        match page.get(PAYMENT, key)? {
            Some(payment @ Payment::Captured { .. }) => return Ok(payment),
            Some(Payment::Refunded { .. } | Payment::Void) => return Err(NoCharge::GivenBack),
            None if bank == Bank::Down => return Err(NoCharge::BankAway),
            None if charge.card == DECLINED_CARD => return Err(NoCharge::Declined),
            None => {}
        }
        let Charge { order_id, amount_cents, .. } = *charge;
        let payment = Payment::Captured { order_id, amount_cents };
        page.put(PAYMENT, key, &payment);
        Ok(payment)
    }

    /// From now on nothing is captured under this key, where nothing was.
    pub(crate) fn forbid(page: &mut Page, key: &str) -> Result<(), NotKept> {
        if page.get::<Payment>(PAYMENT, key)?.is_none() {
            page.put(PAYMENT, key, &Payment::Void);
        }
        Ok(())
    }

    /// How the bank behaves, as soon as it says something, at the latest after `patience`.
    pub(crate) async fn bank_within(&self, patience: Duration) -> Bank {
        let mut bank = self.bank.subscribe();
        let _ = timeout(patience, bank.wait_for(|bank| *bank != Bank::Silent)).await;
        *self.bank.borrow()
    }

    pub(crate) async fn refund(&self, key: String) -> Result<Payment, NotKept> {
        let refunded = self.ledger.change([place(PAYMENT, &key)], move |page| {
            let given_back = match page.get(PAYMENT, &key)? {
                Some(Payment::Captured { order_id, amount_cents }) => {
                    Payment::Refunded { order_id, amount_cents }
                }
                Some(settled) => settled,
                None => Payment::Void,
            };
            page.put(PAYMENT, &key, &given_back);
            Ok(given_back)
        });
        refunded.await
    }
}

async fn charge(
    State(payments): State<Payments>,
    key: IdempotencyKey,
    Json(form): Json<Charge>,
) -> Result<(StatusCode, axum::Json<Payment>), Problem> {
    let payment = payments.charge(key.required()?, form).await?;
    Ok((StatusCode::CREATED, axum::Json(payment)))
}

async fn refund(
    State(payments): State<Payments>,
    Json(form): Json<Refund>,
) -> Result<axum::Json<Payment>, Problem> {
    Ok(axum::Json(payments.refund(form.payment).await?))
}

async fn totals(State(payments): State<Payments>) -> Result<axum::Json<Totals>, Problem> {
    Ok(axum::Json(payments.totals().await?))
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

    #[tokio::test]
    async fn the_same_key_is_charged_and_refunded_once() {
        let (payments, form) = (Payments::default(), form("4242424242424242"));
        for _ in 0..3 {
            payments.charge("k".into(), form.clone()).await.unwrap();
        }
        assert_eq!(payments.totals().await.unwrap().balance_cents, 500);
        for _ in 0..3 {
            payments.refund("k".into()).await.unwrap();
        }
        let totals = payments.totals().await.unwrap();
        assert_eq!((totals.captured, totals.refunded, totals.balance_cents), (1, 1, 0));
        assert_eq!(payments.charge("k".into(), form).await.unwrap_err().status(), 409);
    }

    #[tokio::test]
    async fn a_refund_that_overtakes_its_charge_forbids_it() {
        let payments = Payments::default();
        assert_eq!(payments.refund("k".into()).await.unwrap(), Payment::Void);
        assert_eq!(payments.charge("k".into(), form("4242")).await.unwrap_err().status(), 409);
        assert_eq!(payments.totals().await.unwrap(), Totals::default());
    }

    #[tokio::test]
    async fn the_bank_declines_and_the_bank_is_down_are_different_answers() {
        let payments = Payments::default();
        let charge = async |key: &str, card| payments.charge(key.into(), form(card)).await;
        assert_eq!(charge("a", DECLINED_CARD).await.unwrap_err().status(), 402);
        payments.set_bank(Bank::Down);
        assert_eq!(charge("b", "4242").await.unwrap_err().status(), 503);
        payments.set_bank(Bank::Up);
        charge("b", "4242").await.unwrap();
    }
}
