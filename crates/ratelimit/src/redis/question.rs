//! Asking the server, and what becomes of those who ask.

use std::{sync::Arc, time::Duration};

use redis::RedisError;
use tokio::time::timeout;

use super::{
    gate::Admit,
    link::{is_broken, is_script_missing},
    meter::{Answer, Take},
    server::{Inner, RedisServer, millis},
    state::count,
};

impl RedisServer {
    /// What the script says, or `None` if it cannot be known in time.
    pub(crate) async fn ask(&self, bucket: &[u8], take: Take) -> Option<Answer> {
        let inner = &*self.0;
        let start = inner.clock.nanos();
        let patience = millis(inner.policy.connect_within);
        let generation = match inner.gate.admit(start / 1_000_000, patience) {
            Admit::Ask(generation) | Admit::Try(generation) => generation,
            Admit::Skip => {
                count(&inner.counters.skipped);
                return None;
            }
        };
        count(&inner.counters.asked);
        let mut call = Call { inner, start, generation, settled: false };
        match timeout(inner.policy.call_within, self.0.answer(bucket, take)).await {
            Ok(Ok(answer)) => {
                call.answered();
                Some(answer)
            }
            Ok(Err(error)) => {
                call.failed(error);
                None
            }
            Err(_) => {
                call.timed_out();
                None
            }
        }
    }
}

/// Why there is no answer.
enum NoAnswer {
    /// It could not be reached, which whoever tried has told the gate.
    Unreachable,
    Failed(RedisError),
}

impl Inner {
    /// Asks, and once more if the connection turns out to be broken: a server or something between may have closed it
    /// long ago. Then the first question may have been heard, and tokens be taken twice.
    async fn answer(self: &Arc<Self>, bucket: &[u8], take: Take) -> Result<Answer, NoAnswer> {
        let mut link = self.link().await.ok_or(NoAnswer::Unreachable)?;
        let mut result = link.take(bucket, take).await;
        if result.as_ref().is_err_and(is_broken) {
            self.lost(&link);
            link = self.link().await.ok_or(NoAnswer::Unreachable)?;
            result = link.take(bucket, take).await;
        }
        if result.as_ref().is_err_and(is_script_missing) {
            count(&self.counters.reloads);
            result = link.load_and_take(bucket, take).await;
        }
        if result.as_ref().is_err_and(is_broken) {
            self.lost(&link);
        }
        result.map_err(NoAnswer::Failed)
    }
}

/// A call that waits for its answer. Dropped before that, it tells what it can.
struct Call<'a> {
    inner: &'a Inner,
    start: u64,
    generation: u16,
    settled: bool,
}

impl Call<'_> {
    fn answered(&mut self) {
        self.settled = true;
        count(&self.inner.counters.answered);
        self.inner.gate.answered(self.inner.now(), self.generation);
    }

    fn failed(&mut self, why: NoAnswer) {
        self.settled = true;
        count(&self.inner.counters.errors);
        if let NoAnswer::Failed(error) = why {
            self.inner.failed(self.generation, None, &error.to_string());
        }
    }

    fn silent(&self, cause: &str) {
        self.inner.failed(self.generation, Some(self.start / 1_000_000), cause);
    }

    fn timed_out(&mut self) {
        self.settled = true;
        count(&self.inner.counters.timeouts);
        self.silent("no answer in time");
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        count(&self.inner.counters.left);
        // Callers that are less patient than the policy would otherwise hide forever that nothing answers.
        let waited = Duration::from_nanos(self.inner.clock.nanos().saturating_sub(self.start));
        if waited >= self.inner.policy.call_within / 2 {
            self.silent("callers left before the answer");
        }
    }
}
