//! Questions and answers between processes.
//!
//! A question is a message like any other. Its answer is a plain NATS message, which no stream keeps: whoever asked says that he has it,
//! and until then it is sent again, as long as he may be on his way back to the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Duration, Instant, sleep},
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

/// How long an asker is waited for whom the server does not know: more than the longest pause between two attempts to come back.
const COMES_BACK: Duration = Duration::from_secs(3);
/// How long until he is sought again; and all that is waited for one who was waited for in vain before.
const A_MOMENT: Duration = Duration::from_millis(50);

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
    /// The asker who was waited for in vain: that is not done a second time, whatever else he asked, until he is heard of.
    gone: Option<String>,
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

    /// Brings an answer to whoever asked, in whatever process; nobody has it, if he is gone or does not say that he has it.
    pub(crate) async fn answer(&self, message: &Message) -> Result<Receipt, Error> {
        let (link, layout) = (&self.core.link, &self.core.layout);
        self.core.check_size(message)?;
        let subject = message.subject().as_str();
        let asker = subject.rsplit_once('.').map_or(subject, |(asker, _)| asker);
        let place = layout.answer(subject);
        let route = Route::default();
        let headers = || wire::write(message, &route, wire::nats_id(message, &route));
        let given_up = self.state().gone.as_deref() == Some(asker);
        let (until, back) = match Instant::now() {
            now if given_up => (now + A_MOMENT, now),
            now => (link.patience(), now + COMES_BACK),
        };
        loop {
            let payload = message.payload().clone();
            match link.ask(&place, Some(&headers), payload, until).await {
                Ok(_) => {
                    self.state().gone.take_if(|gone| gone == asker);
                    return Ok(Receipt::new(message.id(), 1));
                }
                Err(Fault::Nobody) if Instant::now() < until.min(back) => sleep(A_MOMENT).await,
                Err(Fault::Nobody | Fault::Late) => {
                    self.state().gone = Some(asker.to_owned());
                    tracing::debug!(id = %message.id(), "an answer that nobody has taken");
                    return Ok(Receipt::new(message.id(), 0));
                }
                Err(fault) => return Err(fault.into()),
            }
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
        let core = self.core.clone();
        let bringing = self.runtime.spawn(async move {
            while let Some(letter) = letters.next().await {
                let Some(subject) = core.layout.subject_of_answer(&letter.subject) else {
                    continue;
                };
                let arrived = Delivered { times: 1, seq: 0, at: 0 };
                let headers = letter.headers.as_ref();
                match wire::read(subject, headers, letter.payload, arrived) {
                    Ok((answer, _)) => take(answer),
                    Err(why) => tracing::warn!(?why, "an answer that this program cannot read"),
                }
                // Whoever answered sends it again else, which is taken once only.
                if let Some(taken) = letter.reply {
                    let _ = core.link.tell(taken, Bytes::new()).await;
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
