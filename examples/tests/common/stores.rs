//! What has to hold in the stores of a shop when everything has come to its end.

use std::{collections::BTreeMap, time::Duration};

use gusset::saga::State;
use shop::Shop;
use tokio::time::timeout;
use uuid::Uuid;

/// Waits until nothing is under way.
pub(crate) async fn at_rest(shop: &Shop) {
    let resting = async {
        while !shop.is_at_rest().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let rested = timeout(Duration::from_secs(60), resting).await;
    assert!(rested.is_ok(), "{:?}\n{:?}", shop.orders.sagas().await, shop.broker.stats());
}

/// Every saga has ended, and orders, money and stock say the same.
pub(crate) async fn the_stores_agree(shop: &Shop) {
    let ended = |(state, _): &(State, u64)| matches!(state, State::Completed | State::Compensated);
    let sagas = shop.orders.sagas().await.unwrap();
    assert!(sagas.iter().filter(|(_, count)| *count > 0).all(ended), "{sagas:?}");

    let (orders, paid) = (shop.orders.confirmed(), shop.payments.kept());
    assert_eq!(
        paid.len(),
        orders.len(),
        "money is taken for the orders that are done, and only for them"
    );
    for order in &orders {
        assert_eq!(paid.get(&order.id), Some(&(1, order.total_cents)), "{order:?}");
    }
    let mut sold: BTreeMap<Uuid, u64> = BTreeMap::new();
    for line in orders.iter().flat_map(|order| &order.items) {
        *sold.entry(line.product_id).or_default() += u64::from(line.quantity);
    }
    let supplied = shop.products.supplied();
    for product in shop.products.all() {
        let gone = u64::from(supplied[&product.id] - product.stock);
        assert_eq!(gone, sold.get(&product.id).copied().unwrap_or(0), "{product:?}");
    }
    assert_eq!(shop.inventory.sold(), sold, "every order was counted once");
}
