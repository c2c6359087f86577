//! Groups that are ahead of their stream.
//!
//! A stream that was empty when its server was killed may count from one again, while its consumers still know how far they were: they pass over what is published from then on,
//! until the numbers have caught up. What shows it is a consumer that is past the last number of its stream, or, when the numbers have caught up, a message that has a number
//! below one that came here earlier, and is later than that. Such a group is made anew and begins with the first message that is there: better twice than never.

use std::{
    sync::{PoisonError, Weak},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    NatsError,
    core::{Core, GRACE},
    jetstream::{CONSUMER_NOT_FOUND, ConsumerInfo, STREAM_NOT_FOUND, StreamInfo, StreamState},
    layout::{FORGOTTEN, nanos},
    moment::{padded, written},
    wire::Delivered,
};
use crate::MessageId;

/// A message that came here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latest {
    seq: u64,
    /// By the server's clock, in nanoseconds since 1970.
    at: u64,
}

/// Servers before this one keep for ever what was settled when they were killed and had not been deleted from their disk.
const SWEEPS_ITSELF: (u64, u64) = (2, 10);

/// How long it waits before it looks again for what nobody deletes, at first and at most.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(30);

/// Ends with the engine.
pub(crate) async fn recount_after_reconnections(
    core: Weak<Core>,
    mut connections: watch::Receiver<u64>,
) {
    let (mut left, mut pause) = (None, SOON);
    loop {
        let again = sleep(pause);
        tokio::select! {
            changed = connections.changed() => {
                let (Ok(()), Some(core)) = (changed, core.upgrade()) else { return };
                // Whoever loses the connection meanwhile begins again with the next.
                if let Err(error) = core.recount_all().await {
                    tracing::warn!(%error, "groups could not be looked after");
                }
                (left, pause) = (Some(u64::MAX), SOON);
            }
            () = again, if left.is_some() => pause = SELDOM.min(pause * 2),
        }
        let Some(core) = core.upgrade() else { return };
        if let Some(known) = left {
            // What cannot be asked now is asked later.
            left = core.sweep(known).await.unwrap_or(left);
        }
    }
}

