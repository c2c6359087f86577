//! Whoever publishes, and waits for room.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use gusset_call::{Context, Deadline, DeadlineExceeded};
use tokio::time::{Instant, timeout_at};

use super::{entrance::Standing, group::Group, place::Place, shared::Shared, waits::Arrow};
use crate::{Error, WhenFull, handling::handling, policy::FAR};

/// One publish on its way in.
pub(super) struct Publisher {
    /// The group that this is a handler of.
    pub(super) handling: Option<u64>,
    /// In the line of the group that blocked last.
    place: Option<Place>,
    /// Groups that must not be waited for.
    borrows: Vec<u64>,
    /// When it first had to wait.
    began: Option<Instant>,
    /// It brings back what was dead.
    again: bool,
}

impl Publisher {
    /// In the name of the task that runs this.
    pub(super) fn here() -> Self {
        Self { handling: handling(), again: false, ..Self::again() }
    }

    /// In nobody's name, what was dead.
    pub(super) const fn again() -> Self {
        Self { handling: None, place: None, borrows: Vec::new(), began: None, again: true }
    }

    pub(super) fn standing(&self, group: &Group) -> Standing {
        let place = self.place.as_ref().filter(|place| place.group.info.id == group.info.id);
        Standing {
            ticket: place.map(|place| place.ticket),
            may_borrow: self.borrows.contains(&group.info.id),
            is_handler: self.handling.is_some(),
            is_again: self.again,
        }
    }

    /// Waits until it is worth while to try again.
    pub(super) async fn wait(
        &mut self,
        shared: &Arc<Shared>,
        group: Arc<Group>,
        size: usize,
    ) -> Result<(), Error> {
        let WhenFull::Wait(span) = group.policy().when_full else {
            group.lock().count_refusal();
            return Err(group.full());
        };
        let _arrow = match self.handling {
            Some(own) => match Arrow::new(shared, own, group.info.id) {
                None => {
                    self.borrows.push(group.info.id);
                    return Ok(());
                }
                // There may never be room any more.
                Some(_) if shared.closed.load(SeqCst) => return Err(Error::Closed),
                arrow => arrow,
            },
            None => None,
        };
        let place = match self.place.take() {
            Some(place) if place.group.info.id == group.info.id => place,
            _ => Place::new(group, size),
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
