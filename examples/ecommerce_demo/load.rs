use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};
use uuid::Uuid;

use crate::shopper::Shopper;

/// A card that the bank accepts.
pub(crate) const GOOD_CARD: &str = "4242424242424242";

/// How many requests are under way at most; beyond that the customers wait, and nothing piles up.
const IN_FLIGHT: usize = 256;

/// Customers that come and go, so many requests a second, until it is stopped.
#[derive(Debug)]
pub(crate) struct Load {
    ticker: JoinHandle<()>,
    in_flight: Arc<Semaphore>,
}

impl Load {
    /// Spawns the task that sends them.
    pub(crate) fn spawn(customers: Vec<Shopper>, products: Vec<Uuid>, rps: u32, seed: u64) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        let places = in_flight.clone();
        let ticker = tokio::spawn(async move {
            let mut chance = StdRng::seed_from_u64(seed);
            let mut ticks = interval(Duration::from_secs(1) / rps);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut visits = JoinSet::new();
            loop {
                ticks.tick().await;
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let Some(customer) = customers.choose(&mut chance).cloned() else { return };
                let visit = Visit::random(&products, &mut chance);
                visits.spawn(async move {
                    visit.of(&customer).await;
                    drop(place);
                });
                while visits.try_join_next().is_some() {}
            }
        });
        Self { ticker, in_flight }
    }

    /// No new requests; those under way are waited for.
    pub(crate) async fn stop(self) {
        // With all places in hand nothing is under way, and once they are closed the ticker ends by itself.
        let all = u32::try_from(IN_FLIGHT).unwrap_or(u32::MAX);
        let quiet = self.in_flight.acquire_many(all).await;
        self.in_flight.close();
        let _ = self.ticker.await;
        drop(quiet);
    }
}

/// What a customer does.
#[derive(Debug)]
enum Visit {
    Browse,
    LookAt(Uuid),
    FillCart(Uuid, u32),
    SeeCart,
    Order(Vec<(Uuid, u32)>),
}

impl Visit {
    fn random(products: &[Uuid], chance: &mut StdRng) -> Self {
        let any = |chance: &mut StdRng| products.choose(chance).copied().unwrap_or_default();
        match chance.random_range(0..100) {
            0..25 => Self::Browse,
            25..50 => Self::LookAt(any(chance)),
            50..65 => Self::FillCart(any(chance), chance.random_range(1..4)),
            65..75 => Self::SeeCart,
            _ => {
                let lines = chance.random_range(1..=products.len().min(3));
                let chosen: Vec<_> = products.sample(chance, lines).copied().collect();
                Self::Order(chosen.into_iter().map(|id| (id, chance.random_range(1..4))).collect())
            }
        }
    }

    async fn of(self, customer: &Shopper) {
        // The books keep what came of it.
        let _ = match self {
            Self::Browse => customer.browse().await,
            Self::LookAt(product) => customer.look_at(product).await,
            Self::FillCart(product, quantity) => customer.fill_cart(product, quantity).await,
            Self::SeeCart => customer.see_cart().await,
            Self::Order(lines) => customer.order(&lines, GOOD_CARD).await,
        };
    }
}