impl Core {
    /// Of two the one that is later by the server's clock: numbers may begin again.
    pub(crate) fn note_latest(&self, came: Delivered) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.is_none_or(|known| known.at < came.at) {
            *latest = Some(Latest { seq: came.seq, at: came.at });
        }
    }

    async fn recount_all(&self) -> Result<(), NatsError> {
        let needed: Vec<_> =
            self.needed().iter().map(|(name, config)| (name.clone(), config.clone())).collect();
        let stream = &self.layout.messages;
        for (name, config) in needed {
            match self.link.consumer(stream, &name, self.link.patience()).await {
                Ok(found) => self.recount(&name, &config, &found).await.map(drop)?,
                // Whoever misses it makes it again.
                Err(f) if f.is_refusal(CONSUMER_NOT_FOUND) || f.is_refusal(STREAM_NOT_FOUND) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(())
    }

    /// Deletes what all groups have settled and the server has forgotten to delete. What it may have forgotten is up to `last`, which is as far as the stream had come
    /// when this was asked first; none if nothing of that is left.
    async fn sweep(&self, last: u64) -> Result<Option<u64>, NatsError> {
        if self.is_retained() || self.link.version().is_none_or(|own| own >= SWEEPS_ITSELF) {
            return Ok(None);
        }
        let stream = &self.layout.messages;
        let groups = self.link.consumers(stream, self.link.patience()).await?;
        let floors: Vec<_> = groups.iter().map(settled_up_to).collect();
        let state = self.stream_now().await?.state;
        let last = last.min(state.last_seq);
        if state.messages == 0 || state.first_seq > last {
            return Ok(None);
        }
        let settled = floors.iter().min().copied().unwrap_or_default();
        // A group that is ahead of the stream says nothing of the messages that are there, and one of which a cluster did not tell may want them.
        let all_count = floors.len() == state.consumer_count
            && floors.iter().all(|floor| *floor <= state.last_seq);
        if state.first_seq <= settled && all_count {
            let settled = settled.min(last);
            let purged = self.link.purge_to(stream, settled, self.link.patience()).await?;
            tracing::info!(purged, "what was settled before the server was killed is deleted");
        }
        Ok(Some(last))
    }

    /// Makes the group anew, by this configuration, if `found` is ahead of the stream. True if it was.
    pub(crate) async fn recount(
        &self,
        name: &str,
        config: &Value,
        found: &ConsumerInfo,
    ) -> Result<bool, NatsError> {
        // Asked after the consumer, which else might have had what the stream did not have yet.
        let StreamInfo { state, config: of_stream } = self.stream_now().await?;
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_ahead(found, &state, latest) {
            return Ok(false);
        }
        // In a cluster, who answers for the stream may not have heard of all that who answers for the consumer has.
        if of_stream.num_replicas > 1 {
            sleep_until(Instant::now() + GRACE).await;
            if !is_ahead(found, &self.stream_now().await?.state, latest) {
                return Ok(false);
            }
        }
        tracing::warn!(
            consumer = name,
            at = found.delivered.stream_seq,
            last = state.last_seq,
            "the numbers of the stream began again; the group is made anew"
        );
        self.make_anew(name, config).await?;
        Ok(true)
    }

    async fn stream_now(&self) -> Result<StreamInfo, NatsError> {
        Ok(self.link.stream(&self.layout.messages, self.link.patience()).await?)
    }

    /// Meanwhile another consumer wants the same, or the server would drop what nobody wants.
    async fn make_anew(&self, name: &str, config: &Value) -> Result<(), NatsError> {
        let (stream, link) = (&self.layout.messages, &self.link);
        // No group has a name like this.
        let other = format!("=for-{}", MessageId::next().0.get().simple());
        let mut holds = config.clone();
        holds["durable_name"] = other.as_str().into();
        holds["inactive_threshold"] = nanos(FORGOTTEN).into();
        link.create_consumer(stream, &other, &holds, link.patience()).await?;
        link.delete_consumer(stream, name, link.patience()).await?;
        sleep_until(Instant::now() + GRACE).await;
        self.make_consumer(name, config, link.patience()).await?;
        link.delete_consumer(stream, &other, link.patience()).await?;
        Ok(())
    }
}

/// The floor of a group that was never given anything stands still.
fn settled_up_to(group: &ConsumerInfo) -> u64 {
    if group.num_ack_pending == 0 { group.delivered.stream_seq } else { group.ack_floor.stream_seq }
}

fn is_ahead(group: &ConsumerInfo, stream: &StreamState, latest: Option<Latest>) -> bool {
    if group.delivered.stream_seq > stream.last_seq {
        return true;
    }
    let (Some(latest), Some(first)) = (latest, padded(&stream.first_ts)) else { return false };
    let began_again =
        stream.messages > 0 && stream.first_seq <= latest.seq && first > written(latest.at);
    // One that was made since then counts as the stream does.
    began_again && padded(&group.created).is_some_and(|made| made < first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(delivered: u64, first: (u64, u64), last: u64, latest: Option<(u64, u64)>) -> bool {
        let group = serde_json::json!({
            "config": {}, "created": written(1), "delivered": { "stream_seq": delivered },
        });
        let state = StreamState {
            messages: last + 1 - first.0,
            first_seq: first.0,
            first_ts: written(first.1),
            last_seq: last,
            consumer_count: 1,
        };
        let latest = latest.map(|(seq, at)| Latest { seq, at });
        is_ahead(&serde_json::from_value(group).unwrap(), &state, latest)
    }

    #[test]
    fn a_group_is_ahead_of_a_stream_that_has_not_come_so_far() {
        assert!(ahead(544, (1, 0), 0, None));
        assert!(ahead(544, (1, 900), 3, None));
        assert!(!ahead(544, (545, 0), 544, None), "an emptied stream that knows how far it was");
        assert!(!ahead(0, (1, 0), 0, None));
    }

    #[test]
    fn numbers_that_have_caught_up_are_told_by_their_times() {
        assert!(ahead(544, (1, 900), 700, Some((544, 800))));
        assert!(!ahead(544, (500, 700), 700, Some((544, 800))), "an old message that is wanted");
        assert!(!ahead(544, (544, 800), 700, Some((544, 800))), "the same message");
        assert!(!ahead(544, (545, 900), 700, Some((544, 800))));
    }

    #[test]
    fn a_group_that_was_made_since_the_numbers_began_again_counts_as_its_stream() {
        let group = serde_json::json!({
            "config": {}, "created": written(950), "delivered": { "stream_seq": 5 },
        });
        let group: ConsumerInfo = serde_json::from_value(group).unwrap();
        let state = StreamState {
            messages: 9,
            first_seq: 1,
            first_ts: written(900),
            last_seq: 9,
            consumer_count: 1,
        };
        assert!(!is_ahead(&group, &state, Some(Latest { seq: 544, at: 800 })));
    }
}
