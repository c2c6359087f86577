//! The loop of every watch.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    client::{Answer, Ask, Client},
    cursor::{Cursor, Turn},
    failure::Failure,
    poll::Polled,
};

/// What a watch keeps up to date.
pub(super) trait Followed: Send + Sync {
    /// What is asked for.
    fn path(&self) -> &str;

    /// Takes an answer in. Returns within which time another is needed, if nothing changes.
    fn take(
        &self,
        client: &Client,
        answer: (&Ask, Answer),
        seen: Seen,
    ) -> Result<Option<Duration>, Failure>;

    /// Nothing is learnt at the moment: what was confirmed longer ago than `old` is to be doubted. Returns how long it is until then.
    fn doubt(&self, old: Duration) -> Option<Duration>;

    /// Whether nobody needs it any more. It is not asked again after it has said so.
    fn is_done(&self) -> bool;
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Rises when the server may be another than before.
    pub(super) breaks: u64,
    pub(super) index: u64,
    /// It begins anew, whatever was known.
    pub(super) reset: bool,
}

/// Asks until nobody needs it any more.
pub(super) async fn follow(client: Arc<Client>, followed: Arc<impl Followed>) {
    let _counted = client.follower();
    let (mut cursor, mut longest) = (Cursor::default(), Duration::MAX);
    while !followed.is_done() {
        let failure = match client.poll(followed.path(), &cursor, longest).await {
            Polled::Crowded => continue,
            Polled::Failed(failure) => failure,
            Polled::Answered { ask, answer, took, wait, breaks } => {
                let index = answer.index;
                let (turn, pause) = client.turn(&mut cursor, index, (took, wait));
                let (index, reset) = (index.unwrap_or(0), turn == Turn::Reset);
                match followed.take(&client, (&ask, answer), Seen { breaks, index, reset }) {
                    Ok(within) => {
                        longest = within.unwrap_or(Duration::MAX);
                        sleep(pause).await;
                        continue;
                    }
                    Err(failure) => failure,
                }
            }
        };
        tracing::debug!(cause = failure.line(), "nothing is learnt from the registry");
        let (old, until) = (client.policy.ttl / 3, Instant::now() + cursor.failed());
        if let Some(left) = followed.doubt(old) {
            sleep_until(until.min(Instant::now() + left)).await;
            followed.doubt(old);
        }
        sleep_until(until).await;
    }
}
