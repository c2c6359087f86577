//! Messages and questions on their way to the server.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed};

use super::{NatsEngine, answers::Answers, core::Core, groups::Groups, wire::Route};
use crate::{Error, Message, Receipt};

impl NatsEngine {
    pub(super) async fn publish_one(
        core: Arc<Core>,
        groups: Arc<Mutex<Groups>>,
        message: Message,
    ) -> Result<Receipt, Error> {
        let stored = core.publish(&message, &Route::default()).await?;
        let duplicate = stored.duplicate && message.is_known_by_id();
        core.duplicates.fetch_add(u64::from(duplicate), Relaxed);
        let groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
        let matching = groups.known.values().filter(|g| g.pattern.matches(message.subject()));
        let mut receipt = Receipt::new(message.id(), matching.count());
        receipt.duplicate = duplicate;
        receipt.sequence = core.is_retained().then_some(stored.seq);
        Ok(receipt)
    }

    /// A question is published only if somebody is there whom it will reach.
    pub(super) async fn ask(
        answers: Arc<Answers>,
        core: Arc<Core>,
        groups: Arc<Mutex<Groups>>,
        question: Message,
    ) -> Result<Receipt, Error> {
        let able = answers.askable(&question).await?;
        if able == 0 {
            return Ok(Receipt::new(question.id(), 0));
        }
        answers.listen().await?;
        let mut receipt = Self::publish_one(core, groups, question).await?;
        receipt.groups = able;
        Ok(receipt)
    }
}
