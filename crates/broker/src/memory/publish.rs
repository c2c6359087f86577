use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    task::Waker,
};

use gusset_call::{Context, Deadline, DeadlineExceeded};
use tokio::time::{Instant, timeout_at};

use super::{
    group::{Admission, Group, Standing, State},
    morgue::{Buried, Morgue, Remains},
    place::Place,
    queue::Entry,
    scribe::Event,
    shared::Shared,
    waits::Arrow,
};
use crate::{
    Error, Message, MessageId, Reason, Receipt, WhenFull, WhenUnheard,
    engine::Publishing,
    handling::handling,
    policy::{FAR, after},
};

/// Why a message is in no group yet.
enum Blocked {
    /// This group has no room, and may have some later.
    By(Arc<Group>),
    /// For good.
    Refused(Error),
}

/// One publish on its way in.
struct Publisher {
    /// The group that this is a handler of.
    handling: Option<u64>,
    /// In the line of the group that blocked last.
    place: Option<Place>,
    /// Groups that must not be waited for.
    borrows: Vec<u64>,
    /// When it first had to wait.
    began: Option<Instant>,
}

impl Shared {
    /// At once where there is room; the heap is asked only by those who must wait.
    pub(crate) fn publish(self: &Arc<Self>, message: Message) -> Publishing {
        let message = Arc::new(message);
        let publisher =
            Publisher { handling: handling(), place: None, borrows: Vec::new(), began: None };
        match self.enter(&message, &publisher) {
            Ok(receipt) => Publishing::Done(Ok(receipt)),
            Err(Blocked::Refused(error)) => Publishing::Done(Err(error)),
            Err(Blocked::By(group)) => {
                Publishing::Waiting(Box::pin(self.clone().keep_trying(message, publisher, group)))
            }
        }
    }

    async fn keep_trying(
        self: Arc<Self>,
        message: Arc<Message>,
        mut publisher: Publisher,
        mut blocked_by: Arc<Group>,
    ) -> Result<Receipt, Error> {
        loop {
            publisher.wait(&self, blocked_by, message.size()).await?;
            match self.enter(&message, &publisher) {
                Ok(receipt) => return Ok(receipt),
                Err(Blocked::Refused(error)) => return Err(error),
                Err(Blocked::By(group)) => blocked_by = group,
            }
        }
    }

    /// Puts the message into every group that wants it, or into none.
    fn enter(&self, message: &Arc<Message>, publisher: &Publisher) -> Result<Receipt, Blocked> {
        if self.closed.load(SeqCst) && publisher.handling.is_none() {
            return Err(Blocked::Refused(Error::Closed));
        }
        if self.is_noted(message) {
            return self.enter_noted(message, publisher);
        }
        let groups = self.enter_groups(message, publisher)?;
        if groups == 0 {
            self.unheard(message)?.announce();
        }
        Ok(Receipt::new(message.id(), groups))
    }

    /// Whoever comes with the same id, or wants the past of the group that he makes, waits meanwhile.
    fn enter_noted(
        &self,
        message: &Arc<Message>,
        publisher: &Publisher,
    ) -> Result<Receipt, Blocked> {
        let now = Instant::now();
        let mut ledger = self.ledger();
        if message.is_known_by_id() && ledger.knows(message.id(), now) {
            self.duplicates.fetch_add(1, Relaxed);
            return Ok(Receipt::new(message.id(), 0).duplicate());
        }
        let groups = self.enter_groups(message, publisher)?;
        // Before its id is known: what is refused here must not be a duplicate when it comes again.
        let lost = groups == 0 && !self.is_retained(message);
        let unheard = lost.then(|| self.unheard(message)).transpose()?;
        let (sequence, gone) = ledger.note(message, now);
        drop(ledger);
        drop(gone);
        if let Some(unheard) = unheard {
            unheard.announce();
        }
        let receipt = Receipt::new(message.id(), groups);
        Ok(sequence.map_or(receipt, |sequence| receipt.with_sequence(sequence)))
    }

