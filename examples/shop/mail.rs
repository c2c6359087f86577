//! How a service follows the messages of others: each once, and what comes of it is told if and only if it was written.
//!
//! A service that handles a message writes three things in one change: its own rows, that it has handled this message (the inbox), and the messages that follow from it (the
//! outbox). A message that comes twice finds itself in the inbox. What stands in the outbox is published at once, and struck off; what a process that died has left there,
//! another instance publishes a moment later, under the same id, by which the broker and the inbox of the next one know it.
//!
//! An inbox has a row for each order that was heard of, for as long as the store lives, as the orders themselves do.

use std::{io, time::Duration};

use gusset::{
    broker::{Broker, Headers, Message, MessageId, Publisher, Trace},
    call::{BoxError, Context},
    observe,
    sidecar::Sidecar,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::interval};
use tower::{Layer, ServiceExt};
use uuid::Uuid;

use crate::{
    api::new_id,
    ledger::{Ledger, NotKept, Page, Place, place},
};

/// The outboxes, and the inboxes, of the services that have some.
const BOXES: [(&str, &str, &str); 3] = [
    ("order", "outbox-order", "inbox-order"),
    ("product", "outbox-product", "inbox-product"),
    ("payment", "outbox-payment", "inbox-payment"),
];

/// How old a message is that its process has left behind. Younger ones are being published.
const LEFT: Duration = Duration::from_secs(2);

/// A message that is to be published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    id: Uuid,
    subject: String,
    body: Value,
    /// The trace that it belongs to.
    trace: Option<String>,
}

impl Letter {
    pub(crate) fn new(subject: &str, body: &impl Serialize) -> Self {
        let trace = Context::current().trace().map(|trace| trace.to_string());
        Self { id: new_id(), subject: subject.to_owned(), body: json!(body), trace }
    }

    fn message(&self) -> Result<Message, BoxError> {
        let message = Message::json(&*self.subject, &self.body)?;
        let message = message.with_id(MessageId::new(self.id));
        Ok(match &self.trace {
            Some(trace) => message.with_header(Headers::TRACEPARENT, trace),
            None => message,
        })
    }

    fn is_left(&self) -> bool {
        let written = self.id.get_timestamp().map_or(0, |at| at.to_unix().0);
        let now = new_id().get_timestamp().map_or(0, |at| at.to_unix().0);
        now.saturating_sub(written) > LEFT.as_secs()
    }
}

/// The inbox and the outbox of a service, for one instance.
#[derive(Clone)]
pub(crate) struct Mail {
    ledger: Ledger,
    publisher: Trace<Publisher>,
    inbox: &'static str,
    outbox: &'static str,
}

impl Mail {
    pub(crate) fn new(ledger: &Ledger, broker: &Broker, of: &Sidecar, service: &str) -> Self {
        let boxes = BOXES.iter().find(|(name, ..)| *name == service);
        let (_, outbox, inbox) = boxes.copied().unwrap_or(BOXES[0]);
        let publisher = observe::spans(broker, of.recorder()).layer(broker.publisher());
        Self { ledger: ledger.clone(), publisher, inbox, outbox }
    }

    /// Does what a message of this name asks for, unless that was done: what `decide` puts down, and the letters that it answers, are written with it.
    pub(crate) async fn once(
        &self,
        name: String,
        places: Vec<Place>,
        decide: impl FnOnce(&mut Page) -> Result<Vec<Letter>, NotKept> + Send + 'static,
    ) -> Result<(), NotKept> {
        let (inbox, outbox) = (self.inbox, self.outbox);
        let places = places.into_iter().chain([place(inbox, &name)]);
        let letters = self.ledger.change(places, move |page| {
            if page.get::<bool>(inbox, &name)?.is_some() {
                return Ok(Vec::new());
            }
            let letters = decide(page)?;
            page.put(inbox, name, &true);
            letters.iter().for_each(|letter| page.put(outbox, letter.id, letter));
            Ok::<_, NotKept>(letters)
        });
        for letter in letters.await? {
            self.send(letter).await;
        }
        Ok(())
    }

    /// Puts a letter into the outbox, with whatever else the page is about. Whoever does so [sends](Self::send) it when the page is written.
    pub(crate) fn put(&self) -> impl FnOnce(&mut Page, &Letter) + Send + use<> {
        let outbox = self.outbox;
        move |page, letter| page.put(outbox, letter.id, letter)
    }

