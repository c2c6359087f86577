//! Signals and orders.

use super::{Runner, Stopped};
use crate::{
    Direction, Event, Order, Post,
    event::{Envelope, Letter},
};

impl Runner {
    pub(super) async fn fetch_mail(&mut self) {
        let from = self.mail.back().map_or(self.mail_taken, |last| last.number + 1);
        match self.seat.engine.store(self.seat.engine.store.mail(&self.seat.saga, from)).await {
            Ok(mail) => self.mail.extend(mail),
            // The next renewal of the lease tells that there is mail.
            Err(error) => tracing::warn!(saga = %self.seat.saga, %error, "mail not read"),
        }
    }

    /// Takes the mail into the journal, and obeys.
    pub(super) fn read_mail(&mut self) -> Result<(), Stopped> {
        while let Some(post) = self.mail.pop_front() {
            self.mail_taken = post.number + 1;
            let event = self.event_of(post);
            let order = match &event {
                Event::Ordered { order, refused: None, .. } => Some(order.clone()),
                _ => None,
            };
            self.write(event)?;
            if let Some(order) = order {
                self.obey(&order);
            }
            if self.progress.state().is_final() {
                // What came later comes too late.
                self.mail.clear();
            }
        }
        Ok(())
    }

    fn event_of(&self, Post { key, body, .. }: Post) -> Event {
        let letter = body.decode::<Envelope<Letter>>().ok();
        let letter = letter.filter(|letter| letter.format <= Envelope::<Letter>::FORMAT);
        match letter.map(|letter| letter.letter) {
            Some(Letter::Signal { name, payload }) => Event::Signalled { name, payload },
            Some(Letter::Order { order, note }) => {
                let refused = self.progress.objects_to(&order).err().map(Into::into);
                Event::Ordered { key, order, note, refused }
            }
            // Kept, since mail that is in no record would come again and again.
            None => {
                tracing::error!(saga = %self.seat.saga, %key, "mail of a later release is not understood");
                Event::Signalled { name: "".into(), payload: body }
            }
        }
    }

    /// What an order means for what is under way.
    fn obey(&mut self, order: &Order) {
        let (step, direction) = match order {
            Order::Retry => {
                for step in self.running.end_pauses() {
                    self.start(step);
                }
                return;
            }
            Order::Skip { step } => (step, Direction::Undo),
            Order::Supply { step, .. } => (step, Direction::Act),
            _ => return,
        };
        let Some(place) = self.progress.place(step) else { return };
        if !self.is_under_way(place, direction) {
            self.running.drop_step(place);
            self.tries.remove(&place);
        }
    }
}
