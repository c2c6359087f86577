//! What can be changed while the shop is open: prices and feature flags, as the key-value store of the registry has them.
//!
//! | key | value | without it |
//! |---|---|---|
//! | `shop/flags/gift-wrap` | `on` or `off`: whether orders may be wrapped | off |
//! | `shop/prices/<sku>` | whole cents, from 1 to 100000000 | the price of the catalogue |
//! | `shop/prices/gift-wrap` | the same, of wrapping an order | 350 |
//!
//! A value that is none of those is refused, with a line in the log: what held before goes on to hold. So it is with keys of other names. While the store
//! cannot be reached, what is known goes on to hold as well.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gusset::registry::{self, KvWatch, RemoteKv, RemotePolicy};
use serde::Serialize;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// Under which all of them stand.
pub const PREFIX: &str = "shop/";

/// The key of the flag that lets orders be wrapped.
pub const GIFT_WRAP: &str = "shop/flags/gift-wrap";

const WRAPPING_CENTS: u64 = 350;
const HIGHEST_PRICE: u64 = 100_000_000;

/// How many refused values are remembered.
const REFUSALS: usize = 100;

/// The key of a price.
#[must_use]
pub fn price_key(sku: &str) -> String {
    format!("{PREFIX}prices/{sku}")
}

/// Everything that holds at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Values {
    gift_wrap: bool,
    prices: BTreeMap<String, u64>,
    /// What stands in the store and does not hold, by key: the first hundred.
    refused: BTreeMap<String, String>,
}

impl Values {
    /// What wrapping an order costs, in cents, if orders may be wrapped.
    #[must_use]
    pub fn gift_wrap(&self) -> Option<u64> {
        self.gift_wrap.then(|| self.price("gift-wrap").unwrap_or(WRAPPING_CENTS))
    }

    /// The price of a product, in cents, if it is not that of the catalogue.
    #[must_use]
    pub fn price(&self, sku: &str) -> Option<u64> {
        self.prices.get(sku).copied()
    }

    /// Why values of the store do not hold, by key.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// What holds once the store has these values. Nothing of `self` is lost to a bad one.
    fn next<'s>(&self, stored: impl IntoIterator<Item = (&'s str, &'s [u8])>) -> Self {
        let mut next = Self::default();
        for (key, value) in stored {
            let known = key.strip_prefix(PREFIX).and_then(|key| key.split_once('/'));
            let refused = match known {
                Some(("flags", "gift-wrap")) => match flag(value) {
                    Ok(on) => {
                        next.gift_wrap = on;
                        None
                    }
                    Err(why) => {
                        next.gift_wrap = self.gift_wrap;
                        Some(why)
                    }
                },
                Some(("prices", sku)) if !sku.is_empty() => match price(value) {
                    Ok(cents) => {
                        next.prices.insert(sku.to_owned(), cents);
                        None
                    }
                    Err(why) => {
                        next.prices.extend(self.price(sku).map(|cents| (sku.to_owned(), cents)));
                        Some(why)
                    }
                },
                _ => Some("nothing has this name".to_owned()),
            };
            if let Some(why) = refused.filter(|_| next.refused.len() < REFUSALS) {
                next.refused.insert(key.to_owned(), why);
            }
        }
        next
    }
}

fn flag(value: &[u8]) -> Result<bool, String> {
    match value {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(format!("a flag is on or off, not {}", shown(value))),
    }
}

fn price(value: &[u8]) -> Result<u64, String> {
    let cents = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    cents.filter(|cents| (1..=HIGHEST_PRICE).contains(cents)).ok_or_else(|| {
        format!("a price is whole cents from 1 to {HIGHEST_PRICE}, not {}", shown(value))
    })
}

/// The beginning of a value, as it may stand in a log.
fn shown(value: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(value).chars().take(40).collect();
    format!("{text:?}")
}

/// What a service knows of the settings. Clones share it; the last one to be dropped ends the task that follows the store.
#[derive(Clone, Debug)]
pub struct Settings {
    values: watch::Receiver<Option<Arc<Values>>>,
    _task: Option<Arc<Following>>,
}

