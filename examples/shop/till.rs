//! The payment service of an order that nobody conducts: takes the money when it hears that the stock is set aside.

use std::time::Duration;

use gusset::{breaker::Circuit, call::BoxError};
use tokio::time::{sleep, timeout};

use crate::{
    chaos::{Chaos, Fault, SLOWER},
    choreography::{NOT_TAKEN, RESERVED, TAKEN, Told},
    history::Event,
    ledger::NotKept,
    mail::{Letter, Mail},
    payment::{Bank, Charge, NoCharge, Payments},
};

/// How often the bank is asked before an order is given up.
const BANK_ASKED: u32 = 3;

/// How long the bank may be silent.
const BANK_SILENT: Duration = Duration::from_secs(1);

/// Of one instance. While the bank's circuit is open, orders are refused at once.
#[derive(Clone)]
pub(crate) struct Till {
    pub(crate) payments: Payments,
    /// The circuit of the bank.
    pub(crate) bank: Circuit,
    pub(crate) mail: Mail,
    /// What is on happens between this and the bank, as it does before the interface of the service.
    pub(crate) chaos: Chaos,
}

impl Till {
    /// Takes the money, or says why not. An error means that the bank is to be asked again.
    pub(crate) async fn take(self, told: Told, attempt: u32) -> Result<(), BoxError> {
        let asked = match self.bank.try_acquire_owned() {
            Err(open) => Err(open.to_string()),
            Ok(permit) => match self.ask_bank().await {
                Bank::Up => {
                    permit.success();
                    Ok(())
                }
                Bank::Down | Bank::Silent => {
                    permit.failure();
                    if attempt < BANK_ASKED {
                        return Err(NoCharge::BankAway.to_string().into());
                    }
                    Err(NoCharge::BankAway.to_string())
                }
            },
        };
        self.write(told, asked).await?;
        // The money is taken, and nobody hears of it: so it is asked for again, which changes nothing.
        if self.chaos.is_on(Fault::PaymentMute) && attempt < BANK_ASKED {
            return Err("the answer was lost".into());
        }
        Ok(())
    }

    /// What it says, and nothing is nothing after a while.
    async fn ask_bank(&self) -> Bank {
        if self.chaos.is_on(Fault::PaymentHangs) {
            let over = self.chaos.is_over(Fault::PaymentHangs);
            if timeout(BANK_SILENT, over).await.is_err() {
                return Bank::Silent;
            }
        }
        if self.chaos.is_on(Fault::PaymentSlow) {
            sleep(SLOWER).await;
        }
        if self.chaos.is_on(Fault::PaymentFails) {
            return Bank::Down;
        }
        self.payments.bank_within(BANK_SILENT).await
    }

    async fn write(&self, told: Told, asked: Result<(), String>) -> Result<(), NotKept> {
        let order = told.order();
        let (order_id, amount_cents) = (order.id, order.total_cents);
        let key = format!("order/{order_id}/payment");
        let charge = Charge { order_id, amount_cents, card: told.card().to_owned() };
        let taken =
            self.mail.once(told.name(RESERVED), vec![Payments::place_of(&key)], move |page| {
                let refused = match asked {
                    Ok(()) => match Payments::capture(page, &key, &charge, Bank::Up) {
                        Ok(_) => return Ok(vec![Letter::new(TAKEN, &told)]),
                        Err(NoCharge::NotKept) => return Err(NotKept),
                        Err(why) => Event::PaymentRefused { why: why.to_string(), decided: true },
                    },
                    Err(why) => Event::PaymentRefused { why, decided: false },
                };
                Payments::forbid(page, &key)?;
                Ok(vec![Letter::new(NOT_TAKEN, &told.refused(refused))])
            });
        taken.await
    }
}

#[cfg(test)]
mod tests {
    use gusset::{breaker::Policy, broker::Broker, sidecar::Sidecar};
    use tokio::time::Instant;

    use super::*;
    use crate::{ledger::Ledger, mail};

    fn till() -> (Till, Ledger) {
        let ledger = Ledger::default();
        let mail = Mail::new(&ledger, &Broker::new(), &Sidecar::new("payment"), "payment");
        let (payments, chaos) = (Payments::new(ledger.clone()), Chaos::default());
        let bank = Circuit::new("bank", Policy::consecutive(5));
        (Till { payments, bank, mail, chaos }, ledger)
    }

    async fn captured(till: &Till) -> u64 {
        till.payments.totals().await.unwrap().captured
    }

    #[tokio::test(start_paused = true)]
    async fn a_bank_that_is_broken_on_purpose_is_asked_three_times_and_takes_nothing() {
        for fault in [Fault::PaymentFails, Fault::PaymentHangs] {
            let (till, _) = till();
            till.chaos.set(fault, true).unwrap();
            let told = Told::of_an_order();
            for attempt in 1..BANK_ASKED {
                till.clone().take(told.clone(), attempt).await.unwrap_err();
            }
            till.clone().take(told.clone(), BANK_ASKED).await.unwrap();
            assert_eq!(captured(&till).await, 0, "{fault}");
            // It is settled, also when the bank is there again.
            till.chaos.calm();
            till.clone().take(told, BANK_ASKED).await.unwrap();
            assert_eq!(captured(&till).await, 0, "{fault}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_lost_is_asked_for_again_and_the_money_taken_once() {
        let (till, ledger) = till();
        till.chaos.set(Fault::PaymentMute, true).unwrap();
        let told = Told::of_an_order();
        for attempt in 1..BANK_ASKED {
            till.clone().take(told.clone(), attempt).await.unwrap_err();
            assert_eq!(captured(&till).await, 1);
        }
        till.clone().take(told, BANK_ASKED).await.unwrap();
        assert_eq!((captured(&till).await, mail::unsent(&ledger).await.unwrap()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_bank_takes_the_money_later() {
        let (till, _) = till();
        till.chaos.set(Fault::PaymentSlow, true).unwrap();
        let began = Instant::now();
        till.clone().take(Told::of_an_order(), 1).await.unwrap();
        assert_eq!((captured(&till).await, began.elapsed()), (1, SLOWER));
    }
}
