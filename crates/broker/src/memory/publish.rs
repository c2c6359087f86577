//! How messages get in.

use std::sync::{
    Arc,
    atomic::Ordering::{Relaxed, SeqCst},
};

use tokio::time::Instant;

use super::{
    entrance::{After, Blocked, Door, Entered},
    group::Group,
    morgue::{Buried, Remains},
    publisher::Publisher,
    queue::Entry,
    shared::Shared,
};
use crate::{
    Error, Message, MessageId, Reason, Receipt, WhenFull, WhenUnheard, attempt::discard,
    engine::Publishing,
};

impl Shared {
    /// At once where there is room; only those who must wait cost more.
    pub(crate) fn publish(self: &Arc<Self>, message: Message) -> Publishing {
        let publisher = Publisher::here();
        match self.enter(Arc::new(message), &publisher) {
            Ok(receipt) => Publishing::Done(Ok(receipt)),
            Err(Blocked::Refused(error)) => Publishing::Done(Err(error)),
            Err(Blocked::By(group, message)) => self.at_full(group, message, publisher),
        }
    }

    #[cold]
    fn at_full(
        self: &Arc<Self>,
        group: Arc<Group>,
        message: Arc<Message>,
        publisher: Publisher,
    ) -> Publishing {
        /// Groups that one publisher clears.
        const MOST: usize = 8;
        let (mut group, mut message) = (group, message);
        for _ in 0..MOST {
            if !group.let_expired_go() {
                break;
            }
            match self.enter(message, &publisher) {
                Ok(receipt) => return Publishing::Done(Ok(receipt)),
                Err(Blocked::Refused(error)) => return Publishing::Done(Err(error)),
                Err(Blocked::By(other, same)) => (group, message) = (other, same),
            }
        }
        if let WhenFull::Wait(_) = group.policy().when_full {
            return Publishing::Waiting(Box::pin(
                self.clone().keep_trying(message, publisher, group),
            ));
        }
        group.lock().count_refusal();
        Publishing::Done(Err(group.full()))
    }

    async fn keep_trying(
        self: Arc<Self>,
        mut message: Arc<Message>,
        mut publisher: Publisher,
        mut blocked_by: Arc<Group>,
    ) -> Result<Receipt, Error> {
        loop {
            publisher.wait(&self, blocked_by, message.size()).await?;
            match self.enter(message, &publisher) {
                Ok(receipt) => return Ok(receipt),
                Err(Blocked::Refused(error)) => return Err(error),
                Err(Blocked::By(group, same)) => (blocked_by, message) = (group, same),
            }
        }
    }

    /// Puts the message into every group that wants it, or into none.
    fn enter(&self, message: Arc<Message>, publisher: &Publisher) -> Result<Receipt, Blocked> {
        if self.closed.load(SeqCst) && publisher.handling.is_none() {
            return Err(Blocked::Refused(Error::Closed));
        }
        if self.is_noted(&message) {
            return self.enter_noted(message, publisher);
        }
        let id = message.id();
        match self.enter_groups(message, publisher)? {
            Entered::Groups(groups) => Ok(Receipt::new(id, groups)),
            Entered::Nowhere(message) => {
                self.unheard(message)?.announce();
                Ok(Receipt::new(id, 0))
            }
        }
    }

    /// Whoever comes with the same id, or wants the past of the group that he makes, waits meanwhile.
    fn enter_noted(
        &self,
        message: Arc<Message>,
        publisher: &Publisher,
    ) -> Result<Receipt, Blocked> {
        let (id, now) = (message.id(), Instant::now());
        let groups = self.groups.load_full();
        // Foreign code, so before any lock.
        let doors = Door::all(&groups, &message);
        let mut ledger = self.ledger();
        if !Arc::ptr_eq(&groups, &self.groups.load()) {
            // A group that was made with the past since then has not got this message with it.
            drop((doors, ledger));
            return self.enter_noted(message, publisher);
        }
        if message.is_known_by_id() && ledger.knows(id, now) {
            self.duplicates.fetch_add(1, Relaxed);
            return Ok(Receipt::new(id, 0).duplicate());
        }
        let (entered, after) = self.enter_all(message.clone(), publisher, doors)?;
        let (groups, nowhere) = match entered {
            Entered::Groups(groups) => (groups, None),
            Entered::Nowhere(message) => (0, Some(message)),
        };
        // Before its id is known: what is refused here must not be a duplicate when it comes again.
        let lost = nowhere.filter(|message| !self.is_retained(message));
        let unheard = lost.map(|message| self.unheard(message)).transpose()?;
        let (sequence, gone) = ledger.note(&message, now);
        drop(ledger);
        gone.into_iter().for_each(discard);
        after.happen();
        if let Some(unheard) = unheard {
            unheard.announce();
        }
        let receipt = Receipt::new(id, groups);
        Ok(sequence.map_or(receipt, |sequence| receipt.with_sequence(sequence)))
    }

    /// A message that no group wanted may find one now. It does not wait, and is no duplicate of itself.
    pub(super) fn publish_again(
        &self,
        message: &Arc<Message>,
        doors: Vec<Door<'_>>,
    ) -> Result<After, Error> {
        match self.enter_all(message.clone(), &Publisher::again(), doors) {
            Ok((Entered::Nowhere(_), _)) => Err(Error::NoSuchGroup("".into())),
            Ok((Entered::Groups(_), after)) => Ok(after),
            Err(Blocked::Refused(error)) => Err(error),
            Err(Blocked::By(group, _)) => Err(group.full()),
        }
    }

    /// Of a message that no group wants. Calls no foreign code; what it returns does.
    fn unheard(&self, message: Arc<Message>) -> Result<Unheard, Blocked> {
        let id = message.id();
        let buried = match self.when_unheard {
            WhenUnheard::Bury => {
                let remains = Remains::of(&Entry::new(message, 0));
                let buried = self.dead.insert(&"".into(), 0, remains, Reason::Unheard);
                Some(buried.map_err(Blocked::Refused)?)
            }
            WhenUnheard::Drop => None,
        };
        self.unroutable.fetch_add(1, Relaxed);
        Ok(Unheard { id, buried })
    }
}

struct Unheard {
    id: MessageId,
    buried: Option<Buried>,
}

impl Unheard {
    fn announce(self) {
        tracing::debug!(id = %self.id, "message matches no group");
        if let Some(buried) = self.buried {
            buried.announce();
        }
    }
}
