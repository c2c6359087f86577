//! What becomes of a delivery.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Delivery, Ledger, WORKING};
use crate::{
    Error, Failure, Reason,
    engine::{Keeper, Settling, Verdict},
    nats::{
        layout::nanos,
        link::Fault,
        records::{self, Note},
    },
    policy::after,
};

const ACK: Bytes = Bytes::from_static(b"+ACK");
const TERM: Bytes = Bytes::from_static(b"+TERM");

/// How long a message that is given back waits. Not at all would do, but a bare nak is one that somebody will copy.
pub(super) const AT_ONCE: Duration = Duration::from_nanos(1);
/// The same of one that comes to a subscription at its end, whose last requests for messages stand for a second.
const ELSEWHERE: Duration = Duration::from_millis(500);

impl Ledger {
    pub(super) async fn give_back(&self, delivery: &Delivery) {
        self.counts.returned.fetch_add(1, Relaxed);
        let mut note = delivery.note.clone();
        note.uncharged = note.uncharged.saturating_add(1);
        self.write_note(delivery, &note).await;
        let after = if self.leaving.load(Relaxed) { ELSEWHERE } else { AT_ONCE };
        let _ = self.nak(delivery, after).await;
    }

    pub(super) async fn retry(
        &self,
        mut delivery: Delivery,
        after: Duration,
        failure: Failure,
    ) -> Result<(), Error> {
        self.counts.delayed.fetch_add(1, Relaxed);
        delivery.note.add(failure);
        let note = std::mem::take(&mut delivery.note);
        self.write_note(&delivery, &note).await;
        Ok(self.nak(&delivery, after).await?)
    }

    /// The record is on the server before the original goes.
    async fn bury(
        &self,
        mut delivery: Delivery,
        reason: Reason,
        failure: Option<Failure>,
        otherwise: Duration,
    ) -> Result<(), Error> {
        if let Some(failure) = failure {
            delivery.note.add(failure);
        }
        let attempts = delivery.attempt;
        let dead = records::Dead {
            message: &delivery.message,
            token: &self.token,
            group: &self.group,
            reason: &reason,
            attempts,
            note: &delivery.note,
            redrives: delivery.route.redrives,
            seq: delivery.seq,
        };
        if let Err(error) = records::bury(&self.core, &dead).await {
            let note = std::mem::take(&mut delivery.note);
            self.write_note(&delivery, &note).await;
            self.nak(&delivery, otherwise).await?;
            return Err(error);
        }
        self.counts.dead.fetch_add(1, Relaxed);
        Ok(self.core.link.tell(delivery.reply, TERM).await?)
    }

    /// Always with a delay: a bare nak uses up all attempts in a moment, whatever backoff is configured.
    pub(super) async fn nak(&self, delivery: &Delivery, after: Duration) -> Result<(), Fault> {
        let nak = format!("-NAK {{\"delay\":{}}}", nanos(after).max(1));
        self.core.link.tell(delivery.reply.clone(), nak.into()).await
    }

    pub(super) async fn write_note(&self, delivery: &Delivery, note: &Note) {
        let (id, redrives) = (delivery.message.id(), delivery.route.redrives);
        let place = self.core.layout.note(&self.token, id, redrives);
        if let Err(error) = records::write_note(&self.core, &place, note).await {
            let group = &*self.group;
            tracing::warn!(group, %id, %error, "how it failed could not be noted");
        }
    }
}

impl Keeper for Ledger {
    fn settle(self: Arc<Self>, token: u64, verdict: Verdict) -> Settling {
        let Some(delivery) = self.end(token) else { return Settling::Done(Err(Error::LeaseLost)) };
        match verdict {
            Verdict::Ack | Verdict::Expire => {
                let is_ack = matches!(verdict, Verdict::Ack);
                let count = if is_ack { &self.counts.acked } else { &self.counts.expired };
                count.fetch_add(1, Relaxed);
                let client = self.core.link.client();
                // Nearly always there is room in the line to the server, and nothing to wait for.
                match client.publish(delivery.reply.clone(), ACK).now_or_never() {
                    Some(Ok(())) => Settling::Done(Ok(())),
                    Some(Err(_)) => Settling::Done(Err(Fault::Ended.into())),
                    None => {
                        let ledger = self.clone();
                        self.assign(
                            async move { Ok(ledger.core.link.tell(delivery.reply, ACK).await?) },
                        )
                    }
                }
            }
            Verdict::GiveBack => {
                self.hand_over(delivery);
                Settling::Done(Ok(()))
            }
            Verdict::Retry { after, failure } => {
                let ledger = self.clone();
                self.assign(async move { ledger.retry(delivery, after, failure).await })
            }
            Verdict::Bury { reason, failure, otherwise } => {
                let ledger = self.clone();
                self.assign(async move { ledger.bury(delivery, reason, failure, otherwise).await })
            }
        }
    }

    fn in_progress(self: Arc<Self>, token: u64) -> Settling {
        let mut held = self.held();
        let Some(found) = held.get_mut(&token) else {
            return Settling::Done(Err(Error::LeaseLost));
        };
        let now = Instant::now();
        found.heard = now;
        if let Some((until, span)) = &mut found.limit {
            *until = after(now, *span);
        }
        let reply = found.delivery.reply.clone();
        drop(held);
        Settling::Waiting(Box::pin(async move { Ok(self.core.link.tell(reply, WORKING).await?) }))
    }
}