    /// All locks of groups are held together, for a moment and in the order of their ids, so that nobody sees the message in one and not yet
    /// in another, and no room is reserved in one while another is full.
    fn enter_groups(
        &self,
        message: &Arc<Message>,
        publisher: &Publisher,
    ) -> Result<usize, Blocked> {
        let (subject, size) = (message.subject(), message.size());
        let groups = self.groups.load();
        let mut wanting = groups.iter().filter(|group| group.pattern.matches(subject));
        let (first, second) = match (wanting.next(), wanting.next()) {
            (None, _) => {
                self.dead.write_down(message, std::iter::empty());
                return Ok(0);
            }
            (Some(only), None) => return only.enter_alone(message, size, publisher),
            (Some(first), Some(second)) => (first, second),
        };
        // Foreign code, so before any lock.
        let wanting: Vec<_> = [first, second]
            .into_iter()
            .chain(wanting)
            .map(|group| (group, group.lane_of(message)))
            .collect();
        let mut entered = Vec::with_capacity(wanting.len());
        let mut blocked = None;
        for (group, lane) in wanting {
            let mut state = group.lock();
            match group.admission(&state, size, publisher.standing(group)) {
                Admission::Enter => entered.push((group, lane, state)),
                Admission::Gone => {}
                Admission::Wait => blocked = blocked.or(Some(group)),
                Admission::Refuse(error) => return Err(refusal(&mut state, error)),
            }
        }
        if let Some(group) = blocked {
            return Err(Blocked::By(group.clone()));
        }
        let times = Times::of(message);
        let serial = self.dead.write_down(message, entered.iter().map(|(group, ..)| &***group));
        let (count, mut dropped, mut called) = (entered.len(), Vec::new(), Vec::new());
        for (group, lane, state) in &mut entered {
            let entry = Entry::new(message.clone(), 0).in_lane(*lane).until(times.expires);
            let entry = entry.numbered(serial);
            dropped.extend(group.put(state, entry, times.due));
            called.extend(state.call_worker());
        }
        // All are unlocked before anybody is woken.
        drop(entered);
        called.into_iter().for_each(Waker::wake);
        Ok(count)
    }

    /// A message that no group wanted may find one now. It does not wait, and is no duplicate of itself.
    pub(crate) fn publish_again(&self, message: &Arc<Message>) -> Result<(), Error> {
        let publisher = Publisher { handling: None, place: None, borrows: Vec::new(), began: None };
        match self.enter_groups(message, &publisher) {
            Ok(0) => Err(Error::NoSuchGroup("".into())),
            Ok(_) => Ok(()),
            Err(Blocked::Refused(error)) => Err(error),
            Err(Blocked::By(group)) => Err(group.full()),
        }
    }

    /// Of a message that no group wants. Calls no foreign code; what it returns does.
    fn unheard(&self, message: &Arc<Message>) -> Result<Unheard, Blocked> {
        let buried = match self.when_unheard {
            WhenUnheard::Bury => {
                let remains = Remains::of(&Entry::new(message.clone(), 0));
                Some(
                    self.dead
                        .insert(&"".into(), 0, remains, Reason::Unheard)
                        .map_err(Blocked::Refused)?,
                )
            }
            WhenUnheard::Drop => None,
        };
        self.unroutable.fetch_add(1, Relaxed);
        Ok(Unheard { id: message.id(), buried })
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

impl Morgue {
    /// Its serial. Called under the locks of the groups, so that nothing is written of it before this.
    fn write_down<'g>(
        &self,
        message: &Arc<Message>,
        entered: impl Iterator<Item = &'g Group>,
    ) -> u64 {
        let Some(scribe) = self.scribe() else { return 0 };
        let groups: Vec<_> =
            entered.filter(|group| group.is_scribed()).map(|group| group.info.id).collect();
        let serial = scribe.serial();
        if !groups.is_empty() || message.is_known_by_id() {
            scribe.note(Event::Published { serial, message: message.clone(), groups });
        }
        serial
    }
}

impl Group {
    /// [`Shared::enter_groups`] where this is the only group that wants the message, as it mostly is.
    fn enter_alone(
        self: &Arc<Self>,
        message: &Arc<Message>,
        size: usize,
        publisher: &Publisher,
    ) -> Result<usize, Blocked> {
        let (lane, times) = (self.lane_of(message), Times::of(message));
        let entry = Entry::new(message.clone(), 0).in_lane(lane).until(times.expires);
        let mut state = self.lock();
        match self.admission(&state, size, publisher.standing(self)) {
            Admission::Enter => {}
            Admission::Gone => return Ok(0),
            Admission::Wait => return Err(Blocked::By(self.clone())),
            Admission::Refuse(error) => return Err(refusal(&mut state, error)),
        }
        let serial = self.morgue.write_down(message, std::iter::once(&**self));
        let dropped = self.put(&mut state, entry.numbered(serial), times.due);
        let called = state.call_worker();
        drop(state);
        drop(dropped);
        if let Some(worker) = called {
            worker.wake();
        }
        Ok(1)
    }

