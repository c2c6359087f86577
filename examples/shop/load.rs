//! Requests at a rate that does not depend on how they fare.
//!
//! The loop is open: when a request is to be sent is known before it, and does not wait for any answer. A latency counts **from the time at which the request
//! was to be sent**, so that what waited for a slow sender or a busy machine shows: a generator that waits for answers leaves out the requests
//! that would have met the worst of them (Gil Tene calls it coordinated omission). What is under way is bounded; a request for which there is no
//! place is not sent, and counted.

mod latency;
mod pace;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use latency::{Latency, Quantiles};
use pace::Pace;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::api::lock;

/// How many requests a second there are to be. Clones are one, and it can be changed at any time; 0 is a pause.
#[derive(Clone, Debug)]
pub struct Rate(watch::Sender<u32>);

impl Rate {
    /// The most requests a second that can be asked for.
    pub const MOST: u32 = 10_000;

    /// So many a second, [`MOST`](Self::MOST) at most.
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        Self(watch::Sender::new(rate.min(Self::MOST)))
    }

    /// From now on it is so many a second, [`MOST`](Self::MOST) at most.
    pub fn set(&self, rate: u32) {
        self.0.send_replace(rate.min(Self::MOST));
    }

    /// How many it is.
    #[must_use]
    pub fn get(&self) -> u32 {
        *self.0.borrow()
    }
}

/// Sends requests until it is stopped. Dropped, it ends, and so do those under way.
#[derive(Debug)]
pub struct Load {
    books: Arc<Books>,
    stop: Option<oneshot::Sender<()>>,
    sender: Task,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug, Default)]
struct Books {
    due: AtomicU64,
    unsent: AtomicU64,
    latencies: Mutex<BTreeMap<&'static str, Latency>>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many were to be sent.
    pub due: u64,
    /// Those of them for which there was no place.
    pub unsent: u64,
    /// How long the others took, from the time at which they were to be sent, by their kinds.
    pub latency: BTreeMap<&'static str, Quantiles>,
}

impl Load {
    /// Spawns a task that calls `send` for each request when it is due, and runs up to `places` of what it gives at once. That says under which kind
    /// the request is counted.
    pub fn spawn<S, F>(rate: Rate, places: usize, send: S) -> Self
    where
        S: FnMut() -> F + Send + 'static,
        F: Future<Output = &'static str> + Send + 'static,
    {
        let books = Arc::<Books>::default();
        let (stop, stopped) = oneshot::channel();
        let sender =
            Sender { rate, places: Arc::new(Semaphore::new(places)), books: books.clone() };
        let sender = Task(tokio::spawn(sender.run(send, stopped)));
        Self { books, stop: Some(stop), sender }
    }

    /// What became of them so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let latencies = lock(&self.books.latencies);
        let latency = latencies.iter().map(|(&kind, latency)| (kind, latency.quantiles()));
        Report {
            due: self.books.due.load(Relaxed),
            unsent: self.books.unsent.load(Relaxed),
            latency: latency.collect(),
        }
    }

    /// No new requests; those under way are waited for.
    pub async fn stop(mut self) -> Report {
        drop(self.stop.take());
        // It is never aborted before this, and a panic of a request is not one of the sender.
        let _ = (&mut self.sender.0).await;
        self.report()
    }
}

struct Sender {
    rate: Rate,
    places: Arc<Semaphore>,
    books: Arc<Books>,
}

impl Sender {
    async fn run<S, F>(self, mut send: S, mut stopped: oneshot::Receiver<()>)
    where
        S: FnMut() -> F + Send,
        F: Future<Output = &'static str> + Send + 'static,
    {
        let mut changes = self.rate.0.subscribe();
        let mut pace = Pace::new(*changes.borrow_and_update(), Instant::now());
        let mut under_way = JoinSet::new();
        let mut going_on = true;
        loop {
            while let Some(due) = pace.next(Instant::now()) {
                self.send(due, &mut send, &mut under_way);
            }
            // What was due before the end is sent, also by a sender that was held up.
            if !going_on {
                break;
            }
            while under_way.try_join_next().is_some() {}
            tokio::select! {
                () = at(pace.when()) => {}
                // The sender of the rate is in our own hands.
                _ = changes.changed() => pace.change(*changes.borrow_and_update(), Instant::now()),
                _ = &mut stopped => going_on = false,
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    fn send<F>(&self, due: Instant, send: &mut impl FnMut() -> F, under_way: &mut JoinSet<()>)
    where
        F: Future<Output = &'static str> + Send + 'static,
    {
        self.books.due.fetch_add(1, Relaxed);
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.books.unsent.fetch_add(1, Relaxed);
            return;
        };
        let (request, books) = (send(), self.books.clone());
        under_way.spawn(async move {
            let kind = request.await;
            let took = due.elapsed();
            lock(&books.latencies).entry(kind).or_default().record(took);
            drop(place);
        });
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// As a table tells it.
#[must_use]
pub fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests;
