//! Where answers arrive. A question names a subject of its own; whoever answers in the same broker brings the answer directly.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{Error, Message, MessageId};

/// Holds an entry for each question that waits, which the questions themselves bound.
#[derive(Debug)]
pub(crate) struct Inbox {
    prefix: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    asked: HashMap<u64, oneshot::Sender<Message>>,
}

/// Whose answer it is.
pub(crate) enum Taken {
    /// Of one who asked here; none if he waits no more.
    Here(Option<oneshot::Sender<Message>>),
    Elsewhere,
}

impl Default for Inbox {
    fn default() -> Self {
        let prefix = format!("_inbox.{}.", MessageId::next().0.get().simple());
        Self { prefix, state: Mutex::default() }
    }
}

impl Inbox {
    pub(crate) fn open(self: &Arc<Self>) -> Asked {
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.asked.insert(number, sender);
        drop(state);
        Asked { inbox: self.clone(), number, answer }
    }

    /// With what the subjects of all answers begin.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// An answer that another process has published.
    pub(crate) fn bring(&self, answer: Message) {
        if let Taken::Here(Some(asker)) = self.take(answer.subject().as_str()) {
            let _ = asker.send(answer);
        }
    }

    pub(crate) fn take(&self, subject: &str) -> Taken {
        match subject.strip_prefix(&*self.prefix) {
            Some(number) => {
                Taken::Here(number.parse().ok().and_then(|n| self.lock().asked.remove(&n)))
            }
            None => Taken::Elsewhere,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that waits; dropping it forgets it.
pub(crate) struct Asked {
    inbox: Arc<Inbox>,
    number: u64,
    answer: oneshot::Receiver<Message>,
}

impl Asked {
    pub(crate) fn subject(&self) -> String {
        format!("{}{}", self.inbox.prefix, self.number)
    }

    pub(crate) async fn answer(mut self) -> Result<Message, Error> {
        (&mut self.answer).await.map_err(|_| Error::Closed)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let forgotten = self.inbox.lock().asked.remove(&self.number);
        drop(forgotten);
    }
}
