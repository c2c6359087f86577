//! A bounded number of connections. One that saw an error, or whose caller went away before its answer, is closed and not used again: nobody can
//! tell what it still has to say.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::AbortHandle,
    time::timeout,
};
use tokio_postgres::{
    Client, Config, Row, Socket, Statement,
    tls::{MakeTlsConnect, TlsConnect},
    types::ToSql,
};

use super::{Failure, schema, sql::Sql};

type Dial = Box<dyn Fn() -> BoxFuture<'static, Result<Connection, Failure>> + Send + Sync>;

/// Makes connections, whatever carries them.
pub(super) fn dial<T>(config: Config, limit: Duration, tls: T) -> Dial
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Box::new(move || {
        let (config, tls) = (config.clone(), tls.clone());
        Box::pin(async move {
            let connected = timeout(limit, config.connect(tls)).await;
            let (client, link) = connected.map_err(|_| Failure::Connecting(limit))??;
            // It ends with the socket: when the server closes it, or `Connection` is dropped.
            let task = tokio::spawn(async move {
                if let Err(error) = link.await {
                    tracing::debug!(%error, "connection to PostgreSQL ended");
                }
            });
            let connection = Connection { client, known: Vec::new(), task: task.abort_handle() };
            // Every statement finds its rows by keys. A plan that was made while the tables were new, and without statistics, would read them whole
            // for each commit until the next ANALYZE.
            let settings = format!(
                "SET statement_timeout = {0}; SET idle_in_transaction_session_timeout = {0};
                 SET default_transaction_isolation = 'read committed'; SET jit = off;
                 SET enable_seqscan = off; SET enable_mergejoin = off;
                 SELECT set_config('synchronous_commit', 'on', false)
                 WHERE current_setting('synchronous_commit') = 'off'",
                limit.as_millis().clamp(1, i32::MAX as u128)
            );
            let set = timeout(limit, connection.client.batch_execute(&settings)).await;
            set.map_err(|_| Failure::Connecting(limit))??;
            Ok(connection)
        })
    })
}

pub(super) struct Pool {
    dial: Dial,
    sql: Sql,
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) fn new(dial: Dial, sql: Sql, most: NonZeroUsize) -> Self {
        let places = Semaphore::new(most.get().min(Semaphore::MAX_PERMITS));
        Self { dial, sql, places, idle: Mutex::default() }
    }

    /// One that is idle, or a new one.
    pub(super) async fn lend(&self) -> Result<Lent<'_>, Failure> {
        let place = self.places.acquire().await.map_err(|_| Failure::Closed)?;
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(connection) = idle else { break };
            if !connection.client.is_closed() {
                return Ok(Lent { pool: self, connection, place });
            }
        }
        let connection = (self.dial)().await?;
        // Another node may have made it another schema since the last connection.
        schema::check(&connection.client, &self.sql).await?;
        Ok(Lent { pool: self, connection, place })
    }

    /// The only connection that has not looked at the schema.
    pub(super) async fn prepare(&self, make: bool) -> Result<(), Failure> {
        let _place = self.places.acquire().await.map_err(|_| Failure::Closed)?;
        let mut connection = (self.dial)().await?;
        schema::prepare(&mut connection.client, &self.sql, make).await
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        let free = self.places.available_permits();
        f.debug_struct("Pool").field("idle", &idle).field("free", &free).finish_non_exhaustive()
    }
}

pub(super) struct Connection {
    client: Client,
    /// What was prepared on it.
    known: Vec<(&'static str, Statement)>,
    task: AbortHandle,
}

/// Closes the socket at once. The end of `Client` alone would wait for a server that may never answer.
impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection in use. It is closed, unless it is given back.
pub(super) struct Lent<'a> {
    pool: &'a Pool,
    connection: Connection,
    place: SemaphorePermit<'a>,
}

impl Lent<'_> {
    pub(super) fn client(&self) -> &Client {
        &self.connection.client
    }

    /// The statement of that name, see [`Sql`].
    pub(super) async fn statement(&mut self, name: &'static str) -> Result<Statement, Failure> {
        let connection = &mut self.connection;
        if let Some((_, statement)) = connection.known.iter().find(|(known, _)| *known == name) {
            return Ok(statement.clone());
        }
        let statement = connection.client.prepare(&self.pool.sql.get(name)).await?;
        connection.known.push((name, statement.clone()));
        Ok(statement)
    }

    pub(super) async fn query(
        &mut self,
        name: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let statement = self.statement(name).await?;
        Ok(self.connection.client.query(&statement, values).await?)
    }

    /// Nothing is under way on it, and nothing failed.
    pub(super) fn give_back(self) {
        let Self { pool, connection, place } = self;
        pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        // After the connection, so that who gets the place finds it.
        drop(place);
    }
}
