use std::{fmt, num::NonZeroUsize, time::Duration};

use tokio_postgres::Config;

use crate::StoreError;

/// Where the database of a [`PostgresStore`](super::PostgresStore) is, and how it is spoken to.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) config: Config,
    pub(super) schema: String,
    pub(super) connections: NonZeroUsize,
    pub(super) limit: Duration,
    pub(super) make: bool,
}

impl PostgresOptions {
    /// The database behind `url`: `postgres://user:password@host/database`, or `host=... user=... dbname=...` as psql takes it. Several hosts are tried in
    /// turn; add `target_session_attrs=read-write` for the one that takes writes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] when it is neither.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        Ok(Self::from(url.parse::<Config>().map_err(StoreError::failed)?))
    }

    /// The schema that the tables are in. Default `gusset`. Stores of different schemas know nothing of each other.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] when it is not 1 to 63 lower-case letters, digits and `_`.
    pub fn schema(mut self, name: &str) -> Result<Self, StoreError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if !(1..=63).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(StoreError::failed(format!(
                "{name:?} is no schema: 1 to 63 lower-case letters, digits and '_'"
            )));
        }
        name.clone_into(&mut self.schema);
        Ok(self)
    }

    /// Uses tables that are there, and neither makes any nor brings them up to date: for whoever looks at the sagas of another program.
    #[must_use]
    pub const fn existing(mut self) -> Self {
        self.make = false;
        self
    }

    /// At most so many connections. Default 6: two write, and one commit of theirs carries what hundreds of sagas append, so more
    /// would only take places that the database has for others.
    #[must_use]
    pub const fn connections(mut self, most: NonZeroUsize) -> Self {
        self.connections = most;
        self
    }

    /// How long a statement, or a new connection, may take; the database is told to give up as well. Default 5 s: half of what an
    /// orchestrator grants its store. Less than 10 ms means 10 ms.
    #[must_use]
    pub const fn call_within(mut self, span: Duration) -> Self {
        let least = Duration::from_millis(10);
        self.limit = if span.as_nanos() < least.as_nanos() { least } else { span };
        self
    }
}

/// For what a URL cannot say.
impl From<Config> for PostgresOptions {
    fn from(config: Config) -> Self {
        let connections = const { NonZeroUsize::new(6).unwrap() };
        let (schema, limit) = ("gusset".to_owned(), Duration::from_secs(5));
        Self { config, schema, connections, limit, make: true }
    }
}

/// Without the password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .field("schema", &self.schema)
            .field("connections", &self.connections)
            .field("limit", &self.limit)
            .finish()
    }
}
