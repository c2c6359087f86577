//! Questions and answers between processes.
//!
//! A question is a message like any other. Its answer is a plain NATS message, which no stream keeps: whoever asked waits for it
//! now, or not at all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Duration, Instant},
};

use super::{
    core::Core,
    link::Fault,
    wire::{self, Delivered, Route},
};
use crate::{Error, Headers, Message, Pattern, Receipt, engine::TakeAnswer};

/// With what the subject of every answer begins.
const INBOX: &str = "_inbox.";

/// How long it is believed that a group is there. One that is not is asked for each time.
const BELIEVED: Duration = Duration::from_secs(10);

/// This process's way to ask, and to answer others.
pub(crate) struct Answers {
    core: Arc<Core>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inbox: Option<(String, TakeAnswer)>,
    /// Brings the answers, from the first question on.
    listening: Option<Listening>,
    /// What groups on the server want, and when that was so.
    heard: Option<(Instant, Arc<[Pattern]>)>,
}

struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answers {
    pub(crate) fn new(core: Arc<Core>, runtime: Handle) -> Self {
        Self { core, runtime, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bring_to(&self, prefix: &str, take: TakeAnswer) {
        self.state().inbox = Some((prefix.to_owned(), take));
    }

    pub(crate) fn is_answer(message: &Message) -> bool {
        message.subject().as_str().starts_with(INBOX)
    }

    pub(crate) fn is_question(message: &Message) -> bool {
        message.headers().get(Headers::REPLY_TO).is_some_and(|subject| subject.starts_with(INBOX))
    }

    /// Sends an answer to whoever asked, in whatever process; gone, if he waits no more.
    pub(crate) async fn answer(&self, message: &Message) -> Result<Receipt, Error> {
        let (link, layout) = (&self.core.link, &self.core.layout);
        self.core.check_size(message)?;
        let place = layout.answer(message.subject().as_str());
        let route = Route::default();
        let headers = wire::write(message, &route, wire::nats_id(message, &route));
        let sending = link.client().publish_with_headers(place, headers, message.payload().clone());
        match tokio::time::timeout_at(link.patience(), sending).await {
            Ok(Ok(())) => Ok(Receipt::new(message.id(), 1)),
            Ok(Err(_)) => Err(Fault::Ended.into()),
            Err(_) => Err(Fault::Late.into()),
        }
    }

    /// Makes ready for the answer. The server hears of it before it hears of what is published afterwards.
    pub(crate) async fn listen(&self) -> Result<(), Error> {
        let (prefix, take) = match &*self.state() {
            State { listening: Some(_), .. } | State { inbox: None, .. } => return Ok(()),
            State { inbox: Some(inbox), .. } => inbox.clone(),
        };
        let place = self.core.layout.answer(&format!("{prefix}*"));
        let mut letters =
            self.core.link.client().subscribe(place).await.map_err(|_| Fault::Ended)?;
        let layout = self.core.layout.clone();
        let bringing = self.runtime.spawn(async move {
            while let Some(letter) = letters.next().await {
                let Some(subject) = layout.subject_of_answer(&letter.subject) else { continue };
                let arrived = Delivered { times: 1, seq: 0, at: 0 };
                let headers = letter.headers.as_ref();
                match wire::read(subject, headers, letter.payload, arrived) {
                    Ok((answer, _)) => take(answer),
                    Err(why) => tracing::warn!(?why, "an answer that this program cannot read"),
                }
            }
        });
        // Two that begin at once both listen, and one of them stops.
        self.state().listening = Some(Listening(bringing.abort_handle()));
        Ok(())
    }

    /// How many groups want this question, in whatever process.
    pub(crate) async fn askable(&self, question: &Message) -> Result<usize, Error> {
        let matching = |patterns: &[Pattern]| {
            patterns.iter().filter(|pattern| pattern.matches(question.subject())).count()
        };
        let heard = self.state().heard.clone();
        if let Some((when, patterns)) = heard {
            let groups = matching(&patterns);
            if when.elapsed() < BELIEVED && groups > 0 {
                return Ok(groups);
            }
        }
        let (link, layout) = (&self.core.link, &self.core.layout);
        let asked = Instant::now();
        let found = link.consumers(&layout.messages, self.core.patience().0).await?;
        let filters = found.iter().map(|group| &group.config.filter_subject);
        let patterns: Arc<[Pattern]> =
            filters.filter_map(|filter| layout.pattern_of(filter)).collect();
        let groups = matching(&patterns);
        self.state().heard = Some((asked, patterns));
        Ok(groups)
    }
}