    /// Puts in what was admitted; what had to make room for it comes back.
    fn put(&self, state: &mut State, entry: Entry, due: Option<Instant>) -> Vec<Entry> {
        let dropped = match self.policy().when_full {
            WhenFull::DropOldest => state.queue.make_room(entry.size()),
            _ => Vec::new(),
        };
        for Entry { serial, .. } in &dropped {
            self.note(|group| Event::Gone { group, serial: *serial });
        }
        state.queue.push(entry, due);
        if let Some(due) = due {
            self.expect(due);
        }
        dropped
    }
}

fn refusal(state: &mut State, error: Error) -> Blocked {
    if !matches!(error, Error::Closed) {
        state.count_refusal();
    }
    Blocked::Refused(error)
}

/// When a message is to be delivered, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) due: Option<Instant>,
    pub(crate) expires: Option<Instant>,
}

impl Times {
    fn of(message: &Message) -> Self {
        let (delay, ttl) = (message.delay(), message.ttl());
        if delay.is_none() && ttl.is_none() {
            return Self::default();
        }
        let now = Instant::now();
        Self { due: delay.map(|span| after(now, span)), expires: ttl.map(|span| after(now, span)) }
    }
}

impl Publisher {
    fn standing(&self, group: &Group) -> Standing {
        let place = self.place.as_ref().filter(|place| place.group.info.id == group.info.id);
        Standing {
            ticket: place.map(|place| place.ticket),
            may_borrow: self.borrows.contains(&group.info.id),
            is_handler: self.handling.is_some(),
        }
    }

    /// Waits until it is worth while to try again.
    async fn wait(
        &mut self,
        shared: &Arc<Shared>,
        group: Arc<Group>,
        size: usize,
    ) -> Result<(), Error> {
        let WhenFull::Wait(span) = group.policy().when_full else { return Ok(()) };
        let _arrow = match self.handling {
            Some(_) if shared.closed.load(SeqCst) => return Err(Error::Closed),
            Some(own) => match Arrow::new(shared, own, group.info.id) {
                None => {
                    self.borrows.push(group.info.id);
                    return Ok(());
                }
                arrow => arrow,
            },
            None => None,
        };
        let place = match self.place.take() {
            Some(place) if place.group.info.id == group.info.id => place,
            _ => Place::new(group),
        };
        let place = self.place.insert(place);
        let began = *self.began.get_or_insert_with(Instant::now);
        let patience = Deadline::at(began.checked_add(span).unwrap_or(began + FAR));
        let deadline = Context::current().with_deadline(patience).deadline().unwrap_or(patience);
        let turn = poll_fn(|cx| place.poll_turn(cx, size));
        if timeout_at(deadline.instant(), turn).await.is_ok() {
            return Ok(());
        }
        place.group.lock().count_refusal();
        if deadline < patience {
            return Err(Error::DeadlineExceeded(DeadlineExceeded));
        }
        Err(place.group.full())
    }
}
