use std::sync::{Arc, Mutex};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use shop::{
    api::lock,
    load::{Load, Rate},
};
use uuid::Uuid;

use crate::shopper::Shopper;

/// A card that the bank accepts.
pub(crate) const GOOD_CARD: &str = "4242424242424242";

/// How many requests are under way at most.
const IN_FLIGHT: usize = 512;

/// The kind of a request that a quota has refused, whatever it was for: that is quick, and says nothing of the shop.
const LIMITED: &str = "limited";

/// Those who shop in the background. Others may come while they do.
pub(crate) type Customers = Arc<Mutex<Vec<Shopper>>>;

/// How many customers it takes so that their quotas allow so many requests a second: with a quarter of them about carts, of which one customer may ask for 50 a minute,
/// and some room.
pub(crate) const fn customers_for(rps: u32) -> usize {
    let enough = rps as usize / 2;
    if enough < 20 {
        20
    } else if enough > 200 {
        200
    } else {
        enough
    }
}

/// Customers that come and go at this rate, until it is stopped.
pub(crate) fn spawn(customers: Customers, products: Vec<Uuid>, rate: Rate, seed: u64) -> Load {
    let mut chance = StdRng::seed_from_u64(seed);
    Load::spawn(rate, IN_FLIGHT, move || {
        let customer = lock(&customers).choose(&mut chance).cloned();
        let visit = Visit::random(&products, &mut chance);
        async move {
            match customer {
                Some(customer) => visit.of(&customer).await,
                None => LIMITED,
            }
        }
    })
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

    /// Its kind. The books keep what else came of it.
    async fn of(self, customer: &Shopper) -> &'static str {
        let (kind, answer) = match self {
            Self::Browse => ("catalogue", customer.browse().await),
            Self::LookAt(product) => ("catalogue", customer.look_at(product).await),
            Self::FillCart(product, quantity) => {
                ("cart", customer.fill_cart(product, quantity).await)
            }
            Self::SeeCart => ("cart", customer.see_cart().await),
            Self::Order(lines) => ("order", customer.order(&lines, GOOD_CARD).await),
        };
        if answer.is_ok_and(|answer| answer.status == 429) { LIMITED } else { kind }
    }
}
