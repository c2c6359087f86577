use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use gusset_call::{Context, Deadline, DeadlineExceeded};
use tokio::time::{Instant, timeout_at};

use crate::{
    Error, Message, WhenFull,
    group::{Group, Standing, Verdict},
    lent::Place,
    policy::FAR,
    queue::Entry,
    shared::Shared,
    waits::{Arrow, handling},
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
    /// How many groups have got the message.
    pub(crate) async fn publish(self: &Arc<Self>, message: Arc<Message>) -> Result<usize, Error> {
        let handling = handling();
        let mut publisher = Publisher { handling, place: None, borrows: Vec::new(), began: None };
        loop {
            match self.enter(&message, &publisher) {
                Ok(groups) => return Ok(groups),
                Err(Blocked::Refused(error)) => return Err(error),
                Err(Blocked::By(group)) => {
                    publisher.wait(self, group, message.size()).await?;
                }
            }
        }
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
            match group.verdict(&state, size, publisher.standing(group)) {
                Verdict::Enter => entered.push((group, state)),
                Verdict::Gone => {}
                Verdict::Wait => blocked = blocked.or(Some(group)),
                Verdict::Refuse(error) => {
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
            if group.policy.when_full == WhenFull::DropOldest {
                dropped.extend(state.queue.make_room(size));
            }
            state.queue.push(Entry::new(message.clone(), 0));
        }
        for (group, state) in entered {
            drop(state);
            group.call_worker();
        }
        Ok(count)
    }
}

impl Publisher {
    fn standing(&self, group: &Group) -> Standing {
        let place = self.place.as_ref().filter(|place| place.group.id == group.id);
        Standing {
            ticket: place.map(|place| place.ticket),
            may_borrow: self.borrows.contains(&group.id),
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
        let WhenFull::Wait(span) = group.policy.when_full else { return Ok(()) };
        let _arrow = match self.handling {
            Some(_) if shared.closed.load(SeqCst) => return Err(Error::Closed),
            Some(own) => match Arrow::new(shared, own, group.id) {
                None => {
                    self.borrows.push(group.id);
                    return Ok(());
                }
                arrow => arrow,
            },
            None => None,
        };
        let place = match self.place.take() {
            Some(place) if place.group.id == group.id => place,
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
