//! The connection to the server, which all callers use at once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use gusset_call::{BoxError, Clock};
use redis::{AsyncConnectionConfig, Client, RedisError, Value, aio::MultiplexedConnection};
use tokio::{sync::Semaphore, time::timeout};

/// How long a call may take, with the connection if there is none.
const WAIT: Duration = Duration::from_secs(1);

/// How long nobody tries to connect after that has failed.
const REST: Duration = Duration::from_millis(100);

/// What asks the server.
pub(super) struct Link {
    client: Client,
    current: ArcSwapOption<MultiplexedConnection>,
    /// Whose turn it is to connect.
    turn: Semaphore,
    clock: Clock,
    /// When it could not be reached last, in nanoseconds, and at least one.
    failed: AtomicU64,
    failures: AtomicU64,
}

impl Link {
    pub(super) fn to(client: Client) -> Self {
        Self {
            client,
            current: ArcSwapOption::empty(),
            turn: Semaphore::new(1),
            clock: Clock::new(),
            failed: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Calls that were not answered, or with an error.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Where it leads, without user and password.
    pub(super) fn address(&self) -> impl fmt::Display {
        self.client.get_connection_info().addr().clone()
    }

    /// Runs a script on one key. It may be run twice.
    pub(super) async fn run(
        &self,
        script: &str,
        key: &str,
        args: &[&[u8]],
    ) -> Result<Value, BoxError> {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(1).arg(key);
        for arg in args {
            command.arg(*arg);
        }
        let asked = timeout(WAIT, self.ask(&command)).await;
        let answer = asked.unwrap_or_else(|_| {
            // Whatever it still owes is not waited for.
            self.current.store(None);
            Err("no answer in time".into())
        });
        if answer.is_err() {
            self.failures.fetch_add(1, Relaxed);
        }
        answer
    }

    async fn ask(&self, command: &redis::Cmd) -> Result<Value, BoxError> {
        let answer = self.ask_by(&*self.connection().await?, command).await;
        match answer {
            // The server may have closed it long ago.
            Err(error) if is_broken(&error) => {
                Ok(self.ask_by(&*self.connection().await?, command).await?)
            }
            answer => Ok(answer?),
        }
    }

    async fn ask_by(
        &self,
        connection: &MultiplexedConnection,
        command: &redis::Cmd,
    ) -> Result<Value, RedisError> {
        let answer = command.query_async(&mut connection.clone()).await;
        if answer.as_ref().is_err_and(is_broken) {
            self.current.rcu(|current| match current {
                Some(current) if std::ptr::eq(&**current, connection) => None,
                current => current.clone(),
            });
        }
        answer
    }

    async fn connection(&self) -> Result<Arc<MultiplexedConnection>, BoxError> {
        if let Some(connection) = self.current.load_full() {
            return Ok(connection);
        }
        // Who waited takes what came of it. It is never closed.
        let _turn = self.turn.acquire().await?;
        if let Some(connection) = self.current.load_full() {
            return Ok(connection);
        }
        let failed = self.failed.load(Relaxed);
        if failed > 0 && self.clock.nanos().saturating_sub(failed) < REST.as_nanos() as u64 {
            return Err("it could not be reached a moment ago".into());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(WAIT))
            .set_response_timeout(None);
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                self.current.store(Some(connection.clone()));
                Ok(connection)
            }
            Err(error) => {
                self.failed.store(self.clock.nanos().max(1), Relaxed);
                Err(error.into())
            }
        }
    }
}

/// The connection is of no more use.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}
