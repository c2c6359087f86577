//! Where items are kept.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Tells it from all others.
    pub name: String,
    /// What it costs, in cents.
    pub price_cents: u64,
}

/// What a database answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send + 'a>>;

/// Keeps items. One of your own is a database behind this trait; the tests of the service run on any of them.
pub trait Repository: Send + Sync + fmt::Debug {
    /// Keeps it, and answers true, unless there is one with its name: then nothing changes. Both is one step.
    fn insert(&self, item: Item) -> Answer<'_, bool>;

    /// The one with this name.
    fn find<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Item>>;

    /// All, by name.
    fn all(&self) -> Answer<'_, Vec<Item>>;
}

/// The repository cannot be reached.
#[derive(Debug)]
pub struct Unavailable;

/// In this process, and gone with it.
#[derive(Debug, Default)]
pub struct InMemory {
    items: Mutex<BTreeMap<String, Item>>,
}

impl InMemory {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Item>) -> T) -> T {
        f(&mut self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Repository for InMemory {
    fn insert(&self, item: Item) -> Answer<'_, bool> {
        let inserted = self.with(|items| {
            let free = !items.contains_key(&item.name);
            if free {
                items.insert(item.name.clone(), item);
            }
            free
        });
        Box::pin(ready(Ok(inserted)))
    }

    fn find<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Item>> {
        Box::pin(ready(Ok(self.with(|items| items.get(name).cloned()))))
    }

    fn all(&self) -> Answer<'_, Vec<Item>> {
        Box::pin(ready(Ok(self.with(|items| items.values().cloned().collect()))))
    }
}