#[derive(Debug)]
struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Settings {
    /// Those that always hold: every flag is off, and every price that of the catalogue.
    #[must_use]
    pub fn fixed() -> Self {
        Self { values: watch::channel(None).1, _task: None }
    }

    /// Spawns a task that follows the store at `url`: it asks for the next state, and the server answers when there is one.
    ///
    /// # Errors
    ///
    /// If `url` is none.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(url: &str) -> Result<Self, registry::Error> {
        let watch = RemoteKv::new(url, RemotePolicy::default())?.watch(PREFIX)?;
        let (known, values) = watch::channel(None);
        let task = Following(tokio::spawn(follow(watch, known)));
        Ok(Self { values, _task: Some(Arc::new(task)) })
    }

    /// What holds now.
    #[must_use]
    pub fn values(&self) -> Arc<Values> {
        self.values.borrow().clone().unwrap_or_default()
    }

    /// Waits until the store was read once, so that a service which is started does not begin with prices of yesterday; whether it was, within
    /// `limit`.
    pub async fn known(&self, limit: Duration) -> bool {
        let mut values = self.values.clone();
        let known = timeout(limit, values.wait_for(Option::is_some)).await;
        known.is_ok_and(|known| known.is_ok())
    }
}

async fn follow(mut stored: KvWatch, known: watch::Sender<Option<Arc<Values>>>) {
    loop {
        let stored = stored.changed().await;
        let before = known.borrow().clone().unwrap_or_default();
        let next = before.next(stored.entries().iter().map(|entry| (&*entry.key, &*entry.value)));
        for (key, why) in &next.refused {
            if before.refused.get(key) != Some(why) {
                tracing::warn!(key, why, "a setting is refused; what held before holds");
            }
        }
        known.send_replace(Some(Arc::new(next)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored<'s>(pairs: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s [u8])> {
        pairs.iter().map(|(key, value)| (*key, value.as_bytes())).collect()
    }

    #[test]
    fn what_stands_in_the_store_holds_and_what_is_deleted_does_not() {
        let both = stored(&[(GIFT_WRAP, "on"), ("shop/prices/lamp", "1990")]);
        let values = Values::default().next(both);
        assert_eq!((values.gift_wrap(), values.price("lamp")), (Some(350), Some(1_990)));
        assert!(values.refused().is_empty());
        let values = values.next(stored(&[("shop/prices/gift-wrap", "100")]));
        assert_eq!((values.gift_wrap(), values.price("lamp")), (None, None));
    }

    #[test]
    fn a_bad_value_changes_nothing_and_says_why() {
        let good = Values::default().next(stored(&[(GIFT_WRAP, "on"), ("shop/prices/lamp", "5")]));
        for bad in [
            "",
            "cheap",
            "-1",
            "0",
            "19.90",
            "100000001",
            "99999999999999999999",
            " 5",
            "\u{1b}[2J",
        ] {
            let values = good.next(stored(&[(GIFT_WRAP, bad), ("shop/prices/lamp", bad)]));
            assert_eq!((values.gift_wrap(), values.price("lamp")), (Some(350), Some(5)), "{bad}");
            assert_eq!(values.refused().len(), 2, "{bad}");
            let why = &values.refused()["shop/prices/lamp"];
            assert!(why.starts_with("a price is whole cents") && !why.contains('\u{1b}'), "{why}");
            // It goes on to hold over any number of bad ones, and over a change of another key.
            let again = values.next(stored(&[("shop/prices/lamp", bad), ("shop/prices/pot", "7")]));
            assert_eq!((again.price("lamp"), again.price("pot")), (Some(5), Some(7)));
        }
    }

    #[test]
    fn of_a_bad_value_without_a_good_one_before_the_default_holds() {
        let values =
            Values::default().next(stored(&[(GIFT_WRAP, "ON"), ("shop/prices/lamp", "x")]));
        assert_eq!((values.gift_wrap(), values.price("lamp")), (None, None));
    }

    #[test]
    fn names_that_mean_nothing_are_told_of() {
        let odd = stored(&[("shop/flags/gift_wrap", "on"), ("shop/prices/", "5"), ("shop/x", "")]);
        assert_eq!(Values::default().next(odd).refused().len(), 3);
    }

    #[test]
    fn what_is_remembered_of_refused_values_is_bounded() {
        let keys: Vec<_> = (0..500).map(|n| format!("shop/prices/{n}")).collect();
        let many = keys.iter().map(|key| (key.as_str(), &b"x"[..]));
        assert_eq!(Values::default().next(many).refused().len(), REFUSALS);
    }
}
