//! One connection, with the script loaded.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, ServerErrorKind,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

use super::{
    key::Prefix,
    meter::{Answer, Take},
};

pub(crate) const SCRIPT: &str = include_str!("take.lua");

/// So many requests wait for the writer; more wait for a place among them.
const QUEUE: usize = 1_024;

/// A connection that many callers use at once: requests are written one behind the other, answers come in the same
/// order. Dropping the last clone ends its task and closes it, whatever is under way.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    connection: MultiplexedConnection,
    script: String,
}

impl Link {
    /// Connects, loads the script, and sees that it does what it should within `wait`.
    pub(crate) async fn open(client: &Client, wait: Duration) -> Result<Self, RedisError> {
        // The callers' waits bound everything, so no timers of the connection are needed beside them.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut load = redis::cmd("SCRIPT");
        let script = load.arg("LOAD").arg(SCRIPT).query_async(&mut connection).await?;
        let link = Self { connection, script };
        match timeout(wait, link.take(Prefix::TRIAL, Take::TRIAL)).await {
            Ok(answer) => answer.map(|_| link),
            Err(_) => Err((ErrorKind::Io, "it answers too slowly").into()),
        }
    }

    /// Asks the script.
    pub(crate) async fn take(&self, bucket: &[u8], take: Take) -> Result<Answer, RedisError> {
        let mut connection = self.connection.clone();
        let value = self.command(bucket, take).query_async(&mut connection).await?;
        answer(value)
    }

    /// Asks a server that has forgotten the script, in one round trip.
    pub(crate) async fn load_and_take(
        &self,
        bucket: &[u8],
        take: Take,
    ) -> Result<Answer, RedisError> {
        let mut connection = self.connection.clone();
        let mut both = redis::pipe();
        both.cmd("SCRIPT").arg("LOAD").arg(SCRIPT).ignore();
        both.add_command(self.command(bucket, take));
        let (value,) = both.query_async(&mut connection).await?;
        answer(value)
    }

    fn command(&self, bucket: &[u8], take: Take) -> redis::Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.script).arg(1).arg(bucket);
        for argument in take.0 {
            command.arg(argument);
        }
        command
    }
}

fn answer(value: redis::Value) -> Result<Answer, RedisError> {
    let numbers = FromRedisValue::from_redis_value(value)?;
    Answer::new(numbers).ok_or_else(|| (ErrorKind::UnexpectedReturnType, "not this script").into())
}

/// The server has forgotten the script.
pub(crate) fn is_script_missing(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The connection is of no more use.
pub(crate) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}
