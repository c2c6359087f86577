//! The thread that exports, with a runtime of its own.

use std::{
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::sleep,
};

use super::{
    channel::Channel,
    settings::Signal,
    source::Source,
    stats::Stats,
    worker::{Counters, Flush, State, Worker},
};
use crate::telemetry::{InitError, capture};

/// The export, not yet begun.
pub(in crate::telemetry) struct Plan {
    pub(super) jobs: Vec<Job>,
    pub(super) flush: Duration,
}

pub(super) struct Job {
    pub(super) signal: Signal,
    pub(super) source: Box<dyn Source>,
    pub(super) channel: Channel,
    pub(super) every: Duration,
}

/// The thread. Dropping this ends it, after a last export that is waited for within its bound.
#[derive(Debug)]
pub(in crate::telemetry) struct Exporter {
    stop: Option<oneshot::Sender<()>>,
    done: std_mpsc::Receiver<()>,
    flushes: Vec<mpsc::Sender<Flush>>,
    flush: Duration,
    stats: Stats,
}

impl Plan {
    /// Starts the thread.
    pub(in crate::telemetry) fn start(self) -> Result<Exporter, InitError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| InitError::new("export", error))?;
        let (mut flushes, mut stats) = (Vec::new(), Stats::default());
        let mut workers = Vec::new();
        for Job { signal, source, channel, every } in self.jobs {
            let (sender, receiver) = mpsc::channel(8);
            flushes.push(sender);
            let counters = Arc::<Counters>::default();
            stats.0.push((signal, counters.clone()));
            workers.push((source, channel, counters, receiver, every));
        }
        let (flush, (stop, stopped)) = (self.flush, oneshot::channel());
        let (over, done) = std_mpsc::channel();
        let work = move || {
            capture::this_thread_exports();
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                for (source, channel, counters, flushes, every) in workers {
                    let state = State::new();
                    tasks.spawn(Worker { source, channel, counters, flushes, every, state }.run());
                }
                let end = async {
                    // Sent never, dropped at the end.
                    let _ = stopped.await;
                    sleep(flush).await;
                };
                tokio::select! {
                    () = end => {}
                    () = async { while tasks.join_next().await.is_some() {} } => {}
                }
                // Dropped in here, so that what they held is counted.
                tasks.shutdown().await;
            });
            // A look-up of a name may hang there, and nobody waits for it.
            runtime.shutdown_background();
            drop(over);
        };
        thread::Builder::new()
            .name("gusset-otlp".into())
            .spawn(work)
            .map_err(|error| InitError::new("export", error))?;
        Ok(Exporter { stop: Some(stop), done, flushes, flush, stats })
    }
}

impl Exporter {
    pub(in crate::telemetry) const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Exports what is there now. True if the collector has it all.
    pub(in crate::telemetry) async fn flush(&self) -> bool {
        let mut answers = Vec::new();
        for flushes in &self.flushes {
            let (sender, answer) = oneshot::channel();
            if flushes.send(sender).await.is_ok() {
                answers.push(answer);
            }
        }
        let mut all = answers.len() == self.flushes.len();
        for answer in answers {
            all &= answer.await.unwrap_or(false);
        }
        all
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.flushes.clear();
        drop(self.stop.take());
        // Nothing is ever sent: the wait ends when the thread drops its end, or with the bound. The thread bounds itself
        // likewise; the wait here is a little longer so that it can report.
        let _ = self.done.recv_timeout(self.flush + Duration::from_millis(100));
    }
}