    /// Publishes what stands in the outbox, and strikes it off. What cannot be published stays there.
    pub(crate) async fn send(&self, letter: Letter) {
        if let Err(error) = self.try_send(&letter).await {
            tracing::warn!(
                %error,
                subject = &*letter.subject,
                "a message stays in its outbox"
            );
        }
    }

    async fn try_send(&self, letter: &Letter) -> Result<(), BoxError> {
        self.publisher.clone().oneshot(letter.message()?).await?;
        let (outbox, id) = (self.outbox, letter.id);
        let struck = self.ledger.change([], move |page| {
            page.remove(outbox, id);
            Ok::<_, NotKept>(())
        });
        Ok(struck.await?)
    }

    /// Spawns a task that publishes what others have left, once a second. It ends with the guard.
    pub(crate) fn spawn_sweep(&self) -> Sweep {
        let mail = self.clone();
        Sweep(tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                mail.sweep().await;
            }
        }))
    }

    async fn sweep(&self) {
        // What cannot be read now is read in a second.
        let letters = self.ledger.list::<Uuid, Letter>(self.outbox).await.unwrap_or_default();
        for (_, letter) in letters {
            if letter.is_left() {
                self.send(letter).await;
            }
        }
    }
}

/// Ends a task.
pub(crate) struct Sweep(JoinHandle<()>);

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How many messages are written and not published.
pub(crate) async fn unsent(ledger: &Ledger) -> io::Result<usize> {
    let mut unsent = 0;
    for (_, outbox, _) in BOXES {
        unsent += ledger.list::<Uuid, Letter>(outbox).await?.len();
    }
    Ok(unsent)
}

#[cfg(test)]
mod tests {
    use gusset::broker::{Delivery, Policy};

    use super::*;

    fn mail(broker: &Broker) -> (Mail, Ledger) {
        let ledger = Ledger::default();
        (Mail::new(&ledger, broker, &Sidecar::new("a"), "payment"), ledger)
    }

    async fn listening() -> (Broker, gusset::broker::Pull<u32>) {
        let broker = Broker::new();
        let listener = broker.subscribe("a.b").group("g").policy(Policy::new()).pull().await;
        (broker, listener.unwrap())
    }

    #[tokio::test]
    async fn what_comes_twice_is_done_once_and_told_once() {
        let (broker, mut listener) = listening().await;
        let (mail, ledger) = mail(&broker);
        for _ in 0..3 {
            let did = mail.once("m".into(), vec![place("k", 1)], |page| {
                let before: Option<u32> = page.get("k", 1)?;
                page.put("k", 1, &(before.unwrap_or(0) + 1));
                Ok(vec![Letter::new("a.b", &7)])
            });
            did.await.unwrap();
        }
        assert_eq!(ledger.get("k", 1).await, Ok(Some(1)));
        assert_eq!(*listener.next().await.unwrap().body(), 7);
        assert_eq!(broker.stats().groups[0].ready, 0);
        assert_eq!(unsent(&ledger).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_not_written_is_not_told() {
        let (broker, _listener) = listening().await;
        let (mail, ledger) = mail(&broker);
        assert_eq!(mail.once("m".into(), vec![], |_| Err(NotKept)).await, Err(NotKept));
        assert_eq!((broker.stats().groups[0].ready, unsent(&ledger).await.unwrap()), (0, 0));
        // And it is done when it comes again.
        mail.once("m".into(), vec![], |_| Ok(vec![Letter::new("a.b", &7)])).await.unwrap();
        assert_eq!(broker.stats().groups[0].ready, 1);
    }

    #[tokio::test]
    async fn what_a_process_has_left_is_published_by_another_and_keeps_its_id() {
        let (broker, mut listener) = listening().await;
        let (mail, ledger) = mail(&broker);
        let mut old = Letter::new("a.b", &7);
        // Of the year 2023.
        old.id = Uuid::from_u64_pair(0x0189_0000_0000_7000, 0x8000_0000_0000_0001);
        for letter in [&old, &Letter::new("a.b", &8)] {
            ledger.put("outbox-payment", letter.id, letter).await.unwrap();
        }
        mail.sweep().await;
        let published = listener.next().await.unwrap();
        let delivery: &Delivery<u32> = &published;
        assert_eq!((*delivery.body(), delivery.id().get()), (7, old.id));
        // The other may be under way.
        assert_eq!((broker.stats().groups[0].ready, unsent(&ledger).await.unwrap()), (0, 1));
    }
}
