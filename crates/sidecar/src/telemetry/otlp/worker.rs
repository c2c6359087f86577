//! Exports one signal: one batch at a time, again and again until the collector has it or never will.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    answer::Answer,
    channel::Channel,
    source::{Batch, Source},
    stats::SignalStats,
};
use crate::Backoff;

/// How often a batch is offered before it is dropped, for it may be the batch's fault: with the waits between, for some three
/// minutes.
const TRIES: u32 = 30;
/// Waits between the tries. Soon enough that nobody misses a collector that is back; the jitter spreads the processes that come at once.
const BACKOFF: Backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(10));
/// Batches of one round, so that whoever asks for a flush is answered though others go on logging: four times what the rings hold.
const ROUND: u32 = 80;
/// Waits between the tries at the end of the process, where the collector was well before.
const LAST: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300)];

#[derive(Debug, Default)]
pub(super) struct Counters {
    exported: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    missed: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> SignalStats {
        SignalStats {
            exported: self.exported.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            missed: self.missed.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }
}

/// Who asks for a flush, and is told whether the collector has all.
pub(super) type Flush = oneshot::Sender<bool>;

pub(super) struct Worker {
    pub(super) source: Box<dyn Source>,
    pub(super) channel: Channel,
    pub(super) counters: Arc<Counters>,
    /// Closed when the process ends.
    pub(super) flushes: mpsc::Receiver<Flush>,
    pub(super) every: Duration,
    pub(super) state: State,
}

pub(super) struct State {
    /// The batch that the collector has not taken.
    pending: Option<Batch>,
    tries: u32,
    /// Until then the collector wants to be left alone.
    not_before: Instant,
    /// Whether the last request went well, so that a collector that is away is told of once.
    well: bool,
}

impl State {
    pub(super) fn new() -> Self {
        Self { pending: None, tries: 0, not_before: Instant::now(), well: true }
    }
}

impl Worker {
    /// Ends after the last flush. Dropping it ends it at once, and counts what it held as dropped.
    pub(super) async fn run(mut self) {
        let mut wait = self.every;
        loop {
            let flush = match timeout(wait, self.flushes.recv()).await {
                Ok(Some(flush)) => Some(flush),
                Ok(None) => break,
                Err(_) => None,
            };
            let all = self.export_all().await;
            wait = if all { self.every } else { self.pause() };
            if let Some(flush) = flush {
                // Who asked may have gone.
                let _ = flush.send(all);
            }
        }
        let was_well = self.state.well;
        for wait in LAST {
            if self.export_all().await || !was_well {
                return;
            }
            let left_alone = self.state.not_before.saturating_duration_since(Instant::now());
            sleep(wait.max(left_alone)).await;
        }
        self.export_all().await;
    }

    /// Exports all that is there. False if the collector did not take it.
    async fn export_all(&mut self) -> bool {
        if Instant::now() < self.state.not_before {
            return false;
        }
        self.state.pending.take_if(|pending| pending.cumulative);
        for batch in 0..ROUND {
            if self.state.pending.is_none() {
                self.state.pending = self.source.next(batch > 0);
                self.counters.missed.store(self.source.missed(), Relaxed);
            }
            let Some(pending) = &self.state.pending else { return true };
            let (message, items) = (pending.message.clone(), pending.items);
            match self.channel.send(message).await {
                Answer::Taken { rejected, why } => self.taken(items, rejected, &why),
                Answer::Refused(why) => self.refused(items, &why),
                Answer::Later { why, after } => {
                    self.later(items, &why, after);
                    return false;
                }
            }
        }
        // More comes than there is time for.
        false
    }

    fn taken(&mut self, items: u64, rejected: u64, why: &str) {
        let rejected = rejected.min(items);
        self.counters.exported.fetch_add(items - rejected, Relaxed);
        self.counters.rejected.fetch_add(rejected, Relaxed);
        self.done();
        // Told when it begins and when it ends, and not again while it goes on.
        let (well, (signal, place)) = (rejected == 0, self.names());
        match (std::mem::replace(&mut self.state.well, well), well) {
            (true, false) => {
                tracing::warn!(signal, place, rejected, ?why, "collector takes only a part");
            }
            (false, true) => tracing::info!(signal, place, "collector takes all again"),
            _ => {}
        }
    }

    fn refused(&mut self, items: u64, why: &str) {
        self.counters.rejected.fetch_add(items, Relaxed);
        self.done();
        if std::mem::replace(&mut self.state.well, false) {
            let (signal, place) = self.names();
            tracing::warn!(signal, place, items, ?why, "collector refuses what it is sent");
        }
    }

    fn later(&mut self, items: u64, why: &str, after: Option<Duration>) {
        self.counters.failures.fetch_add(1, Relaxed);
        self.state.tries += 1;
        self.state.not_before = Instant::now() + after.unwrap_or_default();
        if std::mem::replace(&mut self.state.well, false) {
            let (signal, place) = self.names();
            tracing::warn!(signal, place, ?why, "collector cannot be reached, export waits");
        }
        if self.state.tries >= TRIES {
            self.counters.dropped.fetch_add(items, Relaxed);
            self.done();
        }
    }

    fn done(&mut self) {
        self.state.pending = None;
        self.state.tries = 0;
    }

    fn pause(&self) -> Duration {
        let left_alone = self.state.not_before.saturating_duration_since(Instant::now());
        BACKOFF.wait(self.state.tries.max(1), &mut rand::rng()).max(left_alone)
    }

    fn names(&self) -> (&'static str, String) {
        let settings = self.channel.settings();
        (settings.signal.name(), settings.place())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let held = self.state.pending.take().map_or(0, |batch| batch.items);
        self.counters.dropped.fetch_add(held, Relaxed);
    }
}
