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
    group::{Admission, Group, Standing},
    place::Place,
    queue::Entry,
    shared::Shared,
    waits::Arrow,
};
use crate::{
    Error, Message, Receipt, WhenFull, engine::Publishing, handling::handling, policy::FAR,
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
            Ok(groups) => Publishing::Done(Ok(self.receipt(&message, groups))),
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
                Ok(groups) => return Ok(self.receipt(&message, groups)),
                Err(Blocked::Refused(error)) => return Err(error),
                Err(Blocked::By(group)) => blocked_by = group,
            }
        }
    }

    fn receipt(&self, message: &Message, groups: usize) -> Receipt {
        let id = message.id();
        if groups == 0 {
            self.unroutable.fetch_add(1, Relaxed);
            tracing::debug!(%id, "message matches no group");
        }
        Receipt { id, groups }
    }

    /// Puts the message into every group that wants it, or into none. All their locks are held together, for a moment and in the
    /// order of their ids, so that nobody sees it in one and not yet in another, and no room is reserved in one
    /// while another is full.
    fn enter(&self, message: &Arc<Message>, publisher: &Publisher) -> Result<usize, Blocked> {
        if self.closed.load(SeqCst) && publisher.handling.is_none() {
            return Err(Blocked::Refused(Error::Closed));
        }
        let (subject, size) = (message.subject(), message.size());
        let groups = self.groups.load();
        let mut entered = Vec::new();
        let mut blocked = None;
        for group in groups.iter().filter(|group| group.pattern.matches(subject)) {
            let mut state = group.lock();
            match group.admission(&state, size, publisher.standing(group)) {
                Admission::Enter => entered.push((group, state)),
                Admission::Gone => {}
                Admission::Wait => blocked = blocked.or(Some(group)),
                Admission::Refuse(error) => {
                    if !matches!(error, Error::Closed) {
                        state.count_refusal();
                    }
                    return Err(Blocked::Refused(error));
                }
            }
        }
        if let Some(group) = blocked {
            return Err(Blocked::By(group.clone()));
        }
        let count = entered.len();
        let mut dropped = Vec::new();
        for (group, state) in &mut entered {
            if group.policy().when_full == WhenFull::DropOldest {
                dropped.extend(state.queue.make_room(size));
            }
            state.queue.push(Entry::new(message.clone(), 0));
        }
        // All are unlocked before anybody is woken.
        let called: Vec<_> =
            entered.into_iter().filter_map(|(_, mut state)| state.call_worker()).collect();
        called.into_iter().for_each(Waker::wake);
        Ok(count)
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
