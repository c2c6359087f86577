//! Follows orders: what happens to one is told as it happens, to whoever reads it.
//!
//! The broker carries *that* something happened, to every instance; *what* it was is read from the history. So nothing is told twice or left out, whatever the broker
//! drops or repeats, a reader that is slow holds up nobody and costs no memory, and one that comes again says what it knows (`Last-Event-ID`).

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::response::sse;
use futures_util::{Stream, stream};
use gusset::{
    broker::{self, Broker, Delivery, Policy, Subscription, WhenFull},
    saga::Change,
};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tower::service_fn;
use uuid::Uuid;

use crate::{
    api::lock,
    history::{Book, Changed, Event},
};

/// How many readers one instance has at most.
const READERS: usize = 1_000;

/// How many changes may wait for the broker. More are not told; whoever reads finds them within [`LOOK`].
const CHANGES: usize = 1_000;

/// How often a reader looks without having been told.
const LOOK: Duration = Duration::from_secs(5);

/// Who waits for news of which order, in one instance. Clones are one.
#[derive(Clone)]
pub(crate) struct Live {
    waiting: Arc<Mutex<HashMap<Uuid, watch::Sender<()>>>>,
    readers: Arc<Semaphore>,
    /// Changes when the instance leaves.
    leaving: watch::Sender<()>,
}

/// What goes on for as long as it lives: hearing of changes, and telling of them.
pub(crate) struct Following {
    _heard: Option<Subscription>,
    telling: JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.telling.abort();
    }
}

impl Live {
    /// Spawns a task that tells the broker of the changes that are sent to the answer, and a subscription that hears of those of all instances.
    pub(crate) async fn spawn(broker: &Broker) -> (Self, mpsc::Sender<Changed>, Following) {
        let (changes, mut told) = mpsc::channel(CHANGES);
        let live = Self {
            waiting: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            leaving: watch::Sender::new(()),
        };
        let heard = live.hear(broker).await;
        if let Err(error) = &heard {
            tracing::warn!(error = error as &dyn std::error::Error, "orders are followed slowly");
        }
        let to = broker.clone();
        let telling = tokio::spawn(async move {
            while let Some(changed) = told.recv().await {
                if let Err(error) = to.publish(Changed::SUBJECT, &changed).await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a change is not told"
                    );
                }
            }
        });
        (live, changes, Following { _heard: heard.ok(), telling })
    }

    async fn hear(&self, broker: &Broker) -> Result<Subscription, broker::Error> {
        let live = self.clone();
        let handler = service_fn(move |delivery: Delivery<Changed>| {
            live.tell(delivery.body().order_id);
            async { Ok::<_, Infallible>(()) }
        });
        // News that nobody has time for must not hold up those who have some.
        let full =
            if broker.capabilities().drop_oldest { WhenFull::DropOldest } else { WhenFull::Reject };
        let policy = Policy::new().when_full(full);
        broker.subscribe(Changed::SUBJECT).policy(policy).concurrency(1).handle(handler).await
    }

    fn tell(&self, order: Uuid) {
        if let Some(waiting) = lock(&self.waiting).get(&order) {
            waiting.send_replace(());
        }
    }

    /// From now on no news of the order is missed.
    pub(crate) fn wait_for(&self, order: Uuid) -> Waiting {
        let mut waiting = lock(&self.waiting);
        let news = waiting.entry(order).or_insert_with(|| watch::Sender::new(())).subscribe();
        drop(waiting);
        Waiting { live: self.clone(), order, news }
    }

    /// Ends what is being read.
    pub(crate) fn leave(&self) {
        self.leaving.send_replace(());
    }

    /// Everything that happens to an order after so many events, until its end, until the instance leaves, or until `open` changes. `None` if there are too many readers.
    pub(crate) fn follow(
        &self,
        book: Book,
        order: Uuid,
        after: u64,
        open: watch::Receiver<()>,
    ) -> Option<impl Stream<Item = Result<sse::Event, Infallible>> + Send + use<>> {
        let place = self.readers.clone().try_acquire_owned().ok()?;
        let reader = Reader {
            waiting: self.wait_for(order),
            leaving: self.leaving.subscribe(),
            open,
            book,
            order,
            after,
            read: VecDeque::new(),
            ended: false,
            _place: place,
        };
        Some(stream::unfold(reader, |mut reader| async {
            let event = reader.next().await?;
            Some((Ok(event), reader))
        }))
    }
}

/// Somebody who waits for news of an order.
pub(crate) struct Waiting {
    live: Live,
    order: Uuid,
    news: watch::Receiver<()>,
}

