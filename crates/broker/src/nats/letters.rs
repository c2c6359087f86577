//! The operator's view of the dead letters.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    core::Core,
    jetstream::{CONSUMER_NOT_FOUND, STREAM_NOT_FOUND},
    layout::token_of,
    records,
    wire::Route,
};
use crate::{
    DeadLetter, DeadLetterId, Error, Filter, Pattern,
    engine::{BoxFuture, DeadLetterStore},
};

/// The dead letters on a server.
#[derive(Debug)]
pub(crate) struct Letters(pub(crate) Arc<Core>);

impl Letters {
    /// Where the letters lie that are meant.
    fn place(&self, filter: &Filter) -> String {
        let group = filter.wanted_group().map_or_else(|| "*".to_owned(), token_of);
        self.0.layout.dead_letter(&group, filter.wanted_subjects().map_or(">", Pattern::as_str))
    }

    async fn find(&self, question: &Value) -> Result<Option<DeadLetter>, Error> {
        let core = &self.0;
        match core.link.look_up(&core.layout.dead, question, core.link.patience()).await {
            Ok(kept) => kept.map(|kept| records::read_dead(core, &kept)).transpose(),
            Err(fault) if fault.is_refusal(STREAM_NOT_FOUND) => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn page(
        &self,
        filter: &Filter,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> Result<Vec<Arc<DeadLetter>>, Error> {
        let place = self.place(filter);
        let mut page = Vec::new();
        let mut next = after.map_or(1, |id| id.get().saturating_add(1));
        while page.len() < limit {
            let question = json!({ "seq": next, "next_by_subj": place });
            let Some(letter) = self.find(&question).await? else { break };
            next = letter.id.get().saturating_add(1);
            page.push(Arc::new(letter));
        }
        Ok(page)
    }

    /// Published for its group alone, then deleted here. If this ends in between, the next time the server recognises it
    /// by its id.
    async fn give_back(&self, id: DeadLetterId) -> Result<(), Error> {
        let core = &self.0;
        let letter =
            self.find(&json!({ "seq": id.get() })).await?.ok_or(Error::NoSuchDeadLetter)?;
        if letter.redrives >= core.limits.redrives {
            return Err(Error::RedrivenTooOften(letter.redrives));
        }
        let token = token_of(&letter.group);
        self.check_group(&letter, &token).await?;
        let route = Route { group: Some(token.clone()), redrives: letter.redrives + 1 };
        if core.publish(&letter.message, &route).await?.duplicate {
            tracing::info!(%id, "redriven before");
        }
        // Had the group been removed meanwhile, nobody had taken the message.
        self.check_group(&letter, &token).await?;
        let until = core.link.patience();
        core.link.delete_message(&core.layout.dead, id.get(), until).await?;
        Ok(())
    }

    async fn check_group(&self, letter: &DeadLetter, token: &str) -> Result<(), Error> {
        let core = &self.0;
        let group = letter.group.clone();
        let info = core.link.consumer(&core.layout.messages, token, core.link.patience()).await;
        let info = match info {
            Err(f) if f.is_refusal(CONSUMER_NOT_FOUND) || f.is_refusal(STREAM_NOT_FOUND) => {
                return Err(Error::NoSuchGroup(group));
            }
            info => info?,
        };
        let begin = core.layout.message("");
        let pattern = info.config.filter_subject.strip_prefix(&begin).map(Pattern::new);
        match pattern {
            Some(Ok(pattern)) if pattern.matches(letter.message.subject()) => Ok(()),
            _ => Err(Error::GroupDiffers { group, what: "pattern" }),
        }
    }
}

impl DeadLetterStore for Letters {
    fn list(
        &self,
        filter: Filter,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<DeadLetter>>, Error>> {
        Box::pin(async move { self.page(&filter, after, limit).await })
    }

    fn get(&self, id: DeadLetterId) -> BoxFuture<'_, Result<Option<Arc<DeadLetter>>, Error>> {
        Box::pin(async move {
            if id.get() == 0 {
                return Ok(None);
            }
            Ok(self.find(&json!({ "seq": id.get() })).await?.map(Arc::new))
        })
    }

    fn redrive(&self, id: DeadLetterId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.give_back(id))
    }

    fn purge(&self, filter: Filter) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move {
            let core = &self.0;
            let (place, until) = (self.place(&filter), core.link.patience());
            match core.link.purge(&core.layout.dead, &place, until).await {
                Err(fault) if fault.is_refusal(STREAM_NOT_FOUND) => Ok(0),
                purged => Ok(usize::try_from(purged?).unwrap_or(usize::MAX)),
            }
        })
    }

    fn max_redrives(&self) -> u32 {
        self.0.limits.redrives
    }
}
