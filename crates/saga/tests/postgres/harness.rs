//! A PostgreSQL of the test's own, and stores in it.

use std::ops::{Deref, DerefMut};

use gusset_engines::Postgres;
use gusset_saga::{PostgresOptions, PostgresStore};

pub(crate) struct Server(Postgres);

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(settings: &[&str]) -> Self {
        Self(Postgres::start_with(settings))
    }

    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions::new(&self.url()).unwrap()
    }

    pub(crate) async fn store(&self) -> PostgresStore {
        PostgresStore::connect(self.options()).await.unwrap()
    }
}

impl Deref for Server {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.0
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Postgres {
        &mut self.0
    }
}

/// `short`, or `long` in a deep run of `./test`.
pub(crate) fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("GUSSET_DEEP").is_some() { long } else { short }
}