impl Waiting {
    /// Until there may be something new.
    pub(crate) async fn news(&mut self) {
        // The sender is there as long as this is.
        let _ = timeout(LOOK, self.news.changed()).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = lock(&self.live.waiting);
        // The last one: this receiver is still counted.
        if waiting.get(&self.order).is_some_and(|news| news.receiver_count() <= 1) {
            waiting.remove(&self.order);
        }
    }
}

struct Reader {
    waiting: Waiting,
    leaving: watch::Receiver<()>,
    open: watch::Receiver<()>,
    book: Book,
    order: Uuid,
    after: u64,
    read: VecDeque<Change<Event>>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(&mut self) -> Option<sse::Event> {
        while self.read.is_empty() {
            if self.ended {
                return None;
            }
            match self.book.after(self.order, self.after).await {
                Ok(page) => self.read.extend(page),
                // Whoever reads comes again.
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "an order is not told of"
                    );
                    return None;
                }
            }
            if self.read.is_empty() {
                tokio::select! {
                    () = self.waiting.news() => {}
                    _ = self.leaving.changed() => return None,
                    _ = self.open.changed() => return None,
                }
            }
        }
        let change = self.read.pop_front()?;
        self.after = change.version;
        self.ended |= change.event.is_end();
        let event = sse::Event::default().id(change.version.to_string());
        Some(event.event(change.event.name()).data(shown(&change).to_string()))
    }
}

/// What happened, as it is told to customers.
pub(crate) fn shown(change: &Change<Event>) -> Value {
    let mut shown = json!({ "version": change.version, "at": change.at });
    if let (Some(shown), Value::Object(event)) = (shown.as_object_mut(), json!(change.event)) {
        shown.extend(event);
    }
    shown
}

/// Says that the connection is alive where nothing happens for long.
pub(crate) fn keep_alive() -> sse::KeepAlive {
    sse::KeepAlive::new().interval(Duration::from_secs(10))
}

/// Waits until it is so, or the time is over.
pub(crate) async fn until<F: Future<Output = bool>>(
    limit: Duration,
    waiting: &mut Waiting,
    so: impl Fn() -> F,
) {
    let waits = async {
        while !so().await {
            // What is noted is told of a moment later, if at all.
            let _ = timeout(Duration::from_millis(250), waiting.news()).await;
        }
    };
    let _ = timeout(limit, waits).await;
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;
    use gusset::saga::{Aggregates, MemoryStore};

    use super::*;
    use crate::{
        ledger::Ledger,
        order::{Order, OrderStatus},
    };

    fn order() -> Order {
        let (id, status) = (Uuid::now_v7(), OrderStatus::Pending);
        Order { id, user_id: id, items: vec![], gift_wrap: false, total_cents: 1, status }
    }

    fn book() -> Book {
        Book::new(Aggregates::new(MemoryStore::new()), Ledger::default())
    }

    #[tokio::test]
    async fn nothing_is_kept_of_an_order_that_nobody_waits_for() {
        let (live, _changes, _following) = Live::spawn(&Broker::new()).await;
        let order = Uuid::now_v7();
        let two = (live.wait_for(order), live.wait_for(order));
        drop(two.0);
        assert_eq!(lock(&live.waiting).len(), 1);
        drop(two.1);
        assert_eq!(lock(&live.waiting).len(), 0);
    }

    #[tokio::test]
    async fn there_are_so_many_readers_and_one_that_goes_makes_room() {
        let (live, _changes, _following) = Live::spawn(&Broker::new()).await;
        let (book, open) = (book(), watch::Sender::new(()));
        let follow = || live.follow(book.clone(), Uuid::now_v7(), 0, open.subscribe());
        let mut readers: Vec<_> = (0..READERS).map(|_| follow().unwrap()).collect();
        assert!(follow().is_none());
        readers.pop();
        assert!(follow().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_broker_did_not_tell_is_found_all_the_same_and_the_end_ends_it() {
        let (live, _changes, _following) = Live::spawn(&Broker::new()).await;
        let (book, order, open) = (book(), order(), watch::Sender::new(()));
        book.note(&order, &[]).await.unwrap();
        let mut events = pin!(live.follow(book.clone(), order.id, 0, open.subscribe()).unwrap());
        assert!(events.next().await.is_some());
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            book.note(&order, &[Event::StockReserved, Event::Confirmed]).await.unwrap();
        };
        let (_, found) = tokio::join!(later, events.next());
        assert!(found.is_some() && events.next().await.is_some());
        assert!(events.next().await.is_none(), "the order has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_ends_when_the_instance_leaves() {
        let (live, _changes, _following) = Live::spawn(&Broker::new()).await;
        let open = watch::Sender::new(());
        let mut events = pin!(live.follow(book(), Uuid::now_v7(), 0, open.subscribe()).unwrap());
        let leave = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            live.leave();
        };
        assert!(tokio::join!(leave, events.next()).1.is_none());
    }
}
