//! What has to hold in the stores of a shop when everything has come to its end.

#![allow(clippy::print_stdout, reason = "a test that fails tells why")]

use std::{collections::BTreeMap, time::Duration};

use gusset::saga::State;
use shop::Shop;
use tokio::time::timeout;
use uuid::Uuid;

/// Waits until nothing is under way.
pub(crate) async fn at_rest(shop: &Shop) {
    let resting = async {
        // What cannot be read at this moment is read at the next.
        while !shop.is_at_rest().await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let rested = timeout(Duration::from_secs(120), resting).await;
    if rested.is_err() {
        what_is_left(shop).await;
    }
    assert!(rested.is_ok(), "{:?}\n{:?}", shop.orders.sagas().await, shop.broker.stats());
}

/// For whoever has to find out why.
async fn what_is_left(shop: &Shop) {
    println!(
        "pending {:?}, untold {:?}, dead {:?}",
        shop.orders.pending().await,
        shop.orders.untold().await,
        shop.dead_letters().await
    );
    let (mails, confirmed) = (shop.notifications.mails().await, shop.orders.confirmed().await);
    let (mails, confirmed) = (mails.unwrap_or_default(), confirmed.unwrap_or_default());
    let sold: BTreeMap<_, _> = shop.inventory.sold().await.unwrap_or_default();
    for order in confirmed.iter().filter(|order| !mails.contains_key(&order.id)) {
        println!("no mail about {order:?}");
    }
    println!("{} orders stand, counted: {sold:?}", confirmed.len());
    println!("histories: {:?}", shop.orders.replay().await);
}

/// Every saga has ended, and orders, money and stock say the same.
pub(crate) async fn the_stores_agree(shop: &Shop) {
    let ended = |(state, _): &(State, u64)| matches!(state, State::Completed | State::Compensated);
    let sagas = shop.orders.sagas().await.unwrap();
    assert!(sagas.iter().filter(|(_, count)| *count > 0).all(ended), "{sagas:?}");

    let orders = shop.orders.confirmed().await.unwrap();
    let paid = shop.payments.kept().await.unwrap();
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
    let supplied = shop.products.supplied().await.unwrap();
    for product in shop.products.all().await.unwrap() {
        let gone = u64::from(supplied[&product.id] - product.stock);
        assert_eq!(gone, sold.get(&product.id).copied().unwrap_or(0), "{product:?}");
    }
    assert_eq!(shop.inventory.sold().await.unwrap(), sold, "every order was counted once");
}
