//! What the service knows and decides: no HTTP here, and no database.

use std::sync::Arc;

use crate::repository::{Item, Repository, Unavailable};

/// The items. Clones are one.
#[derive(Clone, Debug)]
pub struct Items {
    kept: Arc<dyn Repository>,
}

/// Why something was not done.
#[derive(Debug)]
pub enum Failure {
    /// There is one with this name.
    Taken(String),
    /// There is none with this name.
    Unknown(String),
    /// It makes no sense, and why.
    Invalid(&'static str),
    /// It cannot be said now.
    Unavailable,
}

impl From<Unavailable> for Failure {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

impl Items {
    /// Of what `kept` keeps.
    #[must_use]
    pub fn new(kept: Arc<dyn Repository>) -> Self {
        Self { kept }
    }

    /// Adds an item.
    ///
    /// # Errors
    ///
    /// [`Failure::Invalid`] without a name, [`Failure::Taken`] if there is one of that name.
    pub async fn add(&self, item: Item) -> Result<Item, Failure> {
        if item.name.trim().is_empty() {
            return Err(Failure::Invalid("an item needs a name"));
        }
        if !self.kept.insert(item.clone()).await? {
            return Err(Failure::Taken(item.name));
        }
        Ok(item)
    }

    /// The item of this name.
    ///
    /// # Errors
    ///
    /// [`Failure::Unknown`] if there is none.
    pub async fn get(&self, name: &str) -> Result<Item, Failure> {
        let found = self.kept.find(name).await?;
        found.ok_or_else(|| Failure::Unknown(name.to_owned()))
    }

    /// All items.
    ///
    /// # Errors
    ///
    /// [`Failure::Unavailable`].
    pub async fn all(&self) -> Result<Vec<Item>, Failure> {
        Ok(self.kept.all().await?)
    }
}
